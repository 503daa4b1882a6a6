"""A head that never saw a label: its training, its checkpoint, and what is said of it."""

import json
from dataclasses import replace

import pytest
import torch

from mttu.config import override
from mttu.data.manifest import read_manifest, write_manifest
from mttu.errors import InputError
from mttu.networks.checkpoint import read_checkpoint, read_learned_tasks, write_checkpoint
from mttu.networks.learned import describe_voters, explain_missing_answers
from mttu.training.inputs import check_inputs
from mttu.training.run import launch_locally, run_training
from mttu.training.start import find_learned_tasks

pytestmark = pytest.mark.usefixtures("sketches")

NO_IDH = "no IDH probability: no training case had a known IDH status"


@pytest.fixture
def unlabelled(tiny):
    """No training case has a known IDH status; validation cases have."""
    manifest = read_manifest(tiny.data.manifest)
    cases = tuple(replace(case, idh=-1) if case.split == "train" else case for case in manifest.cases)
    write_manifest(replace(manifest, cases=cases), tiny.data.manifest)
    return override(tiny, {"train.epochs": 1, "train.steps_per_epoch": 1})


def test_a_training_without_idh_labels_says_so_and_measures_no_idh(unlabelled):
    told = []
    folder = run_training(unlabelled, launch_locally, tell=told.append)
    (note,) = told
    assert note.startswith(
        "no training case has a known IDH status: the IDH head will not learn, so there will be no IDH probability in "
        "predictions, no IDH metric in validation"
    )
    content = json.loads((folder / "best" / "checkpoint.json").read_text())
    assert content["learned_tasks"] == ["segmentation"]
    assert content["metrics"]["val/score"] == content["metrics"]["val/dice"]
    assert not [name for name in content["metrics"] if name.startswith("val/idh")]
    network, _ = read_checkpoint(folder)
    assert set(network(torch.zeros(1, 4, 16, 16, 16))) == {"seg_logits", "idh_logits"}  # the head is there
    assert explain_missing_answers([network]) == {"idh": NO_IDH}


def test_what_the_weights_to_start_from_had_learned_counts(unlabelled, tiny_checkpoint, write_tiny, tmp_path):
    train = read_manifest(unlabelled.data.manifest).split("train")
    assert find_learned_tasks(unlabelled, train) == {"segmentation"}
    assert find_learned_tasks(unlabelled, [replace(train[0], idh=1, pseudo_label=True)]) == {"segmentation", "idh"}
    started = override(unlabelled, {"train.start_from": str(tiny_checkpoint)})
    assert find_learned_tasks(started, train) == {"segmentation", "idh"}
    (note,) = check_inputs(started).notes
    assert note.endswith("what train.start_from learned of it is not trained further")
    network, config = read_checkpoint(tiny_checkpoint)
    write_checkpoint(tmp_path / "best", network.state_dict(), config, {}, learned_tasks=["segmentation"])
    started = override(unlabelled, {"train.start_from": str(tmp_path / "best")})
    assert find_learned_tasks(started, train) == {"segmentation"}


@pytest.mark.parametrize("metric", ["idh_auc", "negative_idh_ce"])
def test_a_metric_of_a_head_that_will_not_learn_is_refused(unlabelled, metric):
    with pytest.raises(InputError, match=r"no training case has a known IDH status; set train\.validation_metric=dice"):
        check_inputs(override(unlabelled, {"train.validation_metric": metric}))


def test_an_older_checkpoint_has_learned_all_of_its_tasks(tiny_checkpoint, tmp_path):
    assert "learned_tasks" not in json.loads((tiny_checkpoint / "checkpoint.json").read_text())
    assert read_learned_tasks(tiny_checkpoint) == {"segmentation", "idh"}
    network, config = read_checkpoint(tiny_checkpoint)
    assert (network.learned_tasks, explain_missing_answers([network])) == ({"segmentation", "idh"}, {})
    write_checkpoint(tmp_path / "best", network.state_dict(), config, {}, learned_tasks=["grade"])
    for read in (read_checkpoint, read_learned_tasks):
        with pytest.raises(InputError, match=r"names learned_tasks \['grade'\]; config.yaml has network.tasks"):
            read(tmp_path / "best")


def test_members_that_never_saw_a_label_are_counted(tiny_checkpoint):
    networks = [read_checkpoint(tiny_checkpoint)[0] for _ in range(3)]
    networks[1].learned_tasks = frozenset({"segmentation"})
    assert explain_missing_answers(networks) == {}
    assert describe_voters(networks) == [
        "IDH probability by 2 of 3 members: no training case of the others had a known IDH status"
    ]
