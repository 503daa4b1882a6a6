import numpy as np
import pytest
from figure_contents import find_collisions, notes, texts
from matplotlib import colormaps
from matplotlib.colors import to_hex

from mttu.figures.search import TriedTrial, draw_importance, draw_parallel, draw_trial_curves
from mttu.figures.style import GREY, VERMILLION, save_figure

KIND, DEPTH, LR = "network.bottleneck.kind", "network.bottleneck.num_layers", "optim.lr"
WEIGHT, MODALITIES = "loss.dice_weight", "data.modalities"
SETTINGS = (KIND, DEPTH, LR, WEIGHT, MODALITIES)


def trial(name, tried, *values, state="finished"):
    curve = list(enumerate(values, 1))
    return TriedTrial(name, tried, max(values, default=None), curve, state)


FOUR = [
    trial("0000", {KIND: "transformer", DEPTH: 2, LR: 1e-4}, 0.1, 0.2),
    trial("0001", {KIND: "convolution", LR: 1e-2}, 0.6),
    trial("0002", {KIND: "transformer", DEPTH: 6, LR: 1e-3}, 0.3, 0.4, 0.35),
    trial("0003", {KIND: "transformer", DEPTH: 4, LR: 1e-3}, state="failed"),
]


def lines_of(panel):
    """Heights, colour and width of the lines of trials, without the axes' own."""
    lines = [line for line in panel.lines if len(line.get_xdata()) > 2]
    return [(list(map(float, line.get_ydata())), to_hex(line.get_color()), line.get_linewidth()) for line in lines]


def ticks_of(panel, place):
    """Texts at an axis with their heights, the lowest first."""
    found = [(text.get_position()[1], text.get_text()) for text in panel.texts if int(text.get_position()[0]) == place]
    return sorted(found)


def realistic():
    """12 trials of five settings: words, a condition, a logarithm, numbers, lists; some stopped, failed, unscored."""
    generator = np.random.default_rng(0)
    lists = [["flair"], ["flair", "t1ce"], ["flair", "t1ce", "t1", "t2"], ["t2"]]
    trials = []
    for number in range(12):
        kind = ("transformer", "convolution")[int(generator.integers(2))]
        depth = {DEPTH: int(generator.integers(1, 7))} if kind == "transformer" else {}
        rest = {LR: float(10 ** generator.uniform(-4, -2)), WEIGHT: float(generator.choice([0.2, 0.3, 0.5, 0.8]))}
        state = ("finished", "stopped", "finished", "failed", "finished")[number % 5]
        epochs = {"finished": 30, "stopped": 10, "failed": 4}[state] * (number != 8)
        values = [float(0.7 - 0.6 * np.exp(-epoch / 8) + 0.02 * generator.normal()) for epoch in range(epochs)]
        tried = {KIND: kind, **depth, **rest, MODALITIES: lists[int(generator.integers(4))]}
        trials.append(trial(f"{number:04d}", tried, *values, state=state))
    return trials


def test_lines_run_through_values_of_words_numbers_and_logarithms():
    figure = draw_parallel(FOUR, SETTINGS, "val/score", maximise=True)
    panel, bar = figure.axes
    lines = lines_of(panel)
    np.testing.assert_allclose(
        [heights for heights, _, _ in lines],
        [
            [1.0, 0.0, 0.0, 0.0],
            [1.0, 1.0, 0.5, 0.5],  # 1e-3 is halfway between 1e-4 and 1e-2, 0.4 between 0.2 and 0.6
            [0.0, -0.12, 1.0, 1.0],  # without layers; the best one is drawn last
        ],
        atol=1e-9,
    )
    assert ticks_of(panel, 0) == [(0.0, "convolution"), (1.0, "transformer")]
    assert ticks_of(panel, 1) == [(0.0, "2"), (0.5, "4"), (1.0, "6")]
    assert [text for _, text in ticks_of(panel, 2)] == ["0.0001", "0.001", "0.01"]
    assert [text for _, text in ticks_of(panel, 3)] == ["0.2", "0.4", "0.6"]
    titles = ["bottleneck.\nkind", "bottleneck.\nnum\nlayers", "optim.\nlr", "val/\nscore"]
    assert [label.get_text() for label in panel.get_xticklabels()] == titles
    assert bar.get_ylim() == (0.2, 0.6)
    assert notes(figure) == (
        "Thick: the best trial, 0001. Below an axis: the trial does not have this setting. "
        "1 trial without a value left out."
    )


