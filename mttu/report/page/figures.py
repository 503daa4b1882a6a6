"""Figures as they travel inside a page: SVG of matplotlib, or PNG where that is smaller."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.figure import Figure

from mttu.figures.curves import draw_curves
from mttu.figures.estimates import Estimate
from mttu.figures.reliability import Reliability, ReliabilityBin, draw_reliability
from mttu.metrics.calibration import measure_calibration_error, tabulate_reliability
from mttu.metrics.empty_masks import explain_dice
from mttu.report.files import draw_pictures
from mttu.report.page.inputs import ShownEvaluation
from mttu.report.page.runs import ShownRun
from mttu.self_training.tracking import PANELS, draw_summary

_LARGEST_SVG = 400_000
"""Bytes; a figure of more points is a PNG."""
_PNG_DPI = 150
_EVALUATED: Mapping[str, tuple[str, str]] = {
    "roc": ("ROC curves of the IDH classifier", "the AUC is in the table of IDH scores"),
    "reliability": ("Reliability of the IDH probability", "its calibration errors are in the table of calibration"),
    "segmentation": ("Dice and HD95 of every case by region", "means and quartiles are in the table of segmentation"),
}


@dataclass(frozen=True)
class Picture:
    """One `<img>`."""

    uri: str
    """`data:`, the picture itself."""
    alt: str
    """What it shows, for a reader who does not see it."""
    caption: str
    kind: str = "figure"
    """figure: dark on white, which a dark page turns round; photo: stays as it is."""


def embed(figure: Figure, caption: str, alt: str, kind: str = "figure") -> Picture:
    """A figure as a picture; photos, and figures that are large as SVG, as PNG."""
    if kind == "figure":
        svg = _save(figure, "svg")
        if len(svg) <= _LARGEST_SVG:
            return Picture(_to_uri("image/svg+xml", svg), alt, caption)
    return Picture(_to_uri("image/png", _save(figure, "png")), alt, caption, kind)


def _save(figure: Figure, kind: str) -> bytes:
    """The figure's bytes, the same for the same figure."""
    metadata = {"Date": None} if kind == "svg" else {}
    with rc_context({"svg.hashsalt": "mttu"}), io.BytesIO() as file:
        figure.savefig(file, format=kind, dpi=_PNG_DPI, metadata=metadata)
        return file.getvalue()


def _to_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def draw_run_curves(run: ShownRun) -> list[Picture]:
    """Learning curves of the training, or of each round."""
    pictures = []
    for title, history in run.histories.items():
        if not history:
            continue
        remarks = [explain_dice(run.config.metrics)] if any("val/dice" in row for row in history) else []
        caption = f"Learning curves of {title}, {run.name}"
        last = ", ".join(_describe_last(history, name) for name in ("train/loss", "val/dice", "val/idh_auc"))
        alt = f"{caption}: losses and validation scores over {len(history)} epochs; at the end {last}."
        pictures.append(embed(draw_curves(history, remarks), caption, alt))
    return pictures


def _describe_last(history: Sequence[Mapping[str, float]], name: str) -> str:
    values = [row[name] for row in history if name in row]
    return f"{name} {values[-1]:.3f}" if values else f"{name} not measured"


def draw_run_rounds(run: ShownRun) -> Picture | None:
    """Fig. 6 of a self-training; None for a training."""
    if not run.is_self_training or run.chosen_round is None:
        return None
    figure = draw_summary(run.rounds, run.settings.selection.method, run.chosen_round, run.config.metrics)
    caption = f"Rounds of {run.name} (Fig. 6)"
    shown = ", ".join(PANELS.values())
    alt = f"{caption}: {shown} and counts of pseudo-labels over {len(run.rounds)} rounds; numbers are in the table."
    return embed(figure, caption, alt)


def draw_run_reliability(run: ShownRun) -> Picture | None:
    """Reliability on the val cases; None where the run kept no predictions for them."""
    if not run.held_out:
        return None
    probabilities = [row.mutant_probability for row in run.held_out]
    idh = [row.idh for row in run.held_out]
    error = measure_calibration_error(probabilities, idh, [row.case_id for row in run.held_out], num_resamples=500)
    bins = [
        ReliabilityBin(
            bar.low,
            bar.high,
            bar.num_cases,
            bar.mean_confidence,
            Estimate(bar.accuracy.estimate, bar.accuracy.low, bar.accuracy.high),
        )
        for bar in tabulate_reliability(probabilities, idh)
    ]
    ece = Estimate(error.ece, error.interval.low, error.interval.high)
    caption = f"Reliability of {run.name} on {len(idh)} val cases, which chose its epoch"
    told = "not defined" if error.ece is None else f"{error.ece:.3f}"
    return embed(draw_reliability([Reliability("val", bins, ece)]), caption, f"{caption}: expected error {told}.")


def draw_evaluation(evaluation: ShownEvaluation) -> list[Picture]:
    """The figures of an evaluation, as `mttu evaluate` draws them."""
    figures = draw_pictures(evaluation.region_rows, evaluation.idh_rows, evaluation.summary)
    return [
        embed(figure, f"{_EVALUATED[name][0]}, {evaluation.name}", f"{_EVALUATED[name][0]}: {_EVALUATED[name][1]}.")
        for name, figure in figures.items()
    ]
