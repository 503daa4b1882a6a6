"""The manifest: one row per case in a Parquet file, root and relative paths, read back with every row checked."""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mttu.data.labels import CONVENTIONS, IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.data.tables import check_table_target, read_table
from mttu.errors import InputError, raise_if_any
from mttu.files import atomic_file

FORMAT_VERSION = 3
MODALITIES = ("flair", "t1ce", "t1", "t2")
SEG, BRAIN_MASK = "seg", "brain mask"
"""Roles of files beside the modalities."""
SPLITS = ("train", "val", "unlabelled", "test")
MEND = "write it again with `mttu cohort`"

NEWER_COLUMNS: Mapping[str, Any] = {}
"""Columns that earlier manifests of this format may lack, with the value that every row had then. A row with that value
has the same fingerprint as without the column."""
SOFT_LABEL: Mapping[str, Any] = {"idh_probability": None, "idh_weight": None}
"""Columns of soft labels, with the value where there is none. A manifest without soft labels lacks them, and its
fingerprint is the same."""
TEACHER_MASK = "teacher_mask"
"""Column that marks cases without a mask of their own; a manifest without such cases lacks it. It tells what a training
did and is not read by any, so it is in no fingerprint."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_IMAGE = "image_"


@dataclass(frozen=True)
class Case:
    """One examination of one patient."""

    case_id: str
    patient_id: str
    split: str
    """train, val, unlabelled or test."""
    images: Mapping[str, Path]
    """Modality to absolute path."""
    seg: Path | None
    brain_mask: Path | None
    idh: int
    """1 mutant, 0 wild type, -1 unknown."""
    grade: str | None
    age: float | None
    """Years."""
    sex: str | None
    labels: str
    """Label convention of `seg`, a name in `mttu.data.labels.CONVENTIONS`."""
    site: str | None = None
    """Where the patient was examined, e.g. the site code of a TCGA id."""
    dataset: str | None = None
    """Name of the file layout that the case was found in."""
    pseudo_label: bool = False
    """Whether `idh` is a network's prediction that self-training selected."""
    idh_probability: float | None = None
    """Probability of mutation that a soft pseudo-label trains with in place of the class `idh`."""
    idh_weight: float | None = None
    """g of eq. (20) in [0, 1], how much a soft pseudo-label counts; None together with `idh_probability`."""
    teacher_mask: bool = False
    """Whether a training case without `seg` was taught by the masks of a teacher, which are kept nowhere."""

    @property
    def idh_terms(self) -> tuple[float, float]:
        """How much the terms of wild type and mutant count in the IDH loss, before class weights.

        1 for the class of a known status, both 0 for an unknown one; g (1 - p) and g p for a soft label.
        """
        if self.idh_probability is None or self.idh_weight is None:
            return float(self.idh == IDH_WILD), float(self.idh == IDH_MUTANT)
        return self.idh_weight * (1.0 - self.idh_probability), self.idh_weight * self.idh_probability


@dataclass(frozen=True)
class Manifest:
    """A cohort: checked cases, sorted by id."""

    root: Path
    """Folder that all paths lie in."""
    cases: tuple[Case, ...]
    modalities: tuple[str, ...]
    """Of every case."""
    synthetic: bool
    """Whether it is a phantom."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 over modalities and rows with relative paths: independent of the place and of new, unused columns."""
        rows = [_to_row(case, self.root) for case in self.cases]
        for row in rows:
            del row[TEACHER_MASK]
        for row, (name, unused) in itertools.product(rows, [*NEWER_COLUMNS.items(), *SOFT_LABEL.items()]):
            if row[name] == unused:
                del row[name]
        content = [self.synthetic, self.modalities, rows]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def split(self, name: str) -> tuple[Case, ...]:
        """The cases of one split, a name in `SPLITS`."""
        if name not in SPLITS:
            raise InputError(f"split {name!r}: unknown; choose one of {', '.join(SPLITS)}")
        return tuple(case for case in self.cases if case.split == name)


