import csv
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from phantom_recipe import RECIPE

from mttu.cohort.build import discover
from mttu.errors import InputError
from mttu.phantom import Recipe, measure_phantom, write_phantom
from mttu.phantom.subjects import plan_subjects
from mttu.phantom.writing import DEFECTS, draw_case


def digest(folder):
    files = sorted(item for item in folder.rglob("*") if item.is_file())
    return {str(item.relative_to(folder)): hashlib.sha256(item.read_bytes()).hexdigest() for item in files}


def read_table(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_phantom(tmp_path / name, Recipe(cases=3, size=24, seed=seed))
    first = digest(tmp_path / "a")
    assert len(first) == 3 * 5 + 4
    assert digest(tmp_path / "b") == first
    assert all(digest(tmp_path / "c")[name] != first[name] for name in first if name.endswith(".nii.gz"))
    packed = (tmp_path / "a" / "phantom_000" / "phantom_000_t1.nii.gz").read_bytes()
    assert packed[:2] == b"\x1f\x8b"
    assert packed[4:8] == bytes(4)  # no time of writing


def test_a_case_depends_on_seed_number_and_idh_alone():
    subject = plan_subjects(RECIPE)[2]
    others = {
        "cases": 3,
        "mutant_fraction": 0.9,
        "unlabelled_fraction": 0.0,
        "unlabelled_mutant_fraction": 0.5,
        "test_fraction": 0.5,
        "missing_masks": 0.4,
        "sites": 7,
        "defects": 2,
    }
    one, two = draw_case(RECIPE, subject), draw_case(replace(RECIPE, **others), replace(subject, split="test"))
    assert all(np.array_equal(one.images[name], two.images[name]) for name in one.images)
    assert np.array_equal(one.classes, two.classes)
    assert replace(two.truth, split=one.truth.split) == one.truth
    elsewhere = draw_case(RECIPE, replace(subject, index=3))
    assert not np.array_equal(one.classes, elsewhere.classes)


def test_options_leave_the_other_files_alone(tmp_path):
    write_phantom(tmp_path / "plain", Recipe(cases=4, size=24))
    write_phantom(tmp_path / "odd", Recipe(cases=4, size=24, missing_masks=0.25, defects=1))
    plain, odd = digest(tmp_path / "plain"), digest(tmp_path / "odd")
    assert len(set(plain) - set(odd)) == 1
    assert set(odd) - set(plain) == {"defects.csv"}
    changed = {name for name in set(plain) & set(odd) if plain[name] != odd[name]}
    damaged = read_table(tmp_path / "odd" / "defects.csv")[0]
    assert changed == {"phantom.json", f"{damaged['case_id']}/{damaged['file']}"}


def test_the_table_the_splits_and_the_hidden_truth(tmp_path):
    folder = tmp_path / "p"
    write_phantom(folder, Recipe(cases=24, size=24))
    manifest = discover(folder, folder / "clinical.csv")
    assert manifest.synthetic
    assert [len(manifest.split(name)) for name in ("train", "val", "unlabelled", "test")] == [11, 3, 5, 5]
    assert {case.idh for case in manifest.split("unlabelled")} == {-1}
    columns = ["case_id", "patient_id", "idh", "age", "sex", "grade", "split", "site"]
    assert list(read_table(folder / "clinical.csv")[0]) == columns
    truth = {row["case_id"]: row for row in read_table(folder / "hidden_truth.csv")}
    for case in manifest.cases:
        assert case.split == truth[case.case_id]["split"]
        assert case.idh in (-1, int(truth[case.case_id]["true_idh"]))
    for split in ("train", "val", "unlabelled", "test"):
        assert {truth[case.case_id]["true_idh"] for case in manifest.split(split)} == {"0", "1"}
    assert "EVALUATION ONLY" in (folder / "README.txt").read_text()


def test_shares_of_mutants_are_those_asked_for():
    subjects = plan_subjects(replace(RECIPE, cases=300, unlabelled_mutant_fraction=0.1))
    pool = [subject.idh for subject in subjects if subject.split == "unlabelled"]
    known = [subject.idh for subject in subjects if subject.split != "unlabelled"]
    assert (len(pool), sum(pool)) == (60, 6)
    assert (len(known), sum(known)) == (240, 92)
    none = plan_subjects(replace(RECIPE, mutant_fraction=0.0, unlabelled_mutant_fraction=1.0))
    assert all(subject.idh == (subject.split == "unlabelled") for subject in none)
    rare = plan_subjects(replace(RECIPE, cases=24, mutant_fraction=0.01))
    assert {subject.idh for subject in rare if subject.split == "test"} == {0, 1}


def test_sex_grade_and_site_say_nothing_of_idh():
    subjects = plan_subjects(replace(RECIPE, cases=999, sites=3))
    for name in ("sex", "grade", "site"):
        values = sorted({getattr(subject, name) for subject in subjects})
        assert len(values) == (3 if name == "site" else 2)
        for value in values:
            shares = [
                np.mean([getattr(subject, name) == value for subject in subjects if subject.idh == idh])
                for idh in (0, 1)
            ]
            assert shares[0] == pytest.approx(shares[1], abs=0.08)


def test_a_single_case(tmp_path):
    write_phantom(tmp_path / "p", Recipe(cases=1, size=24))
    assert len(discover(tmp_path / "p", tmp_path / "p" / "clinical.csv").split("train")) == 1
    measured = measure_phantom(tmp_path / "p")
    assert (measured.ideal_auc, measured.simple_auc, measured.age_auc) == (None, None, None)
    assert "cannot be said" in measured.describe()[0]


def test_missing_masks_and_sites(tmp_path):
    write_phantom(tmp_path / "p", Recipe(cases=8, size=24, missing_masks=0.5, sites=3, thick_slices=1.0))
    manifest = discover(tmp_path / "p", tmp_path / "p" / "clinical.csv")
    assert sum(case.seg is None for case in manifest.cases) == 4
    sites = {row["case_id"]: row["site"] for row in read_table(tmp_path / "p" / "clinical.csv")}
    assert set(sites.values()) == {"site_01", "site_02", "site_03"}
    brightness = {}
    for case in manifest.cases:
        voxels = np.asarray(nib.load(case.images["t1"]).dataobj)
        brightness.setdefault(sites[case.case_id], []).append(float(np.median(voxels[voxels > 0])))
    spread = [np.mean(values) for values in brightness.values()]
    assert max(spread) > 1.3 * min(spread)


def test_every_defect_is_what_its_table_says(tmp_path):
    folder = tmp_path / "p"
    write_phantom(folder, Recipe(cases=8, size=24, defects=7))
    rows = read_table(folder / "defects.csv")
    assert [row["defect"] for row in rows] == list(DEFECTS)
    assert len({row["case_id"] for row in rows}) == 7
    path = {row["defect"]: folder / row["case_id"] / row["file"] for row in rows}
    assert not path["missing"].exists()
    assert path["empty"].stat().st_size == 0
    with pytest.raises(EOFError):
        nib.load(path["truncated"]).get_fdata()
    assert np.isnan(nib.load(path["nan"]).get_fdata()).any()
    assert nib.load(path["shape"]).shape == (24, 24, 23)
    assert nib.load(path["affine"]).affine[1, 3] == 23 - 5
    assert len(np.unique(nib.load(path["constant"]).get_fdata())) == 2
    with pytest.raises(InputError) as caught:
        discover(folder, folder / "clinical.csv")
    text = str(caught.value)
    assert all(row["case_id"] in text for row in rows)
    sound = {f"phantom_{index:03d}" for index in range(8)} - {row["case_id"] for row in rows}
    assert not any(name in text for name in sound)


def test_the_same_phantom_is_left_and_anything_else_is_not_overwritten(tmp_path):
    folder = tmp_path / "p"
    folder.mkdir()
    write_phantom(folder, Recipe(cases=2, size=24))
    before = {item: item.stat().st_mtime_ns for item in folder.rglob("*")}
    write_phantom(folder, Recipe(cases=2, size=24))
    assert {item: item.stat().st_mtime_ns for item in folder.rglob("*")} == before
    for changed in ({"cases": 3}, {"difficulty": 0.5}):
        with pytest.raises(InputError, match="holds something else than this phantom; give a new or an empty folder"):
            write_phantom(folder, Recipe(**{"cases": 2, "size": 24, **changed}))
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        write_phantom(tmp_path / "own", Recipe())
    assert (tmp_path / "own" / "thesis.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_drawn(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is a file; give another folder"):
        write_phantom(tmp_path / "file" / "p", Recipe(cases=1, size=24), lambda *_: pytest.fail("drawn"))
    if Path("/proc/self").exists():  # not writable even for root
        with pytest.raises(InputError, match="/proc/p: /proc is not writable; allow it, or give another folder"):
            write_phantom(Path("/proc/p"), Recipe(cases=1, size=24), lambda *_: pytest.fail("drawn"))
    assert [item.name for item in tmp_path.iterdir()] == ["file"]


def test_arguments_are_checked_all_at_once(tmp_path):
    recipe = Recipe(
        cases=0,
        size=8,
        seed=-1,
        unlabelled_fraction=0.6,
        test_fraction=0.5,
        difficulty=1.5,
        mutant_fraction=float("nan"),
        sites=0,
        defects=2,
    )
    with pytest.raises(InputError) as caught:
        write_phantom(tmp_path / "p", recipe)
    assert caught.value.problems == [
        "cases: 0; expected 1 to 9999",
        "size: 8; expected 24 to 256 voxels",
        "sites: 0; expected 1 to 20",
        "defects: 2; expected 0 to 0 (the number of cases)",
        "seed: -1; expected 0 or more",
        "difficulty: 1.5; expected 0 to 1",
        "mutant_fraction: nan; expected 0 to 1",
        "unlabelled_fraction + test_fraction: 1.1; expected below 1",
    ]
    assert not (tmp_path / "p").exists()


def test_what_is_measured_on_disk_is_what_was_drawn(tmp_path):
    told = []
    write_phantom(tmp_path / "p", Recipe(cases=4, size=24), lambda done, name: told.append((done, name)))
    assert told == [(index + 1, f"phantom_{index:03d}") for index in range(4)]
    measured = measure_phantom(tmp_path / "p")
    assert (measured.cases, measured.mutants) == (4, 1)
    assert measured.expected_auc == pytest.approx(0.955, abs=0.001)
    row = read_table(tmp_path / "p" / "hidden_truth.csv")[0]
    seg = np.asarray(nib.load(tmp_path / "p" / "phantom_000" / "phantom_000_seg.nii.gz").dataobj)
    flair = np.asarray(nib.load(tmp_path / "p" / "phantom_000" / "phantom_000_flair.nii.gz").dataobj)
    brain = flair[flair > 0].astype(float)
    assert float(row["volume_ml"]) == pytest.approx((seg > 0).sum() / 1000)
    assert float(row["mean_flair"]) == pytest.approx((flair[seg > 0].mean() - brain.mean()) / brain.std(), abs=1e-5)


@pytest.mark.parametrize("content", [None, "{}", json.dumps({"synthetic": True, "cases": []}), "no JSON"])
def test_a_folder_without_phantom_cannot_be_measured(tmp_path, content):
    if content is not None:
        (tmp_path / "phantom.json").write_text(content)
        (tmp_path / "hidden_truth.csv").write_text("case_id,split\nphantom_000,train\n")
    with pytest.raises(InputError, match=r"no phantom of this version .*; write one with `mttu phantom`"):
        measure_phantom(tmp_path)
