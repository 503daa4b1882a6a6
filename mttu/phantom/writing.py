"""A phantom cohort on disk: cases drawn in memory, some of them broken on purpose."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from mttu.cohort.synthetic import PHANTOM_MARKER
from mttu.cores import count_cores
from mttu.data.labels import from_classes
from mttu.data.manifest import MODALITIES
from mttu.errors import InputError
from mttu.files import atomic_folder, find_obstacle, read_json, write_csv_rows
from mttu.phantom.fields import Grid
from mttu.phantom.head import draw_head
from mttu.phantom.lesion import draw_place, grow_lesion
from mttu.phantom.scanner import draw_protocol, scan
from mttu.phantom.signs import Learnability, Signs, Truth, draw_signs, measure_learnability
from mttu.phantom.subjects import Purpose, Recipe, Subject, check_recipe, plan_subjects, stream


@dataclass(frozen=True)
class DrawnCase:
    """A case as its files show it, and the truth behind it."""

    images: Mapping[str, NDArray[np.int16]]
    """Modality to (size, size, size), above 0 inside the brain and 0 outside."""
    classes: NDArray[np.uint8]
    """(size, size, size) true mask, classes 0 to 3."""
    truth: Truth


def draw_case(recipe: Recipe, subject: Subject) -> DrawnCase:
    """Draws one case; it depends on seed, number and IDH status, and on the settings of what is drawn."""
    index = subject.index
    signs = draw_signs(stream(recipe, Purpose.SIGNS, index), subject.idh, recipe.difficulty)
    grid, visible = Grid(recipe.size), signs.visible()
    place = draw_place(stream(recipe, Purpose.PLACE, index))
    head = draw_head(stream(recipe, Purpose.HEAD, index), grid, place.bulge)
    lesion = grow_lesion(stream(recipe, Purpose.LESION, index), grid, head, place, visible)
    protocol = draw_protocol(stream(recipe, Purpose.PROTOCOL, subject.site), reference=subject.site == 0)
    scanner = stream(recipe, Purpose.SCAN, index)
    images = scan(scanner, grid, head, lesion, visible, protocol, recipe.thick_slices)
    classes = grid.embed(lesion.classes)
    truth = Truth(
        case_id=subject.case_id,
        split=subject.split,
        idh=subject.idh,
        age=subject.age,
        latents=astuple(signs),
        volume_ml=float(np.count_nonzero(classes)) / 1000,
        means=tuple(_mean_z_score(image, classes > 0) for image in images.values()),
    )
    return DrawnCase(images, classes, truth)


def _mean_z_score(image: NDArray[np.int16], inside: NDArray[np.bool_]) -> float:
    brain = image[image > 0].astype(np.float64)
    return float((image[inside].mean(dtype=np.float64) - brain.mean()) / brain.std())


DEFECTS = {
    "truncated": "the file ends in the middle",
    "nan": "some voxels are NaN",
    "missing": "the file is not there",
    "shape": "the last slice is cut off, so that the grid is not that of the other modalities",
    "affine": "the image lies 5 mm further back than the other modalities",
    "empty": "the file has no byte",
    "constant": "every voxel of the brain has the same value",
}
"""Kinds of damage and their description, in the order in which a cohort gets them."""


def _damage_case(folder: Path, subject: Subject) -> dict[str, str]:
    """Damages one image of a case; its number among the damaged ones decides the kind, and with it the modality.

    Returns:
        Row of the table of defects.
    """
    number = subject.defect or 0
    kind = list(DEFECTS)[number % len(DEFECTS)]
    modality = MODALITIES[(number + number // len(DEFECTS)) % len(MODALITIES)]
    path = folder / subject.case_id / f"{subject.case_id}_{modality}.nii.gz"
    if kind == "missing":
        path.unlink()
    elif kind in ("truncated", "empty"):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2 if kind == "truncated" else 0])
    else:
        _rewrite(path, kind)
    return {"case_id": subject.case_id, "file": path.name, "defect": kind, "description": DEFECTS[kind]}


def _rewrite(path: Path, kind: str) -> None:
    image = nib.load(path)
    voxels, affine, header = np.asarray(image.dataobj), image.affine.copy(), image.header.copy()
    if kind == "nan":
        voxels = voxels.astype(np.float32)
        voxels[tuple(extent // 2 for extent in voxels.shape)] = np.nan
        header.set_data_dtype(np.float32)
    elif kind == "shape":
        voxels = voxels[..., :-1]
    elif kind == "affine":
        affine[1, 3] -= 5
    else:
        voxels = np.where(voxels > 0, 100, 0).astype(voxels.dtype)
    nib.save(nib.Nifti1Image(voxels, affine, header), path)


FORMAT_VERSION = 2
TRUTH_TABLE = "hidden_truth.csv"
DEFECT_TABLE = "defects.csv"

_SIGNS = tuple(field.name for field in fields(Signs))
_MEANS = tuple(f"mean_{name}" for name in MODALITIES)
_MOST_DRAWN = 4
"""Cases drawn at a time; each takes about 1 GB at 240 voxels per axis."""
_README = """A synthetic glioma cohort (mttu phantom). No patient is in it.

