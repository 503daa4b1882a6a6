import pytest

from mttu.errors import InputError
from mttu.pseudo_labels.scoring import plan_scoring


def test_a_plan_holds_what_the_table_has_to_say(tiny_checkpoint, manifest_file):
    plan = plan_scoring(tiny_checkpoint.parent, manifest_file, "val", {"mc.seed": 3, "inference.overlap": 0.5})
    assert plan.checkpoint == tiny_checkpoint.resolve()
    assert [case.split for case in plan.cases] == ["val", "val"]
    assert plan.about["mc"]["seed"] == 3
    assert plan.about["mc"]["passes"] == 4
    assert plan.about["inference"] == {"overlap": 0.5}
    assert plan.about["labelled"] == {"mutant": 3, "wild": 3}
    assert plan.about["split"] == "val"
    assert len(plan.about["weights_sha256"]) == 64
    assert str(tiny_checkpoint.parent.parent) not in str(plan.about)  # no folder of this machine


def test_all_problems_come_at_once(manifest_file, tmp_path):
    with pytest.raises(InputError) as caught:
        plan_scoring(tmp_path / "none", manifest_file, "everything", cache_dir=tmp_path / "cache")
    checkpoint, split, cache = caught.value.problems
    assert checkpoint.startswith(f"checkpoint {tmp_path / 'none'}: checkpoint.json")
    assert split == "split 'everything': unknown; choose one of train, val, unlabelled, test"
    assert cache.endswith("cache: no such folder; run `mttu prepare`, or leave it out")


@pytest.mark.parametrize(
    ("network", "changes", "message"),
    [
        ({}, {"network.dropout.head": 0.5}, "setting network.dropout.head: belongs to the trained network"),
        ({}, {"mc.passes": 1}, "mc.passes: Input should be greater than or equal to 2"),
        ({}, {"mc.active_dropout": "stem"}, "mc.active_dropout"),
        ({"network.tasks": ["segmentation"]}, {}, "the network has no IDH head"),
        ({"network.dropout.head": 0.0}, {"mc.active_dropout": "head"}, "no dropout there has a probability above 0"),
        ({"network.tasks": ["idh"]}, {"mc.windows": "tumour"}, "mc.windows=tumour: the network has no segmentation"),
    ],
)
def test_what_cannot_be_scored_is_refused(write_tiny, manifest_file, tmp_path, network, changes, message):
    folder = write_tiny(tmp_path / "run" / "best", network)
    with pytest.raises(InputError, match=message):
        plan_scoring(folder, manifest_file, "val", changes)


def test_an_empty_split_and_a_missing_modality(write_tiny, phantom_folder, tmp_path):
    from mttu.cohort.build import discover
    from mttu.data.manifest import write_manifest

    folder = write_tiny(tmp_path / "run" / "best")
    two = discover(phantom_folder, phantom_folder / "clinical.csv", modalities=["flair", "t1"])
    write_manifest(two, tmp_path / "two.parquet")
    with pytest.raises(InputError, match=r"has no t1ce, t2; the checkpoint was trained on flair, t1ce, t1, t2"):
        plan_scoring(folder, tmp_path / "two.parquet", "val")
    bare = discover(phantom_folder)
    write_manifest(bare, tmp_path / "bare.parquet")
    with pytest.raises(
        InputError, match=r"no case is in split unlabelled; it holds 6 train, 2 val, 0 unlabelled, 0 test"
    ):
        plan_scoring(folder, tmp_path / "bare.parquet", "unlabelled")
