"""Settings of losses, optimiser, training loop, inference, tracking and workers."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mttu.config.schema import MAY_CHANGE, AboveZero, AtLeastZero, Fraction, Positive, Probability, Settings

ValidationMetric = Literal["dice_minus_ce", "dice_plus_auc", "dice", "idh_auc", "negative_idh_ce"]
PrecisionSetting = Literal["auto", "float32", "bfloat16"]


class LossSettings(Settings):
    """Loss of each task and their weighting (section III-B, eq. 13-15)."""

    segmentation: Literal["dice", "dice_ce", "focal"] = "dice"
    """Segmentation loss: Dice (eq. 13), Dice and voxel-wise cross entropy over all classes (not in the paper; Dice
    alone can settle on never predicting a rare class), or focal loss (section V-C.4)."""
    idh: Literal["cross_entropy", "focal"] = "cross_entropy"
    """IDH loss: weighted cross entropy (eq. 14) or its focal form (section V-C.4)."""
    dice_weight: AtLeastZero = 0.5
    """Weight of Dice in `dice_ce`. Not in the paper; with 0.5 each, the loss is the mean of the two, close to Dice
    alone."""
    ce_weight: AtLeastZero = 0.5
    """Weight of the cross entropy in `dice_ce`; one of both must be above 0. Not in the paper; see `dice_weight`."""
    dice_epsilon: AboveZero = 1e-5
    """Constant of eq. (13). Not stated in the paper; chosen as in the authors' release."""
    dice_pool: Literal["batch", "sample"] = "batch"
    """Sum voxels over the global batch before the ratio, or per sample. Not stated in the paper; batch, because a crop
    without tumour gives no gradient by itself."""
    include_background: bool = False
    """Whether background is one of the K classes of eq. (13). Not stated in the paper."""
    focal_gamma: AtLeastZero = 2.0
    """Focusing parameter where a focal loss is chosen. Not stated in the paper; 2 as in Lin et al. (ICCV 2017)."""
    task_weighting: Literal["uncertainty", "equal", "pcgrad"] = "uncertainty"
    """Learned sigmas (eq. 15); or both tasks with weight 1; or the same with conflicting gradients projected (PCGrad,
    Yu et al., NeurIPS 2020; Table V)."""
    log_sigma_limit: AboveZero = 5.0
    """log(sigma) is kept within [-x, x], so that a diverging weight cannot switch a task off."""

    @model_validator(mode="after")
    def _check_weights(self) -> "LossSettings":
        if self.dice_weight == self.ce_weight == 0:
            raise ValueError("dice_weight and ce_weight are both 0; at least one must be above 0")
        return self


class OptimSettings(Settings):
    """Optimiser and its schedule (section V-B.1)."""

    lr: AboveZero = 2e-4
    """Initial learning rate (section V-B.1)."""
    weight_decay: AtLeastZero = 1e-5
    """L2 penalty. Not stated in the paper; chosen as in the authors' release."""
    amsgrad: bool = True
    """AMSGrad variant of Adam. Not stated in the paper; chosen as in the authors' release."""
    poly_power: AtLeastZero = 0.9
    """Power of the polynomial decay to 0 over all epochs. The paper says "decaying"; 0.9 as in the release."""
    clip_norm: AboveZero | None = None
    """Largest norm of a step's gradient over all parameters; a larger one is scaled down. null: no clipping, as in the
    paper, which does not mention it."""


class QuotaSettings(Settings):
    """Samples of each kind of case in every global batch. Not in the paper, whose batches are drawn from one order of
    all cases; with a large pool, many of those hold no IDH label.
    """

    labelled: Annotated[int, Field(ge=0)] = 0
    """Samples with a true IDH label."""
    pseudo: Annotated[int, Field(ge=0)] = 0
    """Samples with a pseudo-label."""
    unlabelled: Annotated[int, Field(ge=0)] = 0
    """Samples whose IDH status is unknown; they train segmentation alone."""

    @property
    def total(self) -> int:
        """Samples of all kinds; 0 where quotas are off."""
        return self.labelled + self.pseudo + self.unlabelled