<case>/<case>_{{flair,t1ce,t1,t2,seg}}.nii.gz   images and tumour mask, labels 0 1 2 4 as in BraTS to 2021
clinical.csv       what is known of the cases; empty idh: unlabelled
{truth}   FOR EVALUATION ONLY, never for training: the true IDH status of every case, the unlabelled ones
                   included, the latent strength of each sign, and what simple features see
{marker}       how the cohort was made; it marks the folder as synthetic
"""


def write_phantom(folder: Path, recipe: Recipe, show: Callable[[int, str], None] | None = None) -> None:
    """Writes a cohort: `<id>/<id>_<modality>.nii.gz` (1 mm, LPS), `clinical.csv`, `hidden_truth.csv`, `phantom.json`.

    Unlabelled cases have a mask but no IDH status in `clinical.csv`; their true one is in `hidden_truth.csv`, which is
    for evaluation only and which `mttu cohort` doesn't read.

    Args:
        folder: New or empty folder; one that already holds this phantom is left as it is.
        recipe: Recipe of the cohort.
        show: Called with the number of cases written and the newest one's id.

    Raises:
        InputError: The folder holds something else or cannot be written, or a value of the recipe is out of range.
    """
    check_recipe(recipe)
    subjects = plan_subjects(recipe)
    names = [subject.case_id for subject in subjects]
    marker = {"format_version": FORMAT_VERSION, "synthetic": True, "cases": names, "recipe": asdict(recipe)}
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        with suppress(OSError, ValueError):
            if read_json(folder / PHANTOM_MARKER) == marker:
                return
        raise InputError(f"{folder}: holds something else than this phantom; give a new or an empty folder")
    obstacle = find_obstacle(folder)
    if obstacle:
        raise InputError(f"{folder}: {obstacle}")
    with atomic_folder(folder.resolve()) as partial:
        truths = _write_cases(partial, recipe, subjects, show)
        _write_table(partial / "clinical.csv", [_describe(subject) for subject in subjects])
        _write_table(partial / TRUTH_TABLE, [_flatten(truth) for truth in truths])
        broken = sorted((s for s in subjects if s.defect is not None), key=lambda subject: subject.defect or 0)
        if broken:
            _write_table(partial / DEFECT_TABLE, [_damage_case(partial, subject) for subject in broken])
        readme = _README.format(truth=TRUTH_TABLE, marker=PHANTOM_MARKER)
        (partial / "README.txt").write_text(readme, encoding="utf-8")
        (partial / PHANTOM_MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def measure_phantom(folder: Path) -> Learnability:
    """Measures how well IDH can be told in a phantom on disk; an InputError if the folder holds none of this format."""
    try:
        marker = read_json(folder / PHANTOM_MARKER)
        with (folder / TRUTH_TABLE).open(encoding="utf-8", newline="") as file:
            truths = [_unflatten(row) for row in csv.DictReader(file)]
        return measure_learnability(truths, float(marker["recipe"]["difficulty"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder}: no phantom of this version ({error}); write one with `mttu phantom`") from None


def _write_cases(
    folder: Path, recipe: Recipe, subjects: Sequence[Subject], show: Callable[[int, str], None] | None
) -> list[Truth]:
    def write(subject: Subject) -> Truth:
        case = draw_case(recipe, subject)
        place = folder / subject.case_id
        place.mkdir()
        for name, image in case.images.items():
            _save(image, place / f"{subject.case_id}_{name}.nii.gz")
        if subject.has_mask:
            _save(from_classes(case.classes, "brats"), place / f"{subject.case_id}_seg.nii.gz")
        return case.truth

    truths = []
    with ThreadPoolExecutor(min(_MOST_DRAWN, count_cores())) as pool:  # NumPy releases the interpreter lock
        for done, truth in enumerate(pool.map(write, subjects), 1):
            truths.append(truth)
            if show is not None:
                show(done, truth.case_id)
    return truths


def _save(voxels: NDArray[Any], path: Path) -> None:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = len(voxels) - 1
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _describe(subject: Subject) -> dict[str, Any]:
    """A clinical row: what a hospital would know."""
    return {
        "case_id": subject.case_id,
        "patient_id": subject.patient_id,
        "idh": "" if subject.split == "unlabelled" else subject.idh,
        "age": subject.age,
        "sex": subject.sex,
        "grade": subject.grade,
        "split": subject.split,
        "site": f"site_{subject.site + 1:02d}",
    }


def _flatten(truth: Truth) -> dict[str, Any]:
    return {
        "case_id": truth.case_id,
        "split": truth.split,
        "true_idh": truth.idh,
        "age": truth.age,
        **{name: f"{value:.6f}" for name, value in zip(_SIGNS, truth.latents, strict=True)},
        "volume_ml": f"{truth.volume_ml:.3f}",
        **{name: f"{value:.6f}" for name, value in zip(_MEANS, truth.means, strict=True)},
    }


def _unflatten(row: Mapping[str, str]) -> Truth:
    return Truth(
        case_id=row["case_id"],
        split=row["split"],
        idh=int(row["true_idh"]),
        age=int(row["age"]),
        latents=tuple(float(row[name]) for name in _SIGNS),
        volume_ml=float(row["volume_ml"]),
        means=tuple(float(row[name]) for name in _MEANS),
    )


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    write_csv_rows(path, list(rows[0]), (list(row.values()) for row in rows))
