"""What an evaluation needs, checked before any mask is read."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mttu.config import MetricSettings
from mttu.config.data import RELEASE_METRICS
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.manifest import Case, Manifest, read_manifest
from mttu.errors import collecting, name_some, raise_if_any
from mttu.files import find_byte_names
from mttu.inference.calibration import KeptCalibration, fit_kept
from mttu.metrics.clinical_baselines import Subject, check_grades
from mttu.metrics.comparisons import check_same_cases
from mttu.metrics.empty_masks import choose_conventions, name_conventions
from mttu.report.files import check_output
from mttu.report.other_tools import Source, find_source_problems, read_other_tool
from mttu.report.predictions import Predictions, read_predictions


@dataclass(frozen=True)
class EvaluationPlan:
    """Everything that `evaluate_cases` needs, checked."""

    manifest: Manifest
    split: str
    cases: tuple[Case, ...]
    """Cases of the split."""
    systems: tuple[Predictions, ...]
    """The predictions, and those that they are compared with, if any."""
    metrics: MetricSettings
    """Conventions for empty masks."""
    baselines: bool
    """Whether to fit the baselines without images."""
    num_resamples: int
    """Resamples of each bootstrap."""

    def failed(self, system: Predictions) -> list[str]:
        """Cases that the system could not predict."""
        return [case.case_id for case in self.cases if system.rows[case.case_id]["error"]]

    def with_masks(self, system: Predictions) -> list[Case]:
        """Cases whose true and predicted mask can be compared."""
        return [case for case in self.cases if case.seg is not None and case.case_id in system.masks]

    def with_idh(self, system: Predictions) -> list[Case]:
        """Cases whose IDH status is known and predicted."""
        return _select_classified(system, self.cases)

    def fit(self, system: Predictions) -> KeptCalibration:
        """Threshold and calibration, fitted neither on evaluated cases nor on those that the network learned from.

        The one kept with the predictions is used, if there is one. Otherwise it is fitted on the val cases
        outside of the evaluated split whose patients, by the table of predictions, the network did not learn from.
        A kept one of which the table does not say whom it was fitted on may be of train and val cases; so it is not
        used on these, and on others with a note.
        """
        kept, seen, silent = system.calibration, 0, 0
        if kept.fitted:
            told = [system.rows[case.case_id].get("calibrated_on") for case in self.with_idh(system)]
            seen, silent = told.count(True), told.count(None)
            doubt = f"not known whether the kept calibration was fitted on {silent} of the evaluated cases"
            if not seen and not silent:
                return kept
            if not seen and self.split not in ("train", "val"):
                return replace(kept, notes=(*kept.notes, doubt))
        evaluated = {case.patient_id for case in self.cases}
        val = [case for case in self.manifest.split("val") if case.patient_id not in evaluated]
        known = _select_classified(system, val)
        answers = [system.rows[case.case_id].get("learned_from") for case in known]
        taught, unknown = answers.count(True), answers.count(None)
        held_out = [case for case, answer in zip(known, answers, strict=True) if answer is False]
        reasons = {
            f"the kept calibration was fitted on {seen} of the evaluated cases": seen,
            f"not known whether the kept calibration was fitted on {silent} of the evaluated cases": silent,
            f"the network learned from {taught} val cases": taught,
            f"of {unknown} val cases the predictions do not say whether the network learned from them": unknown,
        }
        notes = [*([kept.reason] if kept.reason else []), *(sentence for sentence, count in reasons.items() if count)]
        probabilities = system.probabilities(held_out)
        return fit_kept(list(probabilities.values()), [case.idh for case in held_out], "validation", notes)

    def learned_from(self, system: Predictions) -> list[str]:
        """Cases of patients that the system was trained on, as its table says."""
        return [case.case_id for case in self.cases if system.rows[case.case_id].get("learned_from")]

    def chosen_on(self, system: Predictions) -> list[str]:
        """Cases with scored masks whose patients chose which components are dropped, as the system's table says."""
        return [case.case_id for case, answer in self._ask_chosen(system) if answer]

    def chosen_not_said(self, system: Predictions) -> list[str]:
        """Cases with scored masks from which components may be dropped, and for which the table does not say that."""
        return [case.case_id for case, answer in self._ask_chosen(system) if answer is None]

    def _ask_chosen(self, system: Predictions) -> list[tuple[Case, bool | None]]:
        """Post-processed cases with scored masks, and whether their patients chose the rules."""
        rows = [(case, system.rows[case.case_id]) for case in self.with_masks(system)]
        return [(case, row.get("postprocessing_chosen_on")) for case, row in rows if row.get("removed_ml") is not None]

    def can_compare(self, task: str) -> bool:
        """Whether every system predicts a task."""
        return not any(task in system.missing for system in self.systems)

    def not_said(self, system: Predictions) -> list[str]:
        """Predicted cases for which the table does not say whether the system was trained on their patients."""
        rows = [system.rows[case.case_id] for case in self.cases]
        return [str(row["case_id"]) for row in rows if not row["error"] and row.get("learned_from") is None]

    def training(self) -> list[Subject]:
        """Cases that baselines are fitted on: train and val, without the evaluated split."""
        names = [name for name in ("train", "val") if name != self.split]
        return [describe_subject(case) for name in names for case in self.manifest.split(name)]


