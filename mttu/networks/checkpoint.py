"""A trained network as a folder: weights as safetensors, settings as YAML, metrics as JSON. No pickle."""

import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from mttu.config import Config, load_stored_config, to_yaml
from mttu.config.network import Task, parse_network
from mttu.config.sharing import without_paths
from mttu.errors import InputError, name_some
from mttu.files import read_versioned
from mttu.networks import Network, build_network
from mttu.patients import KnownPatients, read_patients

FORMAT_VERSION = 2
"""Of files that name patients by keyed digests. Others are written as 1, which earlier versions of mttu read."""
FILES = ("checkpoint.json", "config.yaml", "weights.safetensors")
LARGEST_HEADER_BYTES = 2**20
"""Of a file of weights: a name and a shape for each of some hundred tensors."""
_KINDS = {torch.float32: "F32", torch.int64: "I64"}
"""Types of weights and counts, and safetensors' names for them."""
ENSEMBLE = "ensemble.json"
"""File that makes a folder an ensemble of checkpoints, see `mttu.networks.ensemble`."""


def write_checkpoint(
    folder: Path,
    weights: Mapping[str, Tensor],
    config: Config,
    metrics: Mapping[str, Any],
    learned_from: KnownPatients | None = None,
    learned_tasks: Collection[Task] | None = None,
    learned_parts: bool = True,
) -> None:
    """Writes `weights.safetensors`, `config.yaml` and `checkpoint.json`.

    Args:
        folder: Part of a larger folder, which is renamed when it is complete; made if there is none.
        weights: State dict of the network, any device.
        config: Settings that the network was trained with; folders and addresses are left out, as it may be shared.
        metrics: Values worth keeping beside the weights; JSON values without NaN.
        learned_from: Patients it was trained on; None if unknown.
        learned_tasks: Tasks whose head has seen a label; None counts as all of `network.tasks`.
        learned_parts: Whether it has seen masks that tell the parts of a tumour.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    (folder / "weights.safetensors").write_bytes(save(contiguous))  # save_file ignores the umask and excludes the group
    (folder / "config.yaml").write_text(to_yaml(without_paths(config)), encoding="utf-8")
    version = 1 if learned_from is None else FORMAT_VERSION
    content: dict[str, Any] = {"format_version": version, "metrics": dict(metrics)}
    if learned_from is not None:
        content["patients"] = learned_from.to_json()
    if learned_tasks is not None:
        content["learned_tasks"] = sorted(learned_tasks)
    if not learned_parts:
        content["learned_parts"] = False
    text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False)
    (folder / "checkpoint.json").write_text(text + "\n", encoding="utf-8")


def find_checkpoint(folder: Path) -> Path:
    """The folder itself, or if it holds no checkpoint, the one inside: `best` of a run, `ensemble` of its folds."""
    for place in (folder, folder / "best", folder / "ensemble"):
        if (place / "checkpoint.json").exists() or (place / ENSEMBLE).exists():
            return place
    return folder


def is_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint or an ensemble, there or inside, see `find_checkpoint`."""
    place = find_checkpoint(folder)
    return (place / "checkpoint.json").exists() or (place / ENSEMBLE).exists()


def _read_record(folder: Path) -> dict[str, Any]:
    path = folder / "checkpoint.json"
    return read_versioned(path, FORMAT_VERSION, "restore it from a copy", (1,), f"checkpoint {folder}: {path.name}")


def read_learned_from(folder: Path) -> KnownPatients | None:
    """The patients that a checkpoint was trained on; None where it does not say.

    Raises:
        InputError: The record is damaged.
    """
    folder = find_checkpoint(folder)
    content = _read_record(folder)
    found = content.get("patients", content.get("learned_from"))  # the latter of earlier versions
    try:
        return None if found is None else read_patients(found)
    except ValueError as error:
        raise InputError(f"{folder / 'checkpoint.json'}: damaged ({error}); restore it from a copy") from None


