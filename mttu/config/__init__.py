"""All settings of a run in one frozen object; the defaults are the paper."""

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import ValidationError, model_validator

from mttu.config.data import (
    RELEASE_METRICS,
    AugmentSettings,
    DataSettings,
    MetricSettings,
    PatchSettings,
    PrepareSettings,
)
from mttu.config.earlier import GONE, MOVED, complete
from mttu.config.network import AnyNetwork, NetworkSettings, RivalSettings, start_of_kind
from mttu.config.schema import MAY_CHANGE, NOT_USED_BY_TRAINING, Settings
from mttu.config.scoring import MonteCarloSettings, SelectionSettings
from mttu.config.self_training import SelfTrainingSettings
from mttu.config.training import (
    InferenceSettings,
    LossSettings,
    OptimSettings,
    OutputSettings,
    TeacherSettings,
    TrackingSettings,
    TrainSettings,
    WorkerSettings,
)
from mttu.config.yaml_text import load_yaml, parse_yaml, read_text, read_yaml
from mttu.errors import InputError, raise_if_any

__all__ = [
    "AugmentSettings",
    "Config",
    "InferenceSettings",
    "LossSettings",
    "MetricSettings",
    "MonteCarloSettings",
    "NetworkSettings",
    "PrepareSettings",
    "RivalSettings",
    "SelectionSettings",
    "TeacherSettings",
    "WorkerSettings",
    "flatten",
    "load_stored_config",
    "override",
    "parse_overrides",
    "read_yaml",
    "to_yaml",
]

_UNION_TAGS = {"transformer", "convolution", "mttu-net", "rival"}
_FREE = "network.options"
"""Section whose names the settings do not know; its network does."""
_NOTHING = {"", "null", "~"}


