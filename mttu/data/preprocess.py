"""One case in, one prepared case out: LPS, isotropic, z-scores inside the brain, brain box (section V-A)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from mttu.config import PrepareSettings
from mttu.data.geometry import Geometry, resample, start_geometry, to_lps
from mttu.data.manifest import Case
from mttu.data.sources import Sources, read_sources
from mttu.data.volumes import LARGEST_VOLUME
from mttu.errors import InputError


@dataclass(frozen=True)
class PreparedCase:
    """Input of the network for a case."""

    image: NDArray[np.float16]
    """(C, H, W, D) z-scores inside the brain, exactly 0 outside; H runs to the left, W to the back, D upwards."""
    seg: NDArray[np.uint8] | None
    """(H, W, D) classes 0 to 3; or 0 and `WHOLE_TUMOUR` if the mask tells no parts."""
    geometry: Geometry
    """For the way back to the original grid."""


def prepare_case(case: Case, modalities: Sequence[str], settings: PrepareSettings) -> PreparedCase:
    """Prepares one case; its errors are those of `mttu.data.sources.read_sources` and `prepare_sources`."""
    return prepare_sources(case, read_sources(case, modalities), settings)


def prepare_sources(case: Case, sources: Sources, settings: PrepareSettings) -> PreparedCase:
    """Prepares one case from what its files hold; float16 already here, so that prediction sees what training saw.

    Raises:
        InputError: The images are not skull-stripped and no brain mask is given, the grid becomes too large or has no
            brain, a modality has no contrast, or tumour lies outside of the field of view.
    """
    modalities = sources.modalities
    if sources.unstripped is not None:  # z-scores over a whole head would be unlike the training images
        raise InputError(f"case {case.case_id}: {sources.unstripped}")
    affine = sources.reference.affine
    whole = start_geometry(sources.reference, settings.spacing_mm)
    if math.prod(whole.grid_shape) > LARGEST_VOLUME:
        raise InputError(
            f"case {case.case_id}: data.prepare.spacing_mm={settings.spacing_mm:g} makes a grid of {whole.grid_shape}; "
            f"expected at most {LARGEST_VOLUME} voxels; raise it"
        )
    source_brain = to_lps(sources.brain, affine)
    brain = resample(source_brain.astype(np.uint8), whole.grid_shape, order=0) > 0
    if not brain.any():
        raise InputError(f"case {case.case_id}: no brain left at {settings.spacing_mm:g} mm; lower spacing_mm")
    geometry = _crop_to_brain(whole, brain, settings)
    crop = zip(geometry.crop_start, geometry.crop_shape, strict=True)
    box = tuple(slice(start, start + extent) for start, extent in crop)
    inside = brain[box]
    # Division by the interpolated brain makes voxels at its edge means over brain only, without skull beside a given
    # mask or zeros around a stripped brain (normalised convolution, doi:10.1109/CVPR.1993.341081).
    weight = resample(source_brain.astype(np.float32), whole.grid_shape, order=1)[box][inside].astype(np.float64)
    image = np.zeros((len(modalities), *geometry.crop_shape), np.float16)
    for channel, (name, voxels) in enumerate(zip(modalities, sources.images, strict=True)):
        grid = resample(np.where(source_brain, to_lps(voxels, affine), 0), whole.grid_shape, order=1)
        values = grid[box][inside].astype(np.float64) / weight
        deviation = values.std()
        if deviation == 0:
            raise InputError(f"case {case.case_id}: {name} has no contrast in the brain; replace the file")
        image[channel][inside] = (values - values.mean()) / deviation
    if sources.seg is None:
        return PreparedCase(image, None, geometry)
    classes = resample(to_lps(sources.seg, affine), whole.grid_shape, order=0)
    seg = np.ascontiguousarray(classes[box])
    lost = np.count_nonzero(classes) - np.count_nonzero(seg)
    if lost:
        raise InputError(
            f"case {case.case_id}: {lost} of {np.count_nonzero(classes)} tumour voxels lie outside of the brain's box "
            f"and its margin of {settings.margin_voxels}; check mask and images, or prepare with "
            "data.prepare.field_of_view=full"
        )
    return PreparedCase(image, seg, geometry)


def _crop_to_brain(geometry: Geometry, brain: NDArray[np.bool_], settings: PrepareSettings) -> Geometry:
    if settings.field_of_view == "full":
        return geometry
    (box,) = find_objects(brain.view(np.uint8))
    starts = [max(0, side.start - settings.margin_voxels) for side in box]
    stops = [min(size, side.stop + settings.margin_voxels) for side, size in zip(box, brain.shape, strict=True)]
    x, y, z = (stop - start for start, stop in zip(starts, stops, strict=True))
    return replace(geometry, crop_start=(starts[0], starts[1], starts[2]), crop_shape=(x, y, z))