def read_learned_parts(folder: Path) -> bool:
    """Whether a checkpoint has seen masks that tell the parts of a tumour; True where it does not say."""
    return _read_record(find_checkpoint(folder)).get("learned_parts", True) is not False


def read_learned_tasks(folder: Path) -> frozenset[Task]:
    """Tasks whose head has seen a label; all of its tasks where a checkpoint does not say, as older ones do not.

    Raises:
        InputError: See `read_checkpoint`.
    """
    folder = find_checkpoint(folder)
    return _find_learned_tasks(_read_record(folder), load_stored_config(folder / "config.yaml"), folder)


def _find_learned_tasks(content: Mapping[str, Any], config: Config, folder: Path) -> frozenset[Task]:
    found = content.get("learned_tasks", config.network.tasks)
    if not isinstance(found, Sequence) or not set(found) <= set(config.network.tasks):
        raise InputError(
            f"checkpoint {folder}: checkpoint.json names learned_tasks {found!r}; config.yaml has network.tasks "
            f"{list(config.network.tasks)}; restore them from a copy"
        )
    return frozenset(found)


def _check_weights(folder: Path, config: Config) -> None:
    """Compares the network of the settings with the header of the weights, before either takes memory.

    So a network is never larger than the file of its weights.

    Raises:
        InputError: They differ, or there is no such header.
    """
    path = folder / "weights.safetensors"
    refusal = f"checkpoint {folder}: weights.safetensors does not fit config.yaml"
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > LARGEST_HEADER_BYTES:
        raise InputError(f"{refusal} (its header is {length} bytes long; expected at most {LARGEST_HEADER_BYTES})")
    try:
        with safe_open(path, "pt") as weights:
            parts = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
            found = {name: f"{part.get_shape()} {part.get_dtype()}" for name, part in parts.items()}
        wanted = _describe_weights(config.network.model_dump_json(), config.patch.size)
    except (SafetensorError, RuntimeError) as error:
        raise InputError(f"{refusal} ({' '.join(str(error).split())[:400]})") from None
    differences = [
        f"{name}: {found.get(name, 'nothing')} in the weights, {wanted.get(name, 'nothing')} by the settings"
        for name in {**wanted, **found}
        if found.get(name) != wanted.get(name)
    ]
    if differences:
        raise InputError(f"{refusal} ({name_some(differences, 3)})")


@lru_cache(maxsize=8)
def _describe_weights(settings: str, patch_size: tuple[int, ...]) -> Mapping[str, str]:
    """Shape and kind of number of each tensor of a network, which is built without memory; the same for all members.

    The settings are JSON, because those of a network with options of its own cannot be compared by their hash.
    """
    with torch.device("meta"):
        built = build_network(parse_network(settings), patch_size, trace=False).state_dict()
    return {name: f"{list(part.shape)} {_KINDS.get(part.dtype, part.dtype)}" for name, part in built.items()}


def read_checkpoint(folder: Path) -> tuple[Network, Config]:
    """Reads a checkpoint folder into a network in evaluation mode.

    Args:
        folder: Checkpoint folder, or a run folder with a folder `best` inside.

    Returns:
        The network, on the CPU, and the settings it was trained with.

    Raises:
        InputError: A file is missing or damaged, the format is unknown, weights and settings disagree, or the folder is
            an ensemble.
    """
    folder = find_checkpoint(folder)
    if (folder / ENSEMBLE).exists():
        raise InputError(f"checkpoint {folder}: is an ensemble; one network is needed here: give one of its members")
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"checkpoint {folder}: {', '.join(missing)} not found; give a run folder or its `best` folder")
    content = _read_record(folder)
    config = load_stored_config(folder / "config.yaml")
    _check_weights(folder, config)
    network = build_network(config.network, config.patch.size)
    try:
        network.load_state_dict(load_file(folder / "weights.safetensors"))
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:400]
        raise InputError(f"checkpoint {folder}: weights.safetensors does not fit config.yaml ({reason})") from None
    network.learned_tasks = _find_learned_tasks(content, config, folder)
    network.learned_parts = content.get("learned_parts", True) is not False
    return network.eval(), config