@pytest.mark.parametrize(("maximise", "best", "colours"), [(True, 2, "cividis"), (False, 0, "cividis_r")])
def test_the_best_is_thick_and_the_others_have_the_colour_of_their_value(maximise, best, colours):
    panel = draw_parallel(FOUR[:3], SETTINGS, "val/score", maximise).axes[0]
    found = {round(heights[-1], 6): (colour, width) for heights, colour, width in lines_of(panel)}
    heights = [0.0, 0.5, 1.0]  # of 0.2, 0.4 and 0.6
    assert found[heights[best]] == (VERMILLION.lower(), 2.4)
    for height in heights:
        if height != heights[best]:
            assert found[height] == (to_hex(colormaps[colours](height)), 1.0)


def test_a_trial_that_was_cut_short_is_dashed_and_never_the_best():
    trials = [*FOUR[:3], trial("0004", FOUR[0].tried, 0.9, state="stopped")]
    figure = draw_parallel(trials, SETTINGS, "val/score", maximise=True)
    dashed = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2 and line.is_dashed()]
    assert [line.get_ydata()[-1] for line in dashed] == [1.0]
    assert "Thick: the best trial, 0001. Dashed: stopped by the scheduler, or failed." in notes(figure)
    assert VERMILLION.lower() not in {to_hex(line.get_color()) for line in dashed}
    alone = draw_parallel(trials[-1:], SETTINGS, "val/score", maximise=True)
    assert "Thick" not in notes(alone)


def test_names_that_begin_alike_stay_apart():
    names = [f"modalities-flair-t1ce-t1-number-{number}" for number in range(15)]
    trials = [trial(f"{n:04d}", {"ablation": name, LR: 0.5, WEIGHT: 0.5}, n / 20) for n, name in enumerate(names)]
    panel = draw_parallel(trials, ["ablation", LR, WEIGHT], "val/score", maximise=True).axes[0]
    assert len({heights[0] for heights, _, _ in lines_of(panel)}) == 15
    shown = [text for _, text in ticks_of(panel, 0)]
    assert len(set(shown)) == 15
    assert all("…" in text and len(text) < 30 for text in shown)
    assert {heights[1] for heights, _, _ in lines_of(panel)} == {0.5}  # a value that all have


def test_many_numbers_are_written_at_the_ends_alone_and_close_ones_never_overlap():
    trials = [trial(f"{n:04d}", {LR: 0.1 + n, WEIGHT: [0.2, 0.201, 0.5, 0.8][n % 4]}, n / 20) for n in range(12)]
    panel = draw_parallel(trials, [LR, WEIGHT], "val/score", maximise=True).axes[0]
    assert [text for _, text in ticks_of(panel, 0)] == ["0.1", "11.1"]
    assert [text for _, text in ticks_of(panel, 1)] == ["0.2", "0.5", "0.8"]


def test_switches_and_lists_are_words():
    trials = [
        trial("0000", {"selection.balance": True, MODALITIES: ["flair", "t2"]}, 0.1),
        trial("0001", {"selection.balance": False, MODALITIES: ["t2"]}, 0.2),
    ]
    panel = draw_parallel(trials, ["selection.balance", MODALITIES], "val/score", maximise=True).axes[0]
    assert ticks_of(panel, 0) == [(0.0, "False"), (1.0, "True")]
    assert ticks_of(panel, 1) == [(0.0, "flair+t2"), (1.0, "t2")]


