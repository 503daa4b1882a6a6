"""What a figure shows: its texts, and where they lie."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox


def texts(figure: Figure) -> str:
    """Every text of the figure, one per line: titles, labels, annotations, legends, small print."""
    found = [text.get_text() for text in figure.texts]
    found += [figure.get_supxlabel()]
    for legend in [*figure.legends, *(panel.get_legend() for panel in figure.axes)]:
        if legend is not None:
            found += [legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())]
    for panel in figure.axes:
        found += [panel.get_title(), panel.get_xlabel(), panel.get_ylabel()]
        found += [text.get_text() for text in panel.texts]
    return "\n".join(found)


def notes(figure: Figure) -> str:
    """The small print as running text."""
    return figure.get_supxlabel().replace("\n", " ")


def labelled(panel: Axes, label: str) -> tuple[list[float], list[float]]:
    """The data of the line, or of the error bars, with this label."""
    handles, labels = panel.get_legend_handles_labels()
    handle = handles[labels.index(label)]
    line = handle.lines[0] if hasattr(handle, "lines") else handle
    return list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))


def error_bars(panel: Axes, index: int = 0) -> list[tuple[float, float]]:
    """Lower and upper end of each bar of the panel's error bars with this index, in data coordinates."""
    segments = panel.containers[index].lines[2][0].get_segments()
    return [(float(segment[0, 1]), float(segment[1, 1])) for segment in segments if len(segment)]


def find_collisions(figure: Figure) -> list[str]:
    """What sticks out of the page, and legends or small print that lie on something."""
    figure.set_dpi(72)  # faster, and the layout is the same
    figure.draw_without_rendering()
    page = Bbox.from_bounds(-0.02, -0.02, figure.get_figwidth() + 0.04, figure.get_figheight() + 0.04)
    drawn = figure.get_tightbbox()
    problems = []
    if not (page.containsx(drawn.x0) and page.containsx(drawn.x1) and page.containsy(drawn.y0)):
        problems.append(f"sticks out of the page: {drawn.extents.round(2)} of {page.extents.round(2)}")
    if not page.containsy(drawn.y1):
        problems.append(f"sticks out at the top: {drawn.y1:.2f} of {page.y1:.2f}")
    outer = [legend.get_window_extent() for legend in figure.legends]
    if figure.get_supxlabel():
        outer.append(figure._supxlabel.get_window_extent())
    inner = [panel.get_tightbbox() for panel in figure.axes]
    for index, box in enumerate(outer):
        others = [*outer[index + 1 :], *(panel for panel in inner if panel is not None)]
        problems += [
            f"{box.extents.round()} lies on {other.extents.round()}"
            for other in others
            if (shared := Bbox.intersection(box, other)) is not None and min(shared.width, shared.height) > 1.0
        ]
    return problems
