"""Masks and IDH probabilities of another tool, read so that it stands in the same tables.

Nothing says which labels the masks have: two conventions may have the same values and mean other tissues, so the user
names the convention.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mttu.cohort.clinical_tables import normalise_column
from mttu.cohort.layouts import volume_stem
from mttu.cohort.table_files import read_text_table
from mttu.data.file_kinds import explain_refusal
from mttu.data.labels import CONVENTIONS, IDH_UNKNOWN, find_convention
from mttu.data.manifest import Case, Manifest
from mttu.errors import InputError, collecting, name_some, raise_if_any, say_count
from mttu.files import restore
from mttu.predict.results import TABLE
from mttu.report.predictions import Predictions

CASE_ID, PROBABILITY = "case_id", "idh_mutant_probability"
"""Columns of a table of scores, spelled as in `predictions.csv`; the probability is that of an IDH mutation, 0 to 1."""
SUFFIXES = ("_seg", "-seg")
"""What may follow the case in the name of a mask: `_seg` to BraTS 2021, `-seg` since BraTS 2023."""
MADE_BY = "another tool"
"""In place of a checkpoint."""
_TABLES = (".csv", ".tsv", ".xlsx")


@dataclass(frozen=True)
class Source:
    """Where the predictions of a system are."""

    place: Path
    """Folder that `mttu predict` wrote, or another tool's folder of masks or table of scores."""
    labels: str | None = None
    """Label convention of another tool's masks, a name in `CONVENTIONS`; None for predictions of mttu."""
    scores: Path | None = None
    """Table of another tool's IDH probabilities beside its masks."""

    @property
    def is_table(self) -> bool:
        """Whether there are scores alone, without masks."""
        return self.place.suffix.lower() in _TABLES and not self.place.is_dir()

    @property
    def is_foreign(self) -> bool:
        """Whether another tool made them."""
        return self.is_table or self.labels is not None or self.scores is not None

    @property
    def name(self) -> str:
        """Name of the system in tables: that of the folder, or of the table without its ending."""
        place = self.place.resolve()
        return place.stem if self.is_table else place.name


def find_source_problems(source: Source) -> list[str]:
    """What is wrong with how another tool's predictions were given."""
    where = f"predictions {source.place}"
    if not source.is_foreign:
        return []
    if source.is_table:
        given = source.labels is not None or source.scores is not None
        also = "is a table of scores alone; leave out its labels and scores, or give the folder of masks in its place"
        return [f"{where}: {also}"] if given else []
    if (source.place / TABLE).exists():
        return [f"{where}: `mttu predict` wrote it, so that it says labels and scores itself; leave out those given"]
    if source.labels is None:
        known = ", ".join(f"{name} ({convention.title})" for name, convention in CONVENTIONS.items())
        return [f"{where}: scores are given, but not which labels its masks have; name one of {known}"]
    problems: list[str] = []
    with collecting(problems):
        find_convention(source.labels)
    return [f"{where}: {problem}" for problem in problems]


def read_other_tool(source: Source, manifest: Manifest, cases: Sequence[Case], name: str) -> Predictions:
    """Finds another tool's masks and reads its table of scores; masks are read when they are scored.

    A mask is named `CASE.nii.gz` or `CASE_seg.nii.gz` (or `.nii`, or `-seg`), by the case's id in the manifest.

    Args:
        source: One without problems, see `find_source_problems`.
        manifest: The cohort.
        cases: Cases that are evaluated: those with a true mask need a mask, those of known IDH status a probability.
        name: Name of the system in tables.

    Returns:
        Predictions that don't say whom the tool was trained on; what is of no case of the manifest is in `notes`.

    Raises:
        InputError: Files that cannot be read, cases without a mask or probability, two masks of one case, and values
            that are no probabilities; lists all.
    """
    ids = [case.case_id for case in manifest.cases]
    problems: list[str] = []
    notes: list[str] = []
    masks: Mapping[str, Path] = {}
    scores: Mapping[str, float] = {}
    table = source.place if source.is_table else source.scores
    if not source.is_table:
        with collecting(problems):
            masks = _find_masks(source.place, ids, [case.case_id for case in cases if case.seg is not None], notes)
    if table is not None:
        with collecting(problems):
            scores = _read_scores(table, ids, [case.case_id for case in cases if case.idh != IDH_UNKNOWN], notes)
    raise_if_any(problems)
    without = {
        "segmentation": "no folder of masks was given" if source.is_table else "",
        "idh": "no table of scores was given" if table is None else "",
    }
    return Predictions(
        name,
        source.place,
        {case_id: {CASE_ID: case_id, PROBABILITY: scores.get(case_id), "error": ""} for case_id in ids},
        source.labels or "none",
        MADE_BY,
        masks,
        metrics=None,
        missing={task: reason for task, reason in without.items() if reason},
        notes=tuple(notes),
    )


