"""Monte Carlo scores of an ensemble: each pass is the mean over members with masks of their own."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mttu.data.preprocess import prepare_case
from mttu.errors import InputError
from mttu.inference.passes import run_passes
from mttu.networks.checkpoint import read_checkpoint, write_checkpoint
from mttu.networks.ensemble import write_ensemble
from mttu.pseudo_labels import scoring
from mttu.pseudo_labels.scoring import CaseScorer, plan_scoring, score_cases

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def runs(write_tiny, tmp_path_factory):
    """Two checkpoints of different weights. Not to be changed."""
    root = tmp_path_factory.mktemp("members")
    return [write_tiny(root / name / "best", spoil=spoil) for name, spoil in (("one", 2.0), ("two", -2.0))]


def score(checkpoint, manifest_file, **changes):
    table = score_cases(plan_scoring(checkpoint, manifest_file, "val", changes), CPU)
    assert not [row.error for row in table.rows if row.error]
    return table


def test_each_pass_is_the_mean_over_members_with_their_own_masks(runs, manifest_file, tmp_path):
    write_ensemble(tmp_path / "both", runs)
    plan = plan_scoring(tmp_path / "both", manifest_file, "val")
    (row, _), config = score_cases(plan, CPU).rows, plan.config
    prepared = prepare_case(replace(plan.cases[0], seg=None), config.data.modalities, config.data.prepare)
    volume = torch.from_numpy(np.asarray(prepared.image, dtype=np.float32))
    arguments = (volume, row.case_id, config.patch.size, config.mc, config.inference, CPU, "float32")
    networks = [CaseScorer(replace(plan, checkpoint=run), CPU).networks[0] for run in runs]
    first, second = (run_passes(network, *arguments, number) for number, network in enumerate(networks, 1))
    expected = (np.array(first.mutant_probabilities) + np.array(second.mutant_probabilities)) / 2
    assert row.mutant_probabilities == pytest.approx(expected.tolist(), abs=1e-12)
    assert row.mean_probability == pytest.approx(expected.mean())
    assert row.uncertainty == pytest.approx(expected.std(ddof=1))
    without_dropout = (first.deterministic_probability, second.deterministic_probability)
    assert row.deterministic_probability == pytest.approx(sum(without_dropout) / 2)
    assert abs(without_dropout[0] - without_dropout[1]) > 1e-3


def test_one_member_gives_the_bits_of_the_checkpoint_alone(runs, manifest_file, tmp_path):
    write_ensemble(tmp_path / "only", runs[:1])
    for changes in ({}, {"mc.windows": "tumour", "mc.tumour_mask": "given"}):
        alone, ensemble = (score(place, manifest_file, **changes) for place in (runs[0], tmp_path / "only"))
        assert ensemble.digest == alone.digest


def test_only_members_that_learned_from_idh_labels_have_a_say(runs, manifest_file, tmp_path):
    network, config = read_checkpoint(runs[1])
    write_checkpoint(tmp_path / "mute" / "best", network.state_dict(), config, {}, learned_tasks=["segmentation"])
    write_ensemble(tmp_path / "both", [tmp_path / "mute", runs[0]])
    write_ensemble(tmp_path / "second", [runs[1], runs[0]])
    both = plan_scoring(tmp_path / "both", manifest_file, "val")
    assert both.about["idh_members"] == [2]
    assert both.about["notes"] == [
        "IDH probability by 1 of 2 members: no training case of the others had a known IDH status"
    ]
    scorer = CaseScorer(plan_scoring(tmp_path / "second", manifest_file, "val"), CPU)
    scorer.voters = [2]
    assert replace(CaseScorer(both, CPU).score(both.cases[0]), seconds=0) == replace(
        scorer.score(both.cases[0]), seconds=0
    )
    with pytest.raises(InputError, match="no IDH probability: no training case had a known IDH status; score with a"):
        plan_scoring(tmp_path / "mute", manifest_file, "val")


def test_members_of_equal_weights_have_different_masks(write_tiny, manifest_file, tmp_path):
    twins = [write_tiny(tmp_path / name / "best") for name in ("one", "two")]
    write_ensemble(tmp_path / "twins", twins)
    alone, both = score(twins[0], manifest_file), score(tmp_path / "twins", manifest_file)
    for one, two in zip(alone.rows, both.rows, strict=True):
        assert two.deterministic_probability == one.deterministic_probability
        pairs = zip(one.mutant_probabilities, two.mutant_probabilities, strict=True)
        assert not any(math.isclose(first, second, rel_tol=1e-9) for first, second in pairs)
    assert score(tmp_path / "twins", manifest_file).digest == both.digest  # the same again


def test_the_table_says_what_it_was_scored_with(runs, manifest_file, tmp_path):
    write_ensemble(tmp_path / "cv" / "ensemble", runs)
    plan = plan_scoring(tmp_path / "cv", manifest_file, "val")
    assert plan.checkpoint == tmp_path / "cv" / "ensemble"
    assert (plan.about["checkpoint"], plan.about["ensemble"], plan.about["members"]) == ("cv/ensemble", True, 2)
    single = plan_scoring(runs[0], manifest_file, "val").about
    assert (single["ensemble"], single["members"]) == (False, 1)
    assert single["weights_sha256"] != plan.about["weights_sha256"]


def test_a_mask_is_predicted_by_all_members(runs, manifest_file, tmp_path, monkeypatch):
    write_ensemble(tmp_path / "both", runs)
    asked = []

    def see(networks, *arguments):
        asked.append(len(networks))
        return predict(networks, *arguments)

    predict = scoring.predict_ensemble
    monkeypatch.setattr(scoring, "predict_ensemble", see)
    score_cases(plan_scoring(tmp_path / "both", manifest_file, "test", {"mc.windows": "tumour"}), CPU)
    assert asked == [2]


def test_a_member_that_cannot_be_scored_or_is_not_finite_is_named(write_tiny, runs, manifest_file, tmp_path):
    bad = write_tiny(tmp_path / "bad" / "best", spoil=float("nan"))
    write_ensemble(tmp_path / "with_nan", [runs[0], bad])
    row = score_cases(plan_scoring(tmp_path / "with_nan", manifest_file, "test"), CPU).rows[0]
    assert row.error == (
        f"case {row.case_id}: FloatingPointError: member 2 of 2: the network's idh_logits are not finite: "
        "its weights or this image are damaged"
    )
    rigid = write_tiny(tmp_path / "rigid" / "best", {"network.dropout.head": 0.0})
    write_ensemble(tmp_path / "with_rigid", [runs[0], rigid])
    with pytest.raises(InputError, match=r"member 2 of 2: mc\.active_dropout=head: no dropout there"):
        plan_scoring(tmp_path / "with_rigid", manifest_file, "val", {"mc.active_dropout": "head"})
