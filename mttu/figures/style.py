"""One look for all figures: the palette of Okabe and Ito, sizes of a printed page, sizes of letters.

Everything is set on the artists, nothing in matplotlib's global settings, which other code in the process may use.
The same table gives the same bytes in a file.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from mttu import __version__
from mttu.errors import InputError
from mttu.files import atomic_file

BLACK, DARK_GREY, GREY, LIGHT_GREY = "#000000", "#444444", "#767676", "#DDDDDD"
ORANGE, SKY_BLUE, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"

MUTANT_COLOUR, WILD_COLOUR = ORANGE, SKY_BLUE
RIGHT_COLOUR, WRONG_COLOUR = BLUE, VERMILLION

PAGE_WIDTH_IN, COLUMN_WIDTH_IN = 7.16, 3.5
"""Width of a page, and of one of its two columns, in IEEE Transactions on Medical Imaging."""

DPI = 220
"""Pixels per inch of a PNG; one that is as wide as a page has 1575."""

TITLE_SIZE, LABEL_SIZE, NOTE_SIZE = 8.5, 8.0, 7.0
"""Font sizes in points, as printed."""

_LETTERS_PER_INCH = 18.0
"""Letters of small print per inch, a little less than fits."""

ERROR_BARS: Mapping[str, Any] = {"elinewidth": 0.9, "capsize": 2.0, "capthick": 0.9}
GUIDE: Mapping[str, Any] = {"color": GREY, "linewidth": 0.9, "linestyle": (0, (4, 2)), "zorder": 1}
"""Look of thresholds, diagonals and the like."""
BARS: Mapping[str, Any] = {"edgecolor": BLACK, "linewidth": 0.5}
"""Outline of bars that count pseudo-labels."""
LEGEND: Mapping[str, Any] = {"loc": "outside upper center", "frameon": False, "fontsize": NOTE_SIZE}
"""A legend above the panels."""
ROW_TITLE: Mapping[str, Any] = {"rotation": 90, "ha": "right", "va": "center"}
"""Text to the left of a row of pictures."""
ABOVE: Mapping[str, Any] = {"ha": "center", "va": "bottom", "fontsize": NOTE_SIZE}
"""Text above a bar or a point."""


@dataclass(frozen=True)
class Series:
    """Look of one series; marker and dashes differ as well as the colour, so that series differ in grey, too."""

    colour: str
    marker: str
    dashes: str | tuple[float, tuple[float, ...]]

    @property
    def line(self) -> dict[str, Any]:
        """Look of its line with markers."""
        return {"color": self.colour, "marker": self.marker, "linestyle": self.dashes, "linewidth": 1.2}


_SERIES = (
    Series(BLUE, "o", "-"),
    Series(VERMILLION, "s", (0, (5, 1.5))),
    Series(GREEN, "^", (0, (4, 1.5, 1, 1.5))),
    Series(PURPLE, "D", (0, (1.5, 1.2))),
    Series(ORANGE, "v", (0, (6, 1.5, 1, 1.5, 1, 1.5))),
    Series(BLACK, "P", (0, (2.5, 2.5))),
    Series(SKY_BLUE, "X", "-"),
)


def pick_series(index: int) -> Series:
    """Look of the series with this number; from the eighth on they repeat."""
    return _SERIES[index % len(_SERIES)]


def make_class_patches() -> list[Patch]:
    """Legend entries of the pseudo-labels of each class."""
    classes = (("mutant", MUTANT_COLOUR), ("wild type", WILD_COLOUR))
    return [Patch(facecolor=colour, label=f"called {name}", **BARS) for name, colour in classes]


def new_figure(width_in: float, height_in: float, *, dense: bool = False) -> Figure:
    """A white figure that belongs to no window; panels make room for labels, and are close together if `dense`."""
    close = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.035, wspace=0.0, hspace=0.0)
    engine = close if dense else ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.05)
    return Figure(figsize=(width_in, height_in), dpi=DPI, facecolor="white", layout=engine)


def dress(axes: Axes, title: str = "", x_label: str = "", y_label: str = "") -> None:
    """Title, labels with units, ticks of the right size, a faint grid."""
    axes.set_title(title, fontsize=TITLE_SIZE, pad=5)
    axes.set_xlabel(x_label, fontsize=LABEL_SIZE)
    axes.set_ylabel(y_label, fontsize=LABEL_SIZE)
    axes.tick_params(labelsize=NOTE_SIZE, width=0.6, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.6)
    axes.set_axisbelow(True)
    axes.grid(color=LIGHT_GREY, linewidth=0.5)


def say(axes: Axes, sentence: str) -> None:
    """Says in the middle of a panel why nothing is drawn there."""
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": LABEL_SIZE, "color": DARK_GREY, "zorder": 10}
    box = {"facecolor": "white", "edgecolor": "none", "pad": 2.0, "alpha": 0.85}
    axes.text(0.5, 0.5, sentence, transform=axes.transAxes, style="italic", bbox=box, **look)


def draw_nothing(sentence: str) -> Figure:
    """The figure of an empty table, which says why nothing is drawn."""
    figure = new_figure(COLUMN_WIDTH_IN, 1.0)
    axes = figure.add_subplot()
    axes.set_axis_off()
    say(axes, sentence)
    return figure


def add_note(figure: Figure, sentences: Sequence[str]) -> None:
    """Small print below the panels; each sentence starts a line."""
    width = int(figure.get_figwidth() * _LETTERS_PER_INCH)
    lines = [line for sentence in sentences for line in wrap(sentence, width)]
    if lines:
        figure.supxlabel("\n".join(lines), fontsize=NOTE_SIZE, color=DARK_GREY, x=0.01, ha="left")


_METADATA: Mapping[str, Mapping[str, str | None]] = {
    "png": {"Software": f"mttu {__version__}"},
    "pdf": {"Creator": f"mttu {__version__}", "CreationDate": None},
    "svg": {"Creator": f"mttu {__version__}", "Date": None},
}
"""The program, without a time, so that the bytes do not depend on it."""


def save_figure(
    figure: Figure, path_without_suffix: Path, formats: Sequence[str] = ("png", "pdf"), command: str = ""
) -> list[Path]:
    """Writes a figure in each format; fonts are embedded as TrueType, which journals ask for.

    Args:
        figure: Drawn by one of this package's functions.
        path_without_suffix: `figures/roc` becomes `figures/roc.png` and `figures/roc.pdf`; a dot in the name stays.
        formats: Any of `png`, `pdf`, `svg`.
        command: Name of the command that draws it, kept in the file beside the program's.

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
            told = {key: f"{value} {command}" if value and command else value for key, value in _METADATA[name].items()}
            with atomic_file(path) as partial:
                figure.savefig(partial, format=name, dpi=DPI, metadata=told)
            paths.append(path)
    return paths
