"""Several trained networks as one checkpoint: `ensemble.json` and a checkpoint folder for each member.

An ensemble predicts the mean of its members' probabilities (Lakshminarayanan et al., NeurIPS 2017). The settings that
decide a member's input, and how its output is used, are the same for all.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any

from mttu.config import Config, flatten, load_stored_config, override
from mttu.config.data import RELEASE_METRICS
from mttu.errors import InputError, collecting, name_some, raise_if_any
from mttu.files import atomic_folder, hash_file, read_versioned, write_json
from mttu.networks import Network
from mttu.networks.checkpoint import ENSEMBLE, FILES, find_checkpoint, read_checkpoint, read_learned_from
from mttu.patients import KnownPatients, check_work

FORMAT_VERSION = 1
SHARED = ("data.modalities", "data.prepare.", "patch.", "network.tasks", "inference.", "mc.")
"""Settings, or sections of them, that must be the same for all members."""

_BESIDE = (
    ENSEMBLE,
    "calibration.json",
    "out_of_fold.csv",
    "out_of_fold.parquet",
    "postprocessing.json",
    "distribution.json",
)
"""Files of an ensemble beside its members, written by `mttu.training.held_out` and `mttu.inference`."""
_DIGESTS = {"weights.safetensors": "weights_sha256", "config.yaml": "config_sha256"}
_MEND = "restore it from a copy, or write the ensemble again with `mttu ensemble`"


def write_ensemble(folder: Path, checkpoints: Sequence[Path], fill: Callable[[Path], None] | None = None) -> None:
    """Copies checkpoints into an ensemble folder, all or nothing.

    Args:
        folder: Target; an older ensemble there is replaced, even if some of the checkpoints are in it.
        checkpoints: Members in order: checkpoint folders, or run folders with `best` inside.
        fill: Called with the complete ensemble under its temporary name, to write more into it.

    Raises:
        InputError: The folder is a file or holds something else; or a checkpoint cannot be read, is an ensemble itself
            or is named twice, or members differ in `SHARED` settings; lists all problems of checkpoints.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"ensemble {folder}: is a file; give a folder")
    foreign = _find_foreign(folder)
    if foreign:
        raise InputError(
            f"ensemble {folder}: holds something else ({name_some(foreign)}), which would be lost; move it elsewhere, "
            "or give a new or an empty folder"
        )
    sources = [find_checkpoint(path).resolve() for path in checkpoints]
    problems = [] if sources else ["ensemble: no member; give at least one checkpoint"]
    problems += [
        f"checkpoint {source}: named {sources.count(source)} times; give each member once"
        for source in dict.fromkeys(sources)
        if sources.count(source) > 1
    ]
    configs: dict[str, Config] = {}
    for source in sources:
        with collecting(problems):
            configs[str(source)] = read_checkpoint(source)[1]
    raise_if_any([*problems, *_find_differences(configs)])
    with atomic_folder(folder) as partial:
        members = []
        for number, source in enumerate(sources, 1):
            copy = partial / f"member_{number}"
            copy.mkdir()
            for name in FILES:
                shutil.copyfile(source / name, copy / name)
            members.append({"folder": copy.name, "origin": f"{source.parent.name}/{source.name}", **_digest(copy)})
        write_json(partial / ENSEMBLE, {"format_version": FORMAT_VERSION, "members": members})
        if fill is not None:
            fill(partial)


def _find_foreign(folder: Path) -> list[str]:
    """Files in a folder that are no part of an ensemble, by relative path; hidden ones do not count."""
    if folder.exists() and not (folder / ENSEMBLE).exists():
        return sorted(path.name for path in folder.iterdir())
    found = [path for path in sorted(folder.rglob("[!.]*")) if path.is_symlink() or path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in found]
    members = {f"member_{number}/{name}" for number in range(1, 1 + len(names)) for name in FILES}
    return [name for name in names if name not in members and name not in _BESIDE]


def read_members(folder: Path) -> tuple[tuple[Network, ...], Config]:
    """Reads any checkpoint, an ensemble or not, into networks in evaluation mode.

    Args:
        folder: Checkpoint or ensemble folder, or a run folder with either inside.

    Returns:
        The networks, on the CPU, in the order of the members; a plain checkpoint has one. The settings are the first
        member's. Where members differ in precision, `train.precision` is float32; where they differ in conventions for
        empty masks, `metrics` are the defaults.

    Raises:
        InputError: See `read_checkpoint`; `ensemble.json` is damaged or of another format, or a member is missing,
            changed, or no longer fits the others; lists all problems.
    """
    folder = find_checkpoint(folder)
    if not (folder / ENSEMBLE).exists():
        network, config = read_checkpoint(folder)
        return (network,), config
    networks, configs = [], {}
    problems: list[str] = []
    for member in _read_mark(folder):
        place = folder / member["folder"]
        with collecting(problems):
            _check_digests(place, member)
            network, configs[str(place)] = read_checkpoint(place)
            networks.append(network)
    raise_if_any([*problems, *_find_differences(configs)])
    return tuple(networks), _unite(list(configs.values()))


def _unite(configs: Sequence[Config]) -> Config:
    """The first member's settings, but for precision and metrics where the members differ."""
    first, changes = configs[0], {}
    if any(config.train.precision != first.train.precision for config in configs):
        changes["train.precision"] = "float32"
    if any(config.metrics != first.metrics for config in configs):
        changes |= {f"metrics.{name}": value for name, value in RELEASE_METRICS}
    return override(first, changes)