def hide_pseudo_labels(manifest: Manifest) -> Manifest:
    """The manifest with an unknown IDH status where it holds a network's own prediction, which is no truth."""
    cases = tuple(
        replace(case, idh=IDH_UNKNOWN, idh_probability=None, idh_weight=None) if case.pseudo_label else case
        for case in manifest.cases
    )
    return replace(manifest, cases=cases)


def describe_subject(case: Case) -> Subject:
    """The clinical facts of a case."""
    return Subject(case.case_id, case.idh, case.age, case.grade, case.site)


def _select_classified(system: Predictions, cases: Sequence[Case]) -> list[Case]:
    probabilities = system.probabilities(cases)
    return [case for case in cases if case.idh != IDH_UNKNOWN and case.case_id in probabilities]


def plan_evaluation(
    predictions: Path | Source,
    manifest: Path,
    out: Path,
    split: str = "test",
    empty: str | None = None,
    baselines: bool = True,
    compare: Path | Source | None = None,
    num_resamples: int = 2000,
    empty_dice: str | None = None,
    empty_hd95: str | None = None,
) -> EvaluationPlan:
    """Reads tables and manifest and checks that they belong together.

    Args:
        predictions: Folder that `mttu predict` wrote, or a `Source` of another tool. It may hold cases of other splits:
            without a kept calibration, those of val are used to fit one, see `EvaluationPlan.fit`.
        manifest: Manifest with the true masks and IDH statuses.
        out: Folder to write; an earlier evaluation there is replaced.
        split: Split to evaluate.
        empty: Conventions for empty masks, a name in `mttu.metrics.empty_masks.BOTH`; None: those that the table of
            predictions names, which are the network's settings `metrics`; those of another tool name none, and follow
            the system that they are compared with.
        baselines: Whether to fit the baselines without images.
        compare: Predictions of another system for the same cases.
        num_resamples: Resamples of each bootstrap, at least 1.
        empty_dice: Convention of Dice alone, a name in `mttu.metrics.empty_masks.DICE`.
        empty_hd95: Convention of HD95 alone, a name in `mttu.metrics.empty_masks.HD95`.

    Raises:
        InputError: Lists every problem.
    """
    named = (empty, empty_dice, empty_hd95)
    given = [predictions] if compare is None else [predictions, compare]
    cohort, systems = _read_inputs([_to_source(one) for one in given], manifest, out, split, named)
    own = next((system.metrics for system in systems if system.metrics is not None), RELEASE_METRICS)
    conventions = [choose_conventions(system.metrics or own, *named) for system in systems]
    raise_if_any(_find_disagreement(systems, conventions))
    cases = cohort.split(split)
    plan = EvaluationPlan(cohort, split, cases, tuple(systems), conventions[0], baselines, num_resamples)
    raise_if_any(_find_problems(plan, manifest))
    return plan


def check_before_predicting(
    manifest: Path,
    out: Path,
    split: str = "test",
    empty: str | None = None,
    baselines: bool = True,
    compare: Path | Source | None = None,
    empty_dice: str | None = None,
    empty_hd95: str | None = None,
) -> list[str]:
    """Problems that `plan_evaluation` would find, with the same arguments, whatever the predictions are."""
    named = (empty, empty_dice, empty_hd95)
    problems: list[str] = []
    with collecting(problems):
        sources = [] if compare is None else [_to_source(compare)]
        cohort, systems = _read_inputs(sources, manifest, out, split, named)
        plan = EvaluationPlan(cohort, split, cohort.split(split), tuple(systems), RELEASE_METRICS, baselines, 1)
        problems += _find_problems(plan, manifest)
        if plan.cases and all(case.seg is None and case.idh == IDH_UNKNOWN for case in plan.cases):
            problems.append(f"manifest {manifest}: no case of split {split} has a true mask or a known IDH status")
    return problems


