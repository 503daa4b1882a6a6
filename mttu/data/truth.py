"""True IDH classes by case: from a manifest or from a table of one's own."""

from pathlib import Path

from mttu.data.clinical import read_clinical
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.manifest import read_manifest
from mttu.errors import InputError, raise_if_any


def read_truth(path: Path) -> dict[str, int]:
    """Case id to 1 mutant or 0 wild type; cases without a known class are not in it.

    Args:
        path: A manifest (`.parquet`), or a clinical table (`.csv`) with an id and `idh`, see
            `mttu.data.clinical.read_clinical`.

    Raises:
        InputError: The file cannot be read, knows no class, or gives one case two.
    """
    if path.suffix == ".parquet":
        pairs = [(case.case_id, case.idh) for case in read_manifest(path).cases]
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
