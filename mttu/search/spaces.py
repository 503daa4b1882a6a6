"""Search spaces: which values of which settings a search tries, and how. One YAML file per search (`tune_spaces/`).

Format 2, in full:

    format_version: 2
    description: What is asked.
    run: train                    # train, self-train, or select (thresholds on stored scores)
    metric: val/score             # of validation cases; see METRICS
    mode: max                     # or min; what is better for the metric if not given
    searcher: tpe                 # tpe (Optuna), random, or grid (all combinations)
    samples: 20                   # trials; none for grid
    seed: 0                       # of the searcher
    scheduler: {kind: asha, grace: 5, factor: 3}   # or none: every trial runs to its end
    concurrency: 2                # trials at the same time; as many as the cluster holds if not given
    settings:                     # of every trial, over preset and config
      train.epochs: 50
      workers.gpus_per_worker: 0.5
    space:
      network.bottleneck.kind: {choice: [transformer, convolution]}
      network.bottleneck.num_layers: {integer: [1, 6], when: {network.bottleneck.kind: transformer}}
      optim.lr: {log_uniform: [1.0e-4, 1.0e-2]}
      loss.dice_weight: {uniform: [0.2, 0.8], step: 0.1}
      ablation: {choice: [pcgrad, equal-weights]}  # rows of `mttu ablations`, which may change several settings

Format 1 has `space` with a list of values for each setting: a grid.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from mttu.config import Config, flatten, override, read_yaml
from mttu.config.batches import share_batch
from mttu.config.changeable import list_changeable
from mttu.config.schema import Positive, Settings
from mttu.errors import InputError, collecting, raise_if_any
from mttu.search.ablations import ABLATIONS, combine
from mttu.search.space_values import KINDS, Choice, Values, read_number

FORMAT_VERSION = 2
Run = Literal["train", "self-train", "select"]
_OF_VALIDATION: Mapping[str, bool] = {
    "val/score": True,
    "val/dice": True,
    "val/dice_wt": True,
    "val/dice_tc": True,
    "val/dice_et": True,
    "val/idh_auc": True,
    "val/idh_accuracy": True,
    "val/idh_sensitivity": True,
    "val/idh_specificity": True,
    "val/idh_ce": False,
    "val/idh_brier": False,
}
METRICS: Mapping[Run, Mapping[str, bool]] = {
    "train": _OF_VALIDATION,
    "self-train": _OF_VALIDATION,
    "select": {"error": False, "coverage": True},
}
"""Metrics that a search may follow, by what a trial runs, and whether larger is better."""
ABLATION = "ablation"
"""Name in a space whose values are names of ablations."""
_FIXED = ("data.manifest", "data.cache_dir", "data.folds", "data.fold_seed", "tracking.", "output.")
_MOST_CHECKED = 1000
"""Combinations of a grid whose settings are tried out before it is searched."""
_THRESHOLDS = ("selection.confidence_threshold", "selection.uncertainty_threshold")


@dataclass(frozen=True)
class Parameter:
    """A setting that is searched."""

    name: str
    values: Values
    when: Mapping[str, Any]
    """Searched settings of earlier lines that must have these values; else this setting stays as it is."""

    def is_met(self, drawn: Mapping[str, Any]) -> bool:
        """Whether the setting is searched beside what was drawn for earlier lines."""
        return all(name in drawn and drawn[name] == value for name, value in self.when.items())


class Asha(Settings):
    """Asynchronous successive halving (Li et al., MLSys 2020): weak trials stop early."""

    kind: Literal["asha"] = "asha"
    grace: Positive = 5
    """Epochs before a trial can be stopped."""
    factor: Annotated[int, Field(ge=2)] = 3
    """Only the best 1 / factor of the trials go beyond each rung."""


class Plan(Settings):
    """How a space is searched: everything in its file but the space."""

    description: str = ""
    run: Run = "train"
    metric: str = "val/score"
    mode: Literal["max", "min"] | None = None
    searcher: Literal["tpe", "random", "grid"] = "grid"
    samples: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    scheduler: Asha | None = None
    concurrency: Positive | None = None
    settings: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        known = METRICS[self.run]
        if self.metric not in known:
            raise ValueError(f"metric {self.metric!r}: unknown for run {self.run}; choose one of {', '.join(known)}")
        if (self.samples is None) != (self.searcher == "grid"):
            raise ValueError("samples: needed by the searchers tpe and random, of no use to grid")
        if self.scheduler is not None and self.run != "train":
            raise ValueError(f"scheduler: asha stops trials between epochs, which run {self.run} does not have")
        return self


@dataclass(frozen=True)
class Space:
    """A search: what is tried, and how."""

    path: Path
    plan: Plan
    parameters: tuple[Parameter, ...]

    @property
    def maximise(self) -> bool:
        """Whether larger is better."""
        plan = self.plan
        return METRICS[plan.run][plan.metric] if plan.mode is None else plan.mode == "max"

    def describe(self) -> dict[str, Any]:
        """What decides a search's trials, as JSON values."""
        plan = self.plan.model_dump(mode="json", exclude={"samples", "concurrency", "description"})
        space = [
            {"name": one.name, **one.values.model_dump(mode="json"), "when": dict(one.when)} for one in self.parameters
        ]
        return {"plan": plan, "space": space}

    def list_changed_by_ablations(self) -> set[str]:
        """Settings that the rows among the values of `ablation` change."""
        rows = [row for one in self.parameters if one.name == ABLATION for row in one.values.ends]
        return {name for row in rows if isinstance(row, str) and row in ABLATIONS for name in ABLATIONS[row].changes}

    def list_searched(self) -> set[str]:
        """Settings that differ between trials, those that ablations change among them."""
        return {one.name for one in self.parameters} | self.list_changed_by_ablations()

    def list_conditions(self, when: Mapping[str, Any]) -> dict[str, Any]:
        """Conditions with those that the settings in them have themselves."""
        found: dict[str, Any] = {}
        for one in self.parameters:
            if one.name in when:
                found |= self.list_conditions(one.when)
        return {**found, **when}

    def list_grid(self) -> Iterator[dict[str, Any]]:
        """All combinations, in the order of the file; a setting whose condition is not met is left out."""
        seen = set()
        for values in product(*(one.values.list_all() or [] for one in self.parameters)):
            kept: dict[str, Any] = {}
            for parameter, value in zip(self.parameters, values, strict=True):
                if parameter.is_met(kept):
                    kept[parameter.name] = value
            if (text := json.dumps(kept)) not in seen:
                seen.add(text)
                yield kept


