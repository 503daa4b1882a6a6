"""True IDH classes by case: from a manifest or from a table of one's own."""

from pathlib import Path

from mttu.data.clinical import read_clinical
from mttu.data.clinical_files import read_text_table
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.manifest import read_manifest
from mttu.data.phantom import TRUTH_TABLE
from mttu.errors import InputError, raise_if_any


def read_truth(path: Path) -> dict[str, int]:
    """Case id to 1 mutant or 0 wild type; cases without a known class are not in it.

    Args:
        path: A manifest (`.parquet`), whose pseudo-labels are no truth; a clinical table (`.csv`) with an id and `idh`,
            see `mttu.data.clinical.read_clinical`; or a phantom's `hidden_truth.csv`.

    Raises:
        InputError: The file cannot be read, knows no class, or gives one case two.
    """
    if path.suffix == ".parquet":
        pairs = [(case.case_id, case.idh) for case in read_manifest(path).cases if not case.pseudo_label]
    elif path.name == TRUTH_TABLE:
        pairs = _read_hidden_truth(path)
    else:
        pairs = [(name, row.idh) for row in read_clinical(path) for name in sorted(row.ids)]
    truth: dict[str, int] = {}
    problems = []
    for case_id, idh in pairs:
        if idh == IDH_UNKNOWN:
            continue
        if truth.setdefault(case_id, idh) != idh:
            problems.append(f"truth {path}: case {case_id} is mutant in one row and wild type in another; correct it")
    raise_if_any(problems)
    if not truth:
        raise InputError(f"truth {path}: no case has a known IDH class; give the manifest or table that says it")
    return truth


def _read_hidden_truth(path: Path) -> list[tuple[str, int]]:
    """Its column has a name of its own, so that no clinical table can be mistaken for it, nor it for one."""
    table = read_text_table(path)
    if not {"case_id", "true_idh"} <= set(table.header):
        raise InputError(f"truth {path}: has no columns case_id and true_idh; found {', '.join(table.header)}")
    columns = [table.header.index(name) for name in ("case_id", "true_idh")]
    pairs, problems = [], list(table.problems)
    for line, cells in table.rows:
        case_id, value = (cells[column] for column in columns)
        if value not in ("0", "1"):
            problems.append(f"line {line}: true_idh is {value!r}; expected 0 or 1")
        else:
            pairs.append((case_id, int(value)))
    raise_if_any([f"truth {path}: {problem}" for problem in problems])
    return pairs
