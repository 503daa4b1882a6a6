"""Pool cases without a mask in the rounds: left out, or with a teacher in training from round 1 on."""

import pytest
from small_self_training import same, weights

from mttu.config import override
from mttu.data.manifest import read_manifest
from mttu.self_training import check_self_training, run_self_training
from mttu.self_training.round_folder import read_history, read_record

pytestmark = pytest.mark.usefixtures("sketches")
ON = {"teacher.masks": True, "teacher.confidence": 0.0}


@pytest.fixture
def bare_pool(make_config, bare_paths):
    """Settings of a short self-training whose pool has no mask at all, without pseudo-labels."""
    short = {"train.epochs": 1, "self_training.rounds": 1, "selection.method": "none"}
    return make_config({**bare_paths, **short, "augment.foreground_crop_probability": 0.0})


def test_a_pool_without_masks_is_left_out_or_taught(bare_pool, here, pool_manifest):
    pool = {case.case_id for case in pool_manifest.split("unlabelled")}
    off = run_self_training(bare_pool, here)
    assert set(read_record(off / "round_1").left_out) == pool
    shared = {"self_training.start": str(off / "round_0"), "output.name": "on"}
    on = run_self_training(override(bare_pool, {**ON, **shared}), here)
    assert same(weights(off / "round_0"), weights(on / "round_0"))  # of both: Algorithm 1 begins with labelled cases
    assert read_record(on / "round_1").left_out == ()
    manifest = read_manifest(on / "round_1" / "manifest.parquet")
    added = [case for case in manifest.split("train") if case.case_id in pool]
    assert {case.case_id for case in added} == pool
    assert {(case.seg, case.idh, case.pseudo_label, case.teacher_mask) for case in added} == {(None, -1, False, True)}
    [taught] = [note for note in read_record(on / "round_1").notes if "teacher" in note]
    bare = sum(case.seg is None for case in manifest.split("train"))
    assert taught.startswith(f"{bare} training cases have no mask: from these the network learns the teacher's")
    assert not [note for note in read_record(on / "round_0").notes if "teacher" in note]
    [before], [row] = read_history(on / "round_0"), read_history(on / "round_1")
    assert row["train/teacher_sure"] == 1
    assert row["train/loss_teacher"] > 0
    assert not [name for name in before if "teacher" in name]
    assert not same(weights(off / "round_1"), weights(on / "round_1"))


def test_the_direct_training_has_a_teacher_in_its_only_round(bare_pool, here):
    config = override(bare_pool, {**ON, "selection.method": "direct"})
    check_self_training(config)
    folder = run_self_training(config, here)
    record = read_record(folder / "round_0")
    assert record.left_out == ()
    assert record.notes == (
        "selection.method is direct: one training on the labelled cases and the masks of 0 cases of the pool; 6 cases "
        "without a mask with a teacher's; self_training.rounds has no effect",
    )
    [row] = read_history(folder / "round_0")
    assert row["train/teacher_sure"] == 1
