"""A predicted tumour over its MRI: three planes through the largest cross-sections of the lesion.

Volumes are (H, W, D) in LPS order: indices grow towards the patient's left, back and head. The display is
radiological: the patient's right is on the viewer's left.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from mttu.data.labels import REGIONS, WHOLE_TUMOUR
from mttu.figures import style

RESEARCH_USE = "Research use only. Not for diagnosis."

REGION_STYLES = {
    "wt": ("Whole tumour", style.SKY_BLUE),
    "tc": ("Tumour core", style.YELLOW),
    "et": ("Enhancing", style.VERMILLION),
}
"""Title and colour of each region."""

_LINE = 210
"""Characters that a line of small print holds."""
_LINE_HEIGHT = 0.022
"""Of small print, as a share of the figure."""
_FIRM = "\N{NO-BREAK SPACE}"
_REMARKS = 125
"""Characters that a line of remarks holds."""
_WIDTHS = {"wt": 1.6, "tc": 3.4, "et": 1.2}  # the core's outline stays visible under that of an enhancing rim
_ALPHA = {"wt": 0.12, "tc": 0.12, "et": 0.5}


@dataclass(frozen=True)
class Plane:
    """A section perpendicular to one axis; the first of the two other axes runs to the right."""

    title: str
    axis: int
    edges: tuple[str, str, str, str]
    """Directions at the left, right, top and bottom edge."""

    @property
    def origin(self) -> Literal["upper", "lower"]:
        """Corner of the first voxel: indices grow downwards towards the back, but upwards towards the head."""
        return "upper" if self.edges[2] == "A" else "lower"


PLANES = (
    Plane("Axial", 2, ("R", "L", "A", "P")),
    Plane("Coronal", 1, ("R", "L", "S", "I")),
    Plane("Sagittal", 0, ("A", "P", "S", "I")),
)


def choose_slices(image: NDArray[Any], lesion: NDArray[np.bool_]) -> tuple[int, int, int]:
    """Index on each axis where the lesion's section is largest; without a lesion, the middle of the brain.

    Both are (H, W, D); the image is zero outside of the brain.
    """
    indices = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        areas = lesion.sum(axis=others)
        if areas.any():
            indices.append(int(areas.argmax()))
            continue
        inside = np.flatnonzero((image != 0).any(axis=others))
        indices.append(int(inside[0] + inside[-1]) // 2 if inside.size else image.shape[axis] // 2)
    return indices[0], indices[1], indices[2]


def draw_overlay(
    image: NDArray[Any],
    classes: NDArray[np.uint8] | None,
    case_id: str,
    modality: str,
    spacing_mm: float,
    idh_mutant_probability: float | None = None,
    volumes_ml: Mapping[str, float] | None = None,
    remarks: Sequence[str] = (),
    standing: str = "",
    is_warning: bool = False,
) -> Figure:
    """Draws the tumour regions of one case over one modality.

    Args:
        image: (H, W, D) of one modality, zero outside of the brain.
        classes: (H, W, D), classes 0 to 3, or 0 and `WHOLE_TUMOUR`, for which only WT is shown; None for a network
            that does not segment.
        case_id: Named in the title.
        modality: Named in the title.
        spacing_mm: Isotropic voxel spacing, for the scale bar.
        idh_mutant_probability: None for a network that does not predict it.
        volumes_ml: Volume of each region, for the legend.
        remarks: Flags worth reading, e.g. "no tumour found".
        standing: What a reader of the probability needs beside it, in a line of its own.
        is_warning: Whether that line is printed as a warning.
    """
    image = np.asarray(image, dtype=np.float32)
    found = np.zeros(image.shape, dtype=np.uint8) if classes is None else classes
    slices = choose_slices(image, found > 0)
    grey = scale_grey(image)
    figure = Figure(figsize=(13.2, 6.4), dpi=110, facecolor="black")
    columns = [image.shape[0], image.shape[0], image.shape[1]]
    panels = figure.subplots(1, 3, width_ratios=columns)
    small_print = fill(standing, _LINE)
    legend = 0.066 + _LINE_HEIGHT * max(small_print.count("\n") - 1, 0)  # two lines fit below it
    figure.subplots_adjust(left=0.02, right=0.98, bottom=legend + 0.094, top=0.81, wspace=0.16)
    for panel, plane in zip(panels, PLANES, strict=True):
        index = slices[plane.axis]
        title = f"{plane.title}, plane {index + 1} of {image.shape[plane.axis]}"
        panel.set_title(title, color="white", fontsize=10, pad=18)
        _draw_plane(panel, plane, np.take(grey, index, plane.axis), np.take(found, index, plane.axis))
    _draw_scale_bar(panels[0], image.shape[0], image.shape[1], spacing_mm)
    statements = [] if idh_mutant_probability is None else [f"IDH-mutant probability {idh_mutant_probability:.2f}"]
    kept = fill("   |   ".join(map(_keep_together, (*statements, *remarks))), _REMARKS)
    shown = kept.replace(_FIRM, " ")
    figure.text(0.02, 0.968, f"{case_id}   {modality.upper()}", color="white", fontsize=14, weight="bold", va="center")
    figure.text(0.98, 0.913, shown, color="white", fontsize=13, ha="right", va="center", multialignment="right")
    colour = style.ORANGE if is_warning else "white"
    figure.text(0.02, 0.008, small_print, color=colour, fontsize=8, va="bottom")
    figure.text(0.98, legend, RESEARCH_USE, color=style.ORANGE, fontsize=12, weight="bold", ha="right", va="center")
    if classes is not None:
        whole_alone = (found == WHOLE_TUMOUR).any()
        _draw_legend(figure, volumes_ml, ("wt",) if whole_alone else tuple(REGION_STYLES), legend)
    return figure


def scale_grey(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Grey levels in [0, 1]: black outside of the brain, 1st to 99.8th percentile inside."""
    brain = image != 0
    if not brain.any():
        return np.zeros_like(image)
    low, high = np.percentile(image[brain], (1.0, 99.8))
    scaled = (image - low) / max(float(high - low), 1e-6) * 0.92 + 0.08  # brain stays apart from the background
    return np.where(brain, np.clip(scaled, 0.0, 1.0), 0.0).astype(np.float32)