def test_the_bars_of_importance():
    shares = {LR: 0.61, WEIGHT: 0.2, "selection.uncertainty_threshold": 0.19}
    figure = draw_importance({name: (share, 9) for name, share in shares.items()}, 9)
    (panel,) = figure.axes
    named = [label.get_text() for label in panel.get_yticklabels()]
    drawn = dict(zip(named, [bar.get_width() for bar in panel.patches], strict=True))
    assert drawn == shares
    assert named[-1] == LR  # on top
    assert [text.get_text() for text in panel.texts] == ["0.19", "0.20", "0.61"]
    assert find_collisions(figure) == []
    assert notes(figure) == ""


def test_a_share_over_some_of_the_trials_says_so():
    figure = draw_importance({LR: (0.4, 9), WEIGHT: (0.9, 5)}, 9)
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == [WEIGHT, LR]  # shares of other trials apart
    assert len({to_hex(bar.get_facecolor()) for bar in panel.patches}) == 2
    assert notes(figure) == f"Grey: over those of the 9 finished trials that have it ({WEIGHT}: 5)."
    assert find_collisions(figure) == []


def test_the_curves_of_trials():
    trials = [*FOUR, trial("0004", FOUR[0].tried, 0.5, 0.9, state="stopped")]
    figure = draw_trial_curves(trials, "val/score", True, "round")
    (panel,) = figure.axes
    curves = [line for line in panel.lines if line.get_marker() == "o"]
    drawn = [list(zip(line.get_xdata(), line.get_ydata(), strict=True)) for line in curves]
    assert drawn == [list(one.curve) for one in trials if one.curve]
    looks = [(to_hex(line.get_color()), line.get_linewidth()) for line in curves]
    grey = (GREY.lower(), 0.9)
    assert looks == [grey, (VERMILLION.lower(), 2.2), grey, grey]
    crosses = [line for line in panel.lines if line.get_marker() == "x"]
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses] == [(2, 0.9)]
    assert (panel.get_xlabel(), panel.get_ylabel()) == ("round", "val/score")
    assert notes(figure) == "Thick: the best trial, 0001. Cross: stopped by the scheduler, or failed."

    smaller = [TriedTrial(one.name, one.tried, min(v for _, v in one.curve), one.curve, one.state) for one in FOUR[:2]]
    assert notes(draw_trial_curves(smaller, "val/idh_ce", False, "epoch")) == "Thick: the best trial, 0000."


@pytest.mark.parametrize("trials", [[], FOUR[3:]], ids=["none", "without a value"])
def test_without_a_value_the_pictures_say_so(trials):
    assert "no trial with a value yet" in texts(draw_parallel(trials, SETTINGS, "val/score", True))
    assert "no trial with a value yet" in texts(draw_trial_curves(trials, "val/score", True, "epoch"))


def test_without_shares_the_picture_says_so():
    assert "too few finished trials to say which settings matter" in texts(draw_importance({}, 3))


def test_curves_of_one_round_are_at_that_round():
    (panel,) = draw_trial_curves([trial("0000", {}, 0.4), trial("0001", {}, 0.5)], "val/score", True, "round").axes
    low, high = panel.get_xlim()
    assert [tick for tick in panel.get_xticks() if low <= tick <= high] == [1]


def test_realistic_pictures_stay_on_the_page_and_their_texts_apart():
    trials = realistic()
    figure = draw_parallel(trials, SETTINGS, "val/idh_sensitivity", maximise=True)
    assert find_collisions(figure) == []
    panel = figure.axes[0]
    boxes = [text.get_window_extent() for text in [*panel.texts, *panel.get_xticklabels()]]
    bar = figure.axes[1].get_window_extent()
    assert len(boxes) > 20
    for place, box in enumerate(boxes):
        assert not box.overlaps(bar)
        assert not any(box.overlaps(other) for other in boxes[place + 1 :])
    assert find_collisions(draw_trial_curves(trials, "val/score", True, "epoch")) == []


def test_the_same_trials_give_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        save_figure(draw_parallel(realistic(), SETTINGS, "val/score", True), tmp_path / name, ("png",))
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
