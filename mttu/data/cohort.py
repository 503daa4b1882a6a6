"""From a folder of cases and a clinical table to a checked manifest; every problem of every case is named at once."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from mttu.data.clinical import ClinicalRow, read_clinical
from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD, find_convention
from mttu.data.layouts import BRATS, list_volumes, match_files, walk_folders
from mttu.data.manifest import (
    SPLITS,
    Case,
    Manifest,
    check_target,
    is_safe_name,
    read_manifest,
    write_manifest,
)
from mttu.data.sources import read_sources
from mttu.data.splits import assign_splits
from mttu.errors import InputError, raise_if_any

__all__ = [
    "Case",
    "Manifest",
    "case_from_folder",
    "check_target",
    "describe_manifest",
    "discover",
    "read_manifest",
    "write_manifest",
]

MODALITIES = tuple(BRATS.modalities)
PHANTOM_MARKER = "phantom.json"
"""Lists the synthetic cases of a folder; a cohort is synthetic if all of its cases are."""

_MOST_READERS = 4
"""Cases checked at the same time; each holds about 0.2 GB."""
_MOST_NAMED = 8


def discover(
    folder: Path,
    clinical: Path | None = None,
    labels: str = "brats",
    modalities: Sequence[str] = MODALITIES,
    val_fraction: float = 0.2,
    seed: int = 0,
) -> Manifest:
    """Finds, reads and checks all cases at or below a folder, and splits them.

    A split named in the clinical table is kept. Of the other cases, those with a known IDH status are split into train
    and val, by patient and stratified by IDH; those without are unlabelled. If no case has a known IDH status and none
    a named split, the cases with a tumour mask are split into train and val instead, for segmentation alone. A case
    follows another examination of the same patient whose split is settled. A case without a row has unknown IDH.

    Args:
        folder: Holds `<case_id>/<case_id>_<modality>.nii[.gz]`, at any depth.
        clinical: CSV, see `mttu.data.clinical`; rows of cases that are not here are left alone.
        labels: Convention of the tumour masks, a name in `mttu.data.labels.CONVENTIONS`.
        modalities: Channels in order; every case must have them.
        val_fraction: Share of validation, 0 to below 1.
        seed: Of the split.

    Raises:
        InputError: Lists all problems; what several cases share is one sentence.
    """
    _check_arguments(folder, labels, modalities, val_fraction)
    root = Path(os.path.abspath(folder))
    found = list(walk_folders(root))
    if not found:
        raise InputError(f"{folder}: holds no case; expected <case>/<case>_flair.nii.gz and so on ({BRATS.title})")
    cases: list[Case] = []
    problems: list[str] = []
    for place, volumes in found:
        files = match_files(place.name, volumes, modalities)
        problems += files.problems
        if not is_safe_name(place.name):
            problems.append(f"case {place.name!r}: {_UNSAFE}")
        if not files.problems:
            cases.append(_bare_case(place.name, files.images, files.seg, files.brain_mask, labels))
    names = [place.name for place, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [f"case {name}: two folders have this name; rename one" for name in twice]
    problems += _check_volumes(cases, modalities)
    try:
        rows = [] if clinical is None else read_clinical(clinical)
        described = _join(cases, rows, clinical, names)
        cases = assign_splits(described, val_fraction, seed)
    except InputError as error:
        problems += error.problems
    raise_if_any(merge_problems(problems))
    ordered = tuple(sorted(cases, key=lambda case: case.case_id))
    return Manifest(root, ordered, tuple(modalities), _is_synthetic(root, names))


_UNSAFE = "this id is no safe file name; use letters, digits, '.', '_' and '-', at most 128, no '..'"


def _check_arguments(folder: Path, labels: str, modalities: Sequence[str], val_fraction: float) -> None:
    find_convention(labels)
    problems = []
    if not folder.is_dir():
        problems.append(f"{folder}: not found or no folder; give the folder that holds the case folders")
    unknown = [name for name in modalities if name not in MODALITIES]
    if not modalities or unknown or len(set(modalities)) < len(modalities):
        listed = ",".join(modalities) or "nothing"
        problems.append(f"modalities: {listed}; expected some of {', '.join(MODALITIES)}, each at most once")
    if not 0 <= val_fraction < 1:
        problems.append(f"val_fraction: {val_fraction}; expected 0 to below 1")
    raise_if_any(problems)


def _bare_case(
    case_id: str, images: Mapping[str, Path], seg: Path | None, brain_mask: Path | None, labels: str
) -> Case:
    return Case(case_id, case_id, "", images, seg, brain_mask, IDH_UNKNOWN, None, None, None, labels)


def _check_volumes(cases: Sequence[Case], modalities: Sequence[str]) -> list[str]:
    def find(case: Case) -> list[str]:
        try:
            read_sources(case, modalities)
        except InputError as error:
            return error.problems
        return []

    with ThreadPoolExecutor(min(_MOST_READERS, os.cpu_count() or 1)) as pool:  # unpacking frees the interpreter lock
        return [problem for found in pool.map(find, cases) for problem in found]


def merge_problems(problems: Sequence[str]) -> list[str]:
    """Says once what several cases share: `case A: x`, `case B: x` become `cases A, B: x`; the order is kept."""
    sharing: dict[str, list[str]] = {}
    for problem in problems:
        head, colon, text = problem.partition(": ")
        if head.startswith("case ") and colon:
            sharing.setdefault(text, []).append(head.removeprefix("case "))
        else:
            sharing.setdefault(problem, [])
    merged = []
    for text, names in sharing.items():
        unique = list(dict.fromkeys(names))
        more = f" and {len(unique) - _MOST_NAMED} more" if len(unique) > _MOST_NAMED else ""
        subject = f"{'cases' if len(unique) > 1 else 'case'} {', '.join(unique[:_MOST_NAMED])}{more}: "
        merged.append((subject if unique else "") + text)
    return merged


def _join(
    cases: Sequence[Case], rows: Sequence[ClinicalRow], table: Path | None, names: Sequence[str]
) -> list[tuple[Case, str | None]]:
    """Each case with its clinical facts and the split that its row names."""
    problems, joined = [], []
    by_id: dict[str, list[ClinicalRow]] = {}
    for row in rows:
        for name in row.ids:
            by_id.setdefault(name, []).append(row)
    for case in cases:
        own = by_id.get(case.case_id, [])
        if len(own) > 1:
            lines = ", ".join(str(row.line) for row in own)
            problems.append(f"case {case.case_id}: clinical table {table} has several rows (lines {lines}); keep one")
        for row in own[:1]:
            patient_id = row.patient_id or case.case_id
            if not is_safe_name(patient_id):
                problems.append(f"case {case.case_id}: patient {patient_id!r}: {_UNSAFE}")
            case = replace(case, patient_id=patient_id, idh=row.idh, grade=row.grade, age=row.age, sex=row.sex)
        joined.append((case, own[0].split if own else None))
    if rows and not any(name in by_id for name in names):
        problems.append(
            f"clinical table {table}: none of its ids is a case ({', '.join(list(by_id)[:3])}, ...; cases are "
            f"{', '.join(names[:3])}, ...); one id column must hold the folder names"
        )
    raise_if_any(problems)
    return joined


def _is_synthetic(root: Path, case_ids: Sequence[str]) -> bool:
    marker = root / PHANTOM_MARKER
    if not marker.is_file():
        return False
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
        return content["synthetic"] is True and set(case_ids) <= set(content["cases"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{marker}: damaged ({error}); write the phantom again with `mttu phantom`") from None


def describe_manifest(manifest: Manifest) -> list[str]:
    """One line per split that has cases: how many, their IDH status and masks; then which one has none."""
    lines = []
    for split in SPLITS:
        cases = manifest.split(split)
        counts = {
            "mutant": sum(case.idh == IDH_MUTANT for case in cases),
            "wild type": sum(case.idh == IDH_WILD for case in cases),
            "unknown IDH": sum(case.idh == IDH_UNKNOWN for case in cases),
            "with a mask": sum(case.seg is not None for case in cases),
        }
        if cases:
            listed = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
            lines.append(f"{split}: {len(cases)} {'case' if len(cases) == 1 else 'cases'} ({listed})")
    empty = [split for split in ("train", "val") if not manifest.split(split)]
    lines += [f"{split}: no case; name splits in the clinical table (column split)" for split in empty]
    return lines


def case_from_folder(folder: Path, labels: str, modalities: Sequence[str]) -> Case:
    """A single case folder as a case to predict; its voxels are checked when it is prepared.

    Raises:
        InputError: No folder, an unsafe name, a modality that is missing or there twice.
    """
    _check_arguments(folder, labels, modalities, 0)
    place = Path(os.path.abspath(folder))
    if not is_safe_name(place.name):
        raise InputError(f"case {place.name!r}: {_UNSAFE}")
    files = match_files(place.name, list_volumes(place), modalities)
    raise_if_any(list(files.problems))
    case = _bare_case(place.name, files.images, files.seg, files.brain_mask, labels)
    return replace(case, split="test")
