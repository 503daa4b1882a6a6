"""What a reader of a probability needs beside it: calibrated, in distribution, learned from, and for research only."""

from dataclasses import replace

from mttu.inference.distribution import Distance
from mttu.predict.plan import PredictionPlan
from mttu.predict.results import PredictionRow


def add_standing(row: PredictionRow, plan: PredictionPlan, distance: Distance | None) -> PredictionRow:
    """The row with its distance from the training cases, None where that is not known, and its standing in words."""
    if distance is None:
        known = plan.distribution.reason or "its statistics are others"
        told = f"in distribution or not: not known ({known})"
    else:
        told = distance.describe()
        row = replace(
            row,
            in_distribution=distance.is_inside,
            distribution_z=distance.largest_z,
            distribution_farthest=distance.statistic,
        )
    parts = [] if row.idh_mutant_probability is None else [_describe_calibration(row, plan)]
    return replace(row, standing="; ".join([*parts, told, _describe_learned(row), "research use only"]))


def _describe_calibration(row: PredictionRow, plan: PredictionPlan) -> str:
    kept = plan.calibration
    if row.idh_calibrated_probability is None:
        return f"IDH probability not calibrated ({kept.reason or 'its cases do not determine a temperature'})"
    own = ", this patient's among them" if row.calibrated_on else ""
    return f"IDH probability calibrated on {kept.num_cases} {kept.fitted_on} cases{own}"


def _describe_learned(row: PredictionRow) -> str:
    if row.learned_from is None:
        return "learned from this patient or not: not known"
    return "LEARNED FROM THIS PATIENT: no fair test" if row.learned_from else "not learned from this patient"
