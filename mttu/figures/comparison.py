"""Predicted masks against the true one, on three planes: fill is prediction, line is truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from mttu.data.labels import REGIONS
from mttu.figures.estimates import is_defined
from mttu.figures.overlay import PLANES, REGION_STYLES, Plane, choose_slices, scale_grey
from mttu.figures.style import LABEL_SIZE, NOTE_SIZE, PAGE_WIDTH_IN, TITLE_SIZE, add_note, draw_nothing, new_figure

FILL_ALPHA = 0.6

TRUTH_DASHES = {"wt": "solid", "tc": (0, (4, 1.5)), "et": (0, (1, 1))}
"""Line of each region's truth; on a white line, dashes tell the regions apart."""


def draw_comparison(
    image: NDArray[Any],
    truth: NDArray[np.uint8] | None,
    systems: Mapping[str, NDArray[np.uint8] | None],
    case_id: str,
    modality: str,
    spacing_mm: float,
    dice: Mapping[str, Mapping[str, float | None]] | None = None,
) -> Figure:
    """One case: a row per system, a column per plane, all cut at the truth's largest sections.

    Args:
        image: (H, W, D) in LPS order, zero outside of the brain.
        truth: (H, W, D), classes 0 to 3; None where it is not known.
        systems: Name to predicted classes (H, W, D); None for a system that does not segment.
        case_id: Named in the title.
        modality: Named in the title.
        spacing_mm: Isotropic, for the scale bar.
        dice: System to region to its Dice, written beside the row; None where not defined.
    """
    if not systems:
        return draw_nothing("no systems")
    image = np.asarray(image, dtype=np.float32)
    lesion = np.zeros(image.shape, dtype=bool)
    shown = [truth, *systems.values()] if truth is None or not truth.any() else [truth]
    for classes in shown:
        if classes is not None:
            lesion |= classes > 0
    slices = choose_slices(image, lesion)
    grey = scale_grey(image)
    box = _find_brain(image)
    lengths = [stop - start for start, stop in box]
    widths = [lengths[0], lengths[0], lengths[1]]
    height = (PAGE_WIDTH_IN - 0.8) / sum(widths) * max(lengths[1], lengths[2])
    figure = new_figure(PAGE_WIDTH_IN, height * len(systems) + 1.0, dense=True)
    panels = figure.subplots(len(systems), 3, squeeze=False, width_ratios=widths)
    for axes in panels.ravel():
        axes.set_axis_off()
    for axes, plane in zip(panels[0], PLANES, strict=True):
        place = f"plane {slices[plane.axis] + 1} of {image.shape[plane.axis]}"
        axes.set_title(f"{plane.title}, {place}", fontsize=LABEL_SIZE, pad=3)
    for row, (system, classes) in zip(panels, systems.items(), strict=True):
        _label_row(row[0], system, classes, (dice or {}).get(system))
        for axes, plane in zip(row, PLANES, strict=True):
            cut = [None if mask is None else np.take(mask, slices[plane.axis], plane.axis) for mask in (classes, truth)]
            _draw_panel(axes, plane, np.take(grey, slices[plane.axis], plane.axis), cut[0], cut[1])
            (left, right), (first, last) = (box[axis] for axis in range(3) if axis != plane.axis)
            axes.set_anchor("N")
            axes.set_xlim(left - 0.5, right - 0.5)
            axes.set_ylim(*((last - 0.5, first - 0.5) if plane.origin == "upper" else (first - 0.5, last - 0.5)))
    _draw_scale_bar(panels[0, 0], box, spacing_mm)
    _draw_legend(figure, truth, f"{case_id}, {modality.upper()}")
    add_note(figure, ["Radiological display: R right, L left, A front, P back, S head, I feet."])
    return figure


