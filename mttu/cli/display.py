"""What a person sees while work goes on: a progress bar on a terminal, plain lines in a log."""

import logging
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from mttu.cli.output import is_quiet
from mttu.config import Config
from mttu.errors import mask_secrets
from mttu.search.presets import preset

_KINDS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
"""Unicode categories that act on a terminal or are invisible: control, format, surrogate, private and unassigned
characters, and separators; of blanks, only the plain one is let through."""
_UNSEEN = {
    *map(ord, "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"),
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
}
"""Invisible characters of other categories: joiners, fillers, inherent vowels, variation selectors (Unicode's
Default_Ignorable_Code_Point), and the blank Braille pattern."""


class _Spelt(dict[int, str]):
    """Maps each character to how it is shown."""

    def __init__(self, left: str = " ") -> None:
        super().__init__()
        self.left = left

    def __missing__(self, code: int) -> str:
        sign = chr(code)
        acts = (unicodedata.category(sign) in _KINDS or code in _UNSEEN) and sign not in self.left
        self[code] = sign.encode("unicode_escape").decode() if acts else sign
        return self[code]


_IN_LINES, _IN_A_LINE = _Spelt(" \n\t"), _Spelt()


def name_controls(text: str) -> str:
    r"""A text with its control characters spelt out, because a terminal would obey them: `\x1b` and the like.

    So are characters that change the direction of writing or are invisible, which make different ids look alike. Line
    breaks and tabs stay.
    """
    return text.translate(_IN_LINES)


def name_breaks(text: str) -> str:
    r"""As `name_controls`, with `\n` and `\t` spelt out too: a sentence on one line, whatever names it contains."""
    return text.translate(_IN_A_LINE)


def _keep_in_a_line(shown: Any) -> Any:
    if isinstance(shown, str):
        return name_breaks(shown)
    if isinstance(shown, Text):
        return Text(name_breaks(shown.plain), style=shown.style) if set(shown.plain) & set("\n\t") else shown
    if isinstance(shown, Table):
        for column in shown.columns:
            column._cells = [_keep_in_a_line(cell) for cell in column._cells]
    return shown


class _PlainConsole(Console):
    """Prints without markup, and spells out characters in names of files and folders that would act on the terminal.

    Each printed text, and each cell of a table, is one line: a line break can only come from a name.
    """

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, soft_wrap=True)
        self._width = None  # COLUMNS counts when something is printed, not when this module is imported

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints sentences and tables."""
        super().print(*map(_keep_in_a_line, objects), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=name_controls(segment.text))


console = _PlainConsole()
errors = _PlainConsole(stderr=True)

Advance = Callable[[int, str], None]
SHOWN = {
    "train/loss": "loss",
    "val/dice": "Dice",
    "val/idh_ce": "IDH CE",
    "val/idh_auc": "IDH AUC",
    "val/score": "score",
}
PROPOSED_CROPS = 0.33
"""Share of crops around tumour that is proposed where a class is never predicted: a third, rounded."""


class _Shown(logging.Handler):
    """Prints the package's own log messages, such as that it waits for a server; with `--quiet` only warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints it above any progress bar."""
        if not is_quiet() or record.levelno >= logging.WARNING:
            console.print(mask_secrets(record.getMessage()))


def show_log() -> None:
    """Prints what `mttu` logs from now on; safe to call again."""
    logger = logging.getLogger("mttu")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Shown) for handler in logger.handlers):
        logger.addHandler(_Shown())


def tell(sentence: str) -> None:
    """Prints a note."""
    console.print(f"note: {sentence}")


def tell_failures(failures: Iterable[tuple[str, str]]) -> int:
    """Prints cases and why they have no result on standard error; returns their number."""
    failed = list(failures)
    for case_id, reason in failed:
        errors.print(f"{case_id}: {reason}")
    return len(failed)


