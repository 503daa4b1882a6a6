"""Cases below a folder: the layout is recognised or named, and every folder of images is a case or reported."""

import errno
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mttu.cohort.layouts import LAYOUTS, OTHER_VOLUMES, FoundCase, list_files, match_folder, volume_stem
from mttu.cohort.left_out import (
    LeftOut,
    describe_left_out,
    describe_links,
    describe_skipped,
    find_brain_masks,
    is_left_out,
)
from mttu.data.findings import Finding
from mttu.data.names import is_examination
from mttu.errors import InputError, name_groups, name_some, say_count

PREDICTIONS = "predictions.parquet"
"""A folder with this file holds results of `mttu predict` and no cases."""

Folders = Sequence[tuple[Path, tuple[Path, ...]]]
"""Folders, each with the NIfTI files directly in it."""

_MOST_NAMED = 3
_MOST_EXAMINATIONS = 30
"""Most examinations of one patient; a folder with more cases, whatever their names, is that of a site or a study."""
_LEAST_IMAGES = 2
"""Least images of a case with bare names, unless fewer are asked for: `atlas/t1.nii.gz` alone is no data set."""


def walk_folders(root: Path, left: LeftOut) -> Iterator[tuple[Path, tuple[Path, ...]]]:
    """Folders at or below `root` in order, each with the NIfTI files directly in it.

    Hidden files and folders, bins and folders of predictions are left out; they are added to `left`, and so is what
    cannot be read. Links to folders are followed, each real folder once.

    Raises:
        InputError: `root` cannot be read.
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
                folders, files = _sort_entries(folder, sorted(entries, key=lambda entry: entry.name), left)
        except OSError as error:
            if folder == root:
                raise InputError(f"{folder}: cannot be read ({error.strerror}); allow it, or move it away") from None
            left.unreadable[folder] = error.strerror or str(error)
            continue
        if any(file.name == PREDICTIONS for file in files):
            left.predictions.append(folder)
            continue
        shown = [file for file in files if not file.name.startswith(".")]
        volumes = tuple(file for file in shown if volume_stem(file) is not None)
        left.hidden += [file for file in files if file not in shown and volume_stem(file) is not None]
        left.volumes += [file for file in shown if file not in volumes and file.name.lower().endswith(OTHER_VOLUMES)]
        yield folder, volumes
        left.folders += [inner for inner in folders if is_left_out(inner.name)]
        pending += [inner for inner in reversed(folders) if not is_left_out(inner.name)]


def _sort_entries(folder: Path, entries: Sequence[os.DirEntry[str]], left: LeftOut) -> tuple[list[Path], list[Path]]:
    """Folders and files in a folder; links that lead to neither are added to what is left out."""
    folders, files = [], []
    for entry in entries:
        path = folder / entry.name
        try:
            if entry.is_dir():
                folders.append(path)
            elif entry.is_file():
                files.append(path)
            elif entry.is_symlink() and not is_left_out(entry.name):
                left.dead_links.append(path)
        except OSError as error:
            if error.errno == errno.ELOOP:
                left.dead_links.append(path)
            elif volume_stem(path) is None:  # volumes are reported with their case
                left.unreadable[path] = error.strerror or str(error)
    return folders, files


def discover_folder(
    root: Path, layout: str | None, modalities: Sequence[str], findings: list[Finding] | None = None
) -> list[FoundCase]:
    """Finds the cases of one data set at or below a folder.

    Args:
        root: Absolute folder.
        layout: Name in `LAYOUTS`; None: the one layout that any folder fits.
        modalities: Modalities that every case needs.
        findings: Gets what was found but is not used.

    Returns:
        All cases in the order of their folders, then every folder whose volumes belong to no case, as a case with this
        problem; folders that the data set is known to have beside its cases are ignored.

    Raises:
        InputError: Unknown layout, no case of any layout, or cases of more than one.
    """
    if layout is not None and layout not in LAYOUTS:
        known = ", ".join(f"{name} ({one.title})" for name, one in LAYOUTS.items())
        raise InputError(f"layout {layout!r}: unknown; choose one of {known}")
    left_out = LeftOut()
    folders = list(walk_folders(root, left_out))
    names = list(LAYOUTS) if layout is None else [layout]
    fitting = _match(folders, names, modalities)
    if len(fitting) == 1:  # other spellings count, too, once the data set is known
        fitting = _match_spelled(folders, list(fitting), modalities, exact=False)
    if len(fitting) > 1:
        candidates = " or ".join(
            f"{name} ({LAYOUTS[name].title}: {say_count(len(cases), 'case', 'cases')}, e.g. {cases[0].folder.name})"
            for name, cases in fitting.items()
        )
        raise InputError(
            f"{root}: its names fit {candidates}; pass --layout NAME, or give the data sets as separate folders"
        )
    if not fitting:
        unread = [f"{folder}: {_say_unreadable(reason)}" for folder, reason in left_out.unreadable.items()]
        volumes = [file for _, files in folders for file in files]
        there = "found no NIfTI file"
        if volumes:
            names_there = _list_first([f"{file.parent.name}/{file.name}" for file in volumes])
            there = f"found {_count_files(volumes)} ({names_there})"
        raise InputError([f"{root}: holds no case; {_describe_expected(names)}; {there}", *unread])
    ((name, found),) = fitting.items()
    notes: list[Finding] = [] if findings is None else findings
    found = _name_cases(root, found, notes)
    notes += describe_left_out(root, left_out, [file for _, files in folders for file in files], found)
    notes += describe_links(root, left_out, found)
    return _add_unreadable([*found, *_find_unmatched(folders, found, name)], left_out)


def _match(folders: Folders, names: Sequence[str], modalities: Sequence[str]) -> dict[str, list[FoundCase]]:
    """Cases by layout, of the layouts that have any.

    The spelling decides, since some layouts differ by it alone. But where no case has all of its images in the exact
    spelling, and one layout has them when case is ignored, it is that one: UPENN-GBM in lower case has three names of
    BraTS. Names that any data set may have count only where no other layout fits, and from two images on.
    """
    own = [name for name in names if not LAYOUTS[name].is_general]
    fitting = _match_best(folders, own, modalities)
    if fitting:
        return fitting
    general = _match_best(folders, [name for name in names if LAYOUTS[name].is_general], modalities)
    least = min(_LEAST_IMAGES, len(modalities))
    return {name: cases for name, cases in general.items() if any(len(case.images) >= least for case in cases)}


def _match_best(folders: Folders, names: Sequence[str], modalities: Sequence[str]) -> dict[str, list[FoundCase]]:
    fitting = _match_spelled(folders, names, modalities, exact=True)
    if _whole(fitting, modalities):
        return fitting
    loose = _match_spelled(folders, names, modalities, exact=False)
    whole = _whole(loose, modalities)
    return {name: loose[name] for name in whole} if len(whole) == 1 else fitting or loose


def _whole(fitting: Mapping[str, Sequence[FoundCase]], modalities: Sequence[str]) -> list[str]:
    """Layouts with a case that has all images."""
    return [name for name, cases in fitting.items() if any(set(case.images) >= set(modalities) for case in cases)]


def _match_spelled(
    folders: Folders, names: Sequence[str], modalities: Sequence[str], exact: bool
) -> dict[str, list[FoundCase]]:
    fitting = {}
    for name in names:
        cases = [case for folder, _ in folders if (case := match_folder(folder, name, modalities, exact))]
        if LAYOUTS[name].is_general:  # a folder inside a case that has all images is no case: `patient_1/raw/t1.nii.gz`
            whole = {case.folder for case in cases if set(case.images) >= set(modalities)}
            cases = [case for case in cases if whole.isdisjoint(case.folder.parents)]
        if cases:
            fitting[name] = cases
    return fitting


def _name_cases(root: Path, cases: Sequence[FoundCase], findings: list[Finding]) -> list[FoundCase]:
    """Gives cases in folders of any name a name and a patient, if the folders above tell them.

    `patient_1/mri` and `patient_2/mri` are patient_1 and patient_2; if a folder contains several cases, its name is put
    before theirs. Cases that are named like examinations are those of the patient that the folder above is named after.
    Names of the `root` of the walk and of folders above it are not used. Notes on what was decided are added.
    """
    general = {case.folder: case.folder for case in cases if LAYOUTS[case.layout].is_general}
    ids = _choose_names(root, general)
    any_folder = [case for case in cases if LAYOUTS[case.layout].takes_any_folder]
    places = {case.folder: general.get(case.folder, case.folder) for case in any_folder}
    patients = _find_patients(root, list(places.values()))
    inside = Counter(place.parent for place in places.values())
    named = []
    for case in cases:
        place = places.get(case.folder)
        if place is None:
            named.append(case)
            continue
        case_id, patient, shared = ids.get(case.folder, case.case_id), patients.get(place), None
        if patient is None and inside[place.parent] > 1:
            doubtful = is_examination(place.name) or (case.folder in general and place.parent != root)
            shared = place.parent if doubtful else None
        problems = tuple(problem.replace(f"case {case.case_id}: ", f"case {case_id}: ", 1) for problem in case.problems)
        named.append(replace(case, case_id=case_id, patient_id=patient or case_id, shared=shared, problems=problems))
    renamed = {folder: name for folder, name in ids.items() if name != folder.name}
    findings += _note_names(root, renamed, patients)
    return named


def _choose_names(root: Path, places: dict[Path, Path]) -> dict[Path, str]:
    """Folder to the name of its case: its own, or, where several have that, one that the folder above gives.

    `places` has the folder that stands for each case, at first its own. It is changed to the folder above if no other
    case is in that, and if other cases have the same folder name.
    """
    while True:
        inside = Counter(place.parent for place in places.values())
        alike: dict[str, list[Path]] = {}
        for folder, place in places.items():
            alike.setdefault(place.name, []).append(folder)
        moving = [
            folder
            for same in alike.values()
            if len(same) > 1
            and all(root in (parent := places[one].parent).parents and inside[parent] == 1 for one in same)
            for folder in same
        ]
        if not moving:
            break
        places.update({folder: places[folder].parent for folder in moving})
    if all(len(same) == 1 for same in alike.values()):
        return {folder: place.name for folder, place in places.items()}
    long = {
        folder: f"{place.parent.name}_{place.name}" if root in place.parent.parents else place.name
        for folder, place in places.items()
    }
    return long if len(set(long.values())) == len(long) else {folder: folder.name for folder in places}


def _find_patients(root: Path, places: Sequence[Path]) -> dict[Path, str]:
    """Folders that are named like examinations, mapped to the patient after whom the folder above them is named."""
    above: dict[Path, list[Path]] = {}
    for place in places:
        parent = place.parent
        while is_examination(parent.name) and root in parent.parent.parents:
            parent = parent.parent
        above.setdefault(parent, []).append(place)
    patients = {
        parent: inner
        for parent, inner in above.items()
        if root in parent.parents
        and len(inner) <= _MOST_EXAMINATIONS
        and all(is_examination(place.name) for place in inner)
    }
    names = Counter(parent.name for parent in patients)
    return {place: parent.name for parent, inner in patients.items() if names[parent.name] == 1 for place in inner}


def _note_names(root: Path, renamed: Mapping[Path, str], patients: Mapping[Path, str]) -> Iterator[Finding]:
    if renamed:
        listed = name_some([f"{folder.relative_to(root)} is {name}" for folder, name in renamed.items()], _MOST_NAMED)
        text = f"named after the folder above, because several folders have one name ({listed})"
        yield Finding("note", "", f"{root}: {say_count(len(renamed), 'case is', 'cases are')} {text}")
    if patients:
        of: dict[str, list[str]] = {}
        for folder, patient in patients.items():
            of.setdefault(patient, []).append(folder.name)
        text = (
            f"named like examinations, and taken as those of {say_count(len(of), 'patient', 'patients')}, whom the "
            f"folder above names ({name_groups(of)}); where that is not so, give a table of paths with patient_id"
        )
        yield Finding("note", "", f"{root}: {say_count(len(patients), 'case is', 'cases are')} {text}")


def discover_any(root: Path, modalities: Sequence[str], findings: list[Finding] | None = None) -> list[FoundCase]:
    """Finds everything that could be a case at or below a folder, each by itself, whatever its layout.

    Args:
        root: Absolute folder.
        modalities: Modalities that every case needs.
        findings: Gets what is left out.

    Returns:
        Complete cases, and with their problems those that are incomplete or fit several layouts.
    """
    left_out = LeftOut()
    folders = list(walk_folders(root, left_out))
    cases: list[FoundCase] = []
    known: set[Path] = set()
    for folder, files in folders:
        is_inside = not known.isdisjoint(folder.parents)
        names = [name for name in LAYOUTS if not is_inside or not LAYOUTS[name].is_general]
        fitting = [case for (case,) in _match([(folder, files)], names, modalities).values()]
        if len(fitting) > 1:
            titles = " and ".join(LAYOUTS[case.layout].title for case in fitting)
            problem = f"case {folder.name}: its file names fit {titles}; keep the files of one"
            fitting = [replace(fitting[0], case_id=folder.name, problems=(problem,))]
        cases += fitting
        known.update(case.folder for case in fitting)
    notes: list[Finding] = [] if findings is None else findings
    cases = _name_cases(root, cases, notes)
    notes += describe_skipped(root, left_out)
    notes += find_brain_masks(cases, [file for _, files in folders for file in files])
    notes += describe_links(root, left_out, cases)
    return _add_unreadable([*cases, *_find_unmatched(folders, cases, None)], left_out)


def _add_unreadable(cases: Sequence[FoundCase], left_out: LeftOut) -> list[FoundCase]:
    """Makes every folder that cannot be read a problem of the case that it is in, or of a new case of its name."""
    found = list(cases)
    for folder, reason in left_out.unreadable.items():
        inside = [index for index, case in enumerate(cases) if case.folder in folder.parents]
        if not inside:
            inside = [len(found)]
            found.append(FoundCase(folder.name, folder.name, "", folder))
        owner = found[inside[-1]]
        problem = f"case {owner.case_id}: {folder}: {_say_unreadable(reason)}"
        found[inside[-1]] = replace(owner, problems=(*owner.problems, problem))
    return found


def _say_unreadable(reason: str) -> str:
    return f"the folder cannot be read ({reason}); allow it, or move it away"


def _count_files(files: Sequence[Path]) -> str:
    return say_count(len(files), "NIfTI file", "NIfTI files")


def _list_first(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", ..." if len(names) > _MOST_NAMED else "")


def _describe_expected(names: Sequence[str]) -> str:
    examples = "; ".join(f"{LAYOUTS[name].example} ({LAYOUTS[name].title})" for name in names)
    return f"expected {examples}; for other names give a CSV file of paths"


def _say_general(folder: Path, layout: str | None) -> str:
    for name, one in LAYOUTS.items():
        if one.is_general and name != layout and match_folder(folder, name, (), exact=False):
            return f"; its files have the names of --layout {name} ({one.title}): give such folders in a place apart"
    return ""


def _find_unmatched(folders: Folders, cases: Sequence[FoundCase], layout: str | None) -> Iterator[FoundCase]:
    """Folders with volumes that belong to no case, as cases with this problem."""
    root = folders[0][0] if folders else Path()
    known = {case.folder for case in cases}
    beside = {name for case in cases for name in LAYOUTS[case.layout].known_folders}
    own_masks = {path.parent for case in cases for path in list_files(case).values()}
    for folder, files in folders:
        inside_case = any(place in known for place in (folder, *folder.parents))
        is_beside = any(place.name in beside for place in (folder, *folder.parents) if place.is_relative_to(root))
        if files and not inside_case and not is_beside and folder not in own_masks:
            names = _list_first([file.name for file in files])
            expected = _describe_expected([layout] if layout else list(LAYOUTS))
            problem = (
                f"case {folder.name}: the folder holds {_count_files(files)} ({names}) but no image that is named "
                f"after it; {expected}{_say_general(folder, layout)}"
            )
            yield FoundCase(folder.name, folder.name, layout or "", folder, problems=(problem,))
