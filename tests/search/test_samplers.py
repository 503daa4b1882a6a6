import numpy as np
import optuna
import pytest
from scipy.stats import kstest
from search_cases import make_space, make_trial

from mttu.search.samplers import Listed, Tpe, freeze, list_random, make_sampler, measure_importance
from mttu.search.trials import BEGUN, FAILED, STEP, STOPPED

KIND, DEPTH, LR = "network.bottleneck.kind", "network.bottleneck.num_layers", "optim.lr"
MIXED = {
    KIND: {"choice": ["transformer", "convolution"]},
    DEPTH: {"integer": [1, 6], "step": 2, "when": {KIND: "transformer"}},
    LR: {"log_uniform": [1e-4, 1e-2]},
    "optim.weight_decay": {"uniform": [0.0, 0.01]},
    "loss.dice_weight": {"uniform": [0.2, 0.85], "step": 0.1},
    "patch.size": {"choice": [[16, 16, 16], [32, 32, 16]]},
}
HEIGHTS = {"optim.lr": {"uniform": [0.01, 1.0]}, "optim.poly_power": {"uniform": [0.0, 1.0]}}


def draw(folder, count, seed=0, space=MIXED, searcher="random"):
    return make_space(folder, space, searcher=searcher, samples=count, seed=seed)


def hill(drawn):
    return -((drawn["optim.lr"] - 0.3) ** 2) - (drawn["optim.poly_power"] - 0.8) ** 2


def test_a_random_trial_does_not_depend_on_how_many_there_are(tmp_path):
    few, many = list_random(draw(tmp_path, 5)), list_random(draw(tmp_path, 40))
    assert many[:5] == few
    assert len({str(one) for one in many}) == 40
    assert list_random(draw(tmp_path, 5, seed=1))[0] != few[0]


def test_a_random_trial_is_worked_out_from_its_own_generator(tmp_path):
    for number, drawn in enumerate(list_random(draw(tmp_path, 30, seed=7))):
        kind, depth, rate, decay, weight, size = np.random.default_rng([7, number]).random(6)
        assert drawn[KIND] == ("transformer" if kind < 0.5 else "convolution")
        assert drawn.get(DEPTH) == (([1, 3, 5][int(3 * depth)]) if kind < 0.5 else None)
        assert (DEPTH in drawn) == (kind < 0.5)
        assert drawn[LR] == pytest.approx(1e-4 * 100**rate)
        assert drawn["optim.weight_decay"] == pytest.approx(0.01 * decay)
        assert drawn["loss.dice_weight"] == [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8][int(7 * weight)]
        assert drawn["patch.size"] == [[16, 16, 16], [32, 32, 16]][int(2 * size)]


def test_random_values_spread_as_their_ranges_say(tmp_path):
    drawn = list_random(draw(tmp_path, 400))
    rates = np.log10([one[LR] for one in drawn])
    assert kstest(rates, "uniform", args=(-4, 2)).pvalue > 0.01
    assert kstest([one["optim.weight_decay"] for one in drawn], "uniform", args=(0, 0.01)).pvalue > 0.01
    assert {one.get(DEPTH) for one in drawn} == {None, 1, 3, 5}


def test_listed_trials_come_in_order_and_end(tmp_path):
    sampler = make_sampler(draw(tmp_path, 3))
    drawn = list_random(draw(tmp_path, 3))
    assert [sampler.draw(number) for number in range(5)] == [*drawn, None, None]
    grid = make_space(tmp_path, {"train.seed": {"integer": [0, 2]}})
    sampler = make_sampler(grid)
    assert isinstance(sampler, Listed)
    sampler.learn(make_trial(tmp_path, 0, {"train.seed": 0}, 0.5))  # changes nothing
    assert [sampler.draw(number) for number in (0, 2, 3)] == [{"train.seed": 0}, {"train.seed": 2}, None]


