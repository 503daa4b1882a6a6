"""Predicted masks against the true one, on three planes: fill is prediction, line is truth."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from mttu.data.labels import REGIONS
from mttu.figures.estimates import is_defined
from mttu.figures.overlay import PLANES, REGION_STYLES, Plane, choose_slices, scale_grey
from mttu.figures.style import LABEL_SIZE, NOTE_SIZE, PAGE_WIDTH_IN, TITLE_SIZE, add_note, new_figure, say

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
    image = np.asarray(image, dtype=np.float32)
    lesion = np.zeros(image.shape, dtype=bool)
    shown = [truth, *systems.values()] if truth is None or not truth.any() else [truth]
    for classes in shown:
        if classes is not None:
            lesion |= classes > 0
    slices = choose_slices(image, lesion)
    grey = scale_grey(image)
    sizes = [[length for axis, length in enumerate(image.shape) if axis != plane.axis] for plane in PLANES]
    widths = [size[0] for size in sizes]
    height = (PAGE_WIDTH_IN - 1.0) / sum(widths) * max(size[1] for size in sizes)
    figure = new_figure(PAGE_WIDTH_IN, height * max(1, len(systems)) + 1.0, dense=True)
    panels = figure.subplots(max(1, len(systems)), 3, squeeze=False, width_ratios=widths)
    for axes in panels.ravel():
        axes.set_axis_off()
    for axes, plane in zip(panels[0], PLANES, strict=True):
        place = f"plane {slices[plane.axis] + 1} of {image.shape[plane.axis]}"
        axes.set_title(f"{plane.title}, {place}", fontsize=LABEL_SIZE, pad=3)
    if not systems:
        say(panels[0, 0], "no systems")
    for row, (system, classes) in zip(panels, systems.items(), strict=False):
        _label_row(row[0], system, (dice or {}).get(system))
        for axes, plane in zip(row, PLANES, strict=True):
            cut = [None if mask is None else np.take(mask, slices[plane.axis], plane.axis) for mask in (classes, truth)]
            _draw_panel(axes, plane, np.take(grey, slices[plane.axis], plane.axis), cut[0], cut[1])
        if classes is None:
            say(row[0], "does not segment")
        elif not classes.any():
            say(row[0], "nothing predicted")
    if systems:
        _draw_scale_bar(panels[0, 0], image.shape[0], image.shape[1], spacing_mm)
    _draw_legend(figure, truth)
    figure.suptitle(f"{case_id}, {modality.upper()}", fontsize=TITLE_SIZE, weight="bold")
    add_note(figure, ["Right of the patient on the left. Letters: R right, L left, A front, P back, S head, I feet."])
    return figure


def _label_row(axes: Axes, system: str, dice: Mapping[str, float | None] | None) -> None:
    lines = [system]
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
    for region, members in REGIONS.items():
        if predicted is not None and (fill := np.isin(predicted, members)).any():
            colour = REGION_STYLES[region][1]
            axes.contourf(fill.T, levels=[0.5, 1.5], colors=[colour], alpha=0.55)
    for region, members in REGIONS.items():
        if truth is not None and (line := np.isin(truth, members)).any():
            axes.contour(line.T, levels=[0.5], colors="white", linewidths=1.0, linestyles=[TRUTH_DASHES[region]])
    inside = ((0.02, 0.5, "left"), (0.98, 0.5, "right"), (0.5, 0.96, "center"), (0.5, 0.04, "center"))
    for letter, (x, y, side) in zip(plane.edges, inside, strict=True):
        axes.text(x, y, letter, color="white", fontsize=NOTE_SIZE - 0.5, ha=side, va="center", transform=axes.transAxes)


def _draw_scale_bar(axes: Axes, columns: int, rows: int, spacing_mm: float) -> None:
    length_mm = 50 if columns * spacing_mm >= 100 else 10
    start, end = 0.03 * columns, 0.03 * columns + length_mm / spacing_mm
    axes.plot([start, end], [0.97 * rows] * 2, color="white", linewidth=1.5, solid_capstyle="butt")
    axes.text(
        (start + end) / 2,
        0.95 * rows,
        f"{length_mm} mm",
        color="white",
        fontsize=NOTE_SIZE - 1,
        ha="center",
        va="bottom",
    )


def _draw_legend(figure: Figure, truth: NDArray[np.uint8] | None) -> None:
    handles: list[Any] = [
        Patch(facecolor=(colour, 0.55), label=f"{title}, predicted") for title, colour in REGION_STYLES.values()
    ]
    if truth is not None and truth.any():
        handles += [
            Line2D(
                [], [], color="black", linewidth=1.0, linestyle=TRUTH_DASHES[region], label=f"{title}, truth (white)"
            )
            for region, (title, _) in REGION_STYLES.items()
        ]
    elif truth is not None:
        handles.append(Patch(facecolor="none", label="truth is empty"))
    else:
        handles.append(Patch(facecolor="none", label="truth is not known"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=NOTE_SIZE)