def expand(drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a trial from what was drawn: names of ablations become their changes."""
    return {**(combine([drawn[ABLATION]]) if ABLATION in drawn else {}), **_without_ablation(drawn)}


def _without_ablation(drawn: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in drawn.items() if name != ABLATION}


def load_space(path: Path, base: Config | None = None) -> Space:
    """Reads a search space and checks that the settings accept its values.

    Args:
        path: See `read_space`.
        base: Settings that the space's own are laid over; the paper's if not given.

    Raises:
        InputError: See `read_space` and `check_values`.
    """
    space = read_space(path)
    check_values(space, override(base or Config(), space.plan.settings, f"{path}: settings"))
    return space


def read_space(path: Path) -> Space:
    """Reads a search space; whether the settings accept its values is for `check_values` to say.

    Args:
        path: File of format 1 or 2, see the module docstring.

    Raises:
        InputError: The file is not such a space; names all that is wrong.
    """
    content = read_yaml(path)
    version = content.pop("format_version", None)
    listed = content.pop("space", None)
    problems: list[str] = []
    if version not in (1, FORMAT_VERSION):
        problems.append(f"{path}: format_version is {version}; this version of mttu reads 1 and {FORMAT_VERSION}")
    if not isinstance(listed, dict) or not listed:
        problems.append(f"{path}: space: found {listed!r}; expected settings, each with the values to try")
    raise_if_any(problems)
    if content.get("scheduler") == "none":
        content["scheduler"] = None
    if version == 1:
        problems += [
            f"{path}: {name}: not known here; format 1 holds format_version, description and space"
            for name in content
            if name != "description"
        ]
        content = {"description": content.get("description", "")}
        listed = {name: {"choice": values} for name, values in listed.items()}
    parameters: list[Parameter] = []
    for name, values in listed.items():
        with collecting(problems):
            parameters.append(_read_parameter(str(name), values, path))
    plan = Plan()
    with collecting(problems):
        plan = _validate(Plan, content, str(path))
    raise_if_any(problems)
    space = Space(path, plan, tuple(parameters))
    raise_if_any([*_check_names(space), *_check_conditions(space)])
    return space


def _read_parameter(name: str, given: Any, path: Path) -> Parameter:
    kinds = [key for key in given if key in KINDS] if isinstance(given, dict) else []
    if len(kinds) != 1:
        raise InputError(f"{path}: space.{name}: found {given!r}; expected one of {', '.join(KINDS)}")
    when = given.get("when")
    if when is not None and not isinstance(when, dict):
        raise InputError(f"{path}: space.{name}: when: found {when!r}; expected settings and their values")
    rest = {key: value for key, value in given.items() if key != "when"}
    conditions = {setting: read_number(value) for setting, value in (when or {}).items()}
    return Parameter(name, _validate(KINDS[kinds[0]], rest, f"{path}: space.{name}"), conditions)


def _validate(kind: type[Any], content: Mapping[str, Any], source: str) -> Any:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            name = ".".join(map(str, item["loc"]))
            reason = item["msg"].removeprefix("Value error, ")
            if item["type"] == "extra_forbidden":
                reason = "not known here"
            found = "" if item["type"] in ("missing", "value_error") else f", found {item['input']!r}"
            problems.append(": ".join(filter(None, (source, name, reason))) + found)
        raise InputError(problems) from None


def _check_names(space: Space) -> list[str]:
    """Settings that a search fixes itself, that two lines change, or that its trials do not read."""
    path, run, problems = space.path, space.plan.run, []
    fixed_here, by_ablation = flatten(space.plan.settings), space.list_changed_by_ablations()
    problems += [
        f"{path}: space.{ABLATION}: its rows change {name}, which is under settings, too; leave one of them out"
        for name in sorted(by_ablation & fixed_here.keys())
    ]
    for one in space.parameters:
        where = f"{path}: space.{one.name}"
        if _is_fixed(one.name):
            problems.append(f"{where}: is the same for all trials; give it on the command line")
        elif run == "select" and one.name not in _THRESHOLDS:
            problems.append(f"{where}: stored scores depend on {' and '.join(_THRESHOLDS)} alone")
        elif run == "train" and _is_unread(one.name):
            problems.append(f"{where}: has no effect on run train; choose run self-train")
        elif one.name == ABLATION:
            problems += [f"{where}: {problem}" for problem in _check_ablations(one.values, run)]
        elif one.name in by_ablation:
            problems.append(f"{where}: is changed by rows of {ABLATION}, too; leave one of them out")
        elif one.name in fixed_here:
            problems.append(f"{where}: is under settings, too; leave one of them out")
        elif one.name.startswith("workers."):
            problems.append(f"{where}: every trial takes the same place in the cluster; give it on the command line")
        if space.plan.searcher == "grid" and one.values.list_all() is None:
            problems.append(f"{where}: a grid needs a choice, an integer, or a step")
    fixed = [name for name in flatten(space.plan.settings) if _is_fixed(name)]
    return [*problems, *(f"{path}: settings.{name}: is not for a space; give it on the command line" for name in fixed)]


def _is_fixed(name: str) -> bool:
    """Whether a search fixes a setting, or one in a section that is named as a whole."""
    return name.startswith(_FIXED) or any(fixed.startswith(f"{name}.") for fixed in _FIXED)


def _is_unread(name: str) -> bool:
    """Whether a plain training does not read a setting."""
    in_rounds_alone = set(list_changeable()) - set(list_changeable(in_rounds=True))
    return name.startswith(("self_training.", *in_rounds_alone))


def _check_ablations(values: Values, run: Run) -> list[str]:
    if not isinstance(values, Choice):
        return ["expected a choice of names"]
    problems = []
    for name in values.choice:
        if not isinstance(name, str) or name not in ABLATIONS:
            problems.append(f"ablation {name!r}: unknown; `mttu ablations` lists them")
        elif run == "train" and any(map(_is_unread, ABLATIONS[name].changes)):
            problems.append(f"ablation {name} has no effect on run train; choose run self-train")
    return problems


def _check_conditions(space: Space) -> list[str]:
    path, problems, before = space.path, [], dict[str, Values]()
    for parameter in space.parameters:
        where = f"{path}: space.{parameter.name}: when"
        for name, value in parameter.when.items():
            known = before.get(name)
            if known is None:
                problems.append(f"{where} names {name}, which no earlier line searches")
            elif (values := known.list_all()) is None:
                problems.append(f"{where} names {name}, a range without a step; a draw never has just that value")
            elif value not in values:
                problems.append(f"{where}: {name} is never {value!r}")
        before[parameter.name] = parameter.values
    return problems


def _try(space: Space, base: Config, drawn: Mapping[str, Any], told: str) -> None:
    changes = expand(drawn)
    changed = override(base, changes, f"{space.path}: space{told}")
    metric, tasks = space.plan.metric, changed.network.tasks
    task = "segmentation" if metric.startswith("val/dice") else "idh" if metric.startswith("val/idh") else tasks[0]
    if task not in tasks:
        raise InputError(
            f"{space.path}: metric {metric}: with network.tasks {list(tasks)} no trial has it; choose another metric"
        )
    try:
        share_batch(changed.train, changed.workers.num_workers)
    except InputError as error:
        by_space = "train.global_batch" in changes
        raise InputError([f"{space.path}: space: {one}" if by_space else one for one in error.problems]) from None


def check_values(space: Space, base: Config) -> None:
    """Checks that the settings accept the values of a space: the ends of ranges, all choices, combinations of a grid.

    Args:
        space: As read.
        base: Settings of every trial, those of the space among them.

    Raises:
        InputError: They do not; names all such values.
    """
    problems: list[str] = []
    for parameter in space.parameters:
        conditions = space.list_conditions(parameter.when)
        for value in parameter.values.ends:
            with collecting(problems):
                _try(space, base, {**conditions, parameter.name: value}, "")
    if space.plan.searcher == "grid" and not problems:  # values that do not go together
        for drawn in islice(space.list_grid(), _MOST_CHECKED):
            with collecting(problems):
                _try(space, base, drawn, f": {drawn}")
    scheduler = space.plan.scheduler
    if scheduler is not None and not problems:
        epochs, every = base.train.epochs, base.train.validate_every
        if scheduler.grace >= epochs:
            problems.append(f"{space.path}: scheduler.grace: {scheduler.grace}, but train.epochs is {epochs}")
        elif every > scheduler.grace:
            problems.append(
                f"{space.path}: scheduler.grace: {scheduler.grace}, but validation is every {every} epochs only "
                "(train.validate_every); set that under settings"
            )
    raise_if_any(list(dict.fromkeys(problems)))
