"""Cases below a folder: the layout recognised or named, every folder of images accounted for."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mttu.data.layouts import LAYOUTS, FoundCase, match_folder, volume_stem
from mttu.errors import InputError, say_count

PREDICTIONS = "predictions.parquet"
"""A folder with this file holds results of `mttu predict`, which are no cases."""

_MOST_NAMED = 3


def walk_folders(root: Path) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Folders at or below `root` in order, each with the NIfTI files directly in it.

    Hidden files and folders and folders of predictions are left out; links to folders are followed, each real folder
    once.
    """
    pending, seen = [root], set()
    while pending:
        folder = pending.pop()
        real = folder.resolve()
        if real in seen:
            continue
        seen.add(real)
        try:
            with os.scandir(folder) as entries:
                visible = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
                folders = [folder / entry.name for entry in visible if entry.is_dir()]
                files = [folder / entry.name for entry in visible if entry.is_file()]
        except OSError as error:
            raise InputError(f"{folder}: cannot be read ({error.strerror}); allow it, or move it away") from None
        if any(file.name == PREDICTIONS for file in files):
            continue
        yield folder, tuple(file for file in files if volume_stem(file) is not None)
        pending.extend(reversed(folders))


def discover_folder(root: Path, layout: str | None, modalities: Sequence[str]) -> list[FoundCase]:
    """Finds the cases of one data set at or below a folder.

    Args:
        root: Absolute folder.
        layout: Name in `LAYOUTS`; None: the one layout that any folder fits.
        modalities: Those that every case needs.

    Returns:
        All cases in the order of their folders, then every folder whose volumes belong to no case as a case that has
        this problem; folders that the data set is known to have beside its cases are left alone.

    Raises:
        InputError: Unknown layout, no case of any layout, or cases of more than one.
    """
    if layout is not None and layout not in LAYOUTS:
        known = ", ".join(f"{name} ({one.title})" for name, one in LAYOUTS.items())
        raise InputError(f"layout {layout!r}: unknown; choose one of {known}")
    folders = list(walk_folders(root))
    names = list(LAYOUTS) if layout is None else [layout]
    cases = {
        name: [case for folder, _ in folders if (case := match_folder(folder, name, modalities))] for name in names
    }
    fitting = [name for name in names if cases[name]]
    if len(fitting) > 1:
        candidates = " or ".join(
            f"{name} ({LAYOUTS[name].title}: {_say_cases(cases[name])}, e.g. {cases[name][0].folder.name})"
            for name in fitting
        )
        raise InputError(
            f"{root}: its names fit {candidates}; pass --layout NAME, or give the data sets as separate folders"
        )
    if not fitting:
        raise InputError(f"{root}: holds no case; {_describe_expected(names)}{_describe_found(folders)}")
    found = cases[fitting[0]]
    return [*found, *_find_strangers(folders, found, fitting[0])]


def discover_any(root: Path, modalities: Sequence[str]) -> list[FoundCase]:
    """Finds all that could be a case at or below a folder, each by itself, whatever its layout.

    Returns:
        Complete cases, and with their problems those that are not or that fit several layouts.
    """
    folders = list(walk_folders(root))
    cases = []
    for folder, _ in folders:
        fitting = [case for name in LAYOUTS if (case := match_folder(folder, name, modalities))]
        if len(fitting) > 1:
            titles = " and ".join(LAYOUTS[case.layout].title for case in fitting)
            problem = f"case {folder.name}: its file names fit {titles}; keep the files of one"
            fitting = [replace(fitting[0], case_id=folder.name, problems=(problem,))]
        cases += fitting
    return [*cases, *_find_strangers(folders, cases, None)]


def _say_cases(cases: Sequence[FoundCase]) -> str:
    return say_count(len(cases), "case", "cases")


def _say_files(files: Sequence[Path]) -> str:
    return say_count(len(files), "NIfTI file", "NIfTI files")


def _describe_expected(names: Sequence[str]) -> str:
    examples = "; ".join(f"{LAYOUTS[name].example} ({LAYOUTS[name].title})" for name in names)
    return f"expected {examples}; for other names give a CSV file of paths"


def _describe_found(folders: Sequence[tuple[Path, tuple[Path, ...]]]) -> str:
    volumes = [file for _, files in folders for file in files]
    if not volumes:
        return "; found no NIfTI file"
    listed = ", ".join(f"{file.parent.name}/{file.name}" for file in volumes[:_MOST_NAMED])
    return f"; found {_say_files(volumes)} ({listed}{', ...' if len(volumes) > _MOST_NAMED else ''})"


def _find_strangers(
    folders: Sequence[tuple[Path, tuple[Path, ...]]], cases: Sequence[FoundCase], layout: str | None
) -> Iterator[FoundCase]:
    root = folders[0][0] if folders else Path()
    known = {case.folder for case in cases}
    beside = {name for case in cases for name in LAYOUTS[case.layout].known_folders}
    used = {path for case in cases for path in (*case.images.values(), case.seg, case.brain_mask) if path}
    own_masks = {path.parent for path in used}
    for folder, files in folders:
        inside_case = any(place in known for place in (folder, *folder.parents))
        is_beside = any(place.name in beside for place in (folder, *folder.parents) if place.is_relative_to(root))
        if files and not inside_case and not is_beside and folder not in own_masks:
            names = ", ".join(file.name for file in files[:_MOST_NAMED]) + (", ..." if len(files) > _MOST_NAMED else "")
            expected = _describe_expected([layout] if layout else list(LAYOUTS))
            problem = (
                f"case {folder.name}: the folder holds {_say_files(files)} ({names}) but no image that is named "
                f"after it; {expected}"
            )
            yield FoundCase(folder.name, folder.name, layout or "", folder, {}, None, None, False, (problem,))
