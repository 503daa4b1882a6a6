"""Checkpoint, cases, settings and output folder of a prediction, checked before the first case."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from mttu.cohort.discovery import discover_any
from mttu.cohort.found_cases import to_predict
from mttu.cohort.synthetic import SyntheticCases
from mttu.config import Config, override_some
from mttu.data.findings import Finding
from mttu.data.labels import find_convention, knows_parts
from mttu.data.manifest import SPLITS, Case, read_manifest
from mttu.errors import InputError, collecting, raise_if_any
from mttu.inference.calibration import KeptCalibration, hold_for, read_calibration
from mttu.inference.device import Precision, choose_device, choose_precision
from mttu.inference.distribution import KeptDistribution, read_distribution
from mttu.inference.postprocessing import KeptPostprocessing, explain_other_settings, read_postprocessing
from mttu.inference.uncertainty import check_passes
from mttu.networks import Network
from mttu.networks.ensemble import read_known_patients, read_members
from mttu.networks.learned import PARTS_UNKNOWN, TASKS, describe_voters, explain_missing_answers, tell_parts
from mttu.patients import KnownPatients
from mttu.predict.results import check_output, recover_output

REPLACEABLE = ("inference.", "patch.", "train.precision")
"""Sections and settings of a checkpoint that a prediction may change."""


@dataclass(frozen=True)
class InputCase:
    """A case that was named, readable or not."""

    case_id: str
    source: Path
    """Case folder or manifest that it comes from."""
    case: Case | None
    error: str = ""
    """Why there is no `case`."""
    is_synthetic: bool = False
    """Whether it is known to be a phantom."""
    is_patient_told: bool = True
    """Whether a manifest or the layout tells its patient; otherwise the name of the case stands for the patient."""


@dataclass(frozen=True)
class PredictionPlan:
    """Everything that `predict_cases` needs, checked."""

    checkpoint: Path
    networks: tuple[Network, ...]
    """One, or the members of an ensemble."""
    config: Config
    cases: tuple[InputCase, ...]
    out: Path
    labels: str
    device: torch.device
    precision: Precision
    known_patients: KnownPatients | None
    """Patients that the network was trained on; None if the checkpoint does not say."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Tasks that no network can answer, with the reason."""
    notes: tuple[str, ...] = ()
    """Sentences for the user: those reasons, and which members of an ensemble answer where not all do."""
    left_out: tuple[str, ...] = ()
    """Sentences on folders and files of the inputs that were not searched for cases."""
    tells_parts: bool = True
    """Whether the network tells the parts of a tumour, or only the whole tumour."""
    calibration: KeptCalibration = field(default_factory=KeptCalibration)
    """That of the checkpoint, if it holds for these settings."""
    postprocessing: KeptPostprocessing | None = None
    """That of the checkpoint, if it has rules, and they are wanted and hold for these settings."""
    distribution: KeptDistribution = field(default_factory=KeptDistribution)
    """What the training cases look like, if that is kept with the checkpoint."""
    passes: int = 0
    """Passes with dropout of each network; 0: none."""
    maps: bool = False
    """Whether probability and uncertainty of each voxel are written."""


def plan_predictions(
    checkpoint: Path,
    inputs: Sequence[Path],
    out: Path,
    labels: str = "brats",
    changes: Mapping[str, Any] | None = None,
    device: Literal["auto", "cpu", "gpu"] = "auto",
    split: str | None = None,
    postprocess: bool = True,
    passes: int = 0,
    maps: bool = False,
) -> PredictionPlan:
    """Reads the checkpoint, finds the cases and checks that no file of the user's would be overwritten.

    A case whose files are incomplete is not refused here: it becomes a row with its error.

    Args:
        checkpoint: Checkpoint or ensemble folder, or a run folder with either inside.
        inputs: Case folders, folders of case folders, manifests (.parquet), in any mixture.
        out: Output folder of its own; it may lie inside an input folder. An earlier prediction of the same cases in it
            is replaced.
        labels: Label convention of the masks that are written.
        changes: Dotted settings that replace the checkpoint's, from `REPLACEABLE`.
        device: auto: a GPU if there is one.
        split: Of manifests, the cases of this split alone; None: all. Folders have none.
        postprocess: Whether masks are post-processed, where that is kept with the checkpoint.
        passes: Monte Carlo passes of each network, at least 2, for the uncertainty of a case; 0: none. Then the members
            of an ensemble are what varies.
        maps: Whether maps of probability and uncertainty are written.

    Raises:
        InputError: Lists every problem of checkpoint, inputs, settings and output folder.
    """
    problems: list[str] = []
    networks: tuple[Network, ...] = ()
    config, missing = Config(), {}
    calibration, kept, distribution = KeptCalibration(), KeptPostprocessing(), KeptDistribution()
    with collecting(problems):
        find_convention(labels)
    with collecting(problems):
        networks, config = read_members(checkpoint)
        config = override_some(config, changes or {}, REPLACEABLE, "predict")
        missing = explain_missing_answers(networks)
        if len(missing) == len(TASKS):
            problems.append(f"checkpoint {checkpoint}: nothing to predict: {'; '.join(missing.values())}")
        if not tell_parts(networks) and knows_parts(labels):
            problems.append(
                f"checkpoint {checkpoint}: {PARTS_UNKNOWN}, and masks of --labels {labels} would name them; pass "
                "--labels whole-tumour"
            )
        calibration = hold_for(read_calibration(checkpoint), config)
        kept, distribution = read_postprocessing(checkpoint), read_distribution(checkpoint)
        if passes:
            config = override_some(config, {"mc.passes": passes}, ("mc.passes",), "predict --passes")
            check_passes(networks, config.mc)
        if maps and "segmentation" in missing:
            problems.append(f"checkpoint {checkpoint}: {missing['segmentation']}; there are no --maps of it")
    recover_output(out)  # first, since files that a kill left there could be taken for a case
    left_out: list[Finding] = []
    cases, refused = find_input_cases(inputs, config.data.modalities, left_out, split)
    problems += refused
    chosen = torch.device("cpu")
    with collecting(problems):
        chosen = choose_device(device)
    problems += check_output(out, [one.case_id for one in cases], _input_folders(inputs, cases), maps)
    raise_if_any(problems)
    if not networks:
        raise InputError(f"checkpoint {checkpoint}: could not be read")
    applied, told = _choose_postprocessing(kept, config, postprocess)
    return PredictionPlan(
        checkpoint=checkpoint,
        networks=tuple(network.to(chosen) for network in networks),
        config=config,
        cases=tuple(cases),
        out=out,
        labels=labels,
        device=chosen,
        precision=choose_precision(config.train.precision, chosen),
        known_patients=read_known_patients(checkpoint),
        missing=missing,
        tells_parts=tell_parts(networks),
        notes=(*missing.values(), *describe_voters(networks), *told),
        left_out=tuple(finding.text for finding in left_out),
        calibration=calibration,
        postprocessing=applied,
        distribution=distribution,
        passes=passes,
        maps=maps,
    )


