import shutil
from dataclasses import replace

import pytest
import torch

from mttu.cli import main
from mttu.cohort.build import discover
from mttu.data.manifest import write_manifest
from mttu.errors import InputError
from mttu.networks.ensemble import write_ensemble
from mttu.predict import plan_predictions


def found(plan):
    return [one.case_id for one in plan.cases]


def refusal(*arguments, **named):
    with pytest.raises(InputError) as refused:
        plan_predictions(*arguments, **named)
    return refused.value.problems


def test_a_case_folder_a_folder_of_cases_and_a_manifest_name_the_same_cases(checkpoint, cases, tmp_path):
    write_manifest(discover(cases), tmp_path / "cohort.parquet")
    out = tmp_path / "out"
    assert found(plan_predictions(checkpoint, [cases], out)) == ["a", "b"]
    assert found(plan_predictions(checkpoint, [cases / "b", cases / "a"], out)) == ["b", "a"]
    assert found(plan_predictions(checkpoint, [tmp_path / "cohort.parquet"], out)) == ["a", "b"]
    assert not out.exists()


def test_folders_that_were_not_searched_are_named_and_not_kept_with_the_results(checkpoint, cases, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(cases / "a", root / "a")
    shutil.copytree(cases / "b", root / "#recycle" / "b")
    plan = plan_predictions(checkpoint, [root], tmp_path / "out")
    assert found(plan) == ["a"]
    assert plan.left_out == (f"{root}: 1 hidden folder or bin is left out (#recycle, which holds b)",)
    assert not any("recycle" in note for note in plan.notes)


def test_settings_come_from_the_checkpoint_and_some_can_be_changed(checkpoint, cases, tmp_path):
    plan = plan_predictions(checkpoint, [cases], tmp_path / "out", changes={"inference.flips": True})
    assert plan.config.inference.flips
    assert plan.config.inference.overlap == 0.25  # of the demo preset
    assert plan.config.patch.size == (32, 32, 32)


@pytest.mark.parametrize(
    ("trained", "asked", "used"),
    [
        ("auto", None, "float32"),
        ("bfloat16", None, "bfloat16"),
        ("bfloat16", "float32", "float32"),
        ("bfloat16", "auto", "float32"),
        ("float32", "bfloat16", "bfloat16"),
    ],
)
def test_precision_is_that_of_training_unless_asked(write_demo_checkpoint, cases, tmp_path, trained, asked, used):
    checkpoint = write_demo_checkpoint(tmp_path / "best", train__precision=trained)
    changes = {} if asked is None else {"train.precision": asked}
    plan = plan_predictions(checkpoint, [cases], tmp_path / "out", device="cpu", changes=changes)
    assert (plan.device, plan.precision) == (torch.device("cpu"), used)


def test_the_command_takes_a_precision(checkpoint, cases, tmp_path, capsys):
    words = ["predict", str(checkpoint), str(cases), "-o", str(tmp_path / "out"), "--precision", "half"]
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "predict: train.precision: Input should be 'auto', 'float32' or 'bfloat16', found 'half'" in (
        capsys.readouterr().err
    )


def test_members_of_several_precisions_predict_in_float32(write_demo_checkpoint, cases, tmp_path):
    members = [
        write_demo_checkpoint(tmp_path / f"run_{name}" / "best", train__precision=name) for name in ("bfloat16", "auto")
    ]
    write_ensemble(tmp_path / "ensemble", members)
    assert plan_predictions(tmp_path / "ensemble", [cases], tmp_path / "out", device="cpu").precision == "float32"
    write_ensemble(tmp_path / "alike", [members[0]])
    assert plan_predictions(tmp_path / "alike", [cases], tmp_path / "out", device="cpu").precision == "bfloat16"


def test_all_problems_are_named_at_once(cases, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    problems = refusal(
        tmp_path / "nowhere",
        [cases, cases / "a", tmp_path / "absent", tmp_path / "notes.txt", tmp_path / "empty"],
        tmp_path / "notes.txt",
        labels="brats1999",
    )
    expected = [
        ("labels 'brats1999'", "unknown convention"),
        ("nowhere", "not found"),
        ("absent", "not found"),
        ("notes.txt", "neither a folder nor a manifest"),
        ("empty", "no NIfTI file"),
        ("case a", "named 2 times"),
        ("output", "is a file"),
    ]
    assert len(problems) == len(expected)
    for problem, (subject, reason) in zip(problems, expected, strict=True):
        assert subject in problem
        assert reason in problem


def test_nothing_to_predict_is_refused(checkpoint, tmp_path):
    assert refusal(checkpoint, [], tmp_path / "out") == [
        "inputs: none given; give case folders, folders of cases, or manifests"
    ]


def test_the_same_id_in_two_places_is_refused_with_both(checkpoint, cases, tmp_path, write_case):
    again = write_case(tmp_path / "elsewhere", "a")
    (problem,) = refusal(checkpoint, [cases, again], tmp_path / "out")
    assert str(cases / "a") in problem
    assert str(again) in problem


def test_settings_of_the_network_are_not_for_a_prediction_to_change(checkpoint, cases, tmp_path):
    (problem,) = refusal(checkpoint, [cases], tmp_path / "out", changes={"network.bottleneck.num_layers": 2})
    assert "network.bottleneck.num_layers" in problem
    assert "inference, patch" in problem


def test_a_refused_value_names_setting_and_value(checkpoint, cases, tmp_path):
    (problem,) = refusal(checkpoint, [cases], tmp_path / "out", changes={"inference.overlap": 1.5})
    assert "inference.overlap" in problem
    assert "1.5" in problem


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_a_gpu_that_is_not_there_is_refused(checkpoint, cases, tmp_path):
    (problem,) = refusal(checkpoint, [cases], tmp_path / "out", device="gpu")
    assert "no CUDA device" in problem


def test_a_manifest_without_a_modality_of_the_checkpoint_is_refused(checkpoint, cases, tmp_path):
    write_manifest(discover(cases, modalities=("flair", "t1ce")), tmp_path / "cohort.parquet")
    (problem,) = refusal(checkpoint, [tmp_path / "cohort.parquet"], tmp_path / "out")
    assert "has no t1, t2" in problem


def test_an_incomplete_case_stays_in_the_plan_with_its_reason(checkpoint, cases, tmp_path):
    (cases / "a" / "a_t1.nii.gz").unlink()
    first, second = plan_predictions(checkpoint, [cases], tmp_path / "out").cases
    assert first.case is None
    assert "case a: no t1" in first.error
    assert second.case is not None
    assert second.error == ""


def test_a_linked_case_folder_keeps_the_name_of_the_link(checkpoint, cases, tmp_path, write_case):
    store = write_case(tmp_path / "store", "c")
    for file in store.iterdir():
        file.rename(store / file.name.replace("c_", "linked_"))
    (tmp_path / "linked").symlink_to(store)
    plan = plan_predictions(checkpoint, [tmp_path / "linked"], tmp_path / "out")
    assert found(plan) == ["linked"]
    assert plan.cases[0].error == ""


def test_output_must_not_be_an_input_or_case_folder(checkpoint, cases, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(cases / "a")
    write_manifest(discover(cases), tmp_path / "cohort.parquet")
    for given, out in [(cases, cases), (cases, cases / "a"), (cases, link), (tmp_path / "cohort.parquet", link)]:
        (problem,) = refusal(checkpoint, [given], out)
        assert "is one of the input folders" in problem
        assert "predictions" in problem


@pytest.mark.parametrize(
    "name", ["b_seg.nii.gz", "b_overlay.png", "predictions.parquet", "predictions.csv", "README.txt"]
)
def test_a_file_of_the_users_is_never_overwritten(checkpoint, cases, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    (problem,) = refusal(checkpoint, [cases], out)
    assert name in problem
    assert (out / name).read_text() == "mine"


def test_output_below_a_file_is_refused(checkpoint, cases, tmp_path):
    (tmp_path / "file").write_text("")
    (problem,) = refusal(checkpoint, [cases], tmp_path / "file" / "out")
    assert "is a file" in problem


def test_a_damaged_checkpoint_is_refused(checkpoint, cases, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint, copy)
    (copy / "weights.safetensors").unlink()
    (problem,) = refusal(copy, [cases], tmp_path / "out")
    assert "weights.safetensors not found" in problem


def test_a_split_of_a_manifest_is_all_that_is_predicted(checkpoint, cases, manifest_file, phantom_manifest, tmp_path):
    def ids(split):
        plan = plan_predictions(checkpoint, [manifest_file], tmp_path / "out", device="cpu", split=split)
        return [one.case_id for one in plan.cases]

    assert ids(None) == [case.case_id for case in phantom_manifest.cases]
    assert ids("test") == [case.case_id for case in phantom_manifest.split("test")]
    assert len(ids("test")) == 1
    assert refusal(checkpoint, [manifest_file], tmp_path / "out", split="tests") == [
        "--split 'tests': unknown; choose one of train, val, unlabelled, test"
    ]
    assert refusal(checkpoint, [cases, manifest_file], tmp_path / "out", split="val") == [
        f"input {cases}: is a folder, and --split chooses from manifests; leave one of them out"
    ]
    write_manifest(replace(phantom_manifest, cases=phantom_manifest.split("train")), tmp_path / "train.parquet")
    assert refusal(checkpoint, [tmp_path / "train.parquet"], tmp_path / "out", split="test") == [
        f"manifest {tmp_path / 'train.parquet'}: no case has the split test; there are 4 train"
    ]
