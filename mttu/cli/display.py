"""What a person sees while work goes on: a progress bar on a terminal, plain lines in a log."""

import logging
import math
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from mttu.config import Config
from mttu.errors import mask_secrets
from mttu.search.presets import preset

_KINDS = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs"}
"""What acts or is not seen: control and format characters, halves of characters, those of nobody and of private use,
separators of lines and paragraphs, and all blanks but the plain one."""
_UNSEEN = {
    *map(ord, "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"),
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
    *range(0xE0100, 0xE01F0),
}
"""Of other kinds, and not seen either: joiners, fillers, vowels that are left out, variation selectors (Unicode's
Default_Ignorable_Code_Point), and the pattern of no Braille dots."""


class _Spelt(dict[int, str]):
    """What a character is shown as."""

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
    r"""A text with its control characters spelt out, for a terminal would obey them: `\x1b` and the like.

    So are the signs that turn the direction of writing or are not seen, by which one id can look like another. Line
    breaks and tabs stay.
    """
    return text.translate(_IN_LINES)


def name_breaks(text: str) -> str:
    r"""A sentence as one line, whatever names are in it: as `name_controls`, and `\n` and `\t` spelt out, too."""
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
    """Shows what files and folders are called, and does nothing that their names say.

    What is printed is one line, and so is a cell of a table: a line break in it can only be of a name.
    """

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, highlight=False, soft_wrap=True)

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
"""Share of crops around tumour that is proposed where a class is never predicted: a third, as people write it."""


class _Shown(logging.Handler):
    """What the package says of its work while it goes on, such as that it waits for a server."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints it above any progress bar."""
        console.print(mask_secrets(record.getMessage()), markup=False)


def show_log() -> None:
    """Has what `mttu` logs printed, from now on and once."""
    logger = logging.getLogger("mttu")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Shown) for handler in logger.handlers):
        logger.addHandler(_Shown())


def tell(sentence: str) -> None:
    """A sentence that no progress bar overwrites."""
    console.print(f"note: {sentence}", markup=False)


@contextmanager
def show_progress(title: str, total: int) -> Iterator[Advance]:
    """Yields a function that is told how many units are done and what to say about the newest.

    Args:
        title: What is being done.
        total: Units in all.
    """
    if not console.is_terminal:

        def write_line(done: int, text: str) -> None:
            console.print(f"{title} {done}/{total} {text}".rstrip(), markup=False)

        yield write_line
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}", markup=False),
    )
    # by default rich estimates from the last 30 s, in which a long epoch or case does not end, and shows no time left
    with Progress(*columns, console=console, speed_estimate_period=math.inf) as progress:
        bar = progress.add_task(name_breaks(title), total=total, text="")

        def move_bar(done: int, text: str) -> None:
            progress.update(bar, completed=done, text=name_breaks(text))

        yield move_bar


def summarise_epoch(metrics: Mapping[str, float]) -> str:
    """The few figures of an epoch that fit on a line."""
    return "  ".join(f"{label} {metrics[name]:.4f}" for name, label in SHOWN.items() if name in metrics)


def describe_absences(metrics: Mapping[str, float], settings: Config, number: int = 0) -> list[str]:
    """A sentence for each class that training masks hold and no validation prediction does, with what to try.

    Args:
        metrics: Of an epoch; without a validation there is nothing to say.
        settings: Of the training; what they have already is not proposed.
        number: Round of a self-training, whose epochs may be a setting of their own after round 0.
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
        console.print(f"{place}{sentence}", markup=False)
