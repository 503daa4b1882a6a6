"""What is in the folders of a cohort but not used: bins, other formats, volumes beside those of a case."""

import glob
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

from mttu.cohort.layouts import LAYOUTS, FoundCase, list_files, name_nearest, volume_stem
from mttu.data.findings import Finding
from mttu.data.manifest import BRAIN_MASK, MODALITIES, SEG
from mttu.errors import name_some, say_count

_BINS = {
    *("#recycle", "$recycle.bin", "recycler", "@recycle", "@eadir", "#snapshot", "~snapshot", "@recently-snapshot"),
    *("lost+found", "__macosx", "system volume information"),
}
"""Bins of Synology, Windows, QNAP, NetApp, Linux and macOS; names that begin with a dot are hidden anyway."""
_LIKE_A_MASK = re.compile(r"seg|mask|label|tumou?r|lesion|roi(?![a-z])|annot|gtv|truth", re.IGNORECASE)
_OF_THE_BRAIN = re.compile(r"brain|skull|parenchyma|tissue", re.IGNORECASE)
_LIKE_BRAIN_MASKS = 0.8
"""Least similarity to the name of a brain mask; a segmentation of the parenchyma has 0.77."""
_MOST_NAMED = 24
_MOST_OPENED = 64
"""Limits the time spent on bins."""


@dataclass
class LeftOut:
    """What a walk through folders skipped."""

    folders: list[Path] = field(default_factory=list)
    """Hidden ones and bins."""
    predictions: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)
    """Hidden NIfTI files."""
    volumes: list[Path] = field(default_factory=list)
    """Images in other formats."""
    dead_links: list[Path] = field(default_factory=list)
    """Links that lead to nothing, or back to themselves."""
    unreadable: dict[Path, str] = field(default_factory=dict)
    """Folders that cannot be listed, each with the reason; these are errors."""


def is_left_out(name: str) -> bool:
    """Whether a folder of this name is hidden, a bin or a snapshot, where no case is looked for."""
    return name.startswith(".") or name.casefold() in _BINS


def describe_skipped(root: Path, left_out: LeftOut) -> list[Finding]:
    """Notes on folders and files below `root` that the walk skipped."""
    notes = []
    for paths, one, several in (
        (left_out.folders, "hidden folder or bin is", "hidden folders and bins are"),
        (left_out.predictions, "folder of predictions is", "folders of predictions are"),
        (left_out.hidden, "hidden NIfTI file is", "hidden NIfTI files are"),
    ):
        if paths:
            inside = [*map(_say_inside, paths[:_MOST_OPENED]), *[""] * len(paths[_MOST_OPENED:])]
            names = name_some([f"{path.relative_to(root)}{held}" for path, held in zip(paths, inside, strict=True)])
            text = f"{root}: {say_count(len(paths), one, several)} left out ({names})"
            notes.append(Finding("note", "", text))
    return notes


def describe_links(root: Path, left_out: LeftOut, cases: Sequence[FoundCase]) -> Iterator[Finding]:
    """A warning on links to nothing that no case names, and a note on images in folders that are named like a file."""
    files = {path: case for case in cases for path in list_files(case).values()}
    dead = [path for path in left_out.dead_links if path not in files]
    if dead:
        named = name_some([f"{path.relative_to(root)} to {os.readlink(path)}" for path in dead])
        count = say_count(len(dead), "link leads to nothing that is there", "links lead to nothing that is there")
        yield Finding("warning", "", f"{root}: {count} ({named}); mount or restore it, or take the links away")
    inner = {path: case for path, case in files.items() if volume_stem(path.parent) and path.is_file()}
    if inner:
        first = next(iter(inner))
        count = say_count(len(inner), "file was", "files were")
        ids = _count([case.case_id for case in inner.values()])
        text = f"{count} taken from folders that are named like a file ({ids}), e.g. {first.relative_to(root)}"
        yield Finding("note", "", f"{root}: {text}")


def _say_inside(place: Path) -> str:
    """Which folders of images lie directly in a bin, among its first entries; nothing for a file."""
    try:
        inner = sorted(islice(place.iterdir(), _MOST_OPENED)) if is_left_out(place.name) and place.is_dir() else []
        held = [
            one.name for one in inner if one.is_dir() and any(map(volume_stem, islice(one.iterdir(), _MOST_OPENED)))
        ]
    except OSError:
        return ""
    return f", which holds {name_some(held)}" if held else ""