def _choose_postprocessing(
    kept: KeptPostprocessing, config: Config, wanted: bool
) -> tuple[KeptPostprocessing | None, list[str]]:
    """What is done with masks, and a sentence on it where anything is kept with the checkpoint."""
    if not kept.rules:
        return None, [kept.describe()] if kept.num_cases else []
    if not wanted:
        return None, ["masks are not post-processed, as was asked for"]
    if reason := explain_other_settings(kept, config):
        return None, [f"masks are not post-processed: {reason}"]
    return kept, [kept.describe()]


def _input_folders(inputs: Sequence[Path], cases: Sequence[InputCase]) -> set[Path]:
    """Folders where a predicted mask would later be taken for a case's own."""
    named = [*inputs, *(one.source for one in cases)]
    images = [image for one in cases if one.case for image in one.case.images.values()]
    return {path.resolve() for path in named if path.is_dir()} | {image.parent.resolve() for image in images}


def find_input_cases(
    inputs: Sequence[Path],
    modalities: Sequence[str],
    findings: list[Finding] | None = None,
    split: str | None = None,
) -> tuple[list[InputCase], list[str]]:
    """The cases of all inputs in their order, and the problems that refuse the whole prediction.

    Folders that hold an earlier prediction are skipped. What is left out is added to `findings`.
    """
    cases: list[InputCase] = []
    problems: list[str] = [] if inputs else ["inputs: none given; give case folders, folders of cases, or manifests"]
    if split is not None and split not in SPLITS:
        return [], [*problems, f"--split {split!r}: unknown; choose one of {', '.join(SPLITS)}"]
    for path in inputs:
        if split is not None and path.is_dir():
            problems.append(f"input {path}: is a folder, and --split chooses from manifests; leave one of them out")
        elif path.is_dir():
            found = _read_folder(path, modalities, findings)
            if not found:
                problems.append(f"input {path}: no NIfTI file in it or below; give a case folder or a folder of cases")
            cases += found
        elif path.suffix == ".parquet" and path.is_file():
            with collecting(problems):
                cases += _read_manifest(path, modalities, split)
        else:
            reason = "is neither a folder nor a manifest (.parquet)" if path.exists() else "not found"
            problems.append(f"input {path}: {reason}; give case folders, folders of cases, or manifests")
    for case_id, count in Counter(one.case_id for one in cases).items():
        if count > 1:
            sources = ", ".join(str(one.source) for one in cases if one.case_id == case_id)
            problems.append(f"case {case_id}: named {count} times ({sources}); results would overwrite each other")
    return cases, problems


def _read_folder(root: Path, modalities: Sequence[str], findings: list[Finding] | None) -> list[InputCase]:
    cases = []
    place = Path(os.path.abspath(root))
    synthetic = SyntheticCases([place.parent])  # the marker of a single phantom case lies beside its folder
    for found in discover_any(place, modalities, findings):
        try:
            case = to_predict(found)
        except InputError as error:
            cases.append(InputCase(found.case_id, found.folder, None, "; ".join(error.problems)))
            continue
        is_synthetic = False
        with suppress(InputError):  # a damaged marker may cost a needless warning, but not the prediction
            is_synthetic = case in synthetic
        is_told = case.patient_id != case.case_id
        cases.append(InputCase(found.case_id, found.folder, case, is_synthetic=is_synthetic, is_patient_told=is_told))
    return cases


def _read_manifest(path: Path, modalities: Sequence[str], split: str | None) -> list[InputCase]:
    manifest = read_manifest(path)
    missing = [name for name in modalities if name not in manifest.modalities]
    if missing:
        raise InputError(
            f"manifest {path}: has no {', '.join(missing)}; the checkpoint was trained on {', '.join(modalities)}"
        )
    cases = manifest.cases if split is None else manifest.split(split)
    if not cases:
        there = ", ".join(f"{len(manifest.split(name))} {name}" for name in SPLITS if manifest.split(name))
        raise InputError(f"manifest {path}: no case has the split {split}; there are {there or 'none'}")
    return [InputCase(case.case_id, path, case, is_synthetic=manifest.synthetic) for case in cases]
