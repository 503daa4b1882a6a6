"""Train, val, unlabelled, test, and the folds of a cross-validation: by patient, stratified by IDH status."""

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from mttu.cohort.clinical_rows import number_groups
from mttu.data.findings import Finding, to_findings
from mttu.data.labels import CLASS_NAMES, IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.data.manifest import Case, Manifest, check_target, write_manifest
from mttu.errors import InputError, collecting, name_some, raise_if_any, say_count
from mttu.files import atomic_folder


def draw_validation(strata: Mapping[str, int], fraction: float, seed: int) -> frozenset[str]:
    """Draws the patients of the validation split (80/20, section V-A).

    Each stratum gives its rounded share, at least one and never all of its patients. A stratum of a single patient
    stays in training: a class that is only validated cannot be learned.

    Args:
        strata: Patient to stratum, e.g. IDH class; their order does not matter.
        fraction: Share of the patients of each stratum, 0 to below 1.
        seed: Seed of the draw.
    """
    drawn: set[str] = set()
    for stratum in sorted(set(strata.values())):
        patients = sorted(patient for patient, own in strata.items() if own == stratum)
        if fraction == 0 or len(patients) < 2:
            continue
        share = min(max(1, round(fraction * len(patients))), len(patients) - 1)
        drawn.update(train_test_split(patients, test_size=share, random_state=seed)[1])
    return frozenset(drawn)


@dataclass(frozen=True)
class _Patient:
    cases: list[Case]

    @property
    def named(self) -> set[str]:
        """Splits that its rows name, unlabelled counted as training: the network sees both."""
        return {{"unlabelled": "train"}.get(case.split, case.split) for case in self.cases if case.split}

    @property
    def known(self) -> set[int]:
        return {case.idh for case in self.cases} - {IDH_UNKNOWN}


def assign_splits(cases: Sequence[Case], val_fraction: float, seed: int) -> list[Case]:
    """Gives every case a split; for the rules see `mttu.cohort.build.build_cohort`.

    Args:
        cases: Each with the split that the clinical table names for it, or an empty one.
        val_fraction: Share of validation.
        seed: Seed of the draw.

    Raises:
        InputError: A patient on two sides or of two IDH classes, or a train or val case with nothing to learn; each
            sentence names one case, so that those can be left out.
    """
    patients: dict[str, _Patient] = {}
    for case in cases:
        patients.setdefault(case.patient_id, _Patient([])).cases.append(case)
    problems = []
    for name, patient in patients.items():
        texts = []
        if len(patient.named) > 1:
            listed = ", ".join(f"{case.case_id} {case.split}" for case in patient.cases if case.split)
            texts.append(f"patient {name} is in several splits ({listed}); a patient belongs to one side only")
        if len(patient.known) > 1:
            listed = ", ".join(
                f"{case.case_id} {CLASS_NAMES[case.idh]}" for case in patient.cases if case.idh in CLASS_NAMES
            )
            texts.append(f"patient {name} is IDH mutant and wild type ({listed}); correct the clinical table")
        problems += [f"case {case.case_id}: {text}" for text in texts for case in patient.cases]
    raise_if_any(problems)
    free = {name: patient for name, patient in patients.items() if not patient.named}
    strata = {name: next(iter(patient.known)) for name, patient in free.items() if patient.known}
    only_segmentation = not strata and len(free) == len(patients)
    if only_segmentation:
        strata = {name: IDH_UNKNOWN for name, patient in free.items() if any(case.seg for case in patient.cases)}
    drawn = draw_validation(strata, val_fraction, seed)
    assigned = []
    for name, patient in patients.items():
        for case in patient.cases:
            split = case.split
            if not split and patient.named:
                split = next(iter(patient.named))
                split = "unlabelled" if split == "train" and case.idh == IDH_UNKNOWN else split
            elif not split and name in drawn:
                split = "val"
            elif not split:
                learns = case.idh != IDH_UNKNOWN or (only_segmentation and case.seg is not None)
                split = "train" if learns else "unlabelled"
            if split in ("train", "val") and case.idh == IDH_UNKNOWN and case.seg is None:
                problems.append(
                    f"case {case.case_id}: is in split {split} but has neither a tumour mask nor an IDH status; "
                    "put it into unlabelled or test"
                )
            assigned.append(replace(case, split=split))
    raise_if_any(problems)
    return assigned


EXPECTED: Mapping[str, int] = {
    "labelled, mutant": 57,
    "labelled, wild type": 91,
    "unlabelled": 221,
    "test, mutant": 32,
    "test, wild type": 38,
}
"""Cases of each kind (Table I)."""


