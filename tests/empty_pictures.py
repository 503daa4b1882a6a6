"""Pictures that are not drawn: to lay them out is most of the time that a small report or training takes."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from mttu.files import atomic_file


def save_empty(
    figure: Figure, path_without_suffix: Path, formats: Sequence[str] = ("png", "pdf"), command: str = ""
) -> list[Path]:
    """Stands for `mttu.figures.style.save_figure`: the same files, and nothing in them."""
    paths = [path_without_suffix.with_name(f"{path_without_suffix.name}.{name}") for name in formats]
    for path in paths:
        with atomic_file(path) as partial:
            partial.write_bytes(b"")
    return paths