def _find_masks(folder: Path, ids: Sequence[str], needed: Sequence[str], notes: list[str]) -> dict[str, Path]:
    """Case to its mask; `needed` are the cases that must have one."""
    where = f"predictions {folder}"
    try:
        files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except FileNotFoundError:
        raise InputError(f"{where}: not found; give the folder of masks") from None
    except NotADirectoryError:
        raise InputError(f"{where}: is no folder; give the folder of masks") from None
    except OSError as error:
        raise InputError(f"{where}: {explain_refusal(error)}") from None
    known = frozenset(ids)
    found: dict[str, list[Path]] = {}
    others, folders = [], []
    for path in files:
        stem = volume_stem(path)
        if stem is None:
            continue
        if not path.is_file():
            folders.append(path.name)
            continue
        names = [stem, *(stem.removesuffix(suffix) for suffix in SUFFIXES)]
        case_id = next((name for name in names if name in known), None)
        if case_id is None:
            others.append(path.name)
        else:
            found.setdefault(case_id, []).append(path)
    problems = [
        f"{where}: {' and '.join(path.name for path in paths)} are masks of one case, {case_id}; keep one of them"
        for case_id, paths in found.items()
        if len(paths) > 1
    ]
    problems += [f"{where}: {name} is no file; take it away" for name in folders]
    absent = [case_id for case_id in needed if case_id not in found]
    if absent:
        told = _name_others(others, "file is", "files are")
        problems.append(
            f"{where}: {len(absent)} of the {len(needed)} evaluated cases with a true mask have no mask there: "
            f"{name_some(absent)}; name each {absent[0]}.nii.gz or {absent[0]}{SUFFIXES[0]}.nii.gz{told}"
        )
    raise_if_any(problems)
    if others:
        notes.append(
            f"{say_count(len(others), 'mask is', 'masks are')} of no case of the manifest and left out: "
            f"{name_some(others)}"
        )
    return {case_id: path for case_id, (path,) in found.items()}


def _read_scores(path: Path, ids: Sequence[str], needed: Sequence[str], notes: list[str]) -> dict[str, float]:
    """Case to probability of IDH mutation; `needed` are the cases that must have one."""
    where = f"scores {path}"
    table = read_text_table(path, "scores")
    columns = [normalise_column(column) for column in table.header]
    problems = [
        f"{where}: {f'column {name} is there twice' if name in columns else f'no column {name}'}; expected {CASE_ID} "
        f"and {PROBABILITY} (probability of an IDH mutation), found {', '.join(filter(None, table.header)) or 'none'}"
        for name in (CASE_ID, PROBABILITY)
        if columns.count(name) != 1
    ]
    raise_if_any(problems)
    found: dict[str, float] = {}
    seen: set[str] = set()
    for line, cells in table.rows:
        case_id, text = restore(cells[columns.index(CASE_ID)]), cells[columns.index(PROBABILITY)]
        value = _to_probability(text)
        if line in table.crooked:
            problems.append(f"{where}: line {line} has more or fewer values than the header; mend the line")
        elif case_id in seen:
            problems.append(f"{where}: line {line}: case {case_id} has a row before; keep one of them")
        elif text and value is None:
            problems.append(f"{where}: line {line}: case {case_id}: {PROBABILITY} is {text!r}; expected 0 to 1")
        elif value is not None:
            found[case_id] = value
        seen.add(case_id)
    raise_if_any(problems)
    absent = [case_id for case_id in needed if case_id not in found]
    others = sorted(found.keys() - set(ids))
    if absent:
        told = _name_others(others, "row is", "rows are")
        raise InputError(
            f"{where}: {len(absent)} of the {len(needed)} evaluated cases of known IDH status have no probability: "
            f"{name_some(absent)}; give all of them{told}"
        )
    if others:
        notes.append(
            f"{say_count(len(others), 'score is', 'scores are')} of no case of the manifest and left out: "
            f"{name_some(others)}"
        )
    return found


def _name_others(others: Sequence[str], one: str, several: str) -> str:
    return f"; {say_count(len(others), one, several)} of no case: {name_some(others, 3)}" if others else ""


def _to_probability(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= 1 else None