def is_safe_name(name: str) -> bool:
    """Whether an id can be a file name anywhere: letters, digits, `.`, `_`, `-`, first a letter or digit, no `..`."""
    return bool(_SAFE_NAME.fullmatch(name)) and ".." not in name


def is_one_name(name: str) -> bool:
    """Whether an id from a file of unknown origin stays within its folder when it becomes part of a path."""
    return bool(name) and name == os.path.basename(name) and name not in (".", "..") and "\0" not in name


def _to_row(case: Case, root: Path) -> dict[str, Any]:
    paths: dict[str, Path | None] = {f"{_IMAGE}{name}": path for name, path in case.images.items()}
    paths |= {"seg": case.seg, "brain_mask": case.brain_mask}
    row = {name: value for name, value in vars(case).items() if name != "images"}
    return row | {name: None if path is None else path.relative_to(root).as_posix() for name, path in paths.items()}


def _add_newer(table: Any, modalities: Sequence[str]) -> Any:
    """A table with the columns that are newer than it, in their places."""
    for place, field in enumerate(_schema(modalities)):
        if field.name in NEWER_COLUMNS and field.name not in table.schema.names:
            values = pa.array([NEWER_COLUMNS[field.name]] * len(table), field.type)
            table = table.add_column(min(place, table.num_columns), field, values)
    return table


def _schema(modalities: Sequence[str], soft: bool = False, taught: bool = False) -> Any:
    required = [pa.field(name, pa.string(), nullable=False) for name in ("case_id", "patient_id", "split")]
    images = [pa.field(f"{_IMAGE}{name}", pa.string(), nullable=False) for name in modalities]
    paths = [pa.field(name, pa.string()) for name in ("seg", "brain_mask")]
    clinical = [pa.field("grade", pa.string()), pa.field("age", pa.float64()), pa.field("sex", pa.string())]
    idh, labels = pa.field("idh", pa.int8(), nullable=False), pa.field("labels", pa.string(), nullable=False)
    origin = [pa.field("site", pa.string()), pa.field("dataset", pa.string())]
    pseudo_label = pa.field("pseudo_label", pa.bool_(), nullable=False)
    soft_label = [pa.field(name, pa.float64()) for name in SOFT_LABEL] if soft else []
    marks = [pa.field(TEACHER_MASK, pa.bool_(), nullable=False)] if taught else []
    return pa.schema([*required, *images, *paths, idh, *clinical, labels, *origin, pseudo_label, *soft_label, *marks])


