"""The cases of a cohort before tables are joined: what is asked for, found, named, read and checked."""

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mttu.cohort.copies import SAME_BRAIN, choose_modality, find_shared_files, fingerprint
from mttu.cohort.discovery import discover_folder
from mttu.cohort.id_matching import UNSAFE
from mttu.cohort.label_checks import MaskLook, choose_labels, find_label_suspicions, look_at_mask, note_labels
from mttu.cohort.layouts import LAYOUTS, FoundCase, volume_stem
from mttu.cohort.path_table import read_path_table
from mttu.cohort.suspicions import find_suspicions
from mttu.cohort.synthetic import SyntheticCases
from mttu.cores import count_cores
from mttu.data.file_kinds import explain_refusal
from mttu.data.findings import Finding, to_findings
from mttu.data.labels import CONVENTIONS, IDH_UNKNOWN, find_convention
from mttu.data.manifest import MODALITIES, Case, is_safe_name
from mttu.data.names import is_examination, patient_before_examination, say_nearest
from mttu.data.sources import digest_readable, read_sources
from mttu.errors import InputError, name_groups, name_some, raise_if_any, say_count

OnRead = Callable[[int, int, str], None]
"""Called with the number of cases read, their total, and the id of the newest."""

_MOST_READERS = 4
"""Cases checked at the same time; each holds about 0.2 GB."""
_TABLE_ENDINGS = (".csv", ".tsv", ".txt", ".xlsx", ".xlsm")
_GIVE = "give the folder that holds the case folders, or a CSV file of paths"


@dataclass(frozen=True)
class CohortRequest:
    """What a cohort is to be made of."""

    places: tuple[Path, ...]
    """Folders that hold cases at any depth, or CSV files of paths."""
    clinical: tuple[Path, ...] = ()
    """Tables, see `mttu.cohort.clinical`; rows of other cases are ignored."""
    clinical_format: str | None = None
    """Name of the tables' kind; None: recognised by their columns."""
    layout: str | None = None
    """Name in `mttu.cohort.layouts.LAYOUTS`; None: recognised for each folder."""
    labels: str | None = None
    """Convention of all tumour masks, a name in `mttu.data.labels.CONVENTIONS`; None: what the layout documents.
    Of several layouts, those that document one keep theirs, see `mttu.cohort.label_checks`."""
    modalities: tuple[str, ...] = MODALITIES
    """Channels in order; every case must have them."""
    val_fraction: float = 0.2
    """Share of validation, 0 to below 1."""
    seed: int = 0
    """Seed of the split."""
    follow_ups: bool = False
    """Whether follow-up and post-operative examinations are kept."""
    skip_bad: bool = False
    """Whether cases with errors are left out instead of refusing the cohort."""
    crosswalk: Path | None = None
    """CSV whose rows name one patient under several ids."""
    brats_numbers: bool = True
    """Whether BraTS-GLI-00006-000 counts as the subject of BraTS2021_00006, see `mttu.cohort.leakage`."""
    same_brain: float = SAME_BRAIN
    """Least similarity at which two images count as one brain, see `mttu.cohort.copies`; above 1: never."""
    recipe: Literal["paper"] | None = None
    """The paper's cohort, made of two folders: training, test."""


def check_request(request: CohortRequest) -> None:
    """Refuses arguments that are wrong for any data.

    Raises:
        InputError: Lists every wrong argument.
    """
    problems = []
    if request.labels is not None:
        find_convention(request.labels)
    if not request.places:
        problems.append(f"no folder given; {_GIVE}")
    problems += [f"{place}: {flaw}" for place in request.places if (flaw := _find_flaw(place))]
    unknown = [name for name in request.modalities if name not in MODALITIES]
    if not request.modalities or unknown or len(set(request.modalities)) < len(request.modalities):
        listed = ",".join(request.modalities) or "nothing"
        problems.append(f"modalities: {listed}; expected some of {', '.join(MODALITIES)}, each at most once")
    if not 0 <= request.val_fraction < 1:
        problems.append(f"val_fraction: {request.val_fraction}; expected 0 to below 1")
    if not request.same_brain > 0:
        problems.append(f"same_brain: {request.same_brain}; expected a similarity above 0; above 1 none is found")
    if request.recipe is not None and (len(request.places) != 2 or not request.clinical):
        problems.append(
            f"recipe {request.recipe}: {len(request.places)} folders and {len(request.clinical)} tables given; "
            "expected the training folder, the test folder, and the tables with the IDH status of both"
        )
    raise_if_any(problems)


def _find_flaw(place: Path) -> str | None:
    """Why a place is neither a folder nor a table of paths; None if it is."""
    try:
        mode = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return (
            f"{'is a link to nothing' if place.is_symlink() else 'not found or no folder'}; {_GIVE}{say_nearest(place)}"
        )
    except OSError as error:
        return explain_refusal(error)
    ending = place.suffix.lower()
    if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and ending in _TABLE_ENDINGS):
        return None
    if not stat.S_ISREG(mode):
        return f"is neither a folder nor a file; {_GIVE}"
    if volume_stem(place) is not None:
        return f"is a single volume; {_GIVE}"
    if ending in (".zip", ".tar", ".gz", ".tgz", ".7z"):
        return f"is an archive; unpack it, then {_GIVE}"
    return f"is a file that ends in {ending or 'nothing'}; {_GIVE}"


