"""A synthetic glioma cohort in BraTS layout, for trying things out: no patient, no licence, the same bits per seed.

IDH shows in the image alone. A wild type has a bright enhancing ring around a necrosis; a mutant enhances little and
its core is bright in T2 and dark in FLAIR (T2-FLAIR mismatch, Patel et al. 2017, doi:10.1158/1078-0432.CCR-17-0560).
Size, place and shape of the lesion, age, sex and grade are drawn without regard to it.
"""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from mttu.atomic import atomic_folder
from mttu.data.cohort import PHANTOM_MARKER
from mttu.data.geometry import resample
from mttu.data.labels import IDH_MUTANT, IDH_WILD, from_classes
from mttu.data.splits import draw_validation
from mttu.errors import InputError, raise_if_any

FORMAT_VERSION = 1
SMALLEST_SIZE = 24

_MODALITIES = ("flair", "t1ce", "t1", "t2")
_WHITE, _GREY, _FLUID, _NECROSIS, _EDEMA, _RIM = range(6)
_BRIGHTNESS = np.array([[300, 520, 500, 250], [380, 400, 380, 400], [80, 160, 150, 800]])
"""White matter, grey matter and fluid in each modality."""
_LESION_BRIGHTNESS = {
    IDH_WILD: np.array([[400, 240, 220, 680], [620, 340, 330, 620], [500, 950, 360, 520]]),
    IDH_MUTANT: np.array([[180, 250, 230, 900], [620, 340, 330, 620], [560, 540, 350, 660]]),
}
"""Necrosis, edema and enhancing rim in each modality."""
_NOISE = 20.0
_CLINICAL, _ANATOMY = 1, 2  # last number of a seed, one per purpose: NumPy pads seeds with zeros
_COARSE = 24


@dataclass(frozen=True)
class Anatomy:
    """A brain with a lesion, before any scanner: (H, W, D)."""

    tissue: NDArray[np.int8]
    """0 white, 1 grey, 2 fluid, 3 necrosis, 4 edema, 5 enhancing rim; -1 outside of the brain."""

    @property
    def classes(self) -> NDArray[np.uint8]:
        """The true mask: classes 0 to 3."""
        return np.where(self.tissue >= _NECROSIS, self.tissue - _FLUID, 0).astype(np.uint8)


def _smooth_noise(generator: np.random.Generator, size: int, sigma: float) -> NDArray[np.float32]:
    """Noise of standard deviation about 1 with structures of `sigma` volume widths, drawn coarse and interpolated."""
    coarse = gaussian_filter(generator.standard_normal((_COARSE,) * 3, np.float32), sigma * _COARSE, mode="wrap")
    return resample(np.asarray(coarse / coarse.std(), np.float32), (size,) * 3, order=1)


def _distance(grid: NDArray[np.float32], centre: ArrayLike, radii: ArrayLike) -> NDArray[np.float32]:
    scaled = (grid - np.reshape(centre, (3, 1, 1, 1))) / np.reshape(radii, (3, 1, 1, 1))
    return np.asarray(np.sqrt((scaled**2).sum(axis=0)), np.float32)


def draw_anatomy(generator: np.random.Generator, size: int) -> Anatomy:
    """Draws brain and lesion.

    Args:
        generator: Source of randomness.
        size: Voxels along each axis.
    """
    axis = np.linspace(-1, 1, size, dtype=np.float32)
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"))
    wobble = _smooth_noise(generator, size, 1 / 12)
    radii = np.array([0.7, 0.85, 0.68]) * generator.uniform(0.94, 1.06, 3)
    brain = _distance(grid, (0, 0, 0), radii)
    tissue = np.where(brain > 0.86 + 0.04 * wobble, _GREY, _WHITE).astype(np.int8)
    for side in (-1, 1):
        ventricle = _distance(grid, (0.13 * side, 0.05, 0.05), (0.07, 0.28, 0.12))
        tissue[ventricle + 0.15 * wobble < 1] = _FLUID
    direction = generator.standard_normal(3)
    centre = direction / np.linalg.norm(direction) * radii * generator.uniform(0.2, 0.5)
    lesion = _distance(grid, centre, generator.uniform(0.26, 0.4) * generator.uniform(0.8, 1.25, 3))
    lesion = lesion + 0.12 * _smooth_noise(generator, size, 1 / 16)
    tissue[lesion < 1] = _EDEMA
    tissue[lesion < 0.72] = _RIM
    tissue[lesion < 0.48] = _NECROSIS
    tissue[brain > 1] = -1
    return Anatomy(tissue)


def scan(anatomy: Anatomy, idh: int, generator: np.random.Generator) -> dict[str, NDArray[np.int16]]:
    """What four sequences show of an anatomy; IDH decides the brightness inside the lesion and nothing else.

    Args:
        anatomy: Brain and lesion.
        idh: 1 mutant, 0 wild type.
        generator: Source of randomness; what is drawn doesn't depend on `idh`.

    Returns:
        Modality to (H, W, D), above 0 inside the brain and 0 outside.
    """
    size = len(anatomy.tissue)
    inside = anatomy.tissue >= 0
    outside = np.zeros((1, len(_MODALITIES)))  # the last row, which tissue -1 picks
    brightness = np.concatenate([_BRIGHTNESS, _LESION_BRIGHTNESS[idh], outside]).astype(np.float32)
    images = {}
    for channel, name in enumerate(_MODALITIES):
        gain = generator.uniform(0.8, 1.25)
        slopes = generator.uniform(-0.1, 0.1, (3, 1)).astype(np.float32) * np.linspace(-1, 1, size, dtype=np.float32)
        field = 1 + slopes[0][:, None, None] + slopes[1][:, None] + slopes[2]  # a coil's uneven sensitivity
        noise = _NOISE * generator.standard_normal(inside.shape, np.float32)
        clean = gaussian_filter(brightness[anatomy.tissue, channel], 0.5)
        image = np.rint(gain * np.maximum(1, clean * field + noise)).clip(1, 4000)
        images[name] = np.where(inside, image, 0).astype(np.int16)
    return images