def _label_row(
    axes: Axes, system: str, classes: NDArray[np.uint8] | None, dice: Mapping[str, float | None] | None
) -> None:
    lines = [system if classes is not None else f"{system}: does not segment"]
    if classes is not None and not classes.any():
        lines = [f"{system}: nothing predicted"]
    for region in REGIONS if dice is not None else ():
        value = (dice or {}).get(region)
        lines.append(f"{region.upper()} {value:.2f}" if is_defined(value) else f"{region.upper()} n.d.")
    text = lines[0] + ("" if len(lines) == 1 else "\nDice " + ", ".join(lines[1:]))
    axes.text(
        -0.09, 0.5, text, transform=axes.transAxes, rotation=90, ha="right", va="center", fontsize=NOTE_SIZE + 0.5
    )


def _draw_panel(
    axes: Axes,
    plane: Plane,
    grey: NDArray[np.float32],
    predicted: NDArray[np.uint8] | None,
    truth: NDArray[np.uint8] | None,
) -> None:
    axes.imshow(grey.T, cmap="gray", vmin=0.0, vmax=1.0, origin=plane.origin, interpolation="bilinear")
    if predicted is not None:
        axes.imshow(_colour(predicted.T), origin=plane.origin, interpolation="nearest")
    for region, members in REGIONS.items():
        if truth is not None and (line := np.isin(truth, members)).any():
            drawn = axes.contour(
                line.T, levels=[0.5], colors="white", linewidths=0.8, linestyles=[TRUTH_DASHES[region]]
            )
            drawn.set_path_effects([withStroke(linewidth=1.5, foreground="black")])  # seen on bright tissue too
    inside = ((0.02, 0.5, "left"), (0.98, 0.5, "right"), (0.5, 0.96, "center"), (0.5, 0.04, "center"))
    for letter, (x, y, side) in zip(plane.edges, inside, strict=True):
        axes.text(x, y, letter, color="white", fontsize=NOTE_SIZE - 0.5, ha=side, va="center", transform=axes.transAxes)


def _colour(classes: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Each voxel in the colour of the innermost region that holds it, (rows, columns, RGBA)."""
    picture = np.zeros((*classes.shape, 4))
    for region, members in REGIONS.items():  # nested: a later one lies inside
        picture[np.isin(classes, members)] = to_rgba(REGION_STYLES[region][1], FILL_ALPHA)
    return picture


def _find_brain(image: NDArray[np.float32]) -> list[tuple[int, int]]:
    """Start and stop of the brain on each axis, with a margin of 2 voxels; the whole axis without a brain."""
    box = []
    for axis, length in enumerate(image.shape):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero((image != 0).any(axis=others))
        box.append((max(0, int(inside[0]) - 2), min(length, int(inside[-1]) + 3)) if inside.size else (0, length))
    return box


def _draw_scale_bar(axes: Axes, box: Sequence[tuple[int, int]], spacing_mm: float) -> None:
    """5 cm, or 1 cm in a small volume, at the lower left of the axial plane."""
    (left, right), (first, last) = box[:2]
    length_mm = 50 if (right - left) * spacing_mm >= 100 else 10
    start = left + 0.03 * (right - left)
    end = start + length_mm / spacing_mm
    rows = [last - 0.5 - share * (last - first) for share in (0.03, 0.045)]
    axes.plot([start, end], [rows[0], rows[0]], color="white", linewidth=1.5, solid_capstyle="butt")
    axes.text(
        (start + end) / 2, rows[1], f"{length_mm} mm", color="white", fontsize=NOTE_SIZE - 1, ha="center", va="bottom"
    )


def _draw_legend(figure: Figure, truth: NDArray[np.uint8] | None, title: str) -> None:
    handles: list[Any] = [
        Patch(facecolor=(colour, FILL_ALPHA), label=f"{name}, predicted") for name, colour in REGION_STYLES.values()
    ]
    if truth is not None and truth.any():
        for region, (name, _) in REGION_STYLES.items():
            line = Line2D([], [], color="black", linewidth=1.0, linestyle=TRUTH_DASHES[region])
            line.set_label(f"{name}, truth (white)")
            handles.append(line)
    else:
        said = "truth is not known" if truth is None else "truth is empty"
        handles.append(Patch(facecolor="none", label=said))
    legend = figure.legend(
        handles=handles, title=title, loc="outside upper center", ncols=2, frameon=False, fontsize=NOTE_SIZE
    )
    legend.get_title().set(fontsize=TITLE_SIZE, weight="bold")
