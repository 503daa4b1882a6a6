"""Train, val, unlabelled, test: by patient, stratified by IDH status."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sklearn.model_selection import train_test_split

from mttu.data.labels import IDH_MUTANT, IDH_UNKNOWN, IDH_WILD
from mttu.data.manifest import Case
from mttu.errors import raise_if_any

_STATES = {IDH_MUTANT: "mutant", IDH_WILD: "wild type"}


def draw_validation(strata: Mapping[str, int], fraction: float, seed: int) -> frozenset[str]:
    """Draws the patients of the validation split (80/20, section V-A).

    Each stratum gives its rounded share, at least one and never all of its patients; a stratum of a single patient
    stays in training, for nothing can be learned of a class that is only validated.

    Args:
        strata: Patient to stratum, e.g. IDH status.
        fraction: Share of the patients of each stratum, 0 to below 1.
        seed: Seed; the result doesn't depend on the order of `strata`.
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
    cases: list[tuple[Case, str | None]]

    @property
    def named(self) -> set[str]:
        """Splits that its rows name, unlabelled counted as training: both are seen while learning."""
        return {{"unlabelled": "train"}.get(split, split) for _, split in self.cases if split}

    @property
    def known(self) -> set[int]:
        return {case.idh for case, _ in self.cases} - {IDH_UNKNOWN}


def assign_splits(cases: Sequence[tuple[Case, str | None]], val_fraction: float, seed: int) -> list[Case]:
    """Gives every case a split; the rules are those of `mttu.data.cohort.discover`.

    Args:
        cases: Each with the split that the clinical table names for it, if any.
        val_fraction: Share of validation.
        seed: Of the draw.

    Raises:
        InputError: A patient on two sides or with two IDH states, or a train or val case with nothing to learn; each
            sentence names one case, so that those can be left out.
    """
    patients: dict[str, _Patient] = {}
    for case, split in cases:
        patients.setdefault(case.patient_id, _Patient([])).cases.append((case, split))
    problems = []
    for name, patient in patients.items():
        texts = []
        if len(patient.named) > 1:
            listed = ", ".join(f"{case.case_id} {split}" for case, split in patient.cases if split)
            texts.append(f"patient {name} is in several splits ({listed}); a patient belongs to one side only")
        if len(patient.known) > 1:
            known = [case for case, _ in patient.cases if case.idh in _STATES]
            listed = ", ".join(f"{case.case_id} {_STATES[case.idh]}" for case in known)
            texts.append(f"patient {name} is IDH mutant and wild type ({listed}); correct the clinical table")
        problems += [f"case {case.case_id}: {text}" for text in texts for case, _ in patient.cases]
    raise_if_any(problems)
    free = {name: patient for name, patient in patients.items() if not patient.named}
    strata = {name: next(iter(patient.known)) for name, patient in free.items() if patient.known}
    only_segmentation = not strata and len(free) == len(patients)
    if only_segmentation:
        strata = {name: IDH_UNKNOWN for name, patient in free.items() if any(case.seg for case, _ in patient.cases)}
    drawn = draw_validation(strata, val_fraction, seed)
    assigned = []
    for name, patient in patients.items():
        for case, split in patient.cases:
            if split is None and patient.named:
                split = next(iter(patient.named))
                split = "unlabelled" if split == "train" and case.idh == IDH_UNKNOWN else split
            elif split is None and name in drawn:
                split = "val"
            elif split is None:
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