def _to_source(given: Path | Source) -> Source:
    return given if isinstance(given, Source) else Source(given)


def _read_inputs(
    sources: Sequence[Source], manifest: Path, out: Path, split: str, named: tuple[str | None, ...]
) -> tuple[Manifest, list[Predictions]]:
    """Manifest and systems; `named` are conventions for empty masks.

    Raises:
        InputError: Lists what is wrong with any of them, or with the folder to write.
    """
    problems: list[str] = []
    with collecting(problems):
        choose_conventions(RELEASE_METRICS, *named)
    problems += check_output(out) + find_byte_names("output", [out])
    cohort: Manifest | None = None
    cases: tuple[Case, ...] = ()
    with collecting(problems):
        cohort = hide_pseudo_labels(read_manifest(manifest))
        cases = cohort.split(split)
    alike = len({source.name for source in sources}) < len(sources)
    systems = []
    for source in sources:
        name = str(source.place) if alike else source.name
        found, unnamed = find_source_problems(source), find_byte_names("predictions", [name])
        problems += found + unnamed
        if unnamed:
            continue
        with collecting(problems):
            if not source.is_foreign:
                systems.append(read_predictions(source.place, name))
            elif not found and cohort is not None:
                systems.append(read_other_tool(source, cohort, cases, name))
    raise_if_any(problems)
    if cohort is None:
        raise ValueError("a manifest that was not read is a problem")
    return cohort, systems


def _find_disagreement(systems: Sequence[Predictions], conventions: Sequence[MetricSettings]) -> list[str]:
    """Whether two systems would be scored by different conventions, each by its own."""
    if all(found == conventions[0] for found in conventions):
        return []
    shown = "; ".join(
        f"{name_conventions(found)} for {system.name}" for system, found in zip(systems, conventions, strict=True)
    )
    return [f"comparison: empty masks would count as {shown}; choose one for both: --empty-dice and --empty-hd95"]


def _find_problems(plan: EvaluationPlan, manifest: Path) -> list[str]:
    if not plan.cases:
        return [f"manifest {manifest}: split {plan.split} has no case; choose another one"]
    problems: list[str] = []
    for system in plan.systems:
        absent = [case.case_id for case in plan.cases if case.case_id not in system.rows]
        if absent:
            problems.append(
                f"predictions {system.folder}: {len(absent)} of the {len(plan.cases)} cases of split {plan.split} are "
                f"not in the table: {name_some(absent)}; predict all of them"
            )
    if problems:
        return problems
    for system in plan.systems:
        lost = [case.case_id for case in plan.with_masks(system) if not system.masks[case.case_id].is_file()]
        if lost:
            problems.append(
                f"predictions {system.folder}: the masks of {name_some(lost)} are gone; predict these cases again"
            )
        if not plan.with_masks(system) and not plan.with_idh(system):
            reasons = "".join(f"; {reason}" for reason in system.missing.values())
            problems.append(
                f"predictions {system.folder}: nothing to score: no case of split {plan.split} has a true mask or a "
                f"known IDH status that was predicted{reasons}"
            )
    if plan.baselines:
        with collecting(problems):
            check_grades([*plan.training(), *(describe_subject(case) for case in plan.cases)])
    return problems + _find_differences(plan)


def _find_differences(plan: EvaluationPlan) -> list[str]:
    """Cases that only one of two systems has scores for."""
    names = [system.name for system in plan.systems]
    if len(set(names)) < len(names):
        return [f"comparison: {names[0]} would be compared with itself; give the folder of another system"]
    problems: list[str] = []
    for what, task, select in (("masks", "segmentation", plan.with_masks), ("IDH", "idh", plan.with_idh)):
        if plan.can_compare(task):
            tables = {f"{one.name} ({what})": {case.case_id: 0 for case in select(one)} for one in plan.systems}
            with collecting(problems):
                check_same_cases(tables)
    return problems
