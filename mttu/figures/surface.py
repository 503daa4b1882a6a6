"""Distance of the predicted surface to the true one, in three dimensions (section V-E, Fig. 4).

The surface is rendered by casting parallel rays through the volume, without a graphics library. The mask is smoothed
slightly, so that voxels do not show as stairs. Each of its voxels stays above the level of the surface, so nothing that
was predicted vanishes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from textwrap import wrap
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import (
    affine_transform,
    binary_erosion,
    distance_transform_edt,
    find_objects,
    gaussian_filter,
    map_coordinates,
)

from mttu.figures import style

LEVEL = 0.5
_SMOOTHING, _SMOOTHING_OF_LIGHT = 0.7, 1.3
"""Widths of the smoothing, in voxels."""
_LEAST_INSIDE = 0.75
"""Value of a voxel at a flat surface after smoothing; thinner parts are raised to it, so that rays meet them."""
_LIGHT = np.array([-0.35, 0.45, 0.82])
"""Towards the lamp, in the camera's axes: right, up, towards the viewer."""


@dataclass(frozen=True)
class View:
    """Direction from which a volume in LPS order is seen, from far away."""

    azimuth_deg: float = 40.0
    """0 from the front, 90 from the patient's left."""
    elevation_deg: float = 20.0
    """90 from above."""

    @cached_property
    def axes(self) -> NDArray[np.float64]:
        """Camera's axes as rows, in LPS: right, up, towards the viewer."""
        azimuth, elevation = np.deg2rad(self.azimuth_deg), np.deg2rad(self.elevation_deg)
        sine, cosine, level = np.sin(azimuth), np.cos(azimuth), np.cos(elevation)
        towards, right = np.array([sine * level, -cosine * level, np.sin(elevation)]), np.array([cosine, sine, 0.0])
        return np.stack([right, np.cross(towards, right), towards])


@dataclass(frozen=True)
class Frame:
    """The part of space that a picture shows, common to all masks that are compared."""

    centre_mm: NDArray[np.float64]
    """Middle of the picture, from the first voxel's centre."""
    half_mm: NDArray[np.float64]
    """Half of its width, height and depth."""
    pixel_mm: float


@dataclass(frozen=True)
class Hits:
    """Where each pixel's ray meets the surface first."""

    found: NDArray[np.bool_]
    """(rows, columns), the first row on top."""
    indices: NDArray[np.float64]
    """(3, rows, columns), voxel coordinates of the point; undefined where nothing was found."""


def frame_masks(
    masks: list[NDArray[np.bool_]], spacing_mm: tuple[float, float, float], view: View, pixels: int
) -> Frame:
    """A frame around all masks, `pixels` wide or high. At least one mask has a voxel."""
    seen = np.argwhere(np.logical_or.reduce(masks)) * spacing_mm @ view.axes.T
    low, high = seen.min(axis=0), seen.max(axis=0)
    half = (high - low) / 2 + 2.5 * max(spacing_mm)
    return Frame((low + high) / 2 @ view.axes, half, float(2 * half[:2].max() / pixels))


def soften(mask: NDArray[np.bool_], scale: float = 1.0) -> NDArray[np.float32]:
    """The mask smoothed over `scale` times the usual width; each of its voxels stays above `LEVEL`."""
    soft = gaussian_filter(mask.astype(np.float32), scale * _SMOOTHING)
    return np.asarray(np.maximum(soft, mask * np.float32(_LEAST_INSIDE)))


