"""A bundle against `mttu predict`; what it holds, and what it leaves out."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from monai.bundle import ConfigWorkflow, verify_net_in_out

from mttu.errors import InputError, RunError
from mttu.export import bundle as exporting
from mttu.export import export_bundle
from mttu.export.running import Prediction
from mttu.inference.distribution import KeptDistribution, write_distribution
from mttu.inference.postprocessing import KeptPostprocessing, Rule, read_postprocessing, write_postprocessing
from mttu.networks.ensemble import write_ensemble
from mttu.patients import PatientKey, name_patients
from mttu.predict import plan_predictions, predict_cases

TIMES = {"seconds"}
WHOM = {"learned_from", "calibrated_on", "postprocessing_chosen_on"}
"""Columns that a bundle cannot fill: it names no patient. `standing` says that it is not known."""


def read_rows(folder: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(folder / "predictions.parquet").to_pylist()
    return [{name: value for name, value in row.items() if name not in TIMES | WHOM | {"standing"}} for row in rows]


def assert_same_predictions(ours: Path, theirs: Path) -> None:
    rows = read_rows(ours)
    assert [row["error"] for row in rows] == [""] * len(rows) != []
    assert read_rows(theirs) == rows
    segmented = [row for row in rows if row["wt_ml"] is not None]
    masks = [f"{row['case_id']}_seg.nii.gz" for row in segmented]
    assert [sorted(path.name for path in folder.glob("*.nii.gz")) for folder in (ours, theirs)] == [sorted(masks)] * 2
    for row in segmented:
        own, other = (nib.load(folder / f"{row['case_id']}_seg.nii.gz") for folder in (ours, theirs))
        assert np.array_equal(np.asarray(own.dataobj), np.asarray(other.dataobj))
        assert np.array_equal(own.affine, other.affine)
        assert own.header.binaryblock == other.header.binaryblock


@pytest.fixture(scope="module")
def bundle(known_checkpoint, tmp_path_factory):
    """A bundle whose checkpoint is gone. Not to be changed."""
    source = tmp_path_factory.mktemp("source") / "run" / "best"
    shutil.copytree(known_checkpoint, source)
    folder = tmp_path_factory.mktemp("exported") / "glioma"
    export_bundle(source.parent, folder, authors="A. Author", terms="CC BY 4.0")
    shutil.rmtree(source.parent)
    return folder


def predict_in_a_clean_process(run_bundle, bundle: Path, cases: Path, out: Path, *words: str) -> str:
    paths = ["--config_file", bundle / "configs" / "inference.json", "--bundle_root", bundle]
    done = run_bundle("run", *paths, "--dataset_dir", cases, "--output_dir", out, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def predict_here(bundle: Path, cases: Path, out: Path) -> None:
    """As `monai.bundle run` does it, in this process."""
    given = {"bundle_root": str(bundle), "dataset_dir": str(cases), "output_dir": str(out)}
    file = str(bundle / "configs" / "inference.json")
    workflow = ConfigWorkflow(file, workflow_type="infer", logging_file=False, **given)
    workflow.initialize()
    workflow.run()
    workflow.finalize()


@pytest.mark.parametrize("where", ["here", pytest.param("in a clean process", marks=pytest.mark.slow)])
def test_it_predicts_the_same_voxels_and_probabilities(
    where, bundle, known_checkpoint, phantom_folder, tmp_path, run_bundle, caplog
):
    cases = tmp_path / "cases"
    for name in ("phantom_000", "phantom_005"):
        shutil.copytree(phantom_folder / name, cases / name)
    shutil.copy(phantom_folder / "phantom.json", cases)
    predict_cases(plan_predictions(known_checkpoint, [cases], tmp_path / "ours"))
    out = tmp_path / "theirs"
    if where == "here":
        caplog.set_level(logging.INFO, "mttu")
        predict_here(bundle, cases, out)
        told = caplog.text
    else:
        told = predict_in_a_clean_process(run_bundle, bundle, cases, out)
    assert f"{out}: 2 predicted. Research use only." in told
    assert_same_predictions(tmp_path / "ours", out)
    assert {row["idh_call"] for row in read_rows(out)} <= {"mutant", "wild type"}
    whom = [pq.read_table(folder / "predictions.parquet").to_pylist() for folder in (tmp_path / "ours", out)]
    assert [row["learned_from"] for row in whom[0]] == [True, False]
    assert [[row[name] for name in sorted(WHOM)] for row in whom[1]] == [[None] * len(WHOM)] * 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unet", "dynunet", "resnet50"])
def test_a_clean_process_predicts_the_same_by_other_networks(kind, train_rival, phantom_folder, tmp_path, run_bundle):
    checkpoint, case = train_rival(kind), phantom_folder / "phantom_005"
    (row,) = predict_cases(plan_predictions(checkpoint, [case], tmp_path / "ours"))
    assert (row.volumes_ml is None, row.idh_mutant_probability is None) == (kind == "resnet50", kind == "dynunet")
    assert row.volumes_ml is None or min(row.volumes_ml.values()) > 0  # else empty masks would agree
    export_bundle(checkpoint, tmp_path / "bundle")
    predict_in_a_clean_process(run_bundle, tmp_path / "bundle", case, tmp_path / "theirs")
    assert_same_predictions(tmp_path / "ours", tmp_path / "theirs")


def test_monais_check_of_the_network_against_its_description_passes(bundle, tmp_path):
    described = bundle / "configs" / "metadata.json"
    given = {"config_file": str(bundle / "configs" / "inference.json"), "bundle_root": str(bundle), "device": "cpu"}
    verify_net_in_out("network_def", str(described), **given)
    wrong = tmp_path / "metadata.json"
    wrong.write_text(described.read_text().replace('"num_channels": 4', '"num_channels": 3'))
    with pytest.raises(InputError, match="found 3 channels"):
        verify_net_in_out("network_def", str(wrong), **given)


def test_the_parts_that_monai_asks_of_an_inference_workflow_are_there_and_agree(bundle, phantom_folder, tmp_path):
    case = phantom_folder / "phantom_000"
    given = {"bundle_root": str(bundle), "dataset_dir": str(case), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    file = str(bundle / "configs" / "inference.json")
    workflow = ConfigWorkflow(file, workflow_type="infer", logging_file=False, **given)
    workflow.initialize()
    assert workflow.check_properties() == []
    (prepared,) = workflow.dataset
    with torch.inference_mode():
        probabilities = workflow.inferer(prepared["image"][None], workflow.network_def)[0]
    (row,) = workflow.evaluator.run()
    labels = probabilities.argmax(dim=0)
    assert row.wt_ml == pytest.approx(float((labels > 0).sum()) / 1000)
    assert row.et_ml == pytest.approx(float((labels == 3).sum()) / 1000)
    assert row.wt_ml > 0


def test_a_bundle_says_what_it_is_and_names_no_patient(bundle, known_checkpoint):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    mandatory = "version monai_version pytorch_version numpy_version task description authors copyright"
    assert set(mandatory.split()) | {"changelog", "intended_use", "network_data_format", "schema"} <= metadata.keys()
    assert metadata["version"] in metadata["changelog"]
    assert (metadata["authors"], metadata["copyright"]) == ("A. Author", "CC BY 4.0")
    assert metadata["eval_metrics"] == {"val/auc": 0.75}
    assert metadata["required_packages_version"]["mttu"] == "0.1.0"
    image = metadata["network_data_format"]["inputs"]["image"]
    assert (image["num_channels"], image["spatial_shape"]) == (4, [16, 16, 16])
    assert image["channel_def"] == {"0": "flair", "1": "t1ce", "2": "t1", "3": "t2"}
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == {"0": "background", "1": "NCR/NET", "2": "edema", "3": "enhancing"}
    # sha256("mttu cohort 0123456789abcdef")
    assert metadata["mttu"]["cohort_fingerprints"] == ["0f0e8e44ad990a0c"]
    read_me = (bundle / "docs" / "README.md").read_text()
    assert "Research use only" in read_me
    assert "A. Author" in read_me
    assert "fitted on 4 validation cases (2 mutant)" in read_me
    digests = json.loads((known_checkpoint / "checkpoint.json").read_text())["patients"][0]["digests"]
    texts = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    secrets = [*digests, "0123456789abcdef", str(known_checkpoint.parent.name), "phantom_000"]
    assert len(digests) == 1
    assert [(path, word) for path, text in texts.items() for word in secrets if word.encode() in text] == []
    names = sorted(path.relative_to(bundle).as_posix() for path in texts)
    assert names == [
        "configs/inference.json",
        "configs/logging.conf",
        "configs/metadata.json",
        "docs/README.md",
        "models/calibration.json",
        "models/checkpoint.json",
        "models/config.yaml",
        "models/weights.safetensors",
    ]


def test_a_bundle_takes_from_a_record_what_it_knows_alone(known_checkpoint, tmp_path):
    record = json.loads((known_checkpoint / "checkpoint.json").read_text())
    copy = shutil.copytree(known_checkpoint, tmp_path / "copy")
    (copy / "checkpoint.json").write_text(json.dumps({**record, "later": "phantom_000"}))
    export_bundle(copy, tmp_path / "bundle")
    kept = json.loads((tmp_path / "bundle" / "models" / "checkpoint.json").read_text())
    assert kept == {name: value for name, value in record.items() if name != "patients"}


def test_a_case_that_fails_is_named_and_the_others_are_written(bundle, phantom_folder, tmp_path):
    cases = tmp_path / "cases"
    for name in ("phantom_000", "phantom_005"):
        shutil.copytree(phantom_folder / name, cases / name)
    next((cases / "phantom_000").glob("*_t1.nii.gz")).write_bytes(b"not a volume")
    with pytest.raises(RunError, match=r"1 of 2 cases failed \(phantom_000\); predictions.csv in .* says why"):
        Prediction(bundle, cases, tmp_path / "out").run()
    assert [path.name for path in (tmp_path / "out").glob("*_seg.nii.gz")] == ["phantom_005_seg.nii.gz"]


def test_what_cannot_be_run_is_refused_with_a_sentence(bundle, phantom_folder, tmp_path):
    case = phantom_folder / "phantom_000"
    with pytest.raises(InputError, match="has no folder models; pass --bundle_root"):
        Prediction(tmp_path, case, tmp_path / "out").run()
    with pytest.raises(InputError, match="device cuda:1: choose cpu or cuda"):
        Prediction(bundle, case, tmp_path / "out", device="cuda:1").run()
    with pytest.raises(InputError, match="device tpu: choose cpu or cuda"):
        Prediction(bundle, case, tmp_path / "out", device="tpu").run()
    with pytest.raises(InputError, match="data: not found; give case folders"):
        Prediction(bundle, "data", tmp_path / "out").run()


def test_a_network_that_learned_idh_alone_is_described_by_its_two_classes(copy_checkpoint, tmp_path, phantom_folder):
    folder = tmp_path / "bundle"
    export_bundle(copy_checkpoint(["idh"]), folder)
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    pred = metadata["network_data_format"]["outputs"]["pred"]
    assert (pred["type"], pred["channel_def"]) == ("probabilities", {"0": "IDH wild type", "1": "IDH mutant"})
    (row,) = Prediction(folder, phantom_folder / "phantom_000", tmp_path / "out").run()
    assert row.volumes_ml is None
    assert 0 < row.idh_mutant_probability < 1


def test_every_problem_of_an_export_is_told_at_once(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(InputError) as caught:
        export_bundle(tmp_path / "missing", tmp_path / "mine", "one")
    told = " | ".join(caught.value.problems)
    assert "holds something else, which would be lost" in told
    assert "--bundle-version 'one': expected three numbers" in told
    assert "checkpoint.json, config.yaml, weights.safetensors not found" in told
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_an_ensemble_or_a_network_without_answers_is_refused(tiny_checkpoint, copy_checkpoint, tmp_path):
    write_ensemble(tmp_path / "ensemble", [tiny_checkpoint])
    with pytest.raises(InputError, match="is an ensemble; one network is needed here: give one of its members"):
        export_bundle(tmp_path / "ensemble", tmp_path / "bundle")
    with pytest.raises(InputError, match="nothing to export: no segmentation: no training case had a tumour mask; no"):
        export_bundle(copy_checkpoint([]), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_replaces_an_earlier_one_whole_unless_something_of_the_users_lies_in_it(
    known_checkpoint, tmp_path, monkeypatch
):
    folder = tmp_path / "bundle"
    source = shutil.copytree(known_checkpoint, tmp_path / "best")
    known = name_patients(["phantom_001"], PatientKey("0123456789abcdef", n=2))
    write_distribution(source, KeptDistribution(3, reason="too few"))
    write_postprocessing(source, KeptPostprocessing({"wt": Rule(largest_only=True)}, 3, patients=known))
    export_bundle(source, folder, "1.0.0")
    kept = {path.name for path in (folder / "models").iterdir()}
    assert {"calibration.json", "distribution.json", "postprocessing.json"} <= kept
    assert read_postprocessing(folder / "models").patients is None
    export_bundle(source, folder, "1.1.0")
    assert json.loads((folder / "configs" / "metadata.json").read_text())["version"] == "1.1.0"

    def fail(*arguments):
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(exporting, "describe_in_words", fail)  # the last file
        with pytest.raises(OSError, match="the disk is full"):
            export_bundle(source, folder, "2.0.0")
    assert json.loads((folder / "configs" / "metadata.json").read_text())["version"] == "1.1.0"
    (folder / "eval").mkdir()
    (folder / "eval" / "predictions.csv").write_text("")
    with pytest.raises(InputError, match=r"holds eval/predictions\.csv, which would be lost"):
        export_bundle(source, folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; give a folder"):
        export_bundle(source, tmp_path / "file")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(InputError, match="is a link; give a folder"):
        export_bundle(source, tmp_path / "link")


@pytest.mark.real
@pytest.mark.slow
def test_a_clean_process_predicts_the_same_of_a_real_patient(write_tiny, real_data, tmp_path, run_bundle):
    checkpoint = write_tiny(tmp_path / "best", {"patch.size": [64, 64, 64]})
    case = real_data / "tcga_lgg" / "TCGA-DU-7294"
    predict_cases(plan_predictions(checkpoint, [case], tmp_path / "ours", changes={"inference.overlap": 0.25}))
    export_bundle(checkpoint, tmp_path / "bundle")
    out = tmp_path / "theirs"
    predict_in_a_clean_process(run_bundle, tmp_path / "bundle", case, out, "--changes", "{'inference.overlap': 0.25}")
    assert_same_predictions(tmp_path / "ours", out)
    assert read_rows(out)[0]["wt_ml"] > 0