def check_target(path: Path) -> None:
    """Refuses to write a manifest over anything else, see `mttu.data.tables.check_table_target`."""
    check_table_target(path, "manifest", "manifest", lambda found: {b"format_version", b"root"} <= found.keys())


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Writes a manifest whole or not at all.

    The root is stored relative to the manifest's folder, so that both can move together; absolute if they share only
    the root of the file system.

    Raises:
        InputError: See `check_target`.
    """
    check_target(path)
    folder, root = path.resolve().parent, manifest.root.resolve()
    nearby = Path(os.path.commonpath([folder, root])) != Path(root.anchor)
    metadata = {
        "format_version": str(FORMAT_VERSION),
        "root": Path(os.path.relpath(root, folder)).as_posix() if nearby else str(root),
        "modalities": ",".join(manifest.modalities),
        "synthetic": json.dumps(manifest.synthetic),
    }
    rows = [_to_row(case, manifest.root) for case in manifest.cases]
    soft = any(row[name] is not None for row in rows for name in SOFT_LABEL)
    schema = _schema(manifest.modalities, soft, any(row[TEACHER_MASK] for row in rows))
    table = pa.Table.from_pylist(rows, schema=schema.with_metadata(metadata))
    with atomic_file(path) as partial:
        pq.write_table(table, partial)


def read_manifest(path: Path) -> Manifest:
    """Reads a manifest and checks every row, but not whether the images are still there.

    Raises:
        InputError: Missing, no manifest, another format version, or refused rows; lists all of them.
    """
    cure = f"write it with `mttu cohort DIR -o {path.name}`"
    metadata, table = read_table(path, "manifest", FORMAT_VERSION, MEND, cure=cure)
    modalities = tuple(metadata.get("modalities", "").split(","))
    table = _add_newer(table, modalities)
    soft = any(name in SOFT_LABEL for name in table.schema.names)
    wanted = _schema(modalities, soft, TEACHER_MASK in table.schema.names)
    if not {"root", "synthetic"} <= set(metadata) or not table.schema.equals(wanted):
        columns = ", ".join(table.schema.names)
        raise InputError(f"manifest {path}: columns ({columns}) are not those of format {FORMAT_VERSION}; {MEND}")
    root = Path(os.path.normpath(path.resolve().parent / metadata["root"]))
    rows = table.to_pylist()
    raise_if_any([f"manifest {path}: {problem}; {MEND}" for problem in _find_problems(rows, modalities)])
    cases = tuple(_from_row(row, root, modalities) for row in rows)
    return Manifest(root, cases, modalities, metadata["synthetic"] == "true")


def _find_problems(rows: Sequence[Mapping[str, Any]], modalities: Sequence[str]) -> list[str]:
    problems, seen = [], set()
    allowed = {"split": SPLITS, "idh": (IDH_UNKNOWN, IDH_WILD, IDH_MUTANT), "labels": tuple(CONVENTIONS)}
    for row in rows:
        case_id = row["case_id"]
        if case_id in seen:
            problems.append(f"case {case_id} has two rows")
        seen.add(case_id)
        unsafe = [column for column in ("case_id", "patient_id") if not is_safe_name(row[column])]
        problems += [f"case {case_id}: {column} {row[column]!r} is no safe file name" for column in unsafe]
        for column, values in allowed.items():
            if row[column] not in values:
                listed = ", ".join(str(value) for value in values)
                problems.append(f"case {case_id}: {column} is {row[column]!r}; expected one of {listed}")
        if row["pseudo_label"] and (row["split"] != "train" or row["idh"] == IDH_UNKNOWN):
            problems.append(
                f"case {case_id}: has a pseudo-label, split {row['split']} and idh {row['idh']}; expected split train "
                "and idh 0 or 1"
            )
        if row.get(TEACHER_MASK) and row["seg"] is not None:
            problems.append(f"case {case_id}: is marked as {TEACHER_MASK}, and seg is {row['seg']!r}; expected none")
        problems += _find_soft_problems(row)
        for column in (*(f"{_IMAGE}{name}" for name in modalities), "seg", "brain_mask"):
            place = PurePosixPath(row[column] or "")
            if place.is_absolute() or ".." in place.parts:
                problems.append(f"case {case_id}: {column} {row[column]!r} leaves the root folder")
    return problems


def _find_soft_problems(row: Mapping[str, Any]) -> list[str]:
    given = {name: row[name] for name in SOFT_LABEL if row.get(name) is not None}
    problems = [
        f"case {row['case_id']}: {name} is {value}; expected a number from 0 to 1"
        for name, value in given.items()
        if not 0 <= value <= 1
    ]
    if given and (len(given) < len(SOFT_LABEL) or not row["pseudo_label"]):
        found = ", ".join(f"{name} {row[name]}" for name in ("pseudo_label", *SOFT_LABEL))
        expected = f"expected {' and '.join(SOFT_LABEL)} together, and of a pseudo-label only"
        problems.append(f"case {row['case_id']}: has {found}; {expected}")
    return problems


def _from_row(row: dict[str, Any], root: Path, modalities: Sequence[str]) -> Case:
    paths = {name: root / row[name] if row[name] else None for name in ("seg", "brain_mask")}
    images = {name: root / row[f"{_IMAGE}{name}"] for name in modalities}
    others = {name: value for name, value in row.items() if not name.startswith(_IMAGE)}
    return Case(**(others | paths), images=images)
