import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow.parquet as pq
import pytest
from empty_pictures import save_empty

from mttu.cli import main
from mttu.data.manifest import write_manifest
from mttu.errors import InputError
from mttu.report import Source, evaluate_cases, plan_evaluation
from mttu.report.files import check_output
from mttu.report.tables import show_p


def problems_of(*arguments, **settings):
    with pytest.raises(InputError) as caught:
        evaluate_cases(plan_evaluation(*arguments, **settings))
    return caught.value.problems


def test_all_problems_are_named_at_once(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_text("mine")
    found = problems_of(tmp_path / "p", tmp_path / "m.parquet", tmp_path / "out", empty="none", compare=tmp_path / "q")
    assert [text.partition(":")[0] for text in found] == [
        "empty masks 'none'",
        f"output {tmp_path / 'out'}",
        f"manifest {tmp_path / 'm.parquet'}",
        f"predictions {tmp_path / 'p' / 'predictions.parquet'}",
        f"predictions {tmp_path / 'q' / 'predictions.parquet'}",
    ]
    assert (tmp_path / "out" / "thesis.docx").read_text() == "mine"


def test_a_split_without_cases_and_one_that_is_none(write_predictions, manifest, tmp_path):
    predictions = write_predictions("a")
    assert "split unlabelled has no case" in problems_of(predictions, manifest, tmp_path / "out", split="unlabelled")[0]
    assert "split 'dev': unknown" in problems_of(predictions, manifest, tmp_path / "out", split="dev")[0]


def test_cases_that_were_not_predicted_are_listed(write_predictions, manifest, tmp_path, cohort):
    part = write_predictions("part", cases=cohort.split("test")[:2])
    (found,) = problems_of(part, manifest, tmp_path / "out")
    absent = ", ".join(case.case_id for case in cohort.split("test")[2:])
    assert (
        found
        == f"predictions {part}: 2 of the 4 cases of split test are not in the table: {absent}; predict all of them"
    )


def test_different_case_sets_are_not_compared(write_predictions, manifest, tmp_path, cohort):
    broken = cohort.split("test")[1].case_id
    first, second = write_predictions("first"), write_predictions("second", failed=[broken])
    masks, idh = problems_of(first, manifest, tmp_path / "out", compare=second)
    assert f"second (masks) has no score for 1 of 4 cases: {broken} (only in first (masks))" in masks
    assert f"second (IDH) has no score for 1 of 4 cases: {broken}" in idh
    assert "compared with itself" in problems_of(first, manifest, tmp_path / "out", compare=first)[0]


def test_masks_that_are_gone_or_lie_elsewhere(write_predictions, manifest, tmp_path, cohort):
    predictions = write_predictions("a")
    names = [case.case_id for case in cohort.split("test")]
    mask = predictions / f"{names[0]}_seg.nii.gz"
    aside = shutil.copy(mask, tmp_path / "aside.nii.gz")
    mask.unlink()
    assert f"the masks of {names[0]} are gone" in problems_of(predictions, manifest, tmp_path / "out")[0]
    image = nib.load(aside)
    moved = image.affine.copy()
    moved[0, 3] += 7
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), moved), mask)
    nib.save(nib.Nifti1Image(np.full(image.shape, 9, np.uint8), image.affine), predictions / f"{names[1]}_seg.nii.gz")
    (predictions / f"{names[2]}_seg.nii.gz").write_bytes(b"no image")
    grid, labels, damaged = problems_of(predictions, manifest, tmp_path / "out")
    assert grid.startswith(f"case {names[0]}: true and predicted mask have different grids: affine")
    assert labels.startswith(f"case {names[1]} (prediction): seg has labels {{9}}")
    assert damaged.startswith(f"case {names[2]} (prediction)")


def rewrite(path: Path, **metadata: str) -> None:
    table = pq.read_table(path)
    changed = {**table.schema.metadata, **{name.encode(): value.encode() for name, value in metadata.items()}}
    pq.write_table(table.replace_schema_metadata(changed), path)


