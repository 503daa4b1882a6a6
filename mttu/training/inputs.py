"""What a training needs of manifest and cache, checked before anything starts."""

from collections.abc import Sequence
from pathlib import Path

from mttu.config import Config
from mttu.data.cache import open_cached
from mttu.data.cohort import Case, Manifest, read_manifest
from mttu.errors import InputError, raise_if_any


def resolve_paths(config: Config) -> tuple[Path, Path]:
    """Absolute paths of manifest and cache; the cache is `cache` beside the manifest if it is not set.

    Raises:
        InputError: No manifest is set.
    """
    if config.data.manifest is None:
        raise InputError("data.manifest: not set; give the file that `mttu cohort` wrote: data.manifest=cohort.parquet")
    path = config.data.manifest.resolve()
    return path, (config.data.cache_dir or path.parent / "cache").resolve()


def check_inputs(config: Config) -> tuple[Manifest, Path]:
    """Reads the manifest and checks modalities, labels and prepared cases.

    Returns:
        The manifest and the cache folder.

    Raises:
        InputError: Lists every problem.
    """
    path, cache_dir = resolve_paths(config)
    manifest = read_manifest(path)
    problems = [*_check_modalities(config, manifest), *_check_labels(config, manifest.split("train"), path)]
    for case in (*manifest.split("train"), *manifest.split("val")):
        try:
            cached = open_cached(cache_dir, case.case_id)
            if not problems:  # what the manifest lacks, every case lacks
                cached.channels(config.data.modalities)
        except InputError as error:
            problems += error.problems
    raise_if_any(problems)
    return manifest, cache_dir


def _check_modalities(config: Config, manifest: Manifest) -> list[str]:
    """Says if the manifest lacks a modality that the settings ask for."""
    missing = [name for name in config.data.modalities if name not in manifest.modalities]
    if not missing:
        return []
    have = ",".join(manifest.modalities)
    return [
        f"data.modalities: the manifest has no {', '.join(missing)}; "
        f"set data.modalities=[{have}] network.in_channels={len(manifest.modalities)}"
    ]


def _check_labels(config: Config, train: Sequence[Case], path: Path) -> list[str]:
    """A class weight is the other class's share (eq. 14): one class alone would have no loss at all."""
    if not train:
        return [f"{path}: no case has split train; give some in the clinical table's column split"]
    problems = []
    tasks = config.network.tasks
    if "segmentation" in tasks and not any(case.seg for case in train):
        problems.append(f"{path}: no training case has a mask; set network.tasks=[idh] to train without segmentation")
    known = {case.idh for case in train if case.idh >= 0}
    if "idh" in tasks and (len(known) == 1 or (not known and "segmentation" not in tasks)):
        found = {0: "wild type only", 1: "mutant only"}.get(next(iter(known), -1), "unknown in every case")
        problems.append(
            f"{path}: IDH of the training cases is {found}; both classes are needed, "
            "or set network.tasks=[segmentation]"
        )
    return problems