def cast_rays(mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float], view: View, frame: Frame) -> Hits:
    """First point of the surface of a mask, (H, W, D) in LPS order, on each ray, to a fraction of a voxel."""
    soft = soften(mask)
    step_mm = 0.5 * min(spacing_mm)
    columns, rows = (int(np.ceil(2 * half / frame.pixel_mm)) for half in frame.half_mm[:2])
    depths = int(np.ceil(2 * frame.half_mm[2] / step_mm)) + 1
    right, up, towards = view.axes / spacing_mm
    matrix = np.stack([-up * frame.pixel_mm, right * frame.pixel_mm, -towards * step_mm], axis=1)
    start = frame.centre_mm / spacing_mm - matrix @ (np.array([rows, columns, depths]) - 1) / 2
    samples = affine_transform(soft, matrix, start, (rows, columns, depths), order=1)
    inside = samples >= LEVEL
    found, first = inside.any(axis=2), inside.argmax(axis=2)
    after = np.take_along_axis(samples, first[..., None], axis=2)[..., 0]
    before = np.take_along_axis(samples, np.maximum(first - 1, 0)[..., None], axis=2)[..., 0]
    back = (after - LEVEL) / np.maximum(after - before, 1e-6)
    depth = np.where(found, first - np.clip(back, 0.0, 1.0), 0.0)
    row, column = np.mgrid[:rows, :columns]
    indices = np.einsum("ij,jrc->irc", matrix, np.stack([row, column, depth])) + start[:, None, None]
    return Hits(found, indices)


def shade(
    mask: NDArray[np.bool_], spacing_mm: tuple[float, float, float], view: View, hits: Hits
) -> NDArray[np.float64]:
    """Brightness in [0, 1] of each pixel, (rows, columns), lit by one lamp beside the viewer."""
    soft = gaussian_filter(mask.astype(np.float32), _SMOOTHING_OF_LIGHT)
    slopes = [map_coordinates(slope, hits.indices, order=1) for slope in np.gradient(soft, *spacing_mm)]
    outwards = -np.einsum("ij,jrc->irc", view.axes, np.stack(slopes))
    length = np.maximum(np.linalg.norm(outwards, axis=0), 1e-9)
    lit = np.einsum("i,irc->rc", _LIGHT / np.linalg.norm(_LIGHT), outwards / length)
    return np.asarray(0.5 + 0.5 * np.clip(lit, 0.0, 1.0))


def find_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels of the mask with a face towards the outside; the volume's edge is outside."""
    return np.asarray(mask & ~binary_erosion(mask))


def measure_distances(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], sampling: tuple[float, float, float]
) -> NDArray[np.float64]:
    """Distance of each border voxel of `predicted` to the nearest border voxel of `truth`.

    Args:
        predicted: (H, W, D), not empty.
        truth: (H, W, D), not empty.
        sampling: Length of a voxel on each axis, in the unit of the result.

    Returns:
        (H, W, D): a voxel that is not on the border has the value of the nearest one that is.
    """
    to_truth = distance_transform_edt(~find_border(truth), sampling=sampling)
    border = find_border(predicted)
    nearest = distance_transform_edt(~border, sampling=sampling, return_distances=False, return_indices=True)
    return np.asarray(to_truth[tuple(nearest)])


