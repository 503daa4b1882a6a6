"""Feature maps of the levels F1 to F5 in one plane (section III-A.3, Fig. 2)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray

from mttu.figures import style
from mttu.figures.overlay import PLANES, REGION_STYLES, Plane, choose_slices, draw_regions, scale_grey

_CONSTANT = 1e-5
"""A map that varies by less than this share of its level's largest activation is called constant."""

_ROW_TITLE_IN = 0.45
"""Width left to the rows' titles, in inches."""
_TITLE_SIZE, _LETTERS_PER_INCH = style.NOTE_SIZE, 17.5
"""Font size of a row's title in points, and how many of its letters fit."""


@dataclass(frozen=True)
class FeatureCase:
    """One case with its feature maps; volumes in LPS order."""

    title: str
    """E.g. "case-7, IDH mutant"; a line break is kept, and long lines are wrapped."""
    image: NDArray[Any]
    """(H, W, D) of one modality, zero outside of the brain."""
    classes: NDArray[np.uint8] | None
    """(H, W, D), classes 0 to 3; None without a mask."""
    levels: Mapping[str, NDArray[Any]]
    """Level, e.g. "F1", to its maps (C, h, w, d) over the image's field of view, each level on its own grid; or
    (C, h, w), if they are cut along the plane already."""


@dataclass(frozen=True)
class _Map:
    level: str
    subtitle: str
    values: NDArray[np.float64]
    """(h, w) in the plane's axes."""
    largest: float
    """Largest absolute activation of the level."""


def draw_feature_maps(
    cases: Sequence[FeatureCase],
    plane_title: str = "Axial",
    channels: Mapping[str, int] | None = None,
    index: int | None = None,
    modality: str = "FLAIR",
) -> Figure:
    """Fig. 2: image, mask and feature maps; a row per case, a column per level with one colour scale.

    A scale runs from the 1st to the 99th percentile of all cases' maps in its column.

    Args:
        cases: One per row.
        plane_title: Axial, Coronal or Sagittal.
        channels: Level to the channel that is shown, counted from 0. A level without one shows the mean of the
            channels' absolute values; their plain mean says nothing about F5, which a layer norm centres.
        index: Position of the plane on the image's axis; the largest section of the mask if None.
        modality: Name of the image.

    Raises:
        ValueError: Unknown plane.
    """
    plane = next((known for known in PLANES if known.title == plane_title), None)
    if plane is None:
        raise ValueError(f"plane {plane_title!r} is unknown; choose from {[known.title for known in PLANES]}")
    if not cases:
        return style.draw_nothing("no cases")
    names = list(dict.fromkeys(name for case in cases for name in case.levels))
    rows, columns = len(cases), len(names) + 2
    width = min(style.PAGE_WIDTH_IN, max(style.COLUMN_WIDTH_IN, 1.02 * columns + _ROW_TITLE_IN))
    row_in = min(1.0, (width - _ROW_TITLE_IN) / columns) + 0.08
    figure = style.new_figure(width, row_in * rows + 1.2, dense=True)
    panels = figure.subplots(rows + 1, columns, squeeze=False, height_ratios=[*[1.0] * rows, 0.07])
    for axes in panels.ravel():
        axes.set_axis_off()
    places = [_choose_index(case, plane) if index is None else index for case in cases]
    for row, (case, place) in enumerate(zip(cases, places, strict=True)):
        _draw_anatomy(panels[row, 0], panels[row, 1], case, plane, place)
        title = [part for line in case.title.splitlines() for part in wrap(line, int(row_in * _LETTERS_PER_INCH))]
        beside = panels[row, 0].transAxes
        panels[row, 0].text(-0.06, 0.5, "\n".join(title), transform=beside, fontsize=_TITLE_SIZE, **style.ROW_TITLE)
    panels[0, 0].set_title(modality, fontsize=style.TITLE_SIZE)
    panels[0, 1].set_title("mask", fontsize=style.TITLE_SIZE)
    for column, name in enumerate(names, start=2):
        channel = (channels or {}).get(name)
        maps = [_cut(case, name, plane, place, channel) for case, place in zip(cases, places, strict=True)]
        scale = _draw_level(panels[:, column].tolist(), cases, maps, plane, places)
        if scale is not None:
            _draw_scale(figure, panels[-1, column], scale)
    styles = REGION_STYLES.values()
    handles = [Patch(facecolor=(colour, 0.5), edgecolor=colour, label=title) for title, colour in styles]
    figure.legend(handles=handles, ncols=3, **style.LEGEND)
    note = f"{plane.title} planes, {plane.edges[0]} at the left edge, {plane.edges[2]} at the upper one. White line: "
    note += "outline of the mask. Activations in arbitrary units; means are of absolute values."
    style.add_note(figure, [note])
    return figure


