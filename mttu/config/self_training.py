"""Settings of self-training (section IV, Algorithm 1)."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mttu.config.schema import MAY_CHANGE, NOT_USED_BY_TRAINING, AboveZero, Positive, Settings

Start = Literal["fresh", "kept"]
Teacher = Literal["last", "best", "ensemble"]
CountedLabels = Literal["true", "true+pseudo"]


class SelfTrainingSettings(Settings):
    """Rounds of self-training; `selection` decides which predictions become labels."""

    rounds: Annotated[int, Field(ge=0), MAY_CHANGE] = 3
    """Rounds after round 0, which trains on true labels alone (Algorithm 1). 3, because the paper sees performance
    "tend to be stable gradually after three pseudo-labeling iterations" (section VI). No effect with
    `selection.method=direct`, which is one training."""
    stop_when_unchanged: Annotated[bool, MAY_CHANGE] = True
    """Stop before a round (the second or a later one) whose pseudo-labels are those of the round before; with
    `labels=soft`, to the last bit of their probabilities. Not stated in the paper. No effect with
    `selection.method=none`, the baseline of the other methods."""
    epochs: Annotated[Positive | None, NOT_USED_BY_TRAINING] = None
    """Epochs of each round after round 0; null: as `train.epochs`. Not stated in the paper."""
    lr: Annotated[AboveZero | None, NOT_USED_BY_TRAINING] = None
    """Initial learning rate of each round after round 0, from which it decays again; null: as `optim.lr`. Not stated in
    the paper."""
    relabel: Annotated[bool, NOT_USED_BY_TRAINING] = True
    """Select afresh from the whole pool each round, as Algorithm 1 does (lines 3 to 5), so a label can change or be
    dropped; false: earlier pseudo-labels stay and only other cases can join."""
    teacher: Annotated[Teacher, NOT_USED_BY_TRAINING] = "last"
    """Which network scores the pool, and hands on its weights if `init` is warm: that of the round before, as in
    Algorithm 1 (lines 3 and 6), or that of the finished round with the largest `train.validation_metric`, the latest of
    equals. ensemble: the networks in `ensemble` together score the pool for round 1; all else as with last."""
    ensemble: Annotated[Path | None, MAY_CHANGE] = None
    """Run folder of a finished cross-validation (`mttu train data.folds=5`) for `teacher=ensemble`. Its networks may
    not have learned from patients who test or of the pool; if they learned from those who validate, a round says so.
    Probabilities are calibrated on the val cases of all its folds. Read in round 1 alone. Not in the paper, which has
    one network; ensembles as in Lakshminarayanan et al. (NeurIPS 2017, arXiv:1612.01474)."""
    init: Annotated[Literal["warm", "fresh"], NOT_USED_BY_TRAINING] = "warm"
    """Weights that a round starts from: the teacher's, as in Algorithm 1 (line 6), or random ones, so that a student
    does not inherit its teacher's errors (Xie et al., Noisy Student, CVPR 2020, doi:10.1109/CVPR42600.2020.01070)."""
    optimiser: Annotated[Start, NOT_USED_BY_TRAINING] = "fresh"
    """State of Adam and of the task weights at the start of a round: fresh, or kept from the last epoch of the round
    before. Not stated in the paper; fresh, because Algorithm 1 loads weights only (line 6), and because moments from
    training on other labels, at the end of a decay, say little about the first steps at a new learning rate."""
    labels: Annotated[Literal["hard", "soft"], NOT_USED_BY_TRAINING] = "hard"
    """What a selected case trains its IDH head with. hard: its class, as in the paper. soft: the probability p of
    mutation that it was selected by as target, weighted by g = 1 - H(p) / log 2 in eq. (20), with the binary entropy H:
    an unsure label counts less (not in the paper; the certainty weight of Iscen et al., CVPR 2019,
    doi:10.1109/CVPR.2019.00521). The class weights are those of the two terms: -g [(1 - p) w_wild log q_wild +
    p w_mutant log q_mutant]. No effect with `selection.method` none and direct."""
    class_weights: CountedLabels = "true"
    """Labels that w_mutant and w_wild are counted from (below eq. 14, eq. 20): the true ones, or pseudo-labels too. Not
    stated in the paper; true, because selected labels are balanced to the same ratio anyway, and a selection biased
    towards one class should not reinforce its own bias. A soft label counts as its class."""
    thresholds: Annotated[Literal["fixed", "search"], NOT_USED_BY_TRAINING] = "fixed"
    """Thresholds as set in `selection`, or searched each round on the Monte Carlo scores of the validation cases; see
    `mttu thresholds`. The paper determines them once on validation data (section IV-B)."""
    min_coverage: Annotated[float, Field(gt=0, le=1), NOT_USED_BY_TRAINING] = 0.5
    """Least share of the validation cases that searched thresholds have to select. Not stated in the paper; half, so
    that an error of zero is based on more than a handful of cases."""
    keep: Annotated[Literal["best", "all"], MAY_CHANGE] = "best"
    """What stays of a finished round: the best weights, or also its training checkpoints with the optimiser."""
    start: Annotated[Path | None, MAY_CHANGE] = None
    """Folder `round_0` of another self-training with the same settings and data, copied instead of trained again, so
    that methods can share it."""
    truth: Annotated[Path | None, MAY_CHANGE] = None
    """True classes of the unlabelled cases, where known: a manifest or a table, see `mttu select`. For reports only; no
    choice depends on it."""

    @model_validator(mode="after")
    def _check_optimiser(self) -> "SelfTrainingSettings":
        if self.optimiser == "kept" and (self.teacher == "best" or self.init != "warm"):
            raise ValueError(
                f"optimiser is kept with teacher={self.teacher} and init={self.init}; a state of Adam belongs to the "
                "weights of the round before: choose optimiser=fresh, or teacher=last and init=warm"
            )
        return self
