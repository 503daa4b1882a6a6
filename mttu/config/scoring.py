"""Settings of Monte Carlo dropout and of the selection of pseudo-labels (section IV)."""

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from mttu.config.schema import AboveZero, AtLeastZero, Fraction, Positive, Settings

ActiveDropout = Literal["all", "transformer+head", "head"]
WindowMode = Literal["sliding", "tumour"]
Method = Literal["none", "direct", "PL", "CPL", "UPS"]


PriorWord = Literal["none", "estimate", "detect"]


def _read_prior(value: Any) -> Any:
    if value in get_args(PriorWord):
        return value
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = 0.0
    if not 0 < share < 1:
        raise ValueError(f"{value!r} is none of {', '.join(get_args(PriorWord))} and a number above 0 and below 1")
    return share


Prior = Annotated[PriorWord | float, BeforeValidator(_read_prior)]


class MonteCarloSettings(Settings):
    """Monte Carlo dropout: the uncertainty of a case's IDH prediction (section IV-B)."""

    passes: Annotated[int, Field(ge=2, le=10_000)] = 10
    """Stochastic forward passes T per case (section IV-B: 10)."""
    active_dropout: ActiveDropout = "all"
    """Where dropout stays on: everywhere, in the bottleneck and the IDH head, or in the IDH head alone. Not stated in
    the paper; all, as in Gal and Ghahramani (ICML 2016), whose method the paper names."""
    windows: WindowMode = "sliding"
    """The windows of prediction, whose logits are averaged, or one window centred on the tumour. Not stated in the
    paper; sliding, as in its prediction. Thresholds are valid within one mode only."""
    tumour_mask: Literal["predicted", "given"] = "predicted"
    """Mask on which a tumour window is centred: predicted by the network, or the case's own. Not stated in the
    paper."""
    passes_per_forward: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Passes that go through the network as one batch. Never derived from free memory, because it changes the last
    bits; 1 needs the least memory, more can be faster on a GPU."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the dropout masks, which depend only on this seed, the case id and the pass."""


class SelectionSettings(Settings):
    """Which predictions become pseudo-labels (section IV-B, eq. 19; section VI)."""

    method: Method = "UPS"
    """PL: every prediction; CPL: those confident enough; UPS: those confident and certain enough (Table VII). Without
    predictions: direct, one training from random weights on the labelled cases and the masks of the pool (section V-E,
    the rows with a dagger of Table VI), which has no rounds; none, the rounds of the other methods on those masks, each
    from the weights of the round before: the baseline for pseudo-labels."""
    confidence_threshold: Fraction = 0.9
    """tau_c: least mean probability of the predicted class; for CPL and UPS (section IV-B)."""
    uncertainty_threshold: AtLeastZero = 0.05
    """tau_u: largest standard deviation of that probability over the passes; for UPS (section IV-B)."""
    balance: bool | None = None
    """Whether the more frequent class is cut down to the class ratio (section VI); null: yes for CPL and UPS with
    `rule=thresholds`, no for PL and the other rules. These choose within each class of the pool, whose share of mutants
    the ratio of the labelled cases would undo; a network that learns another share is calibrated anew each round."""
    wild_per_mutant: AboveZero | None = None
    """Wild types per mutant after balancing; null: as among the labelled cases that the network learned from. 1.6 in
    the paper (section VI)."""
    calibrate: Literal["none", "temperature+bias"] = "none"
    """Calibration of the mean probability on cases that the network did not learn from: in self-training the validation
    cases, scored by the same passes; at least 5 of each class. Not in the paper; none. With the bias the probabilities
    have the share of mutants of these cases, whatever the class weights of the loss (Alexandari et al., ICML 2020,
    doi:10.48550/arXiv.1901.06852). Thresholds of confidence are then on the probability that results."""
    prior: Prior = "none"
    """Share of mutants in the pool that calibrated probabilities are moved to by Bayes' rule: none (they keep that of
    the calibration cases), estimate (by maximum likelihood; Saerens et al., Neural Computation 2002,
    doi:10.1162/089976602753284446), detect (the same, but only where its 95 % interval leaves out the share of the
    calibration cases: from few of these the estimate is worse than none), or a number above 0 and below 1. Not in the
    paper, whose labelled cases are 38 % mutant and whose pool is 95 % high grade. Needs `calibrate`."""
    rule: Literal["thresholds", "rank", "precision"] = "thresholds"
    """How CPL and UPS choose: thresholds (eq. 19); rank, the most certain cases of each predicted class; precision, as
    many of these as are estimated to be right often enough, which needs `calibrate`. Certainty is the probability of
    the predicted class, before `prior` moves it, for UPS less its standard deviation over the passes. Only thresholds
    is in the paper."""
    rank_share: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Cases that rank selects of each predicted class in round 1, as a share of the expected number of cases of that
    class in the pool, rounded up; with `self_training.relabel=false` in the part of the pool that has no label yet, so
    labels add up over the rounds. Not in the paper; 0.2 as in class-balanced self-training (Zou et al., ECCV 2018,
    doi:10.1007/978-3-030-01219-9_18)."""
    rank_growth: Fraction = 0.05
    """What each later round adds to `rank_share`, up to 1. Not in the paper; 0.05 as in Zou et al."""
    wanted_precision: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Least estimated share of right labels, in each class, for precision. Not in the paper; chosen as tau_c."""
    least_selected: Positive = 10
    """Cases that precision selects at least, or none. Not in the paper; 10, because six labels of a pool of 80 changed
    nothing on the phantom."""

    @model_validator(mode="after")
    def _check_rule(self) -> "SelectionSettings":
        if self.calibrate == "none" and self.prior != "none":
            raise ValueError(f"prior is {self.prior} but calibrate is none; set calibrate=temperature+bias")
        if self.calibrate == "none" and self.rule == "precision":
            raise ValueError("rule is precision but calibrate is none; set calibrate=temperature+bias")
        if self.method == "PL" and self.rule != "thresholds":
            raise ValueError(f"rule is {self.rule} but method is PL, which selects every case; set method=UPS or CPL")
        return self