COLOUR_MAP = "viridis_r"
_COLUMNS = 4
_MARGIN = 3
_PANEL_IN, _LINE_IN, _LETTERS_PER_INCH = 1.85, 0.15, 12.0
"""Height of a panel with its texts and of a line of a case's title, in inches; letters of the latter that fit."""
_PLURAL = {"voxel": "voxels", "mm": "mm"}


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
        cases: Each starts a new row, below its title.
        unit: Unit of the distance. The paper's is the voxel.
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
        return style.draw_nothing("no cases")
    columns = max(1, *(min(_COLUMNS, len(case.predictions)) for case in cases))
    heights = [max(1, -(-len(case.predictions) // columns)) for case in cases]
    width = min(style.PAGE_WIDTH_IN, max(style.COLUMN_WIDTH_IN, 1.75 * columns + 0.3))
    titles = [wrap(" ".join(case.title.split()), int(width * _LETTERS_PER_INCH)) for case in cases]
    tops = [_LINE_IN * len(lines) + 0.06 for lines in titles]
    figure = style.new_figure(width, _PANEL_IN * sum(heights) + sum(tops) + 0.75, dense=True)
    ratios = [part for top, height in zip(tops, heights, strict=True) for part in (top, *[_PANEL_IN] * height)]
    grid = figure.add_gridspec(len(ratios), columns, height_ratios=ratios)
    norm = Normalize(0.0, largest)
    row, headers = 0, []
    place: list[Axes] = []
    for case, lines, height in zip(cases, titles, heights, strict=True):
        headers.append((grid[row, :], "\n".join(lines)))
        rows = range(row + 1, row + 1 + height)
        panels = [figure.add_subplot(grid[one, column]) for one in rows for column in range(columns)]
        for axes in panels:
            axes.set_axis_off()
        _draw_case(panels, _crop(case), unit, norm, view, pixels)
        row, place = row + 1 + height, [*place, *panels]
    for span, title in headers:
        axes = figure.add_subplot(span)
        axes.set_axis_off()
        axes.text(0.0, 0.5, title, ha="left", va="center", fontsize=style.TITLE_SIZE, weight="bold")
        place.append(axes)
    scale = ScalarMappable(norm, COLOUR_MAP)
    bar = figure.colorbar(scale, ax=place, location="bottom", extend="max", aspect=60, shrink=0.7)
    bar.set_label(f"distance of the predicted to the true surface ({_PLURAL[unit]})", fontsize=style.LABEL_SIZE)
    bar.ax.tick_params(labelsize=style.NOTE_SIZE, width=0.6, length=2.5)
    seen = f"Seen from {view.azimuth_deg:g}° left of the front and {view.elevation_deg:g}° above."
    style.add_note(figure, [f"{seen} Line: outline of the true mask. Numbers: over voxels of the predicted surface."])
    return figure


def _crop(case: SurfaceCase) -> SurfaceCase:
    """The box around all masks with a margin, so that rays cross little empty space."""
    inside = np.logical_or.reduce([case.truth, *case.predictions.values()])
    (box,) = find_objects(inside.astype(np.uint8), 1)
    if box is None:
        return case
    predictions = {system: np.pad(mask[box], _MARGIN) for system, mask in case.predictions.items()}
    return replace(case, truth=np.pad(case.truth[box], _MARGIN), predictions=predictions)


def _draw_case(
    panels: Sequence[Axes], case: SurfaceCase, unit: Literal["voxel", "mm"], norm: Normalize, view: View, pixels: int
) -> None:
    masks = [case.truth, *case.predictions.values()]
    if not any(mask.any() for mask in masks):
        style.say(panels[0], "no tumour in truth\nand predictions")
        return
    if not case.predictions:
        style.say(panels[0], "no predictions")
        return
    frame = frame_masks(masks, case.spacing_mm, view, pixels)
    outline = cast_rays(case.truth, case.spacing_mm, view, frame).found
    for axes, (system, mask) in zip(panels, case.predictions.items(), strict=False):
        axes.set_title(system, fontsize=style.LABEL_SIZE, pad=2)
        _draw_surface(axes, mask, case, unit, norm, view, frame)
        if outline.any():
            axes.contour(outline, levels=[0.5], colors=style.BLACK, linewidths=0.7)
        axes.set_aspect("equal", adjustable="datalim")  # a panel of fixed size: its texts have their place
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
        said = f"mean {at_surface.mean():.1f}, largest {at_surface.max():.1f} {_PLURAL[unit]}"
    axes.imshow(picture, interpolation="bilinear")
    place: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "top"}
    axes.text(0.5, -0.02, said, fontsize=style.NOTE_SIZE, color=style.DARK_GREY, **place)


def _draw_scale_bar(axes: Axes, frame: Frame) -> None:
    """At the lower left, at most half as long as the picture is wide."""
    rows = axes.get_ylim()[0]
    length_mm = next((length for length in (20, 10, 5, 2) if length <= frame.half_mm[0]), 1)
    length = length_mm / frame.pixel_mm
    look: dict[str, Any] = {"color": style.BLACK, "linewidth": 1.5, "solid_capstyle": "butt", "clip_on": False}
    axes.plot([0, length], [0.97 * rows, 0.97 * rows], scalex=False, scaley=False, **look)
    axes.text(length / 2, 0.95 * rows, f"{length_mm} mm", ha="center", va="bottom", fontsize=style.NOTE_SIZE - 1)