def test_tpe_draws_what_the_space_holds(tmp_path):
    space = draw(tmp_path, 30, searcher="tpe")
    sampler = make_sampler(space)
    assert isinstance(sampler, Tpe)
    for number in range(30):
        drawn = sampler.draw(number)
        assert drawn[KIND] in ("transformer", "convolution")
        assert drawn.get(DEPTH, 0) in ((1, 3, 5) if drawn[KIND] == "transformer" else (0,))
        assert 1e-4 <= drawn[LR] <= 1e-2
        assert 0 <= drawn["optim.weight_decay"] <= 0.01
        assert drawn["loss.dice_weight"] in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
        assert drawn["patch.size"] in ([16, 16, 16], [32, 32, 16])
        sampler.learn(make_trial(tmp_path, number, drawn, 0.1, drawn[LR]))
    assert sampler.draw(30) is None
    told = sampler.study.get_trials()
    assert [one.value for one in told] == [max(0.1, one.params[LR]) for one in told]


def test_tpe_starts_the_same_and_after_a_restart_draws_others(tmp_path):
    space = draw(tmp_path, 12, space=HEIGHTS, searcher="tpe")
    first = Tpe(space)
    drawn = [first.draw(number) for number in range(3)]
    again = Tpe(space)
    assert [again.draw(number) for number in range(3)] == drawn
    restarted = Tpe(space)
    for number, one in enumerate(drawn):
        restarted.learn(make_trial(tmp_path, number, one, hill(one)))
    later = [restarted.draw(number) for number in range(3, 6)]
    assert all(one not in drawn for one in later)
    assert len({tuple(one.values()) for one in later}) == 3


def test_tpe_is_told_of_the_trials_of_earlier_starts(tmp_path):
    space = draw(tmp_path, 12, searcher="tpe")
    drawn = list_random(draw(tmp_path, 4))
    space = draw(tmp_path, 12, searcher="tpe")
    trials = [
        make_trial(tmp_path, 0, drawn[0], 0.25, 0.75, 0.5),
        make_trial(tmp_path, 1, drawn[1], 0.5, 0.125, state=STOPPED),
        make_trial(tmp_path, 2, drawn[2], state=FAILED),
        make_trial(tmp_path, 3, drawn[3], 0.5, state=BEGUN),
    ]
    restarted = Tpe(space)
    for trial in trials:
        restarted.learn(trial)
    told = restarted.study.get_trials()
    states = optuna.trial.TrialState
    assert [one.state for one in told] == [states.COMPLETE, states.PRUNED, states.FAIL]
    assert told[0].value == 0.75
    assert told[0].intermediate_values == {1: 0.25, 2: 0.75, 3: 0.5}
    assert told[0].params[LR] == drawn[0][LR]
    assert told[0].params["patch.size"] in ("[16, 16, 16]", "[32, 32, 16]")
    assert told[1].intermediate_values == {1: 0.5, 2: 0.125}
    asked = restarted.draw(4)  # a trial of this start that stops, and one that fails
    restarted.learn(make_trial(tmp_path, 4, asked, 0.5, 0.25, state=STOPPED))
    restarted.learn(make_trial(tmp_path, 5, restarted.draw(5), state=FAILED))
    assert [one.state for one in restarted.study.get_trials()[3:]] == [states.PRUNED, states.FAIL]


def test_a_finished_trial_without_the_metric_counts_as_failed(tmp_path):
    space = draw(tmp_path, 12, searcher="tpe")
    drawn = list_random(draw(tmp_path, 1))[0]
    trial = make_trial(tmp_path, 0, drawn, 0.5, metric="val/dice")
    assert freeze(space, trial).state == optuna.trial.TrialState.FAIL
    assert freeze(space, make_trial(tmp_path, 0, drawn, 0.5, state=BEGUN)) is None
    trial.history = [{STEP: 1.0, "val/score": 0.5}]
    assert freeze(space, trial).value == 0.5


