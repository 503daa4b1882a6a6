"""Settings of the metrics: what a region scores that a mask does not hold."""

from typing import Literal

from mttu.config.schema import Settings

EmptyDice = Literal["brats", "exclude"]
EmptyHd95 = Literal["exclude", "brats2020", "brats2023"]


class MetricSettings(Settings):
    """Empty masks: one convention for validation, test, evaluation and every figure, see `mttu.metrics.empty_masks`."""

    empty_dice: EmptyDice = "brats"
    """`brats`: both masks empty 1, only one empty 0; `exclude`: cases without a true region are left out, a missed
    region has 0. Not stated in the paper; `brats`, as in the authors' release: then every case counts, whatever is
    predicted, so that false alarms cost and the checkpoints that validation chooses from are compared on the same
    cases."""
    empty_hd95: EmptyHd95 = "exclude"
    """`exclude`: no distance unless both masks hold the region; `brats2020`, `brats2023`: both empty 0 mm, only one
    empty 373.12866 or 374 mm. Not stated in the paper; `exclude`, as in the authors' release: the standard deviations
    of its tables (section V) leave no room for one such penalty."""


RELEASE_METRICS = MetricSettings()
"""The defaults, which are the authors' release."""
