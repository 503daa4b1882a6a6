"""Files that are kept beside weights and hold for these alone: calibration, post-processing, statistics of cases."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mttu.errors import InputError
from mttu.files import read_versioned, write_json
from mttu.networks.checkpoint import find_checkpoint
from mttu.networks.ensemble import describe_checkpoint

_Kept = TypeVar("_Kept")


def write_kept(folder: Path, name: str, version: int, content: Mapping[str, Any]) -> None:
    """Writes a file into a checkpoint or ensemble folder, bound to the weights that it already holds."""
    bound = {"format_version": version, "weights_sha256": describe_checkpoint(folder)["weights_sha256"]}
    write_json(folder / name, bound | dict(content))


def read_kept(
    checkpoint: Path,
    name: str,
    version: int,
    parse: Callable[[Mapping[str, Any]], _Kept],
    made: str,
    mend: str,
    earlier: Sequence[int] = (),
) -> _Kept | None:
    """Reads such a file of a checkpoint or ensemble folder, or of a run folder with either inside.

    Args:
        checkpoint: The folder.
        name: Of the file.
        version: Its format.
        parse: Makes the result of the file's content; a ValueError, KeyError, TypeError or AttributeError means damage.
        made: What was done for the weights, e.g. "was fitted for".
        mend: What to do about a file that cannot be read.
        earlier: Formats that can be read too.

    Returns:
        None where there is no such file.

    Raises:
        InputError: The file is damaged, of another format, or of other weights.
    """
    folder = find_checkpoint(checkpoint)
    path = folder / name
    if not path.exists():
        return None
    content = read_versioned(path, version, mend, earlier=tuple(earlier))
    try:
        kept, weights = parse(content), content["weights_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: damaged; {mend}") from None
    if weights != describe_checkpoint(folder)["weights_sha256"]:
        raise InputError(f"{path}: {made} other weights than those beside it; {mend}")
    return kept


def find_changes(fitted: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Settings that are not as they were when something was chosen or fitted; empty if all are."""
    return ", ".join(
        f"{name}={fitted.get(name)}, now {value}" for name, value in now.items() if fitted.get(name) != value
    )
