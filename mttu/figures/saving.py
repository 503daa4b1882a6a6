"""Figures as files: the same table gives the same bytes, and a file is there whole or not at all."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

from mttu import __version__
from mttu.atomic import atomic_file
from mttu.errors import InputError
from mttu.figures.style import DPI

_METADATA = {
    "png": {"Software": f"mttu {__version__}"},
    "pdf": {"Creator": f"mttu {__version__}", "CreationDate": None},
    "svg": {"Creator": f"mttu {__version__}", "Date": None},
}
"""Who drew it, and no time: a file's date is the file system's business."""


def save_figure(figure: Figure, path_without_suffix: Path, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Writes a figure in each format; fonts are embedded as TrueType, which journals ask for.

    Args:
        figure: Drawn by one of this package's functions.
        path_without_suffix: `figures/roc` becomes `figures/roc.png` and `figures/roc.pdf`; a dot in the name stays.
        formats: Any of `png`, `pdf`, `svg`.

    Returns:
        The files, in the order of `formats`.

    Raises:
        InputError: An unknown format; nothing is written.
    """
    unknown = [name for name in formats if name not in _METADATA]
    if unknown:
        raise InputError(f"figure formats {unknown}: unknown; choose from {', '.join(_METADATA)}")
    paths = []
    with rc_context({"pdf.fonttype": 42, "svg.hashsalt": "mttu"}):
        for name in formats:
            path = path_without_suffix.with_name(f"{path_without_suffix.name}.{name}")
            with atomic_file(path) as partial:
                figure.savefig(partial, format=name, dpi=DPI, metadata=_METADATA[name])
            paths.append(path)
    return paths
