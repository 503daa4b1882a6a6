"""Masks and scores of another tool, made by hand on a small cohort, so that Dice and AUC are known."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mttu.cli import main
from mttu.data.manifest import Case, Manifest, write_manifest
from mttu.errors import InputError
from mttu.report import Source, evaluate_cases, plan_evaluation
from mttu.report.tables import describe_cases

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
IDS = [f"BraTS2021_0000{number}" for number in range(1, 7)]
IDH = (1, 0, 1, 0, -1, 1)
TO_MSD = np.array([0, 2, 1, 0, 3], np.uint8)
"""Label of BraTS 2021 to that of nnU-Net."""
NO_NECROSIS = np.array([0, 2, 2, 0, 4], np.uint8)


def make_truth():
    """Whole tumour of 216 voxels, tumour core of 64, enhancing tumour of 8; labels of BraTS 2021."""
    seg = np.zeros((12, 12, 12), np.uint8)
    for start, label in ((2, 2), (3, 1), (4, 4)):
        inside = slice(start, 10 - start)
        seg[inside, inside, inside] = label
    return seg


def save(path, seg, affine=AFFINE):
    path.parent.mkdir(exist_ok=True)
    nib.save(nib.Nifti1Image(seg.astype(np.uint8), affine), path)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Manifest of five test cases, the fifth without mask and IDH status, and one val case."""
    cases = []
    for case_id, idh in zip(IDS, IDH, strict=True):
        truth = tmp_path / "truth" / f"{case_id}.nii.gz"
        save(truth, make_truth())
        split = "val" if case_id == IDS[5] else "test"
        seg = None if case_id == IDS[4] else truth
        cases.append(Case(case_id, case_id, split, {"flair": truth}, seg, None, idh, None, None, None, "brats"))
    write_manifest(Manifest(tmp_path, tuple(cases), ("flair",), False), tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


def write_masks(folder, change=lambda seg: TO_MSD[seg], name="{}.nii.gz", ids=IDS[:4]):
    for case_id in ids:
        save(folder / name.format(case_id), change(make_truth()))
    return folder


def write_scores(path, values, header="case_id,idh_mutant_probability"):
    path.write_text("\n".join([header, *(f"{case_id},{value}" for case_id, value in values.items())]) + "\n")
    return path


def run(source, manifest, compare=None):
    out = manifest.parent / "out"
    return evaluate_cases(plan_evaluation(source, manifest, out, baselines=False, compare=compare, num_resamples=50))


def problems_of(source, manifest, **settings):
    with pytest.raises(InputError) as caught:
        run(source, manifest, **settings)
    return caught.value.problems


def means_of(found, metric="dice"):
    return {region: one["metrics"][metric]["mean"] for region, one in found.summary["segmentation"].items()}


@pytest.mark.parametrize(
    ("labels", "name", "change"),
    [
        ("msd", "{}.nii.gz", lambda seg: TO_MSD[NO_NECROSIS[seg]]),
        ("brats", "{}_seg.nii.gz", lambda seg: NO_NECROSIS[seg]),
        ("brats2023", "{}-seg.nii", lambda seg: np.where(seg == 4, 3, NO_NECROSIS[seg])),
    ],
)
def test_masks_are_read_by_their_labels_and_names(small, tmp_path, labels, name, change):
    found = run(Source(write_masks(tmp_path / "rival", change, name), labels), small)
    assert means_of(found) == {"wt": 1.0, "tc": pytest.approx(2 * 8 / (64 + 8)), "et": 1.0}
    assert means_of(found, "volume_difference_ml")["tc"] == pytest.approx((8 - 64) * 2 / 1000)
    assert (found.summary["idh"], found.summary["cases"]["masks_scored"]) == (None, 4)
    (system,) = found.summary["systems"]
    assert (system["name"], system["checkpoint"], system["labels"]) == ("rival", "another tool", labels)
    told = describe_cases(found.summary)
    assert "rival: does not say whom it was trained on: whether this is a fair test is not known" in told


def test_whole_tumour_masks_are_scored_on_the_whole_tumour_alone(small, tmp_path):
    half = write_masks(tmp_path / "half", lambda seg: (seg > 0) & (np.arange(12) < 5))
    found = run(Source(half, "whole-tumour"), small)
    assert means_of(found) == {"wt": pytest.approx(2 * 108 / (216 + 108)), "tc": None, "et": None}


def test_masks_and_scores_stand_beside_another_system(small, tmp_path):
    shifted = write_masks(tmp_path / "shifted", lambda seg: TO_MSD[np.roll(seg, 1, axis=0)])
    same = write_masks(tmp_path / "same", lambda seg: seg, "{}_seg.nii.gz")
    first = write_scores(tmp_path / "first.csv", dict(zip(IDS, (0.9, 0.2, 0.4, 0.6), strict=False)))
    second = write_scores(tmp_path / "second.csv", dict(zip(IDS, (0.9, 0.1, 0.8, 0.3), strict=False)))
    found = run(Source(shifted, "msd", first), small, Source(same, "brats", second))
    wt, tc, et = 2 * 180 / 432, 2 * 48 / 128, 2 * 4 / 16
    assert means_of(found) == {"wt": pytest.approx(wt), "tc": pytest.approx(tc), "et": pytest.approx(et)}
    assert found.summary["idh"]["auc_delong"]["auc"] == 0.75
    comparison = found.summary["comparison"]
    assert (comparison["first"], comparison["second"]) == ("shifted", "same")
    dice = {(one["region"], one["name"]): one["difference"] for one in comparison["segmentation"]}
    assert dice["wt", "paired t"] is not None
    tests = [one for one in comparison["segmentation"] if one["score"] == "dice" and one["name"] == "paired t"]
    assert [one["difference"] for one in tests] == pytest.approx([wt - 1, tc - 1, et - 1])
    assert comparison["idh"]["auc"]["difference"] == pytest.approx(0.75 - 1.0)


def test_scores_alone_are_a_classifier(small, tmp_path):
    table = tmp_path / "resnet.csv"
    table.write_text(f"Case ID;IDH mutant probability\n{IDS[0]};1\n{IDS[1]};0\n{IDS[2]};0.5\n{IDS[3]};0.25\nX;0.5\n")
    found = run(Source(table), small, Source(write_masks(tmp_path / "masks"), "msd"))
    assert found.summary["segmentation"] is None
    assert found.summary["idh"]["at_thresholds"][0]["accuracy"] == 1.0
    assert found.summary["comparison"]["segmentation"] == []
    assert found.summary["comparison"]["idh"] == {}
    assert found.summary["systems"][0]["name"] == "resnet"
    assert "resnet: 1 score is of no case of the manifest and left out: X" in describe_cases(found.summary)


def test_another_tool_follows_the_conventions_of_the_system_that_it_is_compared_with(
    write_predictions, manifest, cohort, tmp_path
):
    own = write_predictions(
        "own", metadata={"labels": "brats", "checkpoint": "c", "metrics": '{"empty_dice": "exclude"}'}
    )
    (tmp_path / "rival").mkdir()
    for case in cohort.split("test"):
        image = nib.load(case.seg)
        save(tmp_path / "rival" / f"{case.case_id}.nii.gz", np.asarray(image.dataobj), image.affine)
    rival = Source(tmp_path / "rival", "brats")
    for systems in ((own, rival), (rival, own)):
        plan = plan_evaluation(systems[0], manifest, tmp_path / "out", compare=systems[1])
        assert plan.metrics.empty_dice == "exclude"
    found = evaluate_cases(plan)
    assert means_of(found) == {"wt": 1.0, "tc": 1.0, "et": 1.0}


def test_masks_that_contradict_their_labels_are_told(small, tmp_path):
    found = run(Source(write_masks(tmp_path / "rival"), "brats2023"), small)
    assert means_of(found)["wt"] == 1.0
    assert means_of(found)["tc"] < 0.2
    (doubt,) = found.summary["systems"][0]["notes"]
    assert doubt.startswith(
        f"in 4 of 4 masks ({', '.join(IDS[:4])}) what --labels brats2023 reads as NCR/NET (label 1)"
    )
    assert doubt.endswith("pass --labels msd")
    assert run(Source(tmp_path / "rival", "msd"), small).summary["systems"][0]["notes"] == []


def test_other_labels_and_other_grids_are_refused_case_by_case(small, tmp_path):
    rival = write_masks(tmp_path / "rival")
    save(rival / f"{IDS[0]}.nii.gz", make_truth())
    save(rival / f"{IDS[1]}.nii.gz", make_truth()[:-1])
    moved = AFFINE.copy()
    moved[2, 3] = 5
    save(rival / f"{IDS[2]}.nii.gz", make_truth(), moved)
    labels, shape, affine = problems_of(Source(rival, "msd"), small)
    assert labels.startswith(
        f"case {IDS[0]} (prediction): seg has labels {{0, 1, 2, 4}}; expected a subset of {{0, 1, 2"
    )
    assert labels.endswith("pass --labels NAME for another convention")
    assert f"case {IDS[1]}: true and predicted mask have different grids: shape (12, 12, 12) and (11, 12, 12)" in shape
    assert f"case {IDS[2]}: true and predicted mask have different grids: affine (row 2, column 3: 0 and 5)" in affine


def test_cases_that_only_one_side_has_are_named(small, tmp_path):
    rival = write_masks(tmp_path / "rival", ids=[IDS[0], IDS[3], IDS[5], "00002"])
    scores = write_scores(tmp_path / "s.csv", {IDS[0]: 0.5, IDS[1]: "", "00003": 0.1, IDS[3]: 0})
    masks, table = problems_of(Source(rival, "msd", scores), small)
    assert masks == (
        f"predictions {rival}: 2 of the 4 evaluated cases with a true mask have no mask there: {IDS[1]}, {IDS[2]}; "
        f"name each {IDS[1]}.nii.gz or {IDS[1]}_seg.nii.gz; 1 file is of no case: 00002.nii.gz"
    )
    assert table == (
        f"scores {scores}: 2 of the 4 evaluated cases of known IDH status have no probability: {IDS[1]}, {IDS[2]}; "
        "give all of them; 1 row is of no case: 00003"
    )
    write_masks(rival, ids=IDS[1:3])
    assert run(Source(rival, "msd"), small).summary["systems"][0]["notes"] == [
        "1 mask is of no case of the manifest and left out: 00002.nii.gz"
    ]
    (rival / f"{IDS[4]}.nii.gz").mkdir()
    assert problems_of(Source(rival, "msd"), small) == [
        f"predictions {rival}: {IDS[4]}.nii.gz is no file; take it away"
    ]
    (rival / f"{IDS[4]}.nii.gz").rmdir()
    write_masks(rival, name="{}_seg.nii.gz", ids=IDS[:1])
    (two,) = problems_of(Source(rival, "msd"), small)
    assert two.endswith(f": {IDS[0]}.nii.gz and {IDS[0]}_seg.nii.gz are masks of one case, {IDS[0]}; keep one of them")


def test_scores_that_are_no_probabilities_are_refused_together(small, tmp_path):
    values = {IDS[0]: 1.5, IDS[1]: "nan", IDS[2]: "mutant", IDS[3]: -0.1}
    scores = write_scores(tmp_path / "s.csv", values)
    with scores.open("a") as file:
        file.write(f"{IDS[3]},0.5\n{IDS[4]},0,5\n")
    found = problems_of(Source(scores), small)
    told = [f"'{value}'; expected 0 to 1" for value in values.values()]
    assert [problem.partition(" is ")[2] for problem in found[:4]] == told
    assert found[0].startswith(f"scores {scores}: line 2: case {IDS[0]}: idh_mutant_probability is ")
    assert found[4:] == [
        f"scores {scores}: line 6: case {IDS[3]} has a row before; keep one of them",
        f"scores {scores}: line 7 has more or fewer values than the header; mend the line",
    ]
    (missing,) = problems_of(Source(write_scores(scores, {IDS[0]: 1}, "case_id,probability")), small)
    assert missing == (
        f"scores {scores}: no column idh_mutant_probability; expected case_id and idh_mutant_probability (probability "
        "of an IDH mutation), found case_id, probability"
    )


def test_labels_are_asked_for_and_never_guessed(small, tmp_path, write_predictions):
    rival, scores = write_masks(tmp_path / "rival"), write_scores(tmp_path / "s.csv", dict.fromkeys(IDS, 0.5))
    (found,) = problems_of(Source(rival), small)
    assert found.endswith(
        "not found; give a folder that `mttu predict` wrote, or another tool's with the labels of its masks (--labels)"
    )
    (found,) = problems_of(Source(rival, scores=scores), small)
    assert "scores are given, but not which labels its masks have; name one of brats (BraTS to 2021), " in found
    (found,) = problems_of(Source(rival, "nnunet"), small)
    assert "labels 'nnunet': unknown convention; choose one of brats" in found
    (found,) = problems_of(Source(scores, "msd"), small)
    assert "is a table of scores alone; leave out its labels and scores" in found
    (found,) = problems_of(Source(write_predictions("own"), "msd"), small)
    assert "`mttu predict` wrote it, so that it says labels and scores itself" in found
    (found,) = problems_of(Source(tmp_path / "nowhere", "msd"), small)
    assert found == f"predictions {tmp_path / 'nowhere'}: not found; give the folder of masks"


def test_the_command_compares_two_tools(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr("mttu.report.files.draw_pictures", lambda region_rows, idh_rows, summary: {})
    a, b = write_masks(tmp_path / "nnunet"), write_masks(tmp_path / "winner", lambda seg: seg)
    words = ["evaluate", a, small, "-o", tmp_path / "out", "--labels", "msd", "--resamples", "50"]
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in [*words, "--compare", b, "--compare-labels", "brats", "--no-clinical-baselines"]])
    assert not caught.value.code
    out = capsys.readouterr().out
    assert "nnunet minus winner, empty masks: Dice brats, HD95 exclude" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {"case_scores.csv", "summary.json"}
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in [*words, "--compare-labels", "brats"]])
    assert caught.value.code == 2
    assert "--compare-labels and --compare-scores: are of the predictions of --compare" in capsys.readouterr().err