class Config(Settings):
    """Every setting that affects a run's result, and where the result is written. `Config()` is the paper."""

    data: DataSettings = DataSettings()
    """Manifest, cache, modalities, folds."""
    patch: PatchSettings = PatchSettings()
    """Crop and window size."""
    augment: AugmentSettings = AugmentSettings()
    """Random augmentation."""
    network: AnyNetwork = NetworkSettings()
    """MTTU-Net, or another network that `kind` names."""
    loss: LossSettings = LossSettings()
    """Losses and task weighting."""
    optim: OptimSettings = OptimSettings()
    """Optimiser."""
    train: TrainSettings = TrainSettings()
    """Training loop."""
    teacher: TeacherSettings = TeacherSettings()
    """Masks for cases without one."""
    inference: InferenceSettings = InferenceSettings()
    """Sliding windows and post-processing."""
    metrics: MetricSettings = RELEASE_METRICS
    """Conventions for empty masks."""
    mc: Annotated[MonteCarloSettings, NOT_USED_BY_TRAINING] = MonteCarloSettings()
    """Monte Carlo dropout."""
    selection: Annotated[SelectionSettings, NOT_USED_BY_TRAINING] = SelectionSettings()
    """Pseudo-labels."""
    self_training: SelfTrainingSettings = SelfTrainingSettings()
    """Rounds of self-training."""
    tracking: Annotated[TrackingSettings, MAY_CHANGE] = TrackingSettings()
    """MLflow."""
    workers: WorkerSettings = WorkerSettings()
    """Ray Train workers."""
    output: Annotated[OutputSettings, MAY_CHANGE] = OutputSettings()
    """Run folder."""

    @model_validator(mode="after")
    def _check_metric(self) -> "Config":
        metric, tasks = self.train.validation_metric, self.network.tasks
        needed = {"dice": "segmentation", "idh_auc": "idh", "negative_idh_ce": "idh"}.get(metric)
        if needed is not None and needed not in tasks:
            raise ValueError(
                f"train.validation_metric is {metric} but network.tasks has no {needed}; choose a metric of "
                f"{', '.join(tasks)}, or dice_minus_ce"
            )
        return self

    @model_validator(mode="after")
    def _check_quotas(self) -> "Config":
        quotas, tasks = self.train.quotas, self.network.tasks
        if quotas.total and "idh" in tasks and not quotas.labelled:
            raise ValueError(
                "train.quotas.labelled is 0 but network.tasks has idh, which would be shown no true label; give it at "
                "least 1, or set network.tasks=[segmentation]"
            )
        if quotas.unlabelled and "segmentation" not in tasks:
            raise ValueError(
                f"train.quotas.unlabelled is {quotas.unlabelled} but network.tasks is {', '.join(tasks)}; without a "
                "segmentation task these samples would teach nothing: set it to 0"
            )
        return self

    @model_validator(mode="after")
    def _check_fresh_rounds(self) -> "Config":
        if self.self_training.init == "fresh" and (self.train.keep_start or self.train.start_from is not None):
            name = "train.keep_start" if self.train.keep_start else "train.start_from"
            raise ValueError(
                f"self_training.init is fresh but {name} is set; rounds that begin with random weights keep nothing of "
                f"it: unset {name}, or choose init=warm"
            )
        return self

    @model_validator(mode="after")
    def _check_teacher(self) -> "Config":
        if self.teacher.masks and "segmentation" not in self.network.tasks:
            raise ValueError(
                f"teacher.masks is true but network.tasks is {', '.join(self.network.tasks)}; the teacher is of the "
                "segmentation: set teacher.masks=false, or add that task"
            )
        return self

    @model_validator(mode="after")
    def _check_ensemble(self) -> "Config":
        if self.self_training.teacher != "ensemble":
            if self.self_training.ensemble is not None:
                raise ValueError(
                    f"self_training.ensemble is {self.self_training.ensemble} but self_training.teacher is "
                    f"{self.self_training.teacher}; set teacher=ensemble, or leave it out"
                )
            return self
        if self.data.folds:
            raise ValueError(
                f"self_training.teacher is ensemble but data.folds is {self.data.folds}; its networks know the val "
                "cases of every fold: set data.folds=0"
            )
        if self.self_training.thresholds == "search":
            raise ValueError(
                "self_training.thresholds is search but self_training.teacher is ensemble; thresholds of single "
                "networks, each on its own val cases, do not hold for their ensemble: set fixed ones, or "
                "selection.rule=rank"
            )
        return self

    @model_validator(mode="after")
    def _check_thresholds(self) -> "Config":
        chosen = self.selection
        if self.self_training.thresholds == "search" and (chosen.rule != "thresholds" or chosen.calibrate != "none"):
            name = "rule" if chosen.rule != "thresholds" else "calibrate"
            raise ValueError(
                f"self_training.thresholds is search but selection.{name} is {getattr(chosen, name)}; thresholds are "
                "searched for eq. (19) on probabilities as they are; set self_training.thresholds=fixed"
            )
        return self

    @model_validator(mode="after")
    def _check_channels(self) -> "Config":
        if self.network.in_channels != len(self.data.modalities):
            raise ValueError(
                f"network.in_channels is {self.network.in_channels} but data.modalities has "
                f"{len(self.data.modalities)} ({', '.join(self.data.modalities)}); they must agree"
            )
        return self


def _validated(content: Any, source: str) -> Config:
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        problems = []
        for item in error.errors():
            # pydantic names the member of a tagged union, which the dotted name lacks
            name = ".".join(str(part) for part in item["loc"] if part not in _UNION_TAGS) or "config"
            shows_value = item["type"] not in {"missing", "value_error", "union_tag_invalid", "union_tag_not_found"}
            reason = item["msg"].removeprefix("Value error, ")
            problems.append(f"{source}: {name}: {reason}" + (f", found {item['input']!r}" if shows_value else ""))
        raise InputError(problems) from None