def _keep_together(remark: str) -> str:
    """A remark whose lines break nowhere, unless it is longer than half a line."""
    return remark if len(remark) > _REMARKS // 2 else remark.replace(" ", _FIRM)


def _draw_plane(panel: Axes, plane: Plane, grey: NDArray[np.float32], classes: NDArray[np.uint8]) -> None:
    panel.imshow(grey.T, cmap="gray", vmin=0.0, vmax=1.0, origin=plane.origin, interpolation="bilinear")
    panel.set_axis_off()
    draw_regions(panel, classes)
    places = ((-0.015, 0.5), (1.015, 0.5), (0.5, 1.0), (0.5, 0.0))
    aligned = (("right", "center"), ("left", "center"), ("center", "bottom"), ("center", "top"))
    for letter, (x, y), (horizontal, vertical) in zip(plane.edges, places, aligned, strict=True):
        panel.text(x, y, letter, color="white", fontsize=11, ha=horizontal, va=vertical, transform=panel.transAxes)


def draw_regions(panel: Axes, classes: NDArray[np.uint8], width_scale: float = 1.0) -> None:
    """Fills and outlines the tumour regions of one plane, (first axis, second axis) of the plane."""
    for region, members in REGIONS.items():
        mask = np.isin(classes, members).T
        if not mask.any():
            continue
        colour = REGION_STYLES[region][1]
        panel.contourf(mask, levels=[0.5, 1.5], colors=[colour], alpha=_ALPHA[region])
        panel.contour(mask, levels=[0.5], colors=[colour], linewidths=_WIDTHS[region] * width_scale)


def _draw_scale_bar(panel: Axes, columns: int, rows: int, spacing_mm: float) -> None:
    """5 cm, or 1 cm in a small volume, at the lower left of a panel whose rows run downwards."""
    length_mm = 50 if columns * spacing_mm >= 100 else 10
    end = length_mm / spacing_mm
    panel.plot([0, end], [rows - 2, rows - 2], color="white", linewidth=2, solid_capstyle="butt")
    panel.text(end / 2, rows - 3, f"{length_mm} mm", color="white", fontsize=8, ha="center", va="bottom")


def _draw_legend(figure: Figure, volumes_ml: Mapping[str, float] | None, regions: Sequence[str], height: float) -> None:
    handles = []
    for region in regions:
        title, colour = REGION_STYLES[region]
        volume = f"  {volumes_ml[region]:.1f} ml" if volumes_ml else ""
        fill = (colour, _ALPHA[region])
        handles.append(Patch(facecolor=fill, edgecolor=colour, linewidth=1.6, label=f"{title}{volume}"))
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (0.012, height)}
    figure.legend(handles=handles, ncols=3, frameon=False, fontsize=12, labelcolor="white", **place)
