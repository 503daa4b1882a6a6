"""Calibration and prior of a pool's scores, from the scores of held-out cases beside them (`selection.calibrate`)."""

from collections.abc import Mapping

from mttu.config import SelectionSettings
from mttu.errors import InputError, raise_if_any
from mttu.pseudo_labels.certainty import read_certainty
from mttu.pseudo_labels.prior import Correction, correct
from mttu.pseudo_labels.score_table import ScoreTable
from mttu.pseudo_labels.thresholds import ALIKE, pool_scores, read_section


def fit_correction(
    pool: ScoreTable, tables: Mapping[str, ScoreTable], truth: Mapping[str, int], settings: SelectionSettings
) -> tuple[Correction, list[str]]:
    """Calibrates a pool's probabilities and moves them to its share of mutants, as `selection` says.

    Args:
        pool: Scores of the pool.
        tables: Scores, by name, of cases that the same network did not learn from, by the same passes.
        truth: Their true classes.
        settings: `calibrate` is not none.

    Returns:
        The correction, and notes on what was left out.

    Raises:
        InputError: See `mttu.pseudo_labels.thresholds.pool_scores` and `mttu.pseudo_labels.prior.correct`; scores of
            other weights or passes than the pool's; weights that do not say whom they learned from; no score in the
            pool.
    """
    problems = []
    for name, table in tables.items():
        if table.about.get("learned_from") is None:
            problems.append(
                f"scores {name}: the weights do not say whom they learned from, so nothing is calibrated on these cases"
            )
        if table.about.get("weights_sha256") != pool.about.get("weights_sha256"):
            problems.append(f"scores {name}: are by other weights than the pool's; score both by one network")
        for section in ALIKE:
            here, there = (read_section(one, section) for one in (table, pool))
            if here != there:
                problems.append(
                    f"scores {name}: {section} is {here}, in the pool's scores it is {there}; a calibration holds for "
                    "one only"
                )
    scored = [certainty.mutant_probability for row in pool.rows if (certainty := read_certainty(row)) is not None]
    if not scored:
        problems.append("no case of the pool has a score, so there is nothing to calibrate")
    raise_if_any(problems)
    labelled, notes = pool_scores(tables, truth)
    twice = {one.case_id for one in labelled} & {row.case_id for row in pool.rows}
    if twice:
        raise InputError(f"cases {', '.join(sorted(twice))}: are in the pool and among the calibration cases")
    probabilities = [one.mutant_probability for one in labelled]
    return correct(scored, probabilities, [one.true_class for one in labelled], settings.prior), notes
