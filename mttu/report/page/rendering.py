"""The page: what each section says, the template, the security policy, the file.

Slices and surfaces are drawn on `<canvas>` by plain JavaScript of this project, figures are matplotlib's. The bundle of
plotly has 4.5 MB, and neither it nor vega's shows slices of a volume. The page's policy loads nothing from anywhere and
runs no script but its own, which it names by digest.
"""

import base64
import hashlib
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from itertools import count
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib import colormaps
from rich.table import Table

from mttu import __version__
from mttu.cohort.table_one import COLUMNS, table_one
from mttu.config import Config, flatten, to_yaml
from mttu.config.sharing import without_paths
from mttu.data.manifest import Manifest
from mttu.errors import InputError, collecting, raise_if_any
from mttu.figures.features import draw_feature_maps
from mttu.figures.overlay import PLANES, REGION_STYLES, RESEARCH_USE
from mttu.figures.surface import COLOUR_MAP
from mttu.files import write_text
from mttu.inference.device import choose_precision
from mttu.networks.checkpoint import read_checkpoint
from mttu.report.feature_maps import FeatureMapPlan, compute_feature_maps, list_levels
from mttu.report.page.cases import LARGEST_MM, MOST_VOXELS, ShownCase, list_dropout, show_case
from mttu.report.page.cohort import FlowStep, describe_flow
from mttu.report.page.figures import (
    Picture,
    draw_evaluation,
    draw_run_curves,
    draw_run_reliability,
    draw_run_rounds,
    embed,
)
from mttu.report.page.inputs import PagePlan, ShownEvaluation, is_of
from mttu.report.page.runs import ShownRun, list_failures
from mttu.report.pictures import PictureFile
from mttu.report.tables import build_tables, describe_cases
from mttu.self_training.tracking import PANELS

MOST_BYTES = 15_000_000
"""Of a page; a larger one is slow to open and does not pass as an attachment."""
_PLACES = ("data.manifest", "data.cache_dir", "output.", "tracking.", "workers.", "self_training.truth")
"""Settings that say where and on what a run ran: no difference to the paper."""
_PACKAGES = ("torch", "monai", "ray", "mlflow", "numpy", "scipy", "scikit-learn", "nibabel", "matplotlib", "Jinja2")
_DASH = "-"

OnStep = Callable[[int, str], None]


@dataclass(frozen=True)
class PageTable:
    """A table; the first cell of a row is its heading."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    """A row of one cell is a heading of those below it."""
    note: str = ""


@dataclass(frozen=True)
class RunSection:
    """What the page says of one run."""

    name: str
    lead: str
    flow: FlowStep | None
    findings: tuple[str, ...]
    cohort: PageTable | None
    settings: PageTable
    curves: tuple[Picture, ...]
    rounds: Picture | None
    rounds_table: PageTable | None
    calibration: str
    reliability: Picture | None
    shown: "ShownCases"
    failures: tuple[str, ...]
    digests: PageTable
    again: str
    """Whether the commands give the same weights."""
    commands: str
    yaml: str


@dataclass(frozen=True)
class EvaluationSection:
    """What the page says of one evaluation."""

    name: str
    sentences: tuple[str, ...]
    tables: tuple[PageTable, ...]
    pictures: tuple[Picture, ...]


def write_page(plan: PagePlan, on_step: OnStep | None = None) -> int:
    """Computes what the page shows and writes it, whole or not at all; returns its bytes.

    Args:
        plan: See `mttu.report.page.inputs.plan_page`.
        on_step: Called after each case with the number of those that are done, and its id.

    Raises:
        InputError: Cases that cannot be read or predicted, or a page of more than `MOST_BYTES`.
    """
    problems: list[str] = []
    number = sum(len(choice.cases) for choice in plan.choices.values())
    steps = count(1)

    def tell(case_id: str) -> None:
        done = next(steps)
        if on_step is not None:
            on_step(done, case_id)

    sections = []
    for run in plan.runs:
        shown = _show_cases(run, plan, MOST_VOXELS // max(3, number), problems, tell)
        sections.append(_describe_run(run, plan, shown))
    raise_if_any(problems)
    page = render(plan, sections, [_describe_evaluation(one) for one in plan.evaluations])
    size = len(page.encode())
    if size > MOST_BYTES:
        raise InputError(
            f"output {plan.output}: the page would have {size / 1e6:.1f} MB; at most {MOST_BYTES / 1e6:.0f} are "
            "written; give fewer runs or evaluations at once, or leave --pictures out"
        )
    write_text(plan.output, page)
    return size


@dataclass(frozen=True)
class ShownCases:
    """What a page shows of a run's cases; nothing without pictures."""

    cases: tuple[ShownCase, ...] = ()
    chosen_by: str = ""
    uncertainty: str = ""
    """How it was measured, in words."""
    features: Picture | None = None