def write_phantom(
    folder: Path,
    cases: int = 24,
    size: int = 64,
    seed: int = 0,
    unlabelled_fraction: float = 0.2,
    test_fraction: float = 0.2,
) -> None:
    """Writes a cohort: `<id>/<id>_<modality>.nii.gz` (1 mm, LPS), `clinical.csv` and the marker `phantom.json`.

    In each split about half of the cases are mutants. Unlabelled cases have a mask but no IDH status in the table.

    Args:
        folder: New or empty folder; one that holds this very phantom is left as it is.
        cases: Number of cases, each a patient.
        size: Voxels along each axis.
        seed: Same seed, same bits.
        unlabelled_fraction: Share of the cases without IDH status.
        test_fraction: Share of the test split.

    Raises:
        InputError: The folder holds something else, or an argument is out of range.
    """
    fractions = {"unlabelled_fraction": unlabelled_fraction, "test_fraction": test_fraction}
    _check(cases, size, fractions)
    names = [f"phantom_{index:03d}" for index in range(cases)]
    marker = {
        "format_version": FORMAT_VERSION,
        "synthetic": True,
        "cases": names,
        "size": size,
        "seed": seed,
        **fractions,
    }
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if _read_marker(folder) == marker:
            return
        raise InputError(f"{folder}: holds something else than this phantom; give a new or an empty folder")
    rows = _draw_rows(names, seed, fractions)
    with atomic_folder(folder.resolve()) as partial:
        for index, row in enumerate(rows):
            _write_case(partial, row, np.random.default_rng([seed, index, _ANATOMY]), size)
        with (partial / "clinical.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, [name for name in rows[0] if name != "true_idh"], extrasaction="ignore")
            table.writeheader()
            table.writerows(rows)
        (partial / PHANTOM_MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def _check(cases: int, size: int, fractions: Mapping[str, float]) -> None:
    problems = []
    if not 1 <= cases <= 999:
        problems.append(f"cases: {cases}; expected 1 to 999")
    if not SMALLEST_SIZE <= size <= 256:
        problems.append(f"size: {size}; expected {SMALLEST_SIZE} to 256 voxels")
    problems += [f"{name}: {value}; expected 0 to 1" for name, value in fractions.items() if not 0 <= value <= 1]
    if sum(fractions.values()) >= 1:
        problems.append(f"{' + '.join(fractions)}: {sum(fractions.values()):g}; expected below 1")
    raise_if_any(problems)


def _read_marker(folder: Path) -> Any:
    try:
        return json.loads((folder / PHANTOM_MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _draw_rows(names: Sequence[str], seed: int, fractions: Mapping[str, float]) -> list[dict[str, Any]]:
    """Clinical rows; `true_idh` is what the image shows, also where the table says nothing."""
    generator = np.random.default_rng([seed, _CLINICAL])
    order = generator.permutation(len(names)).tolist()
    unlabelled = round(fractions["unlabelled_fraction"] * len(names))
    test = round(fractions["test_fraction"] * len(names))
    splits = ["unlabelled"] * unlabelled + ["test"] * test + ["train"] * (len(names) - unlabelled - test)
    idh = {place: IDH_MUTANT if rank % 2 else IDH_WILD for rank, place in enumerate(order)}
    split = dict(zip(order, splits, strict=True))
    labelled = {name: idh[place] for place, name in enumerate(names) if split[place] == "train"}
    drawn = draw_validation(labelled, 0.2, seed)
    rows = []
    for place, name in enumerate(names):
        row = {
            "case_id": name,
            "patient_id": name.replace("phantom", "patient"),
            "idh": "" if split[place] == "unlabelled" else idh[place],
            "age": int(generator.integers(25, 76)),
            "sex": ("female", "male")[int(generator.integers(2))],
            "grade": ("LGG", "HGG")[int(generator.integers(2))],
            "split": "val" if name in drawn else split[place],
            "true_idh": idh[place],
        }
        rows.append(row)
    return rows


def _write_case(folder: Path, row: Mapping[str, Any], generator: np.random.Generator, size: int) -> None:
    name = row["case_id"]
    anatomy = draw_anatomy(generator, size)
    volumes: dict[str, NDArray[Any]] = dict(scan(anatomy, row["true_idh"], generator))
    volumes["seg"] = from_classes(anatomy.classes, "brats")
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = size - 1
    (folder / name).mkdir()
    for role, voxels in volumes.items():
        image = nib.Nifti1Image(voxels, affine)
        image.header.set_xyzt_units("mm")
        nib.save(image, folder / name / f"{name}_{role}.nii.gz")
