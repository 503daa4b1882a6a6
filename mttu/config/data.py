"""Settings of the data: what is read, how a case is prepared, how a batch is augmented, what an empty region scores."""

from math import prod
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from mttu.config.schema import MAY_CHANGE, AtLeastZero, Fraction, Settings

WindowSize = Annotated[int, Field(ge=1, le=512)]
MOST_WINDOW_VOXELS = 256**3
Modality = Literal["flair", "t1ce", "t1", "t2"]


class PrepareSettings(Settings):
    """How a case is prepared (section V-A); a hash of these settings decides whether a cached case is still valid."""

    spacing_mm: Annotated[float, Field(ge=0.3)] = 1.0
    """Isotropic voxel spacing in mm (section V-A). At least 0.3, finer than MRI of a head: memory grows with the
    inverse cube, and settings from an untrusted source could exhaust it."""
    field_of_view: Literal["brain", "full"] = "brain"
    """Keep the brain's bounding box plus a margin, or the whole grid. Not stated in the paper; brain, because crops
    outside of the head teach nothing."""
    margin_voxels: Annotated[int, Field(ge=0)] = 4
    """Margin around the brain box in voxels. Not stated in the paper; chosen so that rotations keep the cortex."""


class DataSettings(Settings):
    """Where cases come from, and how they are divided into folds."""

    manifest: Annotated[Path | None, MAY_CHANGE] = None
    """Manifest that `mttu cohort` wrote."""
    cache_dir: Annotated[Path | None, MAY_CHANGE] = None
    """Folder of prepared cases that `mttu prepare` wrote; beside the manifest, under `cache`, if not given."""
    modalities: tuple[Modality, ...] = ("flair", "t1ce", "t1", "t2")
    """Channels in order (section V-A; order as in the authors' release)."""
    prepare: PrepareSettings = PrepareSettings()
    """How a case is prepared."""
    folds: Annotated[int, Field(ge=0)] = 0
    """0: the manifest's own split; 2 or more: cross-validation, a training or self-training for each fold, and an
    ensemble of the folds. 5 would be the paper's 80 % for training and 20 % for tuning (section V-B)."""
    fold_seed: Annotated[int, Field(ge=0)] = 0
    """Seed of the folds, as in `mttu split`; not `train.seed`, so that trainings of several seeds can share folds."""

    @model_validator(mode="after")
    def _check_modalities(self) -> "DataSettings":
        if not self.modalities or len(set(self.modalities)) != len(self.modalities):
            raise ValueError(f"modalities {self.modalities} must be non-empty and without repeats")
        return self

    @model_validator(mode="after")
    def _check_folds(self) -> "DataSettings":
        if self.folds == 1:
            raise ValueError("folds is 1; give 0 for the manifest's own split, or 2 or more")
        return self


class AugmentSettings(Settings):
    """Random augmentation of training patches (section V-B.1)."""

    flip_probability: Fraction = 0.5
    """Probability of a flip along each axis, drawn independently."""
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 10.0
    """Rotation about the axial (inferior-superior) axis, uniform in [-x, x] degrees. The axis is not stated."""
    intensity_scale: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Each modality is multiplied by a factor uniform in [1-x, 1+x]. As in the authors' release."""
    intensity_shift: AtLeastZero = 0.1
    """A value uniform in [-x, x] (standard deviations) is added to each modality inside the brain."""
    foreground_crop_probability: Fraction = 0.0
    """Probability that a crop is centred on a random tumour voxel instead of anywhere. Not in the paper: 0."""


class PatchSettings(Settings):
    """Size of the network's input."""

    size: tuple[WindowSize, WindowSize, WindowSize] = (128, 128, 128)
    """Training crop and inference window in voxels (section V-B.1); a multiple of 8 on each axis, and at most
    256x256x256 voxels, eight times the paper's: settings from an untrusted source could ask for windows that exhaust
    the memory."""

    @model_validator(mode="after")
    def _check_multiple(self) -> "PatchSettings":
        if any(axis % 8 for axis in self.size):
            raise ValueError(f"size {self.size} must be a multiple of 8 on each axis (three halvings)")
        voxels = prod(self.size)
        if voxels > MOST_WINDOW_VOXELS:
            raise ValueError(f"size {self.size} has {voxels} voxels; at most {MOST_WINDOW_VOXELS} (256x256x256)")
        return self


EmptyDice = Literal["brats", "exclude"]
EmptyHd95 = Literal["exclude", "brats2020", "brats2023"]


class MetricSettings(Settings):
    """Empty masks: one convention for validation, test, evaluation and figures, see `mttu.metrics.empty_masks`."""

    empty_dice: EmptyDice = "brats"
    """`brats`: both masks empty 1, only one empty 0; `exclude`: cases without a true region are left out, a missed
    region has 0. Not stated in the paper; `brats`, as in the authors' release: every case counts whatever is predicted,
    so false alarms lower the score, and checkpoints are compared on the same cases."""
    empty_hd95: Annotated[EmptyHd95, MAY_CHANGE] = "exclude"
    """`exclude`: no distance unless both masks hold the region; `brats2020`, `brats2023`: both empty 0 mm, only one
    empty 373.12866 or 374 mm. Not stated in the paper; `exclude`, as in the authors' release: the standard deviations
    in its tables (section V) are too small for even one such penalty."""


RELEASE_METRICS = MetricSettings()
"""As in the authors' release; the defaults."""