@dataclass(frozen=True)
class CheckedVolumes:
    """What reading all cases, or one of them, found."""

    findings: list[Finding] = field(default_factory=list)
    """Errors, and warnings on cases that can be read."""
    fingerprints: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    """By case id, of those that can be read."""
    digests: dict[str, Mapping[str, str]] = field(default_factory=dict)
    """By case id, of all volumes that can be read; see `mttu.data.sources.Sources.digests`."""


def find_cases(request: CohortRequest, findings: list[Finding]) -> list[tuple[int, FoundCase]]:
    """All cases of all places with their label conventions, each with the index of its place.

    Later examinations are left out unless they are asked for.

    Raises:
        InputError: See `discover_folder`, `read_path_table` and `choose_labels`; or there are only later examinations.
    """
    found: list[tuple[int, FoundCase]] = []
    for index, place in enumerate(request.places):
        if place.is_dir():
            cases = discover_folder(Path(os.path.abspath(place)), request.layout, request.modalities, findings)
        else:
            cases = read_path_table(place, request.modalities, findings)
        found += [(index, case) for case in cases]
    chosen = choose_labels([case for _, case in found], request.labels)
    found = [(index, case) for (index, _), case in zip(found, chosen, strict=True)]
    later = [case.case_id for _, case in found if _is_later(case)]
    if later and not request.follow_ups:
        one, several = "follow-up or post-operative examination is", "follow-up or post-operative examinations are"
        text = f"{say_count(len(later), one, several)} left out ({name_some(later, 5)})"
        if len(later) == len(found):
            raise InputError(f"{text}, and there are no others; pass --follow-ups to keep them")
        findings.append(Finding("note", "", f"{text}; --follow-ups keeps them"))
        found = [(index, case) for index, case in found if not _is_later(case)]
    findings += note_labels([case for _, case in found], request.labels)
    findings += _note_kinds(request, found)
    return found


def _note_kinds(request: CohortRequest, found: Sequence[tuple[int, FoundCase]]) -> Iterator[Finding]:
    """Number of masks of each kind in a data set, and of cases with each kind of images if there are several."""
    for index, place in enumerate(request.places):
        cases = [case for own, case in found if own == index]
        masks = Counter(kind for case in cases if case.seg is not None and (kind := case.kind_of(case.seg)))
        images = Counter(
            " and ".join(sorted({kind for path in case.images.values() if (kind := case.kind_of(path))}))
            for case in cases
        )
        del images[""]
        if masks:
            yield Finding("note", "", f"{place}: masks by their kind: {_say_kinds(masks)}")
        if len(images) > 1 or any(" and " in kinds for kinds in images):
            yield Finding("note", "", f"{place}: cases by the kind of their images: {_say_kinds(images)}")


def _say_kinds(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))


def _is_later(case: FoundCase) -> bool:
    return case.later or (case.labels or "").startswith("brats2024")  # a data set of treated patients


def name_cases(found: Sequence[FoundCase], findings: list[Finding]) -> tuple[list[Case], list[Case]]:
    """The complete cases as the manifest will name them, and the others with what is known of them.

    An error for each case that is not complete, and for names and files used twice, is added to the findings.
    """
    findings += to_findings("error", [problem for case in found for problem in case.problems])
    others = [_to_case(case) for case in found if case.problems]
    names = Counter(case.case_id for case in found if case.images)  # a folder of other volumes is no second case
    spellings: dict[str, set[str]] = {}
    for name in names:
        spellings.setdefault(name.casefold(), set()).add(name)
    problems: list[str] = []
    cases: list[Case] = []
    for case in found:
        if case.problems:
            continue
        group = others
        if not is_safe_name(case.case_id):
            findings.append(Finding("error", case.case_id, UNSAFE))  # no sentence: a colon in the id would split it
        elif not is_safe_name(case.patient_id):
            problems.append(f"case {case.case_id}: patient {case.patient_id!r}: {UNSAFE}")
        elif case.labels is None and case.seg is not None:
            known = ", ".join(f"{name} ({convention.title})" for name, convention in CONVENTIONS.items())
            problems.append(
                f"case {case.case_id}: file names do not tell what the labels of its mask mean; pass --labels with one "
                f"of {known}"
            )
        else:
            group = cases
        group.append(_to_case(case))
    for name, number in names.items():
        if number > 1:
            places = [_say_place(case) for case in found if case.images and case.case_id == name]
            problems.append(
                f"case {name}: {number} folders or rows have this name ({name_some(places)}); give each one of its "
                "own, or a table of paths with a case_id for each"
            )
    problems += [
        f"case {name}: {' and '.join(sorted(same - {name}))} differs in upper and lower case only, which some file "
        "systems do not tell apart; rename one"
        for same in spellings.values()
        if len(same) > 1
        for name in sorted(same)
    ]
    findings += to_findings("error", problems)
    findings += find_shared_files(found)
    return cases, others


