"""Findings about the cases of a cohort, merged for people and one per row in a table."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mttu.errors import InputError, name_some
from mttu.files import atomic_file, write_csv_rows

Severity = Literal["error", "warning", "note"]

_COLUMNS = ("severity", "case_id", "finding")


@dataclass(frozen=True)
class Finding:
    """One statement about a case, or about the cohort if `case_id` is empty."""

    severity: Severity
    """error: the case cannot be used; warning: look at it; note: what was decided."""
    case_id: str
    text: str
    """What was found, what is allowed, what to do."""


def to_findings(severity: Severity, sentences: Iterable[str]) -> list[Finding]:
    """Sentences of the form `case A: text` as findings about that case, others as findings about the cohort."""
    findings = []
    for sentence in sentences:
        head, colon, text = sentence.partition(": ")
        if colon and head.startswith("case "):
            findings.append(Finding(severity, head.removeprefix("case "), text))
        else:
            findings.append(Finding(severity, "", sentence))
    return findings


def merge_findings(findings: Sequence[Finding]) -> list[str]:
    """Says once what several cases share: `cases A, B: text`; the order is kept."""
    sharing: dict[str, dict[str, None]] = {}
    for finding in findings:
        names = sharing.setdefault(finding.text, {})
        if finding.case_id:
            names[finding.case_id] = None
    merged = []
    for text, names in sharing.items():
        subject = f"{'cases' if len(names) > 1 else 'case'} {name_some(list(names))}: " if names else ""
        merged.append(subject + text)
    return merged


def check_findings_target(path: Path) -> None:
    """Refuses to write a table of findings over any other file.

    Raises:
        InputError: A folder or another file has this name, or it cannot be read.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder, and the table of findings goes there; move it away")
    if not path.exists():
        return
    head = ",".join(_COLUMNS).encode()
    try:
        with path.open("rb") as file:
            ours = file.read(len(head)) == head
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); allow it, or move it away") from None
    if not ours:
        raise InputError(f"{path}: is there and no table of findings; it would be lost; move it away")


def write_findings(path: Path, findings: Sequence[Finding]) -> None:
    """Writes a CSV with the columns severity, case_id, finding, whole or not at all.

    Raises:
        InputError: See `check_findings_target`.
    """
    check_findings_target(path)
    with atomic_file(path) as partial:
        write_csv_rows(partial, _COLUMNS, ((finding.severity, finding.case_id, finding.text) for finding in findings))