def _choose_index(case: FeatureCase, plane: Plane) -> int:
    lesion = np.zeros(case.image.shape, dtype=bool) if case.classes is None else case.classes > 0
    return choose_slices(case.image, lesion)[plane.axis]


def _draw_anatomy(left: Axes, right: Axes, case: FeatureCase, plane: Plane, place: int) -> None:
    grey = np.take(scale_grey(np.asarray(case.image, dtype=np.float32)), place, plane.axis)
    for axes in (left, right):
        axes.imshow(grey.T, cmap="gray", vmin=0.0, vmax=1.0, origin=plane.origin, interpolation="bilinear")
    if case.classes is None:
        style.say(right, "no mask")
    elif not case.classes.any():
        style.say(right, "mask\nis empty")
    else:
        draw_regions(right, np.take(case.classes, place, plane.axis), width_scale=0.6)


def _cut(case: FeatureCase, name: str, plane: Plane, place: int, channel: int | None) -> _Map | None:
    """One level's map in the plane; None where the network has no such level."""
    if name not in case.levels:
        return None
    level = np.asarray(case.levels[name])
    size = " x ".join(str(number) for number in level.shape[1:])
    if len(set(level.shape[1:])) == 1:
        size = f"{level.shape[1]}{'³' if level.ndim == 4 else '²'}"
    if level.ndim == 4:
        length = level.shape[1 + plane.axis]
        level = np.take(level, int((place + 0.5) * length / case.image.shape[plane.axis]), 1 + plane.axis)
    level = level.astype(np.float64)
    values = np.abs(level).mean(axis=0) if channel is None else level[channel]
    shown = f"mean of {level.shape[0]} ch." if channel is None else f"ch. {channel} of {level.shape[0]}"
    return _Map(name, f"{shown}\n{size}", values, float(np.abs(level).max(initial=0.0, where=np.isfinite(level))))


def _draw_level(
    column: Sequence[Axes],
    cases: Sequence[FeatureCase],
    maps: Sequence[_Map | None],
    plane: Plane,
    places: Sequence[int],
) -> ScalarMappable | None:
    """Draws one column; returns what its colour bar shows, None where no map varies."""
    values = np.concatenate([found.values.ravel() for found in maps if found is not None])
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, (1.0, 99.0)).tolist() if values.size else (0.0, 0.0)
    scale = None
    for axes, case, found, place in zip(column, cases, maps, places, strict=False):
        if found is None:
            style.say(axes, "not built")
            continue
        width, height = (case.image.shape[axis] for axis in range(3) if axis != plane.axis)
        edges = (height - 0.5, -0.5) if plane.origin == "upper" else (-0.5, height - 0.5)
        extent, masked = (-0.5, width - 0.5, *edges), np.ma.masked_invalid(found.values.T)
        picture = axes.imshow(
            masked, cmap="viridis", vmin=low, vmax=high, origin=plane.origin, extent=extent, interpolation="bilinear"
        )
        if not np.isfinite(found.values).any():
            style.say(axes, "not a\nnumber")
        elif high - low <= _CONSTANT * found.largest:
            style.say(axes, f"constant\n{low:.3g}")
        else:
            scale = picture
        if case.classes is not None and (outline := np.take(case.classes, place, plane.axis) > 0).any():
            axes.contour(outline.T, levels=[0.5], colors="white", linewidths=0.8)
    title = next(found for found in maps if found is not None)
    column[0].set_title(f"{title.level}\n{title.subtitle}", fontsize=style.NOTE_SIZE)
    return scale


def _draw_scale(figure: Figure, axes: Axes, scale: ScalarMappable) -> None:
    inner = axes.inset_axes((0.07, 0.0, 0.86, 1.0))  # so that the numbers of neighbours stay apart
    bar = figure.colorbar(scale, cax=inner, orientation="horizontal")
    low, high = scale.get_clim()
    bar.set_ticks([low, high], labels=[f"{low:.2g}", f"{high:.2g}"])
    bar.ax.tick_params(labelsize=style.NOTE_SIZE - 1, width=0.5, length=2)
    left, right = bar.ax.get_xticklabels()
    left.set_horizontalalignment("left")
    right.set_horizontalalignment("right")
    bar.outline.set_linewidth(0.5)