def test_tables_of_other_makers_are_refused(write_predictions, manifest, tmp_path):
    predictions = write_predictions("a", probabilities=(1.5, *[0.5] * 7))
    assert "idh_mutant_probability is 1.5; expected 0 to 1" in problems_of(predictions, manifest, tmp_path / "out")[0]
    rewrite(predictions / "predictions.parquet", labels="ours")
    assert "labels are 'ours'" in problems_of(predictions, manifest, tmp_path / "out")[0]
    rewrite(predictions / "predictions.parquet", format_version="7")
    assert "format_version is 7; expected 1" in problems_of(predictions, manifest, tmp_path / "out")[0]
    (predictions / "predictions.parquet").write_bytes(b"PAR1")
    assert "no readable Parquet file" in problems_of(predictions, manifest, tmp_path / "out")[0]


def test_nothing_to_score_and_odd_grades(write_predictions, cohort, tmp_path):
    cases = [replace(case, seg=None, idh=-1, grade="oligo") for case in cohort.cases]
    write_manifest(replace(cohort, cases=tuple(cases)), tmp_path / "m.parquet")
    nothing, grades = problems_of(write_predictions("a"), tmp_path / "m.parquet", tmp_path / "out")
    assert "nothing to score" in nothing
    assert grades.startswith("grade 'oligo' of 8 cases")


def test_names_that_are_no_text_are_refused_before_anything_is_scored(write_predictions, manifest, tmp_path):
    named, masks = write_predictions("a"), tmp_path / "b\udcff"
    (tmp_path / "link\udcff").symlink_to(named)
    (found,) = problems_of(tmp_path / "link\udcff", manifest, tmp_path / "out")
    assert r"link\udcff/predictions.parquet': is no UTF-8" in found
    masks.mkdir()
    (found,) = problems_of(Source(masks, "brats"), manifest, tmp_path / "out")
    assert found == r"predictions 'b\udcff': is no UTF-8, and what is written names it; rename it"
    (found,) = problems_of(named, manifest, tmp_path / "o\udcff" / "out")
    assert r"o\udcff/out': is no UTF-8" in found


def test_only_an_evaluation_is_replaced(tmp_path):
    out = tmp_path / "out"
    assert check_output(out) == []
    out.mkdir()
    assert check_output(out) == []
    (out / "summary.json").write_text("{}")
    assert "holds files, but no evaluation" in check_output(out)[0]
    (out / "summary.json").write_text('{"format_version": 1}')
    assert check_output(out) == []
    (out / "notes.txt").write_text("mine")
    assert "holds notes.txt, which is not of an evaluation" in check_output(out)[0]
    assert "is a file; give another folder" in check_output(out / "notes.txt")[0]


def test_the_command_prints_tables_and_writes_them(write_predictions, manifest, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setattr("mttu.report.files.save_figure", save_empty)
    words = ["evaluate", write_predictions("a"), manifest, "-o", tmp_path / "out", "--resamples", "50"]
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in [*words, "--compare", write_predictions("b", 3)]])
    assert not caught.value.code
    out = capsys.readouterr().out
    for text in (
        "Segmentation, empty masks: Dice brats, HD95 exclude",
        "both empty 1, only one empty 0",
        "a minus b, empty masks: Dice brats, HD95 exclude",
        "both empty, cases",
        "fewer than 10 cases of an IDH class",
        "IDH, 4 cases, 2 mutant",
        "10 equal-width bins",
        "Without images, fitted on 4 training cases",
        "after surgery",
        "Wilcoxon signed-rank",
        "p (Holm)",
        "Research use only",
    ):
        assert text in out, text
    assert "nan" not in out.lower().split()
    assert (tmp_path / "out" / "summary.json").exists()


def test_the_command_refuses_without_a_trace(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", str(tmp_path / "p"), str(tmp_path / "m.parquet"), "-o", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert all(line.startswith("error: ") for line in capsys.readouterr().err.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_small_p_values_are_not_printed_as_zero():
    assert [show_p(value) for value in (None, 0.0, 0.00009, 0.0312)] == ["-", "<0.0001", "<0.0001", "0.0312"]
