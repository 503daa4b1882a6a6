"""A CSV of paths: cases of any names and folders, one row per case."""

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from mttu.data.labels import CONVENTIONS
from mttu.data.layouts import MODALITIES, FoundCase, volume_stem
from mttu.errors import InputError, raise_if_any

LAYOUT = "paths"
"""What stands for the layout of such cases."""
COLUMNS = ("case_id", *MODALITIES, "seg", "brain_mask", "patient_id", "labels", "site")
"""Only case_id and the modalities in use are needed; other columns are left alone."""

_LONGEST_SHOWN = 60


def read_path_table(table: Path, modalities: Sequence[str]) -> list[FoundCase]:
    """Reads a CSV with `case_id`, a column per modality, and any of seg, brain_mask, patient_id, labels, site.

    Args:
        table: Comma, semicolon or tab separated, UTF-8. Relative paths start at its folder.
        modalities: Those that every case needs.

    Returns:
        One case per row; a modality without a path, without a file, or with the file of another one is a problem of its
        case.

    Raises:
        InputError: The file cannot be read, a column is missing, or a row does not fit the header.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"table of paths {table}: cannot be read ({error}); give a CSV file in UTF-8") from None
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    try:
        names = [name.strip().lower() for name in reader.fieldnames or []]
        reader.fieldnames = names
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"table of paths {table}: is no CSV ({error})") from None
    missing = [name for name in ("case_id", *modalities) if name not in names]
    twice = sorted({name for name in names if names.count(name) > 1})
    problems = [f"table of paths {table}: no column {name}; found {', '.join(names)}" for name in missing]
    problems += [f"table of paths {table}: column {name} is there twice" for name in twice]
    problems += [
        f"table of paths {table}: line {line} has not {len(names)} values as the header"
        for line, row in rows
        if None in row or None in row.values()
    ]
    if not rows:
        problems.append(f"table of paths {table}: has no row")
    raise_if_any(problems)
    folder = Path(os.path.abspath(table)).parent
    return [
        _read_row({name: value.strip() for name, value in row.items()}, line, table, folder, modalities)
        for line, row in rows
    ]


def _read_row(cells: Mapping[str, str], line: int, table: Path, folder: Path, modalities: Sequence[str]) -> FoundCase:
    case_id = cells["case_id"] or f"line-{line}"
    problems = [] if cells["case_id"] else [f"case {case_id}: {table} has no case_id in line {line}"]
    paths: dict[str, Path] = {}
    role_of: dict[Path, str] = {}
    for role in (*modalities, "seg", "brain_mask"):
        text = cells.get(role, "")
        if not text:
            if role in modalities:
                problems.append(f"case {case_id}: no {role}; {table} has no path for it in line {line}")
            continue
        path = Path(os.path.abspath(folder / text))
        try:
            there, real = path.is_file(), path.resolve()
        except (OSError, ValueError) as error:  # too long a name, or a character that no name has
            reason = getattr(error, "strerror", None) or error
            problems.append(f"case {case_id}: {role} {text[:_LONGEST_SHOWN]!r}: is no path ({reason})")
            continue
        if volume_stem(path) is None:
            problems.append(f"case {case_id}: {role} {text}: expected a file ending in .nii or .nii.gz")
        elif not there:
            problems.append(f"case {case_id}: {role} {text}: no such file; relative paths start at {folder}")
        elif real in role_of:
            problems.append(f"case {case_id}: {role} {text}: is the file of {role_of[real]} too; give each its own")
        else:
            paths[role], role_of[real] = path, role
    labels = cells.get("labels") or None
    if labels is not None and labels not in CONVENTIONS:
        problems.append(f"case {case_id}: labels {labels!r}: unknown; choose one of {', '.join(CONVENTIONS)}")
    return FoundCase(
        case_id=case_id,
        patient_id=cells.get("patient_id") or case_id,
        layout=LAYOUT,
        folder=folder,
        images={name: paths[name] for name in modalities if name in paths},
        seg=paths.get("seg"),
        brain_mask=paths.get("brain_mask"),
        later=False,
        problems=tuple(problems),
        labels=labels,
        site=cells.get("site") or None,
    )
