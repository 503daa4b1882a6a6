from dataclasses import replace
from pathlib import Path

import pytest

from mttu.cohort.splits import draw_folds, write_folds
from mttu.data.manifest import Case, Manifest, read_manifest
from mttu.errors import InputError

ROOT = Path("/data")


def case(case_id, split="train", idh=-1, patient_id=None, site=None, seg=True):
    folder = ROOT / case_id
    mask = folder / "seg.nii.gz" if seg else None
    images = {"flair": folder / "flair.nii.gz"}
    return Case(case_id, patient_id or case_id, split, images, mask, None, idh, None, None, None, "brats", site)


def cohort(*cases):
    return Manifest(ROOT, tuple(sorted(cases, key=lambda item: item.case_id)), ("flair",), False)


@pytest.fixture
def hospital():
    """10 mutants, 15 wild types and 5 with a mask only, of which 7 validate; 3 unlabelled, 2 test."""
    labelled = [case(f"m{index:02d}", idh=1, site=f"s{index % 6}") for index in range(10)]
    labelled += [case(f"w{index:02d}", "val" if index < 7 else "train", 0, site=f"s{index % 6}") for index in range(15)]
    labelled += [case(f"x{index}", site=f"s{index}") for index in range(5)]
    return cohort(
        *labelled,
        *(case(f"u{index}", "unlabelled") for index in range(3)),
        case("t0", "test", 1),
        case("t1", "test", 0),
    )


def held_out(folds):
    return [{item.case_id for item in fold.split("val")} for fold in folds]


def test_each_patient_validates_once_and_the_classes_are_even(hospital):
    folds = draw_folds(hospital, 5)
    drawn = [item.case_id for item in hospital.cases if item.split in ("train", "val")]
    assert sorted(name for fold in held_out(folds) for name in fold) == drawn
    for fold, names in zip(folds, held_out(folds), strict=True):
        assert sorted(name[0] for name in names) == ["m"] * 2 + ["w"] * 3 + ["x"]
        assert len(fold.split("train")) == 24
        assert fold.split("unlabelled") == hospital.split("unlabelled")
        assert fold.split("test") == hospital.split("test")
        assert (fold.root, fold.modalities) == (hospital.root, hospital.modalities)


def test_the_draw_is_of_the_seed_and_not_of_the_order(hospital):
    turned = replace(hospital, cases=hospital.cases[::-1])
    assert held_out(draw_folds(hospital, 5, seed=3)) == held_out(draw_folds(turned, 5, seed=3))
    assert held_out(draw_folds(hospital, 5, seed=3)) != held_out(draw_folds(hospital, 5, seed=4))


def test_test_cases_can_be_left_out(hospital):
    (first, _) = draw_folds(hospital, 2, exclude_test=True)
    assert first.split("test") == ()
    assert len(first.cases) == 33


def test_all_cases_of_a_patient_are_on_one_side():
    cases = [
        case(f"{name}{scan}", idh=idh, patient_id=name)
        for name, idh in zip("abcdef", (0, 1) * 3, strict=True)
        for scan in "123"
    ]
    for fold in draw_folds(cohort(*cases), 3):
        sides = {side: {item.patient_id for item in fold.split(side)} for side in ("train", "val")}
        assert not sides["train"] & sides["val"]
        assert len(fold.split("val")) == 6


def test_unlabelled_cases_follow_a_patient_who_validates():
    labelled = [case(f"p{index}", idh=index % 2) for index in range(4)]
    more = case("p0-more", "unlabelled", patient_id="p0"), case("p0-bare", "unlabelled", patient_id="p0", seg=False)
    folds = draw_folds(cohort(*labelled, *more), 2)
    for fold in folds:
        split = {item.case_id: item.split for item in fold.cases}
        if split["p0"] == "val":
            assert split["p0-more"] == "val"
            assert "p0-bare" not in split
        else:
            assert (split["p0-more"], split["p0-bare"]) == ("unlabelled", "unlabelled")


def test_a_cohort_for_segmentation_alone_is_split_too():
    folds = draw_folds(cohort(*(case(f"s{index}") for index in range(7))), 3)
    assert sorted(len(names) for names in held_out(folds)) == [2, 2, 3]


def test_a_site_is_never_in_two_folds(hospital):
    folds = draw_folds(hospital, 3, group="site")
    sites = [{item.site for item in fold.split("val")} for fold in folds]
    assert sorted(site for found in sites for site in found) == [f"s{index}" for index in range(6)]
    assert all({item.idh for item in fold.split("val")} >= {0, 1} for fold in folds)