class TrainSettings(Settings):
    """The training loop (section V-B.1)."""

    epochs: Positive = 1000
    """Passes over the training cases (section V-B.1)."""
    steps_per_epoch: Positive | None = None
    """Optimiser steps per epoch; null: as many as it takes to see every training case once. With `quotas`: every truly
    labelled case; where those have no share, every case of the next kind that has one."""
    global_batch: Positive = 4
    """Patches of an optimiser step, over all workers together (section V-B.1: 2 per GPU on 2 GPUs). Steps per epoch and
    learning rate depend on it, not on the number of workers, which has to divide it."""
    batch_per_worker: Positive = 2
    """The most patches that a worker holds at once (section V-B.1: 2 per GPU). A larger share is taken in equal
    micro-batches: same losses and gradients, but batch norm sees fewer patches at a time, a change of recipe."""
    quotas: QuotaSettings = QuotaSettings()
    """Samples of each kind in every global batch; their sum is `global_batch`, or all are 0: one order of all cases, as
    in the paper. The share of a kind without any case (round 0 has no pseudo-labels) goes to the others in proportion
    to their quotas, by largest remainder."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of initial weights, crops, augmentation and dropout."""
    start_from: Path | None = None
    """Checkpoint or run folder whose best weights training starts from; null: random weights."""
    keep_start: bool = False
    """Whether the weights that training starts from are validated too, as epoch 0, and stay the best ones if no epoch
    is better. In self-training a round that makes validation worse then changes nothing. Not in the paper. No effect
    without `start_from`, without validation cases, or where the start lacks a task that this training learns."""
    start_optimiser: Literal["fresh", "kept"] = "fresh"
    """State of optimiser and task weights at the start: fresh, or kept from `start_from`, which then has to be a
    training checkpoint (`train/epoch_...` in a run folder)."""
    validate_every: Positive = 10
    """Epochs between two validations on whole volumes; the last epoch is always validated. Not stated in the paper."""
    checkpoint_every: Positive = 10
    """Epochs between two checkpoints; a validated epoch and the last one always keep one. A kill loses at most this
    many epochs."""
    validation_metric: ValidationMetric = "dice_minus_ce"
    """Larger is better. `dice_minus_ce`: mean Dice of WT, TC, ET minus unweighted IDH cross entropy; each mean is taken
    over the cases that have the label. The cross entropy has no bound, so a few confident errors can outweigh all of
    Dice; `dice_plus_auc`: mean Dice plus IDH AUC, each between 0 and 1. AUC has few values on few cases, so between
    equals the smaller cross entropy at a fitted temperature decides."""
    precision: PrecisionSetting = "auto"
    """Arithmetic of the forward pass in training, prediction and scoring; auto: bfloat16 autocast on a GPU, float32 on
    a CPU. The IDH head is always in float32. Not stated in the paper."""
    loader_workers: Annotated[int | None, Field(ge=0), MAY_CHANGE] = None
    """Processes per worker that read patches ahead; 0 reads in the training process; null: 4 on a GPU, 0 on a CPU."""

    @model_validator(mode="after")
    def _check_quotas(self) -> "TrainSettings":
        quotas = self.quotas
        if quotas.total not in (0, self.global_batch):
            raise ValueError(
                f"quotas: labelled {quotas.labelled} + pseudo {quotas.pseudo} + unlabelled {quotas.unlabelled} = "
                f"{quotas.total}, but global_batch is {self.global_batch}; they must add up to it, or all be 0"
            )
        return self

    @model_validator(mode="after")
    def _check_start(self) -> "TrainSettings":
        if self.start_optimiser == "kept" and self.start_from is None:
            raise ValueError("start_optimiser is kept but start_from is not set; name the checkpoint to start from")
        return self