def follow_paper(
    training: Sequence[Case], test: Sequence[Case], row_of: Mapping[str, int], with_crosswalk: bool = False
) -> tuple[list[Case], list[Finding]]:
    """Labelled, unlabelled and test cases as the paper has them.

    Of the training folder every case is used: labelled where its IDH class is known, else unlabelled. Of the second
    folder, which is BraTS 2020's validation set or BraTS 2021, only the cases with a clinical row are used, as test.
    BraTS 2021 contains BraTS 2020: a case whose row is that of a training case is the same patient and is left out.

    Args:
        training: Cases of the first folder, with clinical facts.
        test: Cases of the second folder, with clinical facts.
        row_of: Case id to the number of its clinical row, of the cases that have one.
        with_crosswalk: Whether a crosswalk was given, for the advice.

    Returns:
        The cases with the splits of the recipe, an empty one to be drawn as train or val; and what was found.
    """
    rows = {row_of[case.case_id] for case in training if case.case_id in row_of}
    known = [case for case in test if case.case_id in row_of]
    kept = [case for case in known if row_of[case.case_id] not in rows]
    counts = {
        "labelled, mutant": sum(case.idh == IDH_MUTANT for case in training),
        "labelled, wild type": sum(case.idh == IDH_WILD for case in training),
        "unlabelled": sum(case.idh == IDH_UNKNOWN for case in training),
        "test, mutant": sum(case.idh == IDH_MUTANT for case in kept),
        "test, wild type": sum(case.idh == IDH_WILD for case in kept),
    }
    wrong = [f"{name}: {counts[name]} instead of {want}" for name, want in EXPECTED.items() if counts[name] != want]
    problems, notes = [], []
    if wrong:
        advice = "; give both complete folders and both tables, or leave out --recipe"
        if not kept and with_crosswalk:
            advice = (
                "; no case of the second folder has a clinical row of its own: the crosswalk needs the names of its "
                "cases and those of the test table, one patient in each row"
            )
        elif not kept:
            advice = "; BraTS 2021 has other case names: pass --crosswalk with a table of the BraTS 2020 and 2021 names"
        problems.append(f"this is not the cohort of the paper ({'; '.join(wrong)}){advice}")
    if len(known) < len(test):
        one, several = "case of the second folder has", "cases of the second folder have"
        notes.append(f"{say_count(len(test) - len(known), one, several)} no clinical row: left out")
    if len(kept) < len(known):
        count = say_count(len(known) - len(kept), "case of the second folder is", "cases of the second folder are")
        notes.append(f"{count} in the training folder under another name: left out")
    for name, cases in (("training folder", training), ("test", kept)):
        without = [case.case_id for case in cases if case.seg is None]
        if without:
            text = f"{len(without)} of {len(cases)} cases of the {name} have no tumour mask ({name_some(without, 5)})"
            notes.append(text)
    split = [replace(case, split="" if case.idh != IDH_UNKNOWN else "unlabelled") for case in training]
    split += [replace(case, split="test") for case in kept]
    return split, [*to_findings("error", problems), *to_findings("note", notes)]


GROUPS = ("patient", "site")


def draw_folds(
    manifest: Manifest, folds: int = 5, seed: int = 0, group: str = "patient", exclude_test: bool = False
) -> list[Manifest]:
    """Draws k manifests: in each, another part of the train and val cases is val and the rest is train.

    The draw is by patient and stratified by IDH class; patients with a mask and unknown IDH are a stratum of their
    own. Unlabelled and test cases keep their split, with one exception: the unlabelled cases of a validating patient
    validate, too, or are left out if they have no mask, so that the network does not see the patient in training.

    Args:
        manifest: Its train and val cases are drawn again.
        folds: k, at least 2.
        seed: Seed of the draw; the order of the cases does not matter.
        group: `patient`, or `site`: all patients of a site are in one fold, with strata as even as the sites allow.
            Sites that share a patient are drawn as one. Unlabelled cases are in training regardless of their site.
        exclude_test: Leave the test cases out, so that no later step can look at them.

    Raises:
        InputError: k too small, fewer patients of a class or fewer sites than folds, patients of two IDH classes or on
            two sides, cases without site; lists all problems.
    """
    problems = [f"folds: {folds}; expected 2 or more"] if folds < 2 else []
    problems += [] if group in GROUPS else [f"group {group!r}: unknown; choose one of {', '.join(GROUPS)}"]
    raise_if_any(problems)
    drawn = [case for case in manifest.cases if case.split in ("train", "val")]
    strata, problems = _find_strata(manifest.cases, drawn)
    problems += _find_scarce(strata, folds)
    sites = _group_sites(drawn) if group == "site" else {}
    if group == "site":
        problems += _find_site_problems(drawn, sites, folds)
    raise_if_any(problems)
    fold_of = _assign(strata, folds, seed, sites)
    raise_if_any(_find_poor_folds(strata, fold_of, folds))
    return [_make_fold(manifest, fold_of, fold, exclude_test) for fold in range(folds)]


def _find_strata(cases: Sequence[Case], drawn: Sequence[Case]) -> tuple[dict[str, int], list[str]]:
    """Patient to IDH class, sorted by name, and what forbids the draw."""
    classes: dict[str, set[int]] = {}
    for case in drawn:
        classes.setdefault(case.patient_id, set()).add(case.idh)
    tested = sorted({case.patient_id for case in cases if case.split == "test"} & set(classes))
    problems = [f"patient {name}: has cases in test and in train or val; put all into one split" for name in tested]
    strata = {}
    for name, found in sorted(classes.items()):
        known = found - {IDH_UNKNOWN}
        if len(known) > 1:
            problems.append(f"patient {name}: has cases of IDH mutant and wild type; correct the clinical table")
        strata[name] = max(known, default=IDH_UNKNOWN)
    return strata, problems