def override(config: Config, changes: Mapping[str, Any], source: str = "settings") -> Config:
    """Returns a copy with dotted names replaced, everything validated again.

    Args:
        config: Settings to start from.
        changes: Dotted name to value, e.g. `{"optim.lr": 1e-4}`; a nested mapping counts as its dotted names. Where a
            `kind` changes, that member of the union starts from its own defaults before the other changes, see
            `start_of_kind`.
        source: Where the changes come from, for the error message.

    Raises:
        InputError: Unknown names or refused values; names each setting, the value and what is allowed.
    """
    changes = flatten(changes)
    content: dict[str, Any] = config.model_dump(mode="json")
    problems = []
    kinds = sorted((name for name in changes if name.endswith(".kind")), key=lambda name: name.count("."))
    for name in dict.fromkeys([*kinds, *changes]):  # a kind first: its member has other settings
        value = changes[name]
        *parents, leaf = name.split(".")
        section: Any = content
        for part in parents:
            section = section.get(part) if isinstance(section, dict) else None
        if name in GONE:
            problems.append(f"{source}: {name}: {GONE[name]}")
        elif name in MOVED:
            problems.append(f"{source}: {name}: is now {MOVED[name]}")
        elif isinstance(section, dict) and ".".join(parents) == _FREE:
            section[leaf] = value
        elif not isinstance(section, dict) or leaf not in section:
            known = f"; known there: {', '.join(section)}" if isinstance(section, dict) else ""
            problems.append(f"{source}: {name}: no such setting{known}")
        elif leaf == "kind" and section["kind"] != value:
            start = start_of_kind(".".join(parents), value, section)
            section.clear()
            section.update(start or {"kind": value})
            if start is None:  # refused, and what the section would hold is unknown
                return _validated(content, source)
        elif value != {}:  # an empty section changes nothing
            section[leaf] = value
    raise_if_any(problems)
    return _validated(content, source)


def override_some(config: Config, changes: Mapping[str, Any], allowed: tuple[str, ...], command: str) -> Config:
    """`override` for a trained network, whose other settings cannot change any more.

    Args:
        config: Settings that the network was trained with.
        changes: Dotted name to value.
        allowed: Prefixes of the settings that may change.
        command: Name of the command, for the error message.

    Raises:
        InputError: Other, unknown or refused settings.
    """
    raise_if_any(
        [
            f"setting {name}: belongs to the trained network, or has no effect on `mttu {command}`; allowed are "
            f"settings of {', '.join(section.rstrip('.') for section in allowed)}"
            for name in changes
            if not name.startswith(allowed)
        ]
    )
    return override(config, changes, command)


def parse_overrides(arguments: list[str]) -> dict[str, Any]:
    """Turns `["optim.lr=1e-4"]` into `{"optim.lr": "1e-4"}`; the setting's type decides what the text means.

    So a run may be named `007` or `1e-4`. Values in brackets, braces or quotes are read as YAML; an empty text, `null`
    and `~` mean None.

    Raises:
        InputError: An argument without `=`, or with a value that is not YAML.
    """
    changes: dict[str, Any] = {}
    problems = []
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            problems.append(f"argument {argument!r}: expected SECTION.NAME=VALUE, e.g. optim.lr=1e-4")
            continue
        try:
            is_yaml = text in _NOTHING or text[0] in "[{\"'"
            changes[name] = load_yaml(text) if is_yaml else text
        except ValueError as error:
            problems.append(f"argument {argument!r}: the value is not valid YAML ({' '.join(str(error).split())})")
    raise_if_any(problems)
    return changes


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings to dotted names; lists and empty mappings stay values."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{key}."))
        else:
            flat[key] = value
    return flat


def load_stored_config(path: Path) -> Config:
    """Reads all settings of a training from the YAML file that this or an earlier version stored with it.

    Raises:
        InputError: See `read_yaml` and `override`.
    """
    return _parse_stored(read_text(path), path)


@lru_cache(maxsize=32)
def _parse_stored(text: str, path: Path) -> Config:
    """Cached by the file's content, because a command reads the settings of one checkpoint several times.

    Weights are of one training, even where an earlier version stored the folds of the whole with those of a fold.
    """
    stored = complete(flatten(parse_yaml(text, path)))
    return override(Config(), {**stored, "data.folds": 0, "data.fold_seed": 0}, str(path))


def to_yaml(config: Config) -> str:
    """The resolved settings as YAML, in the order of their definition."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