def _show_cases(
    run: ShownRun, plan: PagePlan, most_voxels: int, problems: list[str], tell: Callable[[str], None]
) -> ShownCases:
    """Predicts the chosen cases of a run anew; adds what is wrong with them."""
    choice = plan.choices.get(run.folder)
    if choice is None:
        return ShownCases()
    view, cases, maps = plan_view(run, plan), [], []
    passes = plan.passes if list_dropout(view.network) else 0
    for place, case, score in choice.cases:
        with collecting(problems):
            cases.append(show_case(view, run, case, place, score, passes, most_voxels))
            maps += [compute_feature_maps(view, case)[0]] if view.levels else []
        tell(case.case_id)
    features = None
    if maps:
        caption = f"Feature maps of {run.name} (Fig. 2)"
        alt = f"{caption}: image, mask and the levels {', '.join(view.levels)} of the cases above, one a row."
        features = embed(draw_feature_maps(maps, modality=view.modality.upper()), caption, alt, "photo")
    return ShownCases(tuple(cases), choice.chosen_by, _describe_uncertainty(passes), features)


def plan_view(run: ShownRun, plan: PagePlan) -> FeatureMapPlan:
    """The run's network and how its cases are shown: axial planes of FLAIR, or of its first modality."""
    network, config = read_checkpoint(run.checkpoint)
    known = config.data.modalities
    return FeatureMapPlan(
        network=network.to(plan.device).eval(),
        config=config,
        cases=tuple(case for _, case, _ in plan.choices[run.folder].cases),
        plane=PLANES[0],
        index=None,
        modality="flair" if "flair" in known else known[0],
        levels=tuple(list_levels(config)),
        channels={},
        device=plan.device,
        precision=choose_precision(config.train.precision, plan.device),
        file=PictureFile(plan.output, ()),
    )


def _describe_uncertainty(passes: int) -> str:
    if not passes:
        return "entropy of the predicted class probabilities, as a share of its largest value; without dropout"
    return (
        f"entropy of the mean class probabilities over {passes} Monte Carlo passes with dropout on, as a share of its "
        "largest value"
    )


def _describe_run(run: ShownRun, plan: PagePlan, shown: ShownCases) -> RunSection:
    manifest = run.manifest
    failures = list_failures(run)
    if manifest is None:
        failures.append("No manifest that holds its val cases was given, so its cohort is not shown.")
    for one in plan.evaluations:
        if is_of(one, run):
            failed = one.summary["cases"]["failed"]
            failures += [f"{name}: not predicted: {case}" for name, lost in failed.items() for case in lost]
    if not any(is_of(one, run) for one in plan.evaluations) and plan.evaluations:
        failures.append(f"No evaluation on this page is of the weights of {run.name}.")
    return RunSection(
        name=run.name,
        lead=_describe_lead(run),
        flow=None if manifest is None else describe_flow(run, manifest),
        findings=plan.findings.get(run.folder, ()),
        cohort=None if manifest is None else _show_table_one(manifest),
        settings=compare_with_paper(run.settings),
        curves=tuple(draw_run_curves(run)),
        rounds=draw_run_rounds(run),
        rounds_table=_tabulate_rounds(run),
        calibration=run.calibration.describe(),
        reliability=draw_run_reliability(run),
        shown=shown,
        failures=tuple(failures),
        digests=_tabulate_digests(run),
        again=_describe_again(run),
        commands=_list_commands(run),
        yaml=to_yaml(without_paths(run.settings)),
    )


