"""The interface of trackers, and the tracker that writes nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker(Protocol):
    """Where a training logs metrics, pictures, tables and weights. Trackers can be pickled.

    Every call may be repeated: what the run already holds is not written twice. So after a kill at any point the same
    calls complete the run.
    """

    @property
    def allows_pictures(self) -> bool:
        """Whether `log_picture` keeps pictures of cases; to ask before drawing one."""
        ...

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Logs an epoch's metrics, e.g. `val/dice_wt`, once; values that are not finite are left out."""
        ...

    def log_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs metrics of a whole training, such as a round's; each name is logged once per step.

        Several calls may add different names to one step. Names that `log_epoch` uses in the same run are not allowed,
        because there a step is an epoch.

        Args:
            step: Number of the round, MLflow's step.
            metrics: Name to value, e.g. `selected/mutant`; values that are not finite are left out.
        """
        ...

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the run."""
        ...

    def log_picture(self, path: Path) -> bool:
        """Keeps a picture of a case under `pictures/`, if the run allows it; returns whether it does."""
        ...

    def log_figure(self, path: Path) -> None:
        """Keeps a picture without cases, such as learning curves, under `pictures/`; replaces one of its name."""
        ...

    def log_table(self, path: Path) -> None:
        """Keeps a table, with nothing about patients but case ids, under `tables/`; replaces one of its name."""
        ...

    def log_dataset(self, name: str, digest: str, context: str) -> None:
        """Names an input of the run.

        Args:
            name: What it is, e.g. `cohort.parquet`, without a path. A name and digest have one context in a run.
            digest: Content hash; MLflow keeps the first 36 characters.
            context: Its use, e.g. `training`, `unlabelled`.
        """
        ...

    def log_checkpoint(self, folder: Path) -> None:
        """Keeps a checkpoint folder as the artifact `best`; replaces an earlier one."""
        ...

    def register(self, model_name: str, folder: Path, tags: Mapping[str, object]) -> str:
        """Makes a checkpoint the run's version of a registered model; the model is made if there is none.

        A run has one version of a model; new weights replace the earlier ones.

        Args:
            model_name: Letters, digits, spaces, `.`, `_`, `-`; see `check_model_name`.
            folder: Checkpoint of safetensors, YAML and JSON files; kept as the artifact `best`, see `log_checkpoint`.
            tags: Shown with the version, e.g. its round and validation score.

        Returns:
            The version's number as text; empty where nothing is tracked.

        Raises:
            InputError: The name is refused, or the folder holds no safetensors or a file of another kind.
        """
        ...

    def set_alias(self, model_name: str, version: str, alias: str) -> None:
        """Points an alias, e.g. `best`, to a version that `register` returned.

        Raises:
            InputError: The model's name or the alias is refused.
        """
        ...

    def finish(self, status: RunStatus) -> None:
        """Closes the run; a resume opens it again."""
        ...


@dataclass(frozen=True)
class NullTracker:
    """Writes nothing."""

    allows_pictures: ClassVar[bool] = False

    def _ignore(self, *arguments: object, **named: object) -> None:
        """Does nothing."""

    log_epoch = log_step = log_figure = log_table = log_dataset = log_checkpoint = _ignore
    set_tags = set_alias = finish = _ignore

    def log_picture(self, path: Path) -> bool:
        """Does nothing; returns False."""
        return False

    def register(self, model_name: str, folder: Path, tags: Mapping[str, object]) -> str:
        """Does nothing; returns an empty text."""
        return ""
