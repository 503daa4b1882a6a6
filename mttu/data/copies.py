"""One file, or the same voxels, under the names of two cases: one of the two is wrong, or the case is there twice.

Every volume counts, unlike in `mttu.data.fingerprints`, which finds one brain in two images of one modality. Cases
whose images are all the same are one examination under two names: `mttu.data.leakage` tells of them.
"""

import os
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path

from mttu.data.findings import Finding
from mttu.data.layouts import BRAIN_MASK, SEG, FoundCase
from mttu.data.manifest import Case
from mttu.errors import name_some

Digests = Mapping[str, Mapping[str, str]]
"""Case id to role to a hash of the voxels."""
_MOST_NAMED = 3


def find_shared_files(cases: Sequence[Case | FoundCase]) -> list[Finding]:
    """An error for each case that names a file which it, or another case, names in another place too.

    Links count as what they lead to. Files that are not there are left to whatever reads them.

    Args:
        cases: All of them: one that is refused may be the owner of a file that another one should not have.
    """
    users: dict[tuple[int, int], list[tuple[str, str]]] = {}
    own: list[tuple[str, str, Path, tuple[int, int]]] = []
    for case in cases:
        for role, path in _files(case).items():
            try:
                status = path.stat()
            except OSError:
                continue
            file = (status.st_dev, status.st_ino)
            users.setdefault(file, []).append((case.case_id, role))
            own.append((case.case_id, role, path, file))
    found = []
    for case_id, role, path, file in own:
        others = [
            other_role if other == case_id else f"{other_role} of case {other}"
            for other, other_role in users[file]
            if (other, other_role) != (case_id, role)
        ]
        if others:
            text = f"{role} {path.name}: is the file of {name_some(others, _MOST_NAMED)} too; give each its own"
            found.append(Finding("error", case_id, text))
    return found


def _files(case: Case | FoundCase) -> dict[str, Path]:
    return {
        **case.images,
        **{role: path for role, path in {SEG: case.seg, BRAIN_MASK: case.brain_mask}.items() if path},
    }


def share_volumes(digests: Digests) -> bool:
    """Whether any two cases have a volume in common, so that `find_copies` has something to tell."""
    own = [digest for roles in digests.values() for digest in set(roles.values())]
    return len(set(own)) < len(own)


def find_copies(cases: Sequence[Case], named: Sequence[Case], digests: Digests, compared: str) -> list[Finding]:
    """Volumes that have the same voxels in several cases, although the cases' images are not all the same.

    An image or tumour mask of another patient is an error, in both cases: which of them it belongs to is not known.
    Between examinations of one patient it is a warning, and so is a brain mask, which may be an atlas's. Cases that
    only an image makes one patient are two if that image is all that they share. Where a case could be read in part
    alone, and all images that both have are the same, that is a warning too: it may be what an interrupted copy left.
    One file under two names is left to `find_shared_files`.

    Args:
        cases: With one patient id for all that is known to be one patient, images included; those that are refused
            too, for one of them may be the owner of a volume that another one should not have.
        named: The same cases with the patient ids that names alone tell, in the same order.
        digests: Of the volumes that could be read.
        compared: Modality that images are compared by.
    """
    patient = {case.case_id: case.patient_id for case in cases}
    named_patient = {case.case_id: case.patient_id for case in named}
    read = [case for case in cases if case.case_id in digests]
    images = {
        case.case_id: {name: digests[case.case_id][name] for name in case.images if name in digests[case.case_id]}
        for case in read
    }
    files = {case.case_id: _files(case) for case in read}
    holders: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for case in read:
        for role, digest in digests[case.case_id].items():
            kind = role if role in (SEG, BRAIN_MASK) else "image"
            holders.setdefault((kind, digest), []).append((case.case_id, role))

    def is_part(first: str, second: str) -> bool:
        common = images[first].keys() & images[second].keys()
        return bool(common) and all(images[first][name] == images[second][name] for name in common)

    def is_one_patient(first: str, second: str) -> bool:
        if named_patient[first] == named_patient[second]:
            return True
        shared = set(images[first].values()) & set(images[second].values())
        return patient[first] == patient[second] and shared != {images[first].get(compared)}

    found = []
    for case in read:
        for role, digest in digests[case.case_id].items():
            kind = role if role in (SEG, BRAIN_MASK) else "image"
            others = [
                (other, other_role)
                for other, other_role in holders[kind, digest]
                if other != case.case_id
                and not (images[other] and images[other] == images[case.case_id])
                and not _is_one_file(files[case.case_id][role], files[other][other_role])
            ]
            if not others:
                continue
            parts = [is_part(case.case_id, other) for other, _ in others]
            same = kind == BRAIN_MASK or all(
                part or is_one_patient(case.case_id, other) for part, (other, _) in zip(parts, others, strict=True)
            )
            differ = "" if all(parts) else ", while other images differ"
            path = files[case.case_id][role]
            listed = name_some([f"{other_role} of case {other}" for other, other_role in others], _MOST_NAMED)
            advice = "restore the right file, or leave one of the cases out" if not same else "check that it is right"
            text = f"{role} ({path.name}) has the same voxels as {listed}{differ}; {advice}"
            found.append(Finding("warning" if same else "error", case.case_id, text))
    return found


def _is_one_file(first: Path, second: Path) -> bool:
    try:
        return os.path.samefile(first, second)
    except OSError:
        return False


def find_twins(cases: Iterable[Case], digests: Digests) -> list[Finding]:
    """Warnings on cases whose images are all the same: for when nobody compares brains."""
    return [
        Finding("warning", name, f"all images have the same voxels as those of case {group[0]}; it counts twice")
        for group in _group_by_images(cases, digests)
        for name in group[1:]
    ]


def find_twins_left_out(cases: Sequence[Case], left_out: Set[str], digests: Digests) -> list[Finding]:
    """Warnings on cases whose images are all another's, one of the two being left out for something else.

    Of two that are both used, `mttu.data.leakage` tells; of one file in two places, `find_shared_files`.

    Args:
        cases: All of them.
        left_out: Ids of those with errors of their own.
        digests: Of the volumes that could be read.
    """
    whole = {
        case.case_id: case for case in cases if case.images and set(case.images) <= set(digests.get(case.case_id, ()))
    }
    found = []
    for group in _group_by_images(whole.values(), digests):
        for name in group:
            others = [
                f"case {other}{', which has errors of its own' if other in left_out else ''}"
                for other in group
                if other != name
                and not left_out.isdisjoint({name, other})
                and not any(_is_one_file(path, whole[other].images[role]) for role, path in whole[name].images.items())
            ]
            if others:
                listed = name_some(others, _MOST_NAMED)
                text = f"all images have the same voxels as those of {listed}; check whose they are"
                found.append(Finding("warning", name, text))
    return found


def find_same_images(cases: Iterable[Case], digests: Digests) -> list[Finding]:
    """Warnings on every case whose images are all another's, for when each case is looked at by itself."""
    return [
        Finding(
            "warning",
            name,
            f"all images have the same voxels as those of {name_some(others, _MOST_NAMED)}; check whose they are",
        )
        for group in _group_by_images(cases, digests)
        for name in group
        if (others := [f"case {other}" for other in group if other != name])
    ]


def _group_by_images(cases: Iterable[Case], digests: Digests) -> Iterable[list[str]]:
    """Case ids, those together whose images are all the same."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for case in cases:
        if case.case_id in digests:
            images = tuple((name, digests[case.case_id][name]) for name in sorted(case.images))
            groups.setdefault(images, []).append(case.case_id)
    return groups.values()
