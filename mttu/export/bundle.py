"""A checkpoint as a MONAI bundle: weights and settings, and a workflow that `python -m monai.bundle run` executes.

The workflow is made of mttu's own parts (`mttu.export.running`), so mttu must be installed where it runs; nothing else
of the training is needed. https://docs.monai.io/en/stable/mb_specification.html says what a bundle is; weights are
safetensors in place of the `model.pt` there, which would be a pickle.
"""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

from mttu.config import to_yaml
from mttu.config.sharing import without_paths
from mttu.errors import collecting, name_some, raise_if_any
from mttu.export.metadata import LOGGING, MARK, NOT_STATED, describe_bundle, describe_in_words, describe_workflow
from mttu.export.running import MODELS
from mttu.files import atomic_folder, find_obstacle, read_json, write_json, write_text
from mttu.inference.calibration import CALIBRATION, hold_for, read_calibration, write_calibration
from mttu.inference.distribution import DISTRIBUTION, read_distribution, write_distribution
from mttu.inference.postprocessing import POSTPROCESSING, read_postprocessing, write_postprocessing
from mttu.networks.checkpoint import FILES, find_checkpoint, read_checkpoint, read_learned_from
from mttu.networks.ensemble import describe_checkpoint
from mttu.networks.learned import TASKS, explain_missing_answers

_RECORD, _SETTINGS, _WEIGHTS = FILES
_TOLD = ("format_version", "metrics", "learned_tasks", "learned_parts")
"""What a bundle tells of the checkpoint's record; never its patients."""
_METADATA, _WORKFLOW, _LOGGING, _README = (
    "configs/metadata.json",
    "configs/inference.json",
    "configs/logging.conf",
    "docs/README.md",
)
_OURS = {
    _METADATA,
    _WORKFLOW,
    _LOGGING,
    _README,
    *(f"{MODELS}/{name}" for name in (*FILES, CALIBRATION, DISTRIBUTION, POSTPROCESSING)),
}
_VERSION = re.compile(r"\d+\.\d+\.\d+")


def export_bundle(
    checkpoint: Path,
    folder: Path,
    bundle_version: str = "1.0.0",
    authors: str = NOT_STATED,
    terms: str = NOT_STATED,
) -> None:
    """Writes a bundle, all or nothing; an earlier bundle in the folder is replaced.

    Paths of the training and digests of patients are left out.

    Args:
        checkpoint: Checkpoint folder, or a run folder with `best` inside.
        folder: The bundle.
        bundle_version: Of the model, three numbers.
        authors: Who made the model.
        terms: Copyright and licence of the weights.

    Raises:
        InputError: The checkpoint cannot be read, is an ensemble or has learned nothing; the version is no version; or
            the folder holds something else. Lists all problems.
    """
    problems = _explain_folder(folder)
    if not _VERSION.fullmatch(bundle_version):
        problems.append(f"--bundle-version {bundle_version!r}: expected three numbers, such as 1.0.0")
    source = find_checkpoint(checkpoint)
    with collecting(problems):
        network, config = read_checkpoint(source)
        missing = explain_missing_answers([network])
        if len(missing) == len(TASKS):
            problems.append(f"checkpoint {checkpoint}: nothing to export: {'; '.join(missing.values())}")
        kept, known = read_calibration(source), read_learned_from(source)
        masks, distribution = read_postprocessing(source), read_distribution(source)
    raise_if_any(problems)
    record = {name: value for name, value in read_json(source / _RECORD).items() if name in _TOLD}
    digest = describe_checkpoint(source)["weights_sha256"]
    metadata = describe_bundle(network, config, record, digest, known, bundle_version, authors, terms)
    with atomic_folder(folder) as partial:
        models = partial / MODELS
        for place in (models, partial / "configs", partial / "docs"):
            place.mkdir()
        shutil.copyfile(source / _WEIGHTS, models / _WEIGHTS)
        write_text(models / _SETTINGS, to_yaml(without_paths(config)))
        write_json(models / _RECORD, record)
        if (source / CALIBRATION).exists():
            write_calibration(models, replace(kept, patients=None))
        if (source / POSTPROCESSING).exists():
            write_postprocessing(models, replace(masks, patients=None))
        if (source / DISTRIBUTION).exists():
            write_distribution(models, distribution)
        write_json(partial / _METADATA, metadata)
        write_json(partial / _WORKFLOW, describe_workflow(network, config))
        write_text(partial / _LOGGING, LOGGING)
        calibrated = hold_for(kept, config).describe() if "idh" in network.learned_tasks else "It tells no IDH status."
        write_text(partial / _README, describe_in_words(metadata, config, calibrated))


def _explain_folder(folder: Path) -> list[str]:
    """Why a bundle cannot be written there; empty if it can."""
    obstacle = find_obstacle(folder)
    if obstacle:
        return [f"bundle {folder}: {obstacle}"]
    if not os.path.lexists(folder):
        return []
    if folder.is_symlink() or not folder.is_dir():
        return [f"bundle {folder}: is a {'link' if folder.is_symlink() else 'file'}; give a folder"]
    if not any(folder.iterdir()):
        return []
    try:
        is_ours = MARK in read_json(folder / _METADATA)
    except (OSError, ValueError, TypeError):
        is_ours = False
    if not is_ours:
        return [f"bundle {folder}: holds something else, which would be lost; give a new or an empty folder"]
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file()}
    foreign = sorted(found - _OURS)
    if foreign:
        return [f"bundle {folder}: holds {name_some(foreign, 3)}, which would be lost; move it, or give another folder"]
    return []