def describe_left_out(
    root: Path, left_out: LeftOut, volumes: Sequence[Path], cases: Sequence[FoundCase]
) -> list[Finding]:
    """All of `describe_skipped`, then warnings on possible masks and other formats, and a note on volumes not used.

    Args:
        root: Where the walk began.
        left_out: What it skipped.
        volumes: All NIfTI files that it found.
        cases: Cases of one layout.
    """
    findings = describe_skipped(root, left_out)
    case_of = {case.folder: case for case in cases}
    used = {path for case in cases for path in list_files(case).values()}
    known = {case.folder: _known_places(case) for case in cases}
    unused: dict[str, list[str]] = {}
    elsewhere: list[Path] = []
    candidates: dict[tuple[str, str], list[str]] = {}
    for path in (*volumes, *left_out.volumes):
        case = next((case_of[place] for place in path.parents if place in case_of), None)
        if case is None:
            elsewhere += [] if volume_stem(path) is not None else [path]
        elif path not in used and not any(_lies_at(path, case.folder, place) for place in known[case.folder]):
            name = _name_kind(path, case)
            unused.setdefault(name, []).append(case.case_id)
            if case.seg is None and _may_be_mask(name, path, case):
                candidates.setdefault((case.case_id, SEG), []).append(name)
            if case.brain_mask is None and _may_be_brain_mask(path, case):
                candidates.setdefault((case.case_id, BRAIN_MASK), []).append(name)
    findings += _describe_candidates(cases, candidates)
    if unused:
        listed = name_some([f"{name} ({_count(ids)})" for name, ids in unused.items()], _MOST_NAMED)
        findings.append(Finding("note", "", f"{root}: volumes beside those of the cases are not used: {listed}"))
    beside = {name for case in cases for name in LAYOUTS[case.layout].other_folders}
    skipped = sorted(beside & {place.name for path in volumes for place in path.parents if place.is_relative_to(root)})
    if skipped:
        findings.append(Finding("note", "", f"{root}: folders of other images are not used: {', '.join(skipped)}"))
    folders = list(dict.fromkeys(str(path.parent.relative_to(root)) for path in elsewhere))
    if folders:
        text = (
            f"{root}: {say_count(len(folders), 'folder holds', 'folders hold')} images in formats that are not read, "
            f"and no case ({name_some(folders)}; e.g. {elsewhere[0].name}); convert them to .nii.gz"
        )
        findings.append(Finding("warning", "", text))
    return findings


def _may_be_mask(name: str, path: Path, case: FoundCase) -> bool:
    if _OF_THE_BRAIN.search(name):
        return False
    return bool(_LIKE_A_MASK.search(name) or name_nearest(SEG, case.case_id, LAYOUTS[case.layout], [path.name]))


def _may_be_brain_mask(path: Path, case: FoundCase) -> bool:
    layout = LAYOUTS[case.layout]
    if not layout.brain_mask:
        return False
    return name_nearest(BRAIN_MASK, case.case_id, layout, [path.name], _LIKE_BRAIN_MASKS) is not None


def find_brain_masks(cases: Sequence[FoundCase], volumes: Sequence[Path]) -> list[Finding]:
    """Warnings on volumes that may be the brain mask of a case without one; the cases may be of any layouts."""
    lacking = {case.folder: case for case in cases if case.brain_mask is None and case.layout in LAYOUTS}
    candidates: dict[tuple[str, str], list[str]] = {}
    for path in volumes:
        case = lacking.get(path.parent)
        if case is not None and path not in case.images.values() and _may_be_brain_mask(path, case):
            candidates.setdefault((case.case_id, BRAIN_MASK), []).append(_name_kind(path, case))
    return list(_describe_candidates(cases, candidates))


def _describe_candidates(
    cases: Sequence[FoundCase], candidates: Mapping[tuple[str, str], Sequence[str]]
) -> Iterator[Finding]:
    for role, title in ((SEG, "tumour mask"), (BRAIN_MASK, "brain mask")):
        for case in cases:
            there = candidates.get((case.case_id, role), ())
            if there and not any(f": {role}" in problem for problem in case.problems):
                names = ", ".join(dict.fromkeys(there))
                layout = LAYOUTS[case.layout]
                wanted = (layout.seg if role == SEG else layout.brain_mask)[0].replace("{case}", "<case>")
                text = f"has no {title}, but {names} lies there; if it is the mask, make it {wanted}.nii.gz"
                yield Finding("warning", case.case_id, text)


def _known_places(case: FoundCase) -> set[tuple[str, ...]]:
    """Patterns of paths in the folder of a case, without ending and in lower case, where its layout has files."""
    templates = LAYOUTS[case.layout].templates(MODALITIES, case.case_id)
    own = glob.escape(case.case_id)
    return {tuple(name.replace("{case}", own).casefold().split("/")) for names in templates.values() for name in names}


def _lies_at(path: Path, folder: Path, place: Sequence[str]) -> bool:
    *parents, _ = path.relative_to(folder).parts
    parts = [part.casefold() for part in (*parents, volume_stem(path) or path.name)]
    return len(parts) == len(place) and all(map(fnmatchcase, parts, place))


def _name_kind(path: Path, case: FoundCase) -> str:
    """Path in the folder of its case without the case id, alike for all cases; all slices of a folder are one."""
    name = path.relative_to(case.folder).as_posix()
    if name.lower().endswith(".dcm"):
        name = f"{name.rpartition('/')[0]}/*.dcm".lstrip("/")
    own = rf"(?<![a-z0-9]){re.escape(case.case_id)}(?![a-z0-9])"
    return re.sub(own, "<case>", name, flags=re.IGNORECASE)


def _count(ids: Sequence[str]) -> str:
    unique = list(dict.fromkeys(ids))
    return f"case {unique[0]}" if len(unique) == 1 else f"{len(unique)} cases"