def _say_place(case: FoundCase) -> str:
    """The folder of a case, or an image of one that a table of paths names."""
    return str(case.folder if case.layout in LAYOUTS else next(iter(case.images.values())))


def doubt_patients(found: Sequence[FoundCase], cases: Sequence[Case], told: Collection[str]) -> list[Finding]:
    """Reports cases that count as different patients although their folders or names suggest one patient.

    Args:
        found: All cases that were found.
        cases: Those that are used, with the patient as tables and images give it.
        told: Ids of cases whose patient a table names.
    """
    patients = {case.case_id: case.patient_id for case in cases if case.case_id not in told}
    unsaid = [case for case in found if case.patient_id == case.case_id == patients.get(case.case_id)]
    folders: dict[str, list[str]] = {}
    examined: dict[str, list[str]] = {}
    for case in unsaid:
        patient = patient_before_examination(case.case_id)
        inner = {path.parent for path in case.images.values()} if case.layout not in LAYOUTS else set()
        if case.shared is not None:
            is_named_so = patient is not None or is_examination(case.case_id)
            (examined if is_named_so else folders).setdefault(str(case.shared), []).append(case.case_id)
        elif patient is not None:
            examined.setdefault(patient, []).append(case.case_id)
        elif len(inner) == 1 and is_examination((folder := inner.pop()).name):
            examined.setdefault(str(folder.parent), []).append(case.case_id)
    findings = []
    for groups, one, several in (
        (folders, "folder holds several cases", "folders hold several cases each"),
        (examined, "patient seems to have several cases by name", "patients seem to have several cases by name"),
    ):
        doubted = {name: ids for name, ids in groups.items() if len(ids) > 1}
        is_group = groups is folders and max(map(len, doubted.values()), default=0) == len(unsaid)  # `images`, or so
        if doubted:
            text = (
                f"{say_count(len(doubted), one, several)} ({name_groups(doubted)}), and every case counts as a patient "
                "of its own; where several are one patient's, give a clinical table with a column patient_id"
            )
            findings.append(Finding("note" if is_group else "warning", "", text))
    return findings


def _to_case(found: FoundCase) -> Case:
    return Case(
        case_id=found.case_id,
        patient_id=found.patient_id,
        split="",
        images=found.images,
        seg=found.seg,
        brain_mask=found.brain_mask,
        idh=IDH_UNKNOWN,
        grade=None,
        age=None,
        sex=None,
        labels=found.labels or "brats",
        site=found.site,
        dataset=found.layout,
    )


def check_volumes(
    cases: Sequence[Case],
    others: Sequence[Case],
    modalities: Sequence[str],
    synthetic: SyntheticCases,
    on_case: OnRead | None,
) -> CheckedVolumes:
    """Reads every case.

    Args:
        cases: Complete cases.
        others: Cases that are refused already; their volumes are only compared with those of the complete cases.
        modalities: Channels in order.
        synthetic: Tells which cases are synthetic.
        on_case: See `OnRead`.

    Raises:
        InputError: A marker of synthetic cases is damaged.
    """
    compared = choose_modality(modalities)
    looks: dict[str, MaskLook] = {}

    def read(case: Case) -> CheckedVolumes:
        try:
            sources = read_sources(case, modalities)
        except InputError as error:
            return CheckedVolumes(to_findings("error", error.problems), {}, {case.case_id: digest_readable(case)})
        errors = []
        if sources.seg is not None and not sources.seg.any():
            errors.append(f"case {case.case_id}: seg has no tumour voxel; leave the file away if there is no mask")
        elif sources.seg is not None:
            looks[case.case_id] = look_at_mask(sources.seg)
        voxels = sources.images[modalities.index(compared)]
        suspicions = find_suspicions(case, modalities, sources, case in synthetic)
        return CheckedVolumes(
            [*to_findings("error", errors), *to_findings("warning", suspicions)],
            {case.case_id: fingerprint(voxels, sources.reference.affine, sources.brain)},
            {case.case_id: sources.digests},
        )

    checked = CheckedVolumes()
    with ThreadPoolExecutor(min(_MOST_READERS, count_cores())) as pool:  # unpacking frees the interpreter lock
        for done, (case, one) in enumerate(zip(cases, pool.map(read, cases), strict=True), start=1):
            checked.findings.extend(one.findings)
            checked.fingerprints.update(one.fingerprints)
            checked.digests.update(one.digests)
            if on_case is not None:
                on_case(done, len(cases), case.case_id)
        for case, digests in zip(others, pool.map(digest_readable, others), strict=True):
            checked.digests[case.case_id] = digests
    checked.findings.extend(find_label_suspicions(cases, looks))
    return checked


def to_predict(found: FoundCase) -> Case:
    """A found case as one to predict; its voxels are checked when it is prepared.

    Raises:
        InputError: It is not complete, or its name is not safe.
    """
    raise_if_any(list(found.problems))
    if not is_safe_name(found.case_id):
        raise InputError(f"case {found.case_id!r}: {UNSAFE}")
    return replace(_to_case(found), split="test")