def new_table(columns: Iterable[str], no_wrap: bool = False, **options: Any) -> Table:
    """A table for results, its columns aligned on the right; options as of `rich.table.Table`."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", **options)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=no_wrap)
    return table


def show_table(table: Table) -> None:
    """Prints a table as wide as the terminal, 80 columns in a file. It is wrapped between words and never cut.

    Where that is not enough its columns are printed in parts, one below the other, each with the first column.
    """
    table.box, table.pad_edge, table.title_justify, table.caption_justify = box.SIMPLE_HEAD, False, "left", "left"
    parts = _divide(table)
    for number, part in enumerate(parts):
        part.title = table.title if number == 0 else None
        part.caption = table.caption if number == len(parts) - 1 else None
        console.print(part, soft_wrap=False)


def _divide(table: Table) -> list[Table]:
    """Tables that each fit the console, of the first column and as many others as there is room for."""
    first, *others = table.columns
    if not others:
        return [table]
    parts: list[list[Column]] = []
    for column in others:
        if parts and _fits(_take(table, [first, *parts[-1], column])):
            parts[-1].append(column)
        else:
            parts.append([column])
    return [_take(table, [first, *part]) for part in parts]


def _take(table: Table, columns: Sequence[Column]) -> Table:
    part = copy(table)
    part.columns = [replace(column, _index=index) for index, column in enumerate(columns)]
    part.title = part.caption = None
    return part


def _fits(table: Table) -> bool:
    unbounded = console.options.update(width=10_000)  # else the measure is never more than what there is
    return Measurement.get(console, unbounded, table).minimum <= console.width


def make_columns(*before_text: ProgressColumn) -> tuple[ProgressColumn, ...]:
    """Columns of a bar: what, how far, for how long, what else is given, and the newest text."""
    title, text = (TextColumn(f"{{task.{name}}}", markup=False) for name in ("description", "fields[text]"))
    return title, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), *before_text, text


@contextmanager
def show_progress(title: str, total: int) -> Iterator[Advance]:
    """Yields a function to call with the number of units done and a text about the newest.

    Args:
        title: What is being done.
        total: Units in all.
    """
    if is_quiet():
        yield lambda done, text: None
        return
    if not console.is_terminal:

        def write_line(done: int, text: str) -> None:
            console.print(f"{title} {done}/{total} {text}".rstrip())

        yield write_line
        return
    columns = make_columns(TimeRemainingColumn())
    # rich's default estimates from the last 30 s, which is shorter than a long epoch or case
    with Progress(*columns, console=console, speed_estimate_period=math.inf) as progress:
        bar = progress.add_task(name_breaks(title), total=total, text="")

        def move_bar(done: int, text: str) -> None:
            progress.update(bar, completed=done, text=name_breaks(text))

        yield move_bar


def summarise_epoch(metrics: Mapping[str, float]) -> str:
    """The most important metrics of an epoch, in one line."""
    return "  ".join(f"{label} {metrics[name]:.4f}" for name, label in SHOWN.items() if name in metrics)


def describe_absences(metrics: Mapping[str, float], settings: Config, number: int = 0) -> list[str]:
    """A sentence for each class that is in training masks but in no validation prediction, with what to try.

    Args:
        metrics: Metrics of an epoch; an epoch without validation gives no sentence.
        settings: Settings of the training; what they already contain is not proposed.
        number: Round of a self-training, where rounds after 0 may have their own number of epochs.
    """
    from mttu.data.absent_classes import read_absences  # NumPy, which `--help` can do without

    robust = preset("robust")
    loss = settings.loss.segmentation == "dice"
    crops = settings.augment.foreground_crop_probability < PROPOSED_CROPS
    later = settings.self_training.epochs if number else None
    epochs = f"train.epochs is {settings.train.epochs}" if later is None else f"self_training.epochs is {later}"
    cures = [
        *(["loss.segmentation=dice_ce"] if loss else []),
        *([f"augment.foreground_crop_probability={PROPOSED_CROPS}"] if crops else []),
        *(["--preset robust (it sets both)"] if loss and crops and settings.network == robust.network else []),
        f"more steps ({epochs})",
    ]
    sentences = []
    for absence in read_absences(metrics) or []:
        doubt = (
            f"{absence.in_masks} validation masks hold it"
            if absence.in_masks
            else "no validation mask holds it, so validation cannot tell whether that is wrong"
        )
        sentences.append(
            f"class {absence.title} is in training masks and, since epoch {absence.since}, in no prediction for a "
            f"validation case ({doubt}); if it stays so, start anew under another output.name with "
            f"{', or '.join(cures)}"
        )
    return sentences


def tell_absences(metrics: Mapping[str, float], settings: Config, place: str = "", number: int = 0) -> None:
    """Prints what `describe_absences` says, after the place, such as a fold."""
    for sentence in describe_absences(metrics, settings, number):
        console.print(f"{place}{sentence}")