def describe_differences(folder: Path) -> list[str]:
    """A sentence for each setting that members of an ensemble name differently, with the value that counts."""
    configs = [load_stored_config(place / "config.yaml") for place in _list_places(folder)]
    united = _unite(configs)
    sentences = []
    precisions = sorted({config.train.precision for config in configs})
    if len(precisions) > 1:
        sentences.append(
            f"members were trained with train.precision {', '.join(precisions)}; the ensemble computes in "
            f"{united.train.precision}, unless --precision says otherwise"
        )
    for name, counts in united.metrics:
        named = sorted({getattr(config.metrics, name) for config in configs})
        if len(named) > 1:
            sentences.append(
                f"members name metrics.{name} {', '.join(named)}; of the ensemble {counts} counts, unless "
                f"`mttu evaluate --{name.replace('_', '-')}` says otherwise"
            )
    return sentences


def read_config(folder: Path) -> Config:
    """The settings of any checkpoint, of an ensemble those of its first member; see `read_members`."""
    return load_stored_config(_list_places(folder)[0] / "config.yaml")


def read_known_patients(folder: Path) -> KnownPatients | None:
    """The patients that any network of a checkpoint or ensemble was trained on, see `read_learned_from`.

    Raises:
        InputError: A list of them is damaged, or together they would take too long to look up.
    """
    folder = find_checkpoint(folder)
    places = _list_places(folder)
    known = [patients for place in places if (patients := read_learned_from(place)) is not None]
    if len(known) < len(places):
        return None
    if places == [folder]:
        return known[0]
    united = reduce(or_, known, KnownPatients())
    try:
        check_work(united)
    except ValueError as error:
        raise InputError(
            f"ensemble {folder}: its members name more patients together than can be asked for ({error}); write an "
            "ensemble of fewer, or take the entry patients out of their checkpoint.json: whom they know is then "
            "unknown, and said so"
        ) from None
    return united


def describe_checkpoint(folder: Path) -> dict[str, Any]:
    """What a table says of the checkpoint that it was made with, without absolute paths.

    Args:
        folder: Folder that `read_members` can read.

    Returns:
        checkpoint: last two parts of its path; ensemble: whether it is one; members: number of networks;
        weights_sha256: of the weights; of an ensemble, over its members' digests, one a line.
    """
    folder = find_checkpoint(folder).resolve()
    places = _list_places(folder)
    ensemble = places != [folder]
    digests = [_digest(place)["weights_sha256"] for place in places]
    lines = "".join(f"{digest}\n" for digest in digests)
    return {
        "checkpoint": f"{folder.parent.name}/{folder.name}",
        "ensemble": ensemble,
        "members": len(places),
        "weights_sha256": hashlib.sha256(lines.encode()).hexdigest() if ensemble else digests[0],
    }


def _list_places(folder: Path) -> list[Path]:
    """The members' folders in their order; of a plain checkpoint, its own."""
    folder = find_checkpoint(folder)
    if not (folder / ENSEMBLE).exists():
        return [folder]
    return [folder / member["folder"] for member in _read_mark(folder)]


def _digest(folder: Path) -> dict[str, str]:
    return {key: hash_file(folder / name) for name, key in _DIGESTS.items()}


def _read_mark(folder: Path) -> list[dict[str, Any]]:
    content = read_versioned(folder / ENSEMBLE, FORMAT_VERSION, _MEND, name=f"ensemble {folder}: {ENSEMBLE}")
    members: Any = content.get("members")
    known = isinstance(members, list) and all(
        isinstance(member, dict) and {"folder", *_DIGESTS.values()} <= member.keys() for member in members
    )
    if not known or [member["folder"] for member in members] != [f"member_{n}" for n in range(1, len(members) + 1)]:
        raise InputError(f"ensemble {folder}: {ENSEMBLE}: damaged; {_MEND}")
    if not members:
        raise InputError(f"ensemble {folder}: has no member; {_MEND}")
    return list(members)


def _check_digests(place: Path, member: Mapping[str, Any]) -> None:
    missing = [name for name in FILES if not (place / name).is_file()]
    if missing:
        raise InputError(f"ensemble member {place}: {', '.join(missing)} not found; {_MEND}")
    found = _digest(place)
    raise_if_any(
        [
            f"ensemble member {place}: {name} is not the file that the ensemble was made of (SHA-256 "
            f"{found[key][:12]}, expected {str(member[key])[:12]}); {_MEND}"
            for name, key in _DIGESTS.items()
            if found[key] != member[key]
        ]
    )


def _find_differences(configs: Mapping[str, Config]) -> list[str]:
    """Each shared setting that is not the same for all, with each value and the first member that has it."""
    flats = {name: flatten(config.model_dump(mode="json")) for name, config in configs.items()}
    problems = []
    for setting in dict.fromkeys(setting for flat in flats.values() for setting in flat if setting.startswith(SHARED)):
        values: dict[str, str] = {}
        for name, flat in flats.items():
            values.setdefault(json.dumps(flat.get(setting)), name)
        if len(values) > 1:
            shown = "; ".join(f"{value} in {name}" for value, name in values.items())
            problems.append(f"ensemble: members differ in {setting}: {shown}; give members trained alike")
    return problems