def test_sites_that_share_a_patient_are_one():
    cases = [case(f"{site}{index}", idh=index % 2, site=site) for site in "abcd" for index in range(4)]
    moved = case("a0-again", idh=0, patient_id="a0", site="b")
    for fold in draw_folds(cohort(*cases, moved), 3, group="site"):
        sites = {item.site for item in fold.split("val")}
        assert ("a" in sites) == ("b" in sites)
        assert not sites & {item.site for item in fold.split("train")}


@pytest.mark.parametrize(
    ("cases", "arguments", "problems"),
    [
        (
            [],
            {"folds": 1, "group": "town"},
            ["folds: 1; expected 2 or more", "group 'town': unknown; choose one of patient, site"],
        ),
        (
            [case("a", idh=1), case("b", idh=1), case("c", idh=0), case("d")],
            {"folds": 3},
            [
                "2 IDH mutant patients in train and val for 3 folds; take at most 2 folds",
                "1 IDH wild type patients in train and val for 3 folds; each fold needs one",
            ],
        ),
        (
            [case("a"), case("b"), case("u", "unlabelled")],
            {"folds": 3},
            ["2 patients in train and val for 3 folds; take fewer folds"],
        ),
        (
            [
                case("a1", idh=0, patient_id="a"),
                case("a2", "test", 0, "a"),
                case("b", idh=0),
                case("c", idh=1),
                case("d", idh=1),
            ],
            {"folds": 2},
            ["patient a: has cases in test and in train or val; put all into one split"],
        ),
        (
            [
                *(case(f"p{index}", idh=index % 2) for index in range(4)),
                case("q1", idh=0, patient_id="q"),
                case("q2", idh=1, patient_id="q"),
            ],
            {"folds": 2},
            ["patient q: has cases of IDH mutant and wild type; correct the clinical table"],
        ),
        (
            [case("a", idh=0, site="x"), case("b", idh=1), case("c", idh=0), case("d", idh=1)],
            {"folds": 2, "group": "site"},
            [
                "cases b, c, d: site unknown (3 of 4 in train and val); name it in the clinical table (column site), "
                "or group by patient"
            ],
        ),
        (
            [case(f"p{index}", idh=index % 2, site="xy"[index % 2]) for index in range(8)],
            {"folds": 3, "group": "site"},
            ["2 separate sites (x, y) for 3 folds; take at most 2 folds, or group by patient"],
        ),
        (
            [case(f"p{index}", idh=index % 2, site="xy"[index % 2]) for index in range(8)],
            {"folds": 2, "group": "site"},
            ["all IDH wild type patients would be in val and none in train", "all IDH mutant patients would be in val"],
        ),
    ],
)
def test_refused_draws(cases, arguments, problems):
    with pytest.raises(InputError) as caught:
        draw_folds(cohort(*cases), **arguments)
    assert len(caught.value.problems) == len(problems)
    assert all(any(expected in found for found in caught.value.problems) for expected in problems)


def test_written_folds_point_at_the_same_files_and_move_with_them(hospital, tmp_path):
    def move(path, root):
        return root / path.relative_to(ROOT) if path else None

    def place(manifest, root):
        cases = [
            replace(item, images={"flair": move(item.images["flair"], root)}, seg=move(item.seg, root))
            for item in manifest.cases
        ]
        return replace(manifest, root=root, cases=tuple(cases))

    folds = draw_folds(place(hospital, tmp_path / "old" / "data"), 3)
    write_folds(folds, tmp_path / "old" / "lists" / "folds")
    written = sorted(path.name for path in (tmp_path / "old" / "lists" / "folds").iterdir())
    assert written == ["fold_1.parquet", "fold_2.parquet", "fold_3.parquet"]
    (tmp_path / "old").rename(tmp_path / "new")
    for number, fold in enumerate(draw_folds(hospital, 3), 1):
        found = read_manifest(tmp_path / "new" / "lists" / "folds" / f"fold_{number}.parquet")
        assert found == place(fold, tmp_path / "new" / "data")


def test_fewer_folds_replace_more_and_nothing_else_is_ever_lost(hospital, tmp_path):
    folder = tmp_path / "folds"
    write_folds(draw_folds(hospital, 5), folder)
    write_folds(draw_folds(hospital, 2), folder)
    assert len(list(folder.iterdir())) == 2
    (folder / "notes.txt").write_text("mine")
    (folder / "fold_x.parquet").write_text("no manifest")
    with pytest.raises(InputError) as caught:
        write_folds(draw_folds(hospital, 2), folder)
    assert "holds what is no fold (notes.txt); give a new or an empty folder" in caught.value.problems[0]
    assert "is there and no manifest" in caught.value.problems[1]
    assert (folder / "notes.txt").read_text() == "mine"
    with pytest.raises(InputError, match="is a file; give a new folder"):
        write_folds(draw_folds(hospital, 2), folder / "notes.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folds"]