def _find_scarce(strata: Mapping[str, int], folds: int) -> list[str]:
    counts = Counter(strata.values())
    if not any(counts[idh] for idh in CLASS_NAMES):  # a cohort for segmentation alone
        number = counts[IDH_UNKNOWN]
        return [] if number >= folds else [f"{number} patients in train and val for {folds} folds; take fewer folds"]
    return [
        f"{counts[idh]} IDH {title} patients in train and val for {folds} folds; "
        + (f"take at most {counts[idh]} folds" if counts[idh] > 1 else "each fold needs one")
        for idh, title in CLASS_NAMES.items()
        if counts[idh] < folds
    ]


def _group_sites(cases: Sequence[Case]) -> dict[str, int]:
    """Patient to a number shared by all patients whose sites are connected, directly or through other patients."""
    row = {name: index for index, name in enumerate(sorted({case.patient_id for case in cases}))}
    sites = sorted({case.site for case in cases if case.site is not None})
    column = {name: len(row) + index for index, name in enumerate(sites)}
    pairs = [(row[case.patient_id], column[case.site]) for case in cases if case.site is not None]
    numbers = number_groups(len(row) + len(column), pairs)
    return {name: numbers[index] for name, index in row.items()}


def _find_site_problems(cases: Sequence[Case], sites: Mapping[str, int], folds: int) -> list[str]:
    without = [case.case_id for case in cases if case.site is None]
    if without:
        return [
            f"cases {name_some(without)}: site unknown ({len(without)} of {len(cases)} in train "
            "and val); name it in the clinical table (column site), or group by patient"
        ]
    groups = len(set(sites.values()))
    if groups >= folds:
        return []
    names = name_some(sorted({case.site for case in cases if case.site}))
    return [f"{groups} separate sites ({names}) for {folds} folds; take at most {groups} folds, or group by patient"]


def _assign(strata: Mapping[str, int], folds: int, seed: int, sites: Mapping[str, int]) -> dict[str, int]:
    """Patient to fold."""
    patients, classes = list(strata), list(strata.values())
    splitter = StratifiedGroupKFold if sites else StratifiedKFold
    groups = [sites[patient] for patient in patients] if sites else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a stratum smaller than k, which is checked where it matters
        parts = list(splitter(folds, shuffle=True, random_state=seed).split(np.zeros(len(classes)), classes, groups))
    return {patients[index]: fold for fold, (_, held_out) in enumerate(parts) for index in held_out.tolist()}


def _find_poor_folds(strata: Mapping[str, int], fold_of: Mapping[str, int], folds: int) -> list[str]:
    """Folds with nothing to validate or without a class to train on, as large sites can cause."""
    problems = []
    for fold in range(folds):
        if fold not in fold_of.values():
            problems.append(f"fold {fold + 1}: gets no patient; take fewer folds, another seed, or group by patient")
        trained = {idh for patient, idh in strata.items() if fold_of[patient] != fold}
        problems += [
            f"fold {fold + 1}: all IDH {title} patients would be in val and none in train, because they are of few "
            "sites; take another seed, or group by patient"
            for idh, title in CLASS_NAMES.items()
            if idh in strata.values() and idh not in trained
        ]
    return problems


def _make_fold(manifest: Manifest, fold_of: Mapping[str, int], fold: int, exclude_test: bool) -> Manifest:
    cases = []
    for case in manifest.cases:
        split: str | None = case.split
        validates = fold_of.get(case.patient_id) == fold
        if split in ("train", "val"):
            split = "val" if validates else "train"
        elif split == "unlabelled" and validates:
            split = "val" if case.seg is not None else None
        elif split == "test" and exclude_test:
            split = None
        if split is not None:
            cases.append(replace(case, split=split))
    return replace(manifest, cases=tuple(cases))


def write_folds(folds: Sequence[Manifest], folder: Path) -> None:
    """Writes `fold_1.parquet` and so on, all or none; older folds there are replaced.

    Raises:
        InputError: See `check_folder`.
    """
    check_folder(folder)
    with atomic_folder(folder.resolve()) as partial:
        for number, manifest in enumerate(folds, 1):
            write_manifest(manifest, partial / f"fold_{number}.parquet")


def check_folder(folder: Path) -> None:
    """Refuses a folder for folds that holds anything else, which would be lost.

    Raises:
        InputError: A file, or a folder that holds something else; names it.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a new folder")
    items = sorted(folder.iterdir()) if folder.exists() else []
    problems = []
    others = [item.name for item in items if not (item.name.startswith("fold_") and item.suffix == ".parquet")]
    if others:
        problems.append(f"{folder}: holds what is no fold ({name_some(others)}); give a new or an empty folder")
    for item in items:
        with collecting(problems):
            if item.name not in others:
                check_target(item)
    raise_if_any(problems)
