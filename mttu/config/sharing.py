"""Settings fit to leave the machine they were written on, or to change while a run is stopped."""

from mttu.config import Config, SelfTrainingSettings, override

FREE_TO_CHANGE = (
    "output.",
    "tracking.",
    "mc.",
    "selection.",
    "metrics.empty_hd95",
    "data.manifest",
    "data.cache_dir",
    "train.loader_workers",
    "workers.device",
    "workers.max_failures",
    "workers.threads_per_worker",
    *(f"self_training.{name}" for name in SelfTrainingSettings.model_fields if name != "class_weights"),
)
"""Settings that a resumed run may have changed: none of them makes the epochs so far untrue. Another device or another
number of threads gives other last bits."""


def without_paths(config: Config) -> Config:
    """Settings without folders and addresses, still valid and of the same result.

    Names of home folders can identify people, and an address can hold a password. The manifest keeps its file name.
    """
    manifest = config.data.manifest
    changes = {
        "data.manifest": manifest.name if manifest else None,
        "data.cache_dir": None,
        "output.folder": config.output.folder.name or ".",
        "tracking.uri": None,
        "train.start_from": None,
        "train.start_optimiser": "fresh",
        "self_training.start": None,
        "self_training.truth": None,
    }
    return override(config, changes)
