"""What a prepared image looks like in some forty numbers: intensities of each modality and shape of the brain.

Prepared images are z-scores inside the brain, so a scan whose intensities are all scaled or shifted looks the same, as
it does to the network. Axes are (C, H, W, D): H runs to the patient's left, W to the back, D upwards.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, find_objects

QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
RIM_MM = 5.0
_EXTENTS = ("extent_left_right_mm", "extent_front_back_mm", "extent_up_down_mm")
_LEAST_SPREADS = {
    **{"quantile": 0.05, "skewness": 0.1, "rim": 0.1},
    **{"roughness": 0.02, "asymmetry": 0.02, "correlation": 0.02},
}
_LEAST_SHAPE = 0.01
_LEAST_SHARE = {"_ml": 0.1, "_mm": 0.05}


def measure_image(image: NDArray[Any], modalities: Sequence[str], spacing_mm: Sequence[float]) -> dict[str, float]:
    """Statistics by name, for `find_least_spread` too.

    Shape: `brain_ml`; the extents of the brain's box in mm; `brain_fill`, its share of that box; `brain_asymmetry`, 1
    minus the Dice of the brain and its mirror image in that box; `brain_cut_off`, its share of the box's six faces,
    large where the field of view cuts it off.

    Each modality: quantiles and skewness of its z-scores; `roughness`, mean absolute difference of voxels that share a
    face, which noise raises and blur or interpolation lowers; `rim`, mean of the outer `RIM_MM` less the mean inside,
    which a skull changes; `asymmetry`, absolute difference of the means of the left and the right half. Each pair of
    modalities: the correlation of their voxels, which falls where one of them is shifted or of another patient.

    Args:
        image: (C, H, W, D) prepared, 0 outside of the brain and somewhere not 0.
        modalities: Name of each channel.
        spacing_mm: Size of a voxel along H, W, D.
    """
    inside = (np.asarray(image) != 0).any(axis=0)
    (box,) = find_objects(inside.view(np.uint8))
    inside = inside[box]
    found = _measure_shape(inside, spacing_mm)
    channels = [np.asarray(channel[box], np.float32) for channel in image]
    values = [channel[inside].astype(np.float64) for channel in channels]
    core = binary_erosion(inside, iterations=max(1, round(RIM_MM / float(np.mean(spacing_mm)))))[inside]
    for name, channel, own in zip(modalities, channels, values, strict=True):
        for quantile, value in zip(QUANTILES, np.quantile(own, QUANTILES), strict=True):
            found[f"{name}_quantile_{quantile:g}"] = float(value)
        deviation = own.std()
        found[f"{name}_skewness"] = float((((own - own.mean()) / deviation) ** 3).mean()) if deviation else 0.0
        found[f"{name}_roughness"] = _measure_roughness(channel, inside)
        has_both = core.any() and not core.all()
        found[f"{name}_rim"] = float(own[~core].mean() - own[core].mean()) if has_both else 0.0
        found[f"{name}_asymmetry"] = _measure_asymmetry(channel, inside)
    for (first, one), (second, other) in combinations(zip(modalities, values, strict=True), 2):
        varies = one.std() > 0 and other.std() > 0
        found[f"{first}_{second}_correlation"] = float(np.corrcoef(one, other)[0, 1]) if varies else 0.0
    return found


def _measure_shape(inside: NDArray[np.bool_], spacing_mm: Sequence[float]) -> dict[str, float]:
    voxels = int(np.count_nonzero(inside))
    faces = [face for axis in range(3) for face in (inside.take(0, axis), inside.take(-1, axis))]
    extents = zip(_EXTENTS, inside.shape, spacing_mm, strict=True)
    return {
        "brain_ml": voxels * float(np.prod(spacing_mm)) / 1000.0,
        **{name: extent * float(size) for name, extent, size in extents},
        "brain_fill": voxels / inside.size,
        "brain_asymmetry": 1.0 - int(np.count_nonzero(inside & inside[::-1])) / voxels,
        "brain_cut_off": sum(int(face.sum()) for face in faces) / sum(face.size for face in faces),
    }


def _measure_roughness(channel: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    total, count = 0.0, 0
    for axis in range(3):
        front = tuple(slice(1, None) if one == axis else slice(None) for one in range(3))
        back = tuple(slice(None, -1) if one == axis else slice(None) for one in range(3))
        both = inside[front] & inside[back]
        total += float(np.abs(channel[front] - channel[back])[both].sum(dtype=np.float64))
        count += int(np.count_nonzero(both))
    return total / count if count else 0.0


def _measure_asymmetry(channel: NDArray[np.float32], inside: NDArray[np.bool_]) -> float:
    half = inside.shape[0] // 2
    sides = [channel[side][inside[side]] for side in (slice(0, half), slice(-half or None, None))]
    if not all(len(side) for side in sides):
        return 0.0
    return float(abs(sides[0].mean(dtype=np.float64) - sides[1].mean(dtype=np.float64)))


def find_least_spread(name: str, median: float) -> float:
    """Spread that a statistic has at least, whatever few training cases say: what people and scanners differ by anyway.

    10 % of the brain's volume and 5 % of its extents, about what adults differ by; 0.01 for the shape's ratios; 0.05 of
    a quantile of z-scores, 0.1 of skewness, 0.02 of the others. Chosen, not measured.
    """
    if name.endswith(tuple(_LEAST_SHARE)):
        return _LEAST_SHARE[name[-3:]] * abs(median)
    if name.startswith("brain_"):
        return _LEAST_SHAPE
    return next(value for kind, value in _LEAST_SPREADS.items() if kind in name)