def _describe_lead(run: ShownRun) -> str:
    network = run.settings.network.kind
    if not run.is_self_training:
        (history,) = run.histories.values()
        return f"A training of {network} over {len(history)} epochs."
    method = run.settings.selection.method
    found = f"A self-training of {network} by {method} in {len(run.rounds) - 1} rounds after round 0"
    state = "validation chose" if run.summary is not None else "not finished; by validation so far"
    return f"{found}; {state} round {run.chosen_round}."


def _show_table_one(manifest: Manifest) -> PageTable:
    rows = tuple((row.title, *row.cells) for row in table_one(manifest))
    return PageTable("Table I: subjects by use", ("", *COLUMNS), rows)


def compare_with_paper(settings: Config) -> PageTable:
    """The settings that differ from the paper's; places and machines do not count."""
    paper, own = (flatten(without_paths(one).model_dump(mode="json")) for one in (Config(), settings))
    names = [name for name in dict.fromkeys([*paper, *own]) if not name.startswith(_PLACES)]
    rows = tuple(
        (name, _show(paper, name), _show(own, name)) for name in names if _show(paper, name) != _show(own, name)
    )
    note = "" if rows else "No setting differs from the paper's."
    return PageTable("Settings that differ from the paper", ("setting", "paper", "this run"), rows, note)


def _show(settings: Mapping[str, Any], name: str) -> str:
    return str(settings[name]) if name in settings else _DASH


def _tabulate_rounds(run: ShownRun) -> PageTable | None:
    """Metrics of each round on validation and test; None for a training."""
    if not run.is_self_training:
        return None
    names = [
        (f"{part}/{name}", f"{title}, {part}")
        for part in ("val", "test")
        for name, title in PANELS.items()
        if any(f"{part}/{name}" in row.metrics for row in run.rounds)
    ]
    known = {} if run.summary is None else {row["round"]: row["accuracy"] for row in run.summary["rounds"]}
    rows = []
    for row in run.rounds:
        accuracy = known.get(row.round)
        rows.append(
            (
                f"{row.round}{' (chosen)' if row.round == run.chosen_round else ''}",
                f"{row.num_mutant} / {row.num_wild}" if row.round else _DASH,
                _DASH if accuracy is None else f"{accuracy:.3f}",
                *(f"{row.metrics[name]:.3f}" if name in row.metrics else _DASH for name, _ in names),
            )
        )
    columns = ("round", "pseudo-labels, mutant / wild", "right of those known", *(title for _, title in names))
    return PageTable("Rounds", columns, tuple(rows), "The round was chosen on validation; test cases chose nothing.")


def _tabulate_digests(run: ShownRun) -> PageTable:
    """What identifies the run's weights, data and versions."""
    rows = [("SHA-256 of the weights", run.weights_sha256)]
    if run.manifest is not None:
        rows.append(("fingerprint of the manifest", run.manifest.fingerprint))
    if run.data:
        rows.append(("fingerprint of manifest and prepared cases", run.data))
    rows.append(("seed", str(run.settings.train.seed)))
    return PageTable("What identifies the run", ("", "value"), tuple(rows))


def _describe_again(run: ShownRun) -> str:
    if run.other_weights:
        return (
            f"Weights of another run took part in this one ({', '.join(run.other_weights)}), and the settings do not "
            "name them: without that run, these commands give other weights."
        )
    workers = run.settings.workers
    same = (
        "The same data, settings, versions, kind of processor, number of workers (workers.num_workers="
        f"{workers.num_workers}) and threads of each (workers.threads_per_worker={workers.threads_per_worker}) give "
        "the same weights on a CPU"
    )
    if run.is_self_training:
        return f"{same}, unless round 0 was copied from another run (self_training.start), which is not recorded."
    return f"{same}."


