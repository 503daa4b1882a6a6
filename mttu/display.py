"""What a person sees while work goes on: a progress bar on a terminal, plain lines in a log."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)

Advance = Callable[[int, str], None]
SHOWN = {
    "train/loss": "loss",
    "val/dice": "Dice",
    "val/idh_ce": "IDH CE",
    "val/idh_auc": "IDH AUC",
    "val/score": "score",
}


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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[text]}"),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(title, total=total, text="")

        def move_bar(done: int, text: str) -> None:
            progress.update(bar, completed=done, text=text)

        yield move_bar


def summarise_epoch(metrics: Mapping[str, float]) -> str:
    """The few figures of an epoch that fit on a line."""
    return "  ".join(f"{label} {metrics[name]:.4f}" for name, label in SHOWN.items() if name in metrics)
