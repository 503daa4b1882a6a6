"""Settings of Monte Carlo dropout and of the selection of pseudo-labels (section IV)."""

from typing import Annotated, Literal

from pydantic import Field

from mttu.config.schema import AboveZero, AtLeastZero, Fraction, Settings

ActiveDropout = Literal["all", "transformer+head", "head"]
WindowMode = Literal["sliding", "tumour"]
Method = Literal["none", "direct", "PL", "CPL", "UPS"]


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
    """Whether the more frequent class is cut down to the class ratio (section VI); null: yes for CPL and UPS, no for
    PL."""
    wild_per_mutant: AboveZero | None = None
    """Wild types per mutant after balancing; null: as among the labelled cases that the network learned from. 1.6 in
    the paper (section VI)."""
