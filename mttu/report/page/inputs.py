"""What a page is made of, checked before anything is computed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from mttu.config import MetricSettings
from mttu.data.manifest import Case, Manifest, read_manifest
from mttu.errors import InputError, collecting, name_some, raise_if_any
from mttu.files import find_byte_names, find_obstacle
from mttu.inference.device import choose_device
from mttu.report.evaluated import read_summary
from mttu.report.evaluation_folder import MEND, read_folder
from mttu.report.files import IDH_TABLE, REGION_TABLE, SUMMARY, draw_pictures
from mttu.report.page.cases import choose_cases
from mttu.report.page.cohort import read_findings
from mttu.report.page.runs import ShownRun, read_run
from mttu.report.tables import build_tables, describe_cases
from mttu.training.state import BEST

SIGNATURE = '<meta name="generator" content="mttu report'
"""By which an earlier page is known: nothing else is replaced."""
_SIGNED_WITHIN = 4096


@dataclass(frozen=True)
class ShownEvaluation:
    """An evaluation folder, read back."""

    name: str
    checkpoint: str
    """Checkpoint of its first system, as `RUN/best`; empty where it is not told."""
    summary: Mapping[str, Any]
    region_rows: Sequence[Mapping[str, Any]]
    idh_rows: Sequence[Mapping[str, Any]]

    @property
    def weights_sha256(self) -> str:
        """Digest of that checkpoint's weights; empty where the evaluation does not say, e.g. an earlier one."""
        return str(self.summary["systems"][0].get("weights_sha256") or "")

    @property
    def scores(self) -> dict[str, float]:
        """Case to the mean Dice of its regions, by the first system."""
        system = self.summary["systems"][0]["name"]
        dices: dict[str, list[float]] = {}
        for row in self.region_rows:
            if row["system"] == system and row["dice"] is not None:
                dices.setdefault(str(row["case_id"]), []).append(float(row["dice"]))
        return {case_id: fmean(values) for case_id, values in dices.items()}


@dataclass(frozen=True)
class Choice:
    """The cases of a run that are shown."""

    cases: tuple[tuple[str, Case, float], ...]
    """Place, case, and the mean Dice that it was chosen by."""
    chosen_by: str
    """In words, where the scores come from."""


@dataclass(frozen=True)
class PagePlan:
    """Everything that `write_page` needs, checked."""

    output: Path
    runs: tuple[ShownRun, ...]
    evaluations: tuple[ShownEvaluation, ...]
    choices: Mapping[Path, Choice]
    """Folder of a run to its cases; empty without pictures."""
    manifests: Mapping[Path, Manifest]
    """Those that were given, of trainings, and of evaluated cases that a run does not know."""
    findings: Mapping[Path, tuple[str, ...]]
    """Folder of a run to what was found about its cohort."""
    passes: int
    device: torch.device

    @property
    def pictures(self) -> bool:
        """Whether pictures of cases were asked for."""
        return bool(self.choices)

    @property
    def synthetic(self) -> bool:
        """Whether all cohorts are known to be phantoms; not where a run's manifest is unknown."""
        known = [run.manifest is not None and run.manifest.synthetic for run in self.runs]
        known += [one.synthetic for one in self.manifests.values()]
        known += [bool(one.summary["synthetic"]) for one in self.evaluations]
        return all(known)


def plan_page(
    folders: Sequence[Path],
    output: Path,
    evaluations: Sequence[Path] = (),
    manifests: Sequence[Path] = (),
    pictures: bool = False,
    passes: int = 10,
    device: str = "auto",
) -> PagePlan:
    """Reads all that a page shows, and checks that it can be written; no image is read.

    Args:
        folders: Run folders of `mttu train` and `mttu self-train`.
        output: The page, `.html`; an earlier one is replaced.
        evaluations: Folders that `mttu evaluate` wrote.
        manifests: Of trainings, which keep no copy of theirs, and of evaluated cases that are in none of the runs.
        pictures: Show cases: slices, surfaces, feature maps.
        passes: Monte Carlo passes of the uncertainty.
        device: auto, cpu or gpu.

    Raises:
        InputError: Lists every problem.
    """
    problems = _find_output_problems(output)
    runs: list[ShownRun] = []
    shown: list[ShownEvaluation] = []
    chosen = torch.device("cpu")
    with collecting(problems):
        chosen = choose_device(device)
    doubled = [str(folder) for folder in dict.fromkeys(folders) if list(folders).count(folder) > 1]
    problems += [f"run {folder}: is given twice; give it once" for folder in doubled]
    problems += find_byte_names("folder", [path.resolve().name for path in folders])
    problems += find_byte_names("output", [output])
    cohorts: dict[Path, Manifest] = {}
    for path in dict.fromkeys(manifests):
        with collecting(problems):
            cohorts[path] = read_manifest(path)
    for folder in dict.fromkeys(folders):
        with collecting(problems):
            runs.append(read_run(folder, cohorts))
    findings: dict[Path, tuple[str, ...]] = {}
    for run in runs:
        with collecting(problems):
            findings[run.folder] = read_findings(run)
    for folder in evaluations:
        with collecting(problems):
            shown.append(_read_evaluation(folder))
    problems += _find_doubts(runs, shown)
    used = {run.manifest_file for run in runs}
    scores = [one.scores for one in shown] + [run.scores or {} for run in runs]
    scored = {case_id for one in scores for case_id in one} if pictures else set()
    unused = [path for path, one in cohorts.items() if path not in used and not scored & {c.case_id for c in one.cases}]
    also = " and no case that was scored" if pictures else ""
    problems += [
        f"--manifest {path}: holds the val cases of no training that is given{also}; leave it out"
        for path in (unused if not problems else [])
    ]
    raise_if_any(problems)
    choices: dict[Path, Choice] = {}
    for run in runs if pictures else []:
        with collecting(problems):
            choices[run.folder] = _choose(run, shown, cohorts)
    raise_if_any(problems)
    return PagePlan(output, tuple(runs), tuple(shown), choices, cohorts, findings, passes, chosen)


