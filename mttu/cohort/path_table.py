"""A table of paths: cases of any names and folders, one row per case, with what is known of them."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mttu.cohort.clinical import LineReader, describe_table
from mttu.cohort.clinical_rows import FIELDS
from mttu.cohort.clinical_tables import LOOKS, ClinicalTable, normalise_column
from mttu.cohort.layouts import FoundCase, find_flaw, volume_stem
from mttu.cohort.table_files import TextTable, read_text_table
from mttu.data.file_kinds import explain_refusal
from mttu.data.findings import Finding
from mttu.data.labels import CONVENTIONS
from mttu.data.names import say_nearest
from mttu.errors import raise_if_any

LAYOUT = "paths"
"""Layout of such cases."""
_TABLE = ClinicalTable("table of paths", (), ids=())
_LOOKS = {**LOOKS, "seg": re.compile(r"(^|_)(mask|seg|segmentation|label)(_|$)")}
_LONGEST_SHOWN = 60


def read_path_table(table: Path, modalities: Sequence[str], findings: list[Finding]) -> list[FoundCase]:
    """Reads a table with `case_id`, a column per modality, and any of seg, brain_mask, patient_id, labels, site.

    It may have the columns of a clinical table, too: idh, grade, age, sex, split, in any of the spellings there.

    Args:
        table: A text file separated by comma, semicolon or tab, or a workbook. Relative paths start at its folder.
        modalities: Modalities that every case needs.
        findings: Columns that are not used are added.

    Returns:
        One case per row. A modality without a path, without a file, or with the file of another one, a refused cell and
        a row that does not fit the header are problems of the case.

    Raises:
        InputError: The file cannot be read, or a column is missing or there twice.
    """
    what = f"table of paths {table}"
    text = read_text_table(table, "table of paths")
    names = [normalise_column(name) for name in text.header]
    missing = [name for name in ("case_id", *modalities) if name not in names]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    problems = [f"{what}: no column {name}; found {', '.join(names)}" for name in missing]
    problems += [f"{what}: column {name} is there twice" for name in twice]
    reader = LineReader(text, _TABLE, table)
    problems += [
        f"{what}: columns {' and '.join(columns)} say the same; keep one of them"
        for role in reader.roles - {"idh"}
        if len(columns := [name for name, own in reader.used.items() if own == role]) > 1
    ]
    if not text.rows:
        problems.append(f"{what}: has no row")
    raise_if_any(problems)
    own = ("case_id", *modalities, "seg", "brain_mask", "labels")
    findings += describe_table(text, {**reader.used, **{name: name for name in own if name in names}}, what, _LOOKS)
    lines = _Lines(table, text, Path(os.path.abspath(table)).parent, names, reader, tuple(modalities))
    return [lines.read(line, cells) for line, cells in text.rows]


@dataclass(frozen=True)
class _Lines:
    table: Path
    text: TextTable
    folder: Path
    """Where relative paths start."""
    names: Sequence[str]
    """Normalised names of the columns."""
    reader: LineReader
    modalities: tuple[str, ...]

    def read(self, line: int, written: Sequence[str]) -> FoundCase:
        cells = dict(zip(self.names, written, strict=True))
        case_id = cells["case_id"] or f"line-{line}"
        row, refused = self.reader.read(line, written)
        refused = [f"{self.table} line {line}: {problem}" for problem in refused]
        if not cells["case_id"]:
            refused = [f"{self.table} has no case_id in line {line}"]
        paths, problems = self._read_paths(line, cells)
        labels = cells.get("labels") or None
        if labels is not None and labels not in CONVENTIONS:
            problems.append(f"labels {labels!r}: unknown; choose one of {', '.join(CONVENTIONS)}")
        return FoundCase(
            case_id=case_id,
            patient_id=row.patient_id or case_id,
            layout=LAYOUT,
            folder=self.folder,
            images={name: paths[name] for name in self.modalities if name in paths},
            seg=paths.get("seg"),
            brain_mask=paths.get("brain_mask"),
            problems=tuple(f"case {case_id}: {problem}" for problem in (*refused, *problems)),
            labels=labels,
            site=row.site,
            told=replace(row, patient_id=None) if self.reader.roles & {*FIELDS, "aliases"} else None,
        )

    def _read_paths(self, line: int, cells: Mapping[str, str]) -> tuple[dict[str, Path], list[str]]:
        problems = []
        paths: dict[str, Path] = {}
        role_of: dict[Path, str] = {}
        for role in (*self.modalities, "seg", "brain_mask"):
            if role not in self.names:
                continue
            text, index = cells[role], self.names.index(role)
            if flaw := self.text.find_flaw(line, index):
                problems.append(f"{role} holds {flaw}{self.text.name_cell(line, index)}")
            elif text:
                path = Path(os.path.abspath(self.folder / text))
                if flaw := self._find_flaw(path, text):
                    problems.append(f"{role} {flaw}")
                elif (real := path.resolve()) in role_of:
                    problems.append(f"{role} {text}: is the file of {role_of[real]} too; give each its own")
                else:
                    paths[role], role_of[real] = path, role
            elif role in self.modalities:
                problems.append(f"no {role}; {self.table} has no path for it in line {line}")
        return paths, problems

    def _find_flaw(self, path: Path, text: str) -> str | None:
        """Why a path names no volume; None if it does."""
        try:
            path.lstat()
            there = True
        except (FileNotFoundError, NotADirectoryError):
            there = False
        except PermissionError as error:
            return f"{text}: {explain_refusal(error)}"
        except (OSError, ValueError) as error:  # a name that is too long, or has a character that is not allowed
            reason = getattr(error, "strerror", None) or error
            return f"{text[:_LONGEST_SHOWN]!r}: is no path ({reason})"
        if volume_stem(path) is None:
            return f"{text}: expected a file ending in .nii or .nii.gz"
        if not there:
            foreign = _say_foreign(text)
            return f"{text}: no such file; {foreign or f'relative paths start at {self.folder}{say_nearest(path)}'}"
        flaw = find_flaw(path)
        return f"{text}: {flaw}" if flaw else None


def _say_foreign(text: str) -> str | None:
    """What to change in a path that was written for another system."""
    if "://" in text:
        return "an address is not read; download the file, and give its path"
    if "\\" in text:
        return "it is written with \\, as on Windows; write /"
    return "write the home folder in full, not as ~" if text.startswith("~") else None
