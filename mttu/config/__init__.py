"""All settings of a run in one frozen object; the defaults are the paper."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError, model_validator

from mttu.config.data import AugmentSettings, DataSettings, PatchSettings, PrepareSettings
from mttu.config.network import (
    ConvolutionSettings,
    DropoutSettings,
    IdhHeadSettings,
    NetworkSettings,
    TransformerSettings,
)
from mttu.config.schema import Settings
from mttu.config.training import (
    InferenceSettings,
    LossSettings,
    OptimSettings,
    OutputSettings,
    TrackingSettings,
    TrainSettings,
    WorkerSettings,
)
from mttu.errors import InputError

__all__ = [
    "AugmentSettings",
    "Config",
    "ConvolutionSettings",
    "DataSettings",
    "DropoutSettings",
    "IdhHeadSettings",
    "InferenceSettings",
    "LossSettings",
    "NetworkSettings",
    "OptimSettings",
    "OutputSettings",
    "PatchSettings",
    "PrepareSettings",
    "TrackingSettings",
    "TrainSettings",
    "TransformerSettings",
    "WorkerSettings",
    "flatten",
    "load_config",
    "override",
    "parse_overrides",
    "read_yaml",
    "to_yaml",
]


class Config(Settings):
    """Everything that decides a run's result, and where it goes. `Config()` is the paper."""

    data: DataSettings = DataSettings()
    """Manifest, cache and modalities."""
    patch: PatchSettings = PatchSettings()
    """Crop and window size."""
    augment: AugmentSettings = AugmentSettings()
    """Random augmentation."""
    network: NetworkSettings = NetworkSettings()
    """MTTU-Net."""
    loss: LossSettings = LossSettings()
    """Losses and task weighting."""
    optim: OptimSettings = OptimSettings()
    """Optimiser."""
    train: TrainSettings = TrainSettings()
    """Training loop."""
    inference: InferenceSettings = InferenceSettings()
    """Sliding windows and post-processing."""
    tracking: TrackingSettings = TrackingSettings()
    """MLflow."""
    workers: WorkerSettings = WorkerSettings()
    """Ray Train workers."""
    output: OutputSettings = OutputSettings()
    """Run folder."""

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
            name = ".".join(str(part) for part in item["loc"]) or "config"
            found = "" if item["type"] in {"missing", "value_error"} else f", found {item['input']!r}"
            problems.append(f"{source}: {name}: {item['msg']}{found}")
        raise InputError(problems) from None


def override(config: Config, changes: Mapping[str, Any], source: str = "settings") -> Config:
    """Returns a copy with dotted names replaced, everything validated again.

    Args:
        config: Settings to start from.
        changes: Dotted name to value, e.g. `{"optim.lr": 1e-4}`.
        source: Where the changes come from, for the error message.

    Raises:
        InputError: An unknown name or a refused value; names the setting, the value and what is allowed.
    """
    content: dict[str, Any] = config.model_dump(mode="json")
    for name, value in changes.items():
        *parents, leaf = name.split(".")
        section = content
        for depth, part in enumerate(parents):
            inner = section.get(part)
            if not isinstance(inner, dict):
                known = ", ".join(section)
                raise InputError(f"{source}: {'.'.join(parents[: depth + 1])}: no such section; known here: {known}")
            section = inner
        if leaf == "kind" and section.get("kind") != value:
            section.clear()  # another member of a tagged union starts from its own defaults
        section[leaf] = value
    return _validated(content, source)


def parse_overrides(arguments: list[str]) -> dict[str, Any]:
    """Turns `["optim.lr=1e-4"]` into `{"optim.lr": 1e-4}`; values are read as YAML scalars or lists.

    Raises:
        InputError: An argument without `=`, or with a value that is not YAML.
    """
    changes: dict[str, Any] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name:
            raise InputError(f"argument {argument!r}: expected SECTION.NAME=VALUE, e.g. optim.lr=1e-4")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise InputError(f"argument {argument!r}: the value is not valid YAML") from None
        changes[name] = _number(value)
    return changes


def _number(value: Any) -> Any:
    """YAML 1.1 reads 1e-4 as text; people mean the number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping with the safe loader.

    Raises:
        InputError: The file is missing, not YAML, or not a mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}); give a YAML settings file") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML ({error})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected a mapping of sections")
    return content


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested mappings to dotted names; lists stay values."""
    flat: dict[str, Any] = {}
    for name, value in content.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{key}."))
        else:
            flat[key] = value
    return flat


def load_config(path: Path, start: Config | None = None) -> Config:
    """Reads settings from a YAML file, laid over `start` (the paper's defaults if not given).

    Raises:
        InputError: See `read_yaml` and `override`.
    """
    flat = {name: _number(value) for name, value in flatten(read_yaml(path)).items()}
    kinds_first = sorted(flat, key=lambda name: not name.endswith(".kind"))
    return override(start or Config(), {name: flat[name] for name in kinds_first}, str(path))


def to_yaml(config: Config) -> str:
    """The resolved settings as YAML, in the order of their definition."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
