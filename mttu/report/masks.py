"""A true and a predicted mask of a case, read together and checked against each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mttu.data.labels import find_regions, to_classes
from mttu.data.manifest import Case
from mttu.data.volumes import differ, read_scaling, read_volume
from mttu.errors import InputError
from mttu.report.predictions import Predictions


@dataclass(frozen=True)
class MaskPair:
    """Two masks of a case on its original grid; classes 0 to 3, or 0 and `WHOLE_TUMOUR`."""

    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]
    affine: NDArray[Any]
    """(4, 4) voxel to world (mm, RAS+)."""
    regions: Sequence[str]
    """Regions that the label conventions of both masks define, sorted."""


def read_masks(case: Case, system: Predictions) -> MaskPair:
    """Reads the true mask of a case and a system's, which has one.

    Raises:
        InputError: A mask cannot be read, holds labels that its convention lacks, or the grids differ.
    """
    case_id, said = case.case_id, f"{case.case_id} (prediction)"
    if case.seg is None:
        raise InputError(f"case {case_id}: the manifest has no tumour mask")
    truth, predicted = read_volume(case.seg, case_id), read_volume(system.masks[case_id], said)
    difference = differ(truth, predicted)
    if difference:
        raise InputError(
            f"case {case_id}: true and predicted mask have different grids: {difference}; predict from the images that "
            "the true mask belongs to"
        )
    classes = to_classes(predicted.get_fdata(dtype=np.float32), system.labels, said, read_scaling(predicted))
    return MaskPair(
        to_classes(truth.get_fdata(dtype=np.float32), case.labels, case_id, read_scaling(truth)),
        classes,
        truth.affine,
        find_shared_regions(case, system),
    )


def find_shared_regions(case: Case, system: Predictions) -> list[str]:
    """Regions that both the true masks' and the system's label convention define, sorted."""
    return sorted(set(find_regions(case.labels)) & set(find_regions(system.labels)))