def _list_commands(run: ShownRun) -> str:
    command, own = ("self-train", "") if run.is_self_training else ("train", " --manifest cohort.parquet")
    place = shlex.quote(f"runs/{run.settings.output.name}")
    return "\n".join(
        [
            "mttu prepare cohort.parquet --config settings.yaml",
            f"mttu {command} --config settings.yaml data.manifest=cohort.parquet output.folder=runs",
            f"mttu predict {place} cohort.parquet --split test -o predictions",
            "mttu evaluate predictions cohort.parquet -o scores",
            f"mttu report {place}{own} --evaluation scores -o report.html",
        ]
    )


def _describe_evaluation(evaluation: ShownEvaluation) -> EvaluationSection:
    return EvaluationSection(
        evaluation.name,
        tuple(describe_cases(evaluation.summary)),
        tuple(convert_table(table) for table in build_tables(evaluation.summary)),
        tuple(draw_evaluation(evaluation)),
    )


def convert_table(table: Table) -> PageTable:
    """A table for a terminal as one for a page."""
    columns = tuple(str(column.header) for column in table.columns)
    rows = zip(*([str(cell) for cell in column.cells] for column in table.columns), strict=True)
    return PageTable(str(table.title or ""), columns, tuple(rows), str(table.caption or ""))


def compare_runs(runs: Sequence[ShownRun]) -> PageTable | None:
    """The runs side by side, on validation and on test; None of a single one."""
    if len(runs) < 2:
        return None
    found = [(run, _find_metrics(run)) for run in runs]
    names = [
        (f"{part}/{name}", f"{title}, {part}")
        for part in ("val", "test")
        for name, title in PANELS.items()
        if any(f"{part}/{name}" in metrics for _, metrics in found)
    ]
    rows = tuple(
        (
            run.name,
            run.settings.network.kind,
            run.settings.selection.method if run.is_self_training else _DASH,
            _DASH if run.chosen_round is None else str(run.chosen_round),
            *(f"{metrics[name]:.3f}" if name in metrics else _DASH for name, _ in names),
        )
        for run, metrics in found
    )
    note = "By the weights that validation chose. No test of a difference: for that, evaluate one run against another."
    return PageTable("The runs side by side", ("run", "network", "method", "round", *(t for _, t in names)), rows, note)


def _find_metrics(run: ShownRun) -> Mapping[str, float]:
    """Of the chosen round, or of the epoch with the largest score."""
    if run.chosen_round is not None:
        return run.rounds[run.chosen_round].metrics
    (history,) = run.histories.values()
    return max((row for row in history if "val/score" in row), key=lambda row: row["val/score"], default={})


def list_versions() -> PageTable:
    """Versions of this process, which wrote the page."""
    rows = [("mttu", __version__), ("Python", platform.python_version())]
    for package in _PACKAGES:
        try:
            rows.append((package, version(package)))
        except PackageNotFoundError:
            rows.append((package, "not installed"))
    note = "Those of the program that wrote this page. The run in MLflow has those that it was trained with."
    return PageTable("Versions", ("package", "version"), tuple(rows), note)


def render(plan: PagePlan, runs: Sequence[RunSection], evaluations: Sequence[EvaluationSection]) -> str:
    """The page as text; every value is escaped, our own style and script are named in the policy by digest."""
    style, script = _read_template("report.css"), _read_template("report.js")
    return _load_page().render(
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        style_digest=_digest(style),
        script_digest=_digest(script),
        research_use=RESEARCH_USE,
        pictures=plan.pictures,
        synthetic=plan.synthetic,
        runs=runs,
        evaluations=evaluations,
        overview=compare_runs(plan.runs),
        versions=list_versions(),
        largest_mm=LARGEST_MM,
        shared={
            "colours": [REGION_STYLES[name][1] for name in ("tc", "wt", "et")],
            "distance": _list_colours(COLOUR_MAP),
            "uncertainty": _list_colours("magma"),
        },
    )


def _list_colours(name: str) -> list[int]:
    """Red, green and blue of 256 steps of a colour map."""
    return [int(value) for value in np.rint(colormaps[name](np.linspace(0, 1, 256))[:, :3] * 255).ravel()]


def _read_template(name: str) -> str:
    return (files("mttu.report.page") / "templates" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _load_page() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mttu.report.page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2")


def _digest(text: str) -> str:
    """As a Content-Security-Policy names a text between tags."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