def _find_output_problems(output: Path) -> list[str]:
    if output.suffix != ".html":
        return [f"output {output}: a page is HTML; end its name with .html"]
    if output.is_dir():
        return [f"output {output}: is a folder; name the page, e.g. {output / 'report.html'}"]
    obstacle = find_obstacle(output)
    if obstacle:
        return [f"output {output}: {obstacle}"]
    if output.exists():
        with output.open("rb") as file:
            if SIGNATURE.encode() not in file.read(_SIGNED_WITHIN):
                return [f"output {output}: holds something that `mttu report` did not write; give another name"]
    return []


def _read_evaluation(folder: Path) -> ShownEvaluation:
    found = read_folder(folder)
    told = read_summary(folder, found.summary)
    if not _can_be_shown(found.summary):
        raise InputError(f"{folder / SUMMARY}: damaged; {MEND}")
    return ShownEvaluation(
        *(folder.resolve().name, told.checkpoint, found.summary),
        *(found.tables[REGION_TABLE], found.tables[IDH_TABLE]),
    )


def _can_be_shown(summary: Mapping[str, Any]) -> bool:
    """Whether a summary holds all that the page says of it, tried before any case is predicted."""
    try:
        json.dumps(summary, ensure_ascii=False).encode()
        describe_cases(summary)
        build_tables(summary)
        MetricSettings(empty_dice=summary["empty_dice"], empty_hd95=summary["empty_hd95"])
        draw_pictures([], [], summary)
    except (LookupError, TypeError, AttributeError, ValueError, StopIteration):
        return False
    return True


def is_of(evaluation: ShownEvaluation, run: ShownRun) -> bool:
    """Whether an evaluation is of the weights that a run chose; an earlier one, as far as their names tell."""
    if evaluation.weights_sha256:
        return evaluation.weights_sha256 == run.weights_sha256
    return evaluation.checkpoint == f"{run.name}/{BEST}"


def _find_doubts(runs: Sequence[ShownRun], evaluations: Sequence[ShownEvaluation]) -> list[str]:
    """Evaluations that may be of any of several runs, which have one name."""
    problems = []
    for one in evaluations:
        fitting = [str(run.folder) for run in runs if is_of(one, run)]
        if len(fitting) > 1 and not one.weights_sha256:
            problems.append(
                f"evaluation {one.name}: says only that it is of {one.checkpoint}, and the runs {name_some(fitting)} "
                f"have that name; {MEND}, or give these runs on pages of their own"
            )
    return problems


def _choose(run: ShownRun, evaluations: Sequence[ShownEvaluation], manifests: Mapping[Path, Manifest]) -> Choice:
    own = next((one for one in evaluations if is_of(one, run)), None)
    if own is not None:
        scores, source = own.scores, f"mean Dice of the evaluation {own.name}, split {own.summary['split']}"
    elif run.scores is not None:
        scores, source = dict(run.scores), f"mean Dice of the run's own {run.scored_on} cases"
    else:
        others = name_some([f"{one.name} (of {one.checkpoint})" for one in evaluations]) or "none"
        raise InputError(
            f"run {run.folder}: --pictures chooses cases by their Dice, and the run keeps none; give an evaluation of "
            f"{run.name}/{BEST} with --evaluation (given: {others})"
        )
    cohorts = [*([] if run.manifest is None else [run.manifest]), *manifests.values()]
    known = {case.case_id: case for one in reversed(cohorts) for case in one.cases if case.seg is not None}
    unknown = [case_id for case_id in scores if case_id not in known]
    if unknown:
        raise InputError(
            f"run {run.folder}: no manifest has a case with a mask named {name_some(unknown)}, which were scored; give "
            "the manifest that they were scored with (--manifest)"
        )
    if not scores:
        raise InputError(f"run {run.folder}: no case has a Dice, so none can be chosen; leave --pictures out")
    cases = tuple((place, known[case_id], scores[case_id]) for place, case_id in choose_cases(scores))
    return Choice(cases, source)