@pytest.mark.parametrize("mode", ["max", "min"])
def test_tpe_goes_where_trials_were_good(tmp_path, mode):
    """20 draws by TPE after 25 trials, against 20 random ones, over four seeds: nearer to the top in each."""
    sign = 1 if mode == "max" else -1
    for seed in range(4):
        space = make_space(tmp_path, HEIGHTS, searcher="tpe", samples=45, seed=seed, mode=mode)
        told = list_random(make_space(tmp_path, HEIGHTS, searcher="random", samples=45, seed=100 + seed))
        sampler = Tpe(space)
        for number, drawn in enumerate(told[:25]):
            sampler.learn(make_trial(tmp_path, number, drawn, sign * hill(drawn)))
        found = []
        for number in range(25, 45):
            drawn = sampler.draw(number)
            found.append(hill(drawn))
            sampler.learn(make_trial(tmp_path, number, drawn, sign * hill(drawn)))
        assert np.mean(found) > np.mean([hill(one) for one in told[25:]]) + 0.1


def test_the_setting_that_decides_gets_the_larger_share(tmp_path):
    space = draw(tmp_path, 30, space=HEIGHTS)
    trials = [
        make_trial(tmp_path, number, drawn, drawn["optim.lr"] + 0.05 * drawn["optim.poly_power"])
        for number, drawn in enumerate(list_random(space))
    ]
    shares, count = measure_importance(space, trials)
    assert count == len(trials)
    assert set(shares) == set(HEIGHTS)
    assert sum(share.value for share in shares.values()) == pytest.approx(1)
    assert shares["optim.lr"].value > 0.8
    assert {share.num_trials for share in shares.values()} == {30}
    assert measure_importance(space, trials)[0] == shares
    assert list(shares) == ["optim.lr", "optim.poly_power"]  # the largest first


def test_importance_of_words_and_of_settings_with_a_condition(tmp_path):
    space = draw(tmp_path, 24)
    trials = [
        make_trial(tmp_path, number, drawn, 0.8 + 0.01 * drawn[DEPTH] if drawn[KIND] == "transformer" else 0.2)
        for number, drawn in enumerate(list_random(space))
    ]
    shares, count = measure_importance(space, trials)
    assert count == len(trials)
    assert max(set(shares) - {DEPTH}, key=shares.get) == KIND
    assert shares[KIND].num_trials == 24
    assert shares[DEPTH].num_trials == sum(DEPTH in trial.drawn for trial in trials) < 24
    assert shares[DEPTH].value > 0.5  # among the trials that have it, nothing else decides


def test_importance_of_nothing_is_empty(tmp_path):
    space = draw(tmp_path, 8, space=HEIGHTS)
    drawn = list_random(space)
    trials = [make_trial(tmp_path, number, one, hill(one)) for number, one in enumerate(drawn)]
    assert measure_importance(space, []) == ({}, 0)
    assert measure_importance(space, trials[:3]) == ({}, 3)
    stopped = [make_trial(tmp_path, number, one, hill(one), state=STOPPED) for number, one in enumerate(drawn)]
    assert measure_importance(space, [*trials[:3], *stopped[3:]]) == ({}, 3)
    same = [make_trial(tmp_path, number, one, 0.5) for number, one in enumerate(drawn)]
    assert measure_importance(space, same) == ({}, 8)
    assert measure_importance(space, trials)[0] != {}


def test_importance_where_no_setting_varies_is_empty(tmp_path):
    """A grid of one value in every setting, and one that no forest can split."""
    space = make_space(tmp_path, {"optim.lr": {"choice": [0.5]}})
    trials = [make_trial(tmp_path, number, {"optim.lr": 0.5}, number / 10) for number in range(6)]
    assert measure_importance(space, trials)[0] == {}


def test_a_finished_trial_without_a_value_counts_for_no_share(tmp_path):
    space = draw(tmp_path, 8, space=HEIGHTS)
    trials = [make_trial(tmp_path, number, one, hill(one)) for number, one in enumerate(list_random(space))]
    shares, count = measure_importance(space, [*trials[:7], make_trial(tmp_path, 7, trials[7].drawn)])
    assert count == 7
    assert {share.num_trials for share in shares.values()} == {7}
