"""What four sequences show of a head with a lesion: contrast, an uneven coil, thick slices, Rician noise."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mttu.data.geometry import resample
from mttu.data.manifest import MODALITIES
from mttu.phantom.fields import Field, Grid, Noise
from mttu.phantom.head import FLUID, Head
from mttu.phantom.lesion import EDEMA, ENHANCING, NECROSIS, TUMOUR, Lesion
from mttu.phantom.signs import Signs

_HEALTHY = {
    "flair": (1.0, 1.14, 0.22, 0.6),
    "t1ce": (1.0, 0.78, 0.28, 2.1),
    "t1": (1.0, 0.74, 0.25, 0.7),
    "t2": (1.0, 1.4, 3.6, 0.7),
}
"""Signal of white matter, grey matter, fluid and vessels relative to white matter."""
_LESION = {
    "flair": (1.62, 1.62, 1.1, 1.5),
    "t1ce": (0.76, 0.6, 0.42, 1.0),
    "t1": (0.78, 0.6, 0.42, 0.72),
    "t2": (1.8, 1.85, 2.7, 1.7),
}
"""Likewise of edema, tumour without enhancement, necrosis, and enhancing tumour before contrast agent."""
_MISMATCH = {"flair": -0.9, "t2": 0.8}
"""What a full T2-FLAIR mismatch adds to tumour without enhancement."""
_UPTAKE = 1.1
"""What full enhancement adds on T1ce."""
_UNIT, _BRIGHTEST = 300.0, 32000
"""Value of white matter in the file before any gain, and the largest value."""
_PLANES, _PLANE_SHARES = (2, 1, 0), (0.8, 0.12, 0.08)
"""Axis across thick slices, and its frequency."""


@dataclass(frozen=True)
class Protocol:
    """How a hospital scans; each modality has its own contrast and gain."""

    contrast: Mapping[str, float]
    """Factor on every difference from white matter."""
    gain: Mapping[str, float]
    noise: float
    """Standard deviation relative to white matter."""
    unevenness: float
    """Standard deviation of the log of the coil's sensitivity."""


def draw_protocol(generator: np.random.Generator, reference: bool) -> Protocol:
    """Draws a hospital's protocol; the reference protocol is the same in every cohort."""
    if reference:
        return Protocol(dict.fromkeys(MODALITIES, 1.0), dict.fromkeys(MODALITIES, 1.0), 0.03, 0.07)
    contrast = {name: generator.uniform(0.7, 1.2) for name in MODALITIES}
    gain = {name: math.exp(generator.uniform(-1, 1)) for name in MODALITIES}
    return Protocol(contrast, gain, noise=generator.uniform(0.02, 0.06), unevenness=generator.uniform(0.04, 0.14))


def scan(
    generator: np.random.Generator,
    grid: Grid,
    head: Head,
    lesion: Lesion,
    signs: Signs,
    protocol: Protocol,
    thick_slices: float,
) -> dict[str, NDArray[np.int16]]:
    """Scans a head with its lesion.

    Args:
        generator: Source of randomness; the draws don't depend on `signs`.
        grid: Grid of head and lesion.
        head: Head with the mass effect of the lesion.
        lesion: Lesion in it.
        signs: As the image shows them, 0 to 1.
        protocol: Protocol of the hospital.
        thick_slices: Share of the images taken in slices of 3 to 6 mm and resampled.

    Returns:
        Modality to (size, size, size), above 0 inside the brain and 0 outside.
    """
    lesions, *streams = generator.spawn(1 + len(MODALITIES))
    values = _lesion_values(lesions, signs)
    texture = 1 + np.float32(0.07) * Noise(lesions, max(3.5, 0.6 * grid.voxel_mm)).on(grid)
    shares = lesion.shares.copy()
    shares[EDEMA] *= 1 - np.float32(0.6) * head.shares[FLUID]  # sulci stay visible in edema
    spared = head.shares * (1 - shares.sum(axis=0))
    pale = lesion.interior * (shares[TUMOUR] + np.float32(0.5) * shares[EDEMA])
    images = {}
    for name, stream in zip(MODALITIES, streams, strict=True):
        contrast = protocol.contrast[name] * stream.uniform(0.9, 1.1)
        abnormal = _mix(shares, values[name], contrast)
        if name in _MISMATCH:
            abnormal += pale * (_MISMATCH[name] * contrast * signs.mismatch)
        signal = _mix(spared, _HEALTHY[name], contrast) + abnormal * texture
        signal *= np.exp(Noise(stream, 50.0).on(grid) * protocol.unevenness)
        gain = _UNIT * protocol.gain[name] * math.exp(stream.uniform(-0.25, 0.25))
        received = _receive(stream, signal, grid, protocol.noise, thick_slices)
        voxels = np.rint(gain * received).clip(1, _BRIGHTEST)
        images[name] = grid.embed(np.where(head.brain, voxels, 0).astype(np.int16))
    return images


def _mix(shares: Field, values: Sequence[float], contrast: float) -> Field:
    """Signal of tissues whose brightness is given relative to white matter."""
    signal: Field = np.zeros_like(shares[0])
    for share, value in zip(shares, values, strict=True):
        signal += share * max(0.05, 1 + (value - 1) * contrast)
    return signal


def _lesion_values(generator: np.random.Generator, signs: Signs) -> dict[str, list[float]]:
    """Signal of the lesion's tissues; it varies beyond the signs, so that mean intensities say little about IDH."""
    water, flair, dark, fluid, dose = generator.standard_normal(5).tolist()
    changes = {"flair": 0.15 * water + 0.2 * flair, "t2": 0.2 * water, "t1": 0.15 * dark, "t1ce": 0.15 * dark}
    values = {name: [1 + (value - 1) * max(0.2, 1 + changes[name]) for value in row] for name, row in _LESION.items()}
    values["flair"][NECROSIS] = 1.1 + 0.3 * math.tanh(fluid)
    values["t1ce"][ENHANCING] = values["t1"][ENHANCING] + _UPTAKE * (0.3 + 0.9 * signs.enhancement) * math.exp(
        0.25 * dose
    )
    return values


def _receive(generator: np.random.Generator, signal: Field, grid: Grid, noise: float, thick_slices: float) -> Field:
    """The signal with noise, thick slices resampled to the grid."""
    thick, thickness_mm = generator.random() < thick_slices, generator.uniform(3, 6)
    plane = int(generator.choice(_PLANES, p=_PLANE_SHARES))
    taken = list(signal.shape)
    if thick:
        taken[plane] = min(taken[plane], max(4, round(taken[plane] * grid.voxel_mm / thickness_mm)))
    real, imaginary = noise * generator.standard_normal((2, *taken), np.float32)
    return resample(np.hypot(resample(signal, taken, order=1) + real, imaginary), signal.shape, order=1)