class TeacherSettings(Settings):
    """Masks for training cases without one, by a mean teacher: a moving average of the network's weights over its steps
    (Tarvainen and Valpola, NeurIPS 2017, arXiv:1703.01780). Not in the paper, where every case has a mask.

    In the rounds of a self-training it teaches from round 1 on; round 0 is on the labelled cases alone (Algorithm 1).
    """

    masks: bool = False
    """Whether cases without a mask train the decoder by the teacher's segmentation of the same augmented patch. The
    pool's cases without a mask then take part in the rounds. Needs the task segmentation."""
    decay: Probability = 0.99
    """Share of the teacher's weights that an optimiser step keeps; step n keeps at most 1 - 1/(n + 1), so that the
    first weights are soon forgotten. 0.99 as in Yu et al. (MICCAI 2019, doi:10.1007/978-3-030-32245-8_67)."""
    confidence: Probability = 0.9
    """Least probability of the teacher's most probable label for a voxel to count. Yu et al. leave out uncertain voxels
    by dropout, which takes many passes; a threshold as in FixMatch (Sohn et al., NeurIPS 2020, arXiv:2001.07685), where
    it is 0.95. Chosen lower, because the border of a tumour is rarely as sure as that."""
    weight: AboveZero = 1.0
    """Largest weight of the term beside the segmentation loss of the cases with masks. 1 as in FixMatch."""
    ramp_share: Fraction = 0.3
    """Share of the epochs in which the weight grows to its largest value, by exp(-5 (1 - t)^2) with t from 0 to 1
    (Laine and Aila, ICLR 2017, arXiv:1610.02242, in 80 of 300 epochs); 0: at once."""
    flips: Annotated[int, Field(ge=1, le=8)] = 1
    """Orientations that the teacher's segmentation is the mean of: 1 as it is, 2 mirrored left to right as well, 8 all
    flips of the three axes as with `inference.flips`. Each takes a forward pass."""


class InferenceSettings(Settings):
    """Whole-volume inference by sliding windows (section V-B; windows as in the authors' release)."""

    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.125
    """Least overlap of neighbouring windows as a fraction of the window; 0.125 covers 240x240x155 with eight. At most
    0.9, which reads each voxel up to a thousand times. A case of more than 262,144 windows (times flips or Monte Carlo
    passes) is refused, because it would take weeks."""
    flips: bool = False
    """Test-time augmentation: mean softmax over the 8 flips of the three axes."""
    min_enhancing_mm3: AtLeastZero = 0.0
    """Enhancing tumour predicted with less volume than this is relabelled NCR/NET; 0: never. 500 is common for
    BraTS."""
    undecided_band: tuple[float, float] = (0.4, 0.6)
    """IDH-mutant probabilities within this band are flagged as undecided in predictions."""

    @model_validator(mode="after")
    def _check_band(self) -> "InferenceSettings":
        low, high = self.undecided_band
        if not 0 <= low <= high <= 1:
            raise ValueError(f"undecided_band {self.undecided_band} must be (low, high) with 0 <= low <= high <= 1")
        return self


class TrackingSettings(Settings):
    """MLflow."""

    enabled: bool = True
    """Whether a run is written."""
    uri: str | None = None
    """Tracking URI; null: the environment variable MLFLOW_TRACKING_URI, else a SQLite database `mlflow.db` in
    `output.folder`. A run that was begun without the variable continues without it."""
    experiment: str = "mttu"
    """MLflow experiment name."""
    model: str | None = None
    """MLflow registered model that receives the weights of self-training as its versions; null: `output.name`."""
    log_patient_images: bool = False
    """Whether pictures of real patients may be logged. Pictures of the synthetic phantom are always logged."""


class WorkerSettings(Settings):
    """Ray Train workers."""

    num_workers: Positive = 1
    """Training processes; on GPUs, one per GPU. Divides `train.global_batch`."""
    device: Annotated[Literal["auto", "cpu", "gpu"], MAY_CHANGE] = "auto"
    """auto: GPUs if the Ray cluster has any, and then it must have one for each worker; else the CPU."""
    threads_per_worker: Annotated[Positive, MAY_CHANGE] = 2
    """CPU threads of each worker. Recorded, because results on a CPU are bit-equal only for the same number."""
    gpus_per_worker: Annotated[float, Field(gt=0, le=1), MAY_CHANGE] = 1.0
    """GPUs of each worker where it gets any; a share, such as 0.5, puts several trainings of one worker on a GPU."""
    max_failures: Annotated[int, Field(ge=-1), MAY_CHANGE] = 3
    """How often a crashed worker group restarts from the last checkpoint; -1: without limit."""


class OutputSettings(Settings):
    """Where a run leaves its results."""

    folder: Path = Path("runs")
    """Parent of all run folders."""
    name: str = Field(default="mttu-net", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of this run and of its folder."""

    @property
    def place(self) -> Path:
        """The run folder, in full."""
        return (self.folder / self.name).resolve()
