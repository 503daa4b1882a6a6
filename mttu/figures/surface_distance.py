"""Distance of the predicted surface to the true one, in three dimensions (section V-E, Fig. 4)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from mttu.figures.style import (
    BLACK,
    COLUMN_WIDTH_IN,
    DARK_GREY,
    LABEL_SIZE,
    NOTE_SIZE,
    PAGE_WIDTH_IN,
    TITLE_SIZE,
    add_note,
    draw_nothing,
    new_figure,
    say,
)
from mttu.figures.surface_rendering import (
    Frame,
    View,
    cast_rays,
    find_border,
    frame_masks,
    measure_distances,
    shade,
)

COLOUR_MAP = "viridis_r"
_COLUMNS = 4
_MARGIN = 3


@dataclass(frozen=True)
class SurfaceCase:
    """One region of one case: the true mask and what each system predicted; (H, W, D) in LPS order."""

    title: str
    """E.g. "case-7, IDH mutant, whole tumour"."""
    truth: NDArray[np.bool_]
    predictions: Mapping[str, NDArray[np.bool_]]
    """System to its mask, in the truth's shape."""
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)


def draw_surface_distance(
    cases: Sequence[SurfaceCase],
    unit: Literal["voxel", "mm"] = "voxel",
    largest: float = 5.0,
    view: View | None = None,
    pixels: int = 260,
) -> Figure:
    """Fig. 4: the predicted surface, coloured by its distance to the true one; the true outline as a line.

    The distance is directed, from prediction to truth, between voxels with a face towards the outside. What was missed
    has no surface to colour: the outline of the truth shows it.

    Args:
        cases: Each starts a new row.
        unit: Of the distance. The paper's is the voxel.
        largest: End of the colour scale; the paper's is 5.
        view: From the front left and above by default.
        pixels: Longer side of a panel's picture.

    Raises:
        ValueError: A mask has another shape than the truth.
    """
    for case in cases:
        shapes = {system: mask.shape for system, mask in case.predictions.items() if mask.shape != case.truth.shape}
        if shapes:
            raise ValueError(f"{case.title}: truth has shape {case.truth.shape}, but {shapes}")
    view = view or View()
    if not cases:
        return draw_nothing("no cases")
    columns = max(1, *(min(_COLUMNS, len(case.predictions)) for case in cases))
    heights = [max(1, -(-len(case.predictions) // columns)) for case in cases]
    width = min(PAGE_WIDTH_IN, max(COLUMN_WIDTH_IN, 1.75 * columns + 0.3))
    figure = new_figure(width, 1.85 * sum(heights) + 0.75, dense=True)
    panels = figure.subplots(sum(heights), columns, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    norm = Normalize(0.0, largest)
    row = 0
    for case, height in zip(cases, heights, strict=True):
        _draw_case(panels[row : row + height].ravel().tolist(), _crop(case), unit, norm, view, pixels)
        row += height
    bar = figure.colorbar(
        ScalarMappable(norm, COLOUR_MAP),
        ax=panels.ravel().tolist(),
        location="bottom",
        extend="max",
        aspect=60,
        shrink=0.7,
    )
    bar.set_label(f"distance of the predicted to the true surface ({_plural(unit)})", fontsize=LABEL_SIZE)
    bar.ax.tick_params(labelsize=NOTE_SIZE, width=0.6, length=2.5)
    seen = f"Seen from {view.azimuth_deg:g}° left of the front and {view.elevation_deg:g}° above."
    add_note(figure, [f"{seen} Line: outline of the true mask. Numbers: over voxels of the predicted surface."])
    return figure


def _plural(unit: str) -> str:
    return "voxels" if unit == "voxel" else unit


def _crop(case: SurfaceCase) -> SurfaceCase:
    """The box around all masks with a margin, so that rays cross little air."""
    inside = np.argwhere(np.logical_or.reduce([case.truth, *case.predictions.values()]))
    if not inside.size:
        return case
    low, high = inside.min(axis=0), inside.max(axis=0) + 1
    box = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
    return replace(
        case,
        truth=np.pad(case.truth[box], _MARGIN),
        predictions={system: np.pad(mask[box], _MARGIN) for system, mask in case.predictions.items()},
    )


def _draw_case(
    panels: Sequence[Axes], case: SurfaceCase, unit: Literal["voxel", "mm"], norm: Normalize, view: View, pixels: int
) -> None:
    panels[0].text(
        -0.05,
        0.5,
        case.title,
        transform=panels[0].transAxes,
        rotation=90,
        ha="right",
        va="center",
        fontsize=TITLE_SIZE,
        weight="bold",
    )
    masks = [case.truth, *case.predictions.values()]
    if not any(mask.any() for mask in masks):
        say(panels[0], "no tumour in truth\nand predictions")
        return
    if not case.predictions:
        say(panels[0], "no predictions")
        return
    frame = frame_masks(masks, case.spacing_mm, view, pixels)
    outline = cast_rays(case.truth, case.spacing_mm, view, frame).found
    for axes, (system, mask) in zip(panels, case.predictions.items(), strict=False):
        axes.set_title(system, fontsize=LABEL_SIZE, pad=2)
        _draw_surface(axes, mask, case, unit, norm, view, frame)
        if outline.any():
            axes.contour(outline, levels=[0.5], colors=BLACK, linewidths=0.7)
        axes.set_aspect("equal")
    _draw_scale_bar(panels[0], frame)


def _draw_surface(
    axes: Axes,
    mask: NDArray[np.bool_],
    case: SurfaceCase,
    unit: Literal["voxel", "mm"],
    norm: Normalize,
    view: View,
    frame: Frame,
) -> None:
    hits = cast_rays(mask, case.spacing_mm, view, frame)
    picture = np.ones((*hits.found.shape, 4))
    if not mask.any():
        said = "nothing predicted"
    elif not case.truth.any():
        picture[hits.found] = (0.7, 0.7, 0.7, 1.0)
        said = "truth is empty:\ndistance not defined"
    else:
        sampling = (1.0, 1.0, 1.0) if unit == "voxel" else case.spacing_mm
        distances = measure_distances(mask, case.truth, sampling)
        colours = colormaps[COLOUR_MAP](norm(map_coordinates(distances, hits.indices, order=1)))
        colours[..., :3] *= shade(mask, case.spacing_mm, view, hits)[..., None]
        picture[hits.found] = colours[hits.found]
        at_surface = distances[find_border(mask)]
        said = f"mean {at_surface.mean():.1f}, largest {at_surface.max():.1f} {_plural(unit)}"
    axes.imshow(picture, interpolation="bilinear")
    axes.text(0.5, -0.02, said, transform=axes.transAxes, ha="center", va="top", fontsize=NOTE_SIZE, color=DARK_GREY)


def _draw_scale_bar(axes: Axes, frame: Frame) -> None:
    """At the lower left, at most half as long as the picture is wide."""
    axes.autoscale(False)
    rows = axes.get_ylim()[0]
    length_mm = next((length for length in (20, 10, 5, 2) if length <= frame.half_mm[0]), 1)
    length = length_mm / frame.pixel_mm
    axes.plot([0, length], [rows, rows], color=BLACK, linewidth=1.5, solid_capstyle="butt", clip_on=False)
    axes.text(length / 2, rows * 0.98, f"{length_mm} mm", ha="center", va="bottom", fontsize=NOTE_SIZE - 1)
