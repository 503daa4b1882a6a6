"""Which label convention the mask of each found case has: its own, what its layout documents, or what was asked for."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from mttu.data.findings import Finding
from mttu.data.layouts import LAYOUTS, FoundCase
from mttu.errors import InputError, say_count


def choose_labels(found: Sequence[FoundCase], asked: str | None) -> list[FoundCase]:
    """Gives each case its convention; None where nothing tells it.

    What a table of paths says of a case comes first. Cases of one layout then take the convention that was asked for:
    a data set may use another's names. Of a mix of layouts, only the cases take it whose layout documents none; masks
    of a documented layout would be read wrongly.

    Args:
        found: Cases of all places.
        asked: Name in `mttu.data.labels.CONVENTIONS`, or None.

    Raises:
        InputError: A convention was asked for that no case of the mix takes.
    """
    mixed = len({case.layout for case in found if case.layout}) > 1
    chosen = []
    for case in found:
        documented = LAYOUTS[case.layout].labels if case.layout in LAYOUTS else None
        order = (case.labels, documented, asked) if mixed else (case.labels, asked, documented)
        chosen.append(replace(case, labels=next(filter(None, order), None)))
    if mixed and asked is not None and all(case.labels != asked for case in chosen if case.layout):
        raise InputError(
            f"labels {asked}: every layout here documents another convention ({_count_documented(found)}); "
            "leave it out, or give the data set by itself, or as a table of paths with a column labels"
        )
    return chosen


def note_labels(found: Sequence[FoundCase], asked: str | None) -> list[Finding]:
    """What became of the convention that was asked for, if not every case has it.

    Args:
        found: Cases with the convention that `choose_labels` gave them.
        asked: See there.
    """
    kept = [case for case in found if case.labels != asked and case.layout in LAYOUTS and not case.problems]
    taken = [case for case in found if case.labels == asked and not case.problems]
    if asked is None or not kept or not taken:
        return []
    text = (
        f"--labels {asked} is taken for {_count(taken)}; "
        f"the others keep what their layout documents: {_count_documented(kept)}"
    )
    return [Finding("note", "", text)]


def _count(found: Sequence[FoundCase]) -> str:
    counts = Counter(case.layout for case in found)
    return ", ".join(f"{name} ({say_count(number, 'case', 'cases')})" for name, number in sorted(counts.items()))


def _count_documented(found: Sequence[FoundCase]) -> str:
    counts = Counter(case.layout for case in found if case.layout in LAYOUTS)
    listed = (
        f"{name} is {LAYOUTS[name].labels} ({say_count(number, 'case', 'cases')})"
        for name, number in sorted(counts.items())
    )
    return ", ".join(listed)
