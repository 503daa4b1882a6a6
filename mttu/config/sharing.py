"""Settings without what belongs to one machine or person, as checkpoints and MLflow hold them."""

from mttu.config import Config, override


def without_paths(config: Config) -> Config:
    """The settings without folders (which may contain people's names) and addresses (which may contain passwords).

    The manifest keeps its file name.
    """
    changes = {
        "data.manifest": config.data.manifest and config.data.manifest.name,
        "data.cache_dir": None,
        "output.folder": config.output.folder.name or ".",
        "tracking.uri": None,
        "train.start_from": None,
        "train.start_optimiser": "fresh",
        "self_training.start": None,
        "self_training.ensemble": None,
        "self_training.truth": None,
    }
    return override(config, changes)
