"""Settings fit to leave the machine they were written on."""

from mttu.config import Config, override


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
    }
    return override(config, changes)
