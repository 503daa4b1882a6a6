"""Rank and precision by hand-worked tables, and selections from calibrated and moved probabilities."""

import json
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from mttu.config import Config, SelectionSettings, override
from mttu.data.labels import CLASS_NAMES
from mttu.errors import InputError
from mttu.metrics.calibration import Calibration
from mttu.metrics.intervals import Interval
from mttu.pseudo_labels.advice import advise
from mttu.pseudo_labels.certainty import order_key, read_certainty
from mttu.pseudo_labels.correction import fit_correction
from mttu.pseudo_labels.prior import Correction
from mttu.pseudo_labels.reports import SELECTION_SCHEMA, draw_selection, read_selection, write_selection_table
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable
from mttu.pseudo_labels.selection import add_estimates, select


def row(case_id, mutant, uncertainty=0.0):
    label = int(mutant >= 0.5)
    return ScoreRow(
        case_id, 1.0, "", (mutant, mutant), mutant, uncertainty, label, mutant if label else 1 - mutant, mutant
    )


ABOUT = {"split": "unlabelled", "labelled": {"mutant": 5, "wild": 8}, "weights_sha256": "w"}
POOL = ScoreTable(
    (
        row("a", 0.90, 0.30),
        row("b", 0.80, 0.05),
        row("c", 0.60, 0.01),
        row("d", 0.02, 0.25),
        row("e", 0.10, 0.01),
        row("f", 0.10, 0.01),
        row("g", 0.20, 0.02),
        row("h", 0.40, 0.00),
        ScoreRow("x", 0.0, "case x: unreadable"),
    ),
    ABOUT,
)
# mutants expected: 3.12 of 8
# certainty, less the deviation: b 0.75, a 0.60, c 0.59; e and f 0.89, g 0.78, d 0.73, h 0.60
TO_HALF = Correction(
    Calibration(1.0, 0.0, 20, True), 10, 0.5, Interval(0.5, 0.3, 0.7, 2), None, ((1.0, 0.0, 0.5, 0.5),) * 40
)
"""Leaves every probability as it is."""
TO_NINTH = replace(
    TO_HALF, pool_share=Interval(0.1, 0.05, 0.2, 2), moved_to=1 / 9, draws=((1.0, 0.0, 0.5, 1 / 9),) * 40
)
CALIBRATED = {"calibrate": "temperature+bias"}


def chosen(settings, correction=None):
    return "".join(sorted(select(POOL, SelectionSettings(**settings), correction).pseudo_labels))


@pytest.mark.parametrize(
    ("share", "method", "expected"),
    [
        (0.2, "UPS", "be"),  # ceil(0.2 * 3.12) = 1 mutant, ceil(0.2 * 4.88) = 1 wild type; e before f by its id
        (0.5, "UPS", "abefg"),  # ceil(1.56) = 2 and ceil(2.44) = 3
        (0.5, "CPL", "abdef"),  # by probability alone d is the most certain wild type
        (0.8, "UPS", "abcdefg"),  # ceil(2.496) = 3 and ceil(3.904) = 4
        (1.0, "UPS", "abcdefgh"),  # ceil(3.12) = 4, of which there are 3, and ceil(4.88) = 5
    ],
)
def test_rank_by_hand(share, method, expected):
    assert chosen({"rule": "rank", "method": method, "rank_share": share}) == expected


def test_rank_says_why_and_balances_only_if_asked():
    found = select(POOL, SelectionSettings(rule="rank", rank_share=0.5))
    reasons = {case.case_id: case.reason for case in found.cases if case.reason}
    assert reasons == {
        "c": "rank: beyond the 2 most certain mutants",
        "d": "rank: beyond the 3 most certain wild types",
        "h": "rank: beyond the 3 most certain wild types",
        "x": "has an error, see the scores",
    }
    assert (found.balanced, found.wild_per_mutant) == (False, None)
    assert found.notes == ("1 case has an error and cannot be selected: x",)
    # one wild type per mutant: the least certain wild type of e, f and g goes, and not the one of most deviation, h
    assert chosen({"rule": "rank", "rank_share": 0.5, "balance": True, "wild_per_mutant": 1.0}) == "abef"


@pytest.mark.parametrize(
    ("wanted", "least", "expected"),
    [
        # mutants in order b 0.8, a 0.9, c 0.6: means 0.8, 0.85, 0.767; wild types e, f 0.9, g 0.8, d 0.98, h 0.6:
        # means 0.9, 0.9, 0.867, 0.895, 0.836
        (0.9, 2, "ef"),
        (0.89, 2, "defg"),
        (0.85, 2, "abdefg"),  # the mean may be lower in between
        (0.75, 2, "abcdefgh"),
        (0.75, 9, ""),
        (0.89, 5, ""),
    ],
)
def test_precision_by_hand(wanted, least, expected):
    settings = {"rule": "precision", "wanted_precision": wanted, "least_selected": least, **CALIBRATED}
    assert chosen(settings, TO_HALF) == expected


def test_precision_says_what_it_lacks():
    settings = SelectionSettings(rule="precision", wanted_precision=0.89, least_selected=5, **CALIBRATED)
    few = select(POOL, settings, TO_HALF)
    assert few.notes[0] == (
        "nothing is selected: only 4 cases have an estimated share of right labels of at least 0.89, fewer than "
        "selection.least_selected=5"
    )
    assert {case.reason for case in few.cases[:8]} == {"precision: 4 cases reach 0.89, fewer than 5"}
    none = select(POOL, settings)
    assert none.pseudo_labels == {}
    assert none.notes[0] == "nothing is selected: selection.rule=precision needs calibrated probabilities"


def test_the_order_is_that_before_the_move():
    """Where hardly any are mutant, the surest mutants are no sure wild types, however little their passes deviate."""
    few = replace(TO_HALF, moved_to=0.002, draws=((1.0, 0.0, 0.5, 0.002),) * 40)  # odds are divided by 499
    pool = ScoreTable((row("m", 0.93, 0.01), row("v", 0.3, 0.07), row("w", 0.1, 0.05)), ABOUT)
    # wild type, less the deviation: m 0.06, v 0.63, w 0.85; of moved probabilities: m 0.964, v 0.929, w 0.950
    settings = SelectionSettings(rule="rank", rank_share=1 / 3, **CALIBRATED, prior=0.002)
    assert select(pool, settings, few).pseudo_labels == {"w": 0}
    balanced = settings.model_copy(update={"rank_share": 1.0, "balance": True, "wild_per_mutant": 1.0})
    with_mutant = replace(pool, rows=(*pool.rows, row("z", 0.9999, 0.0)))
    assert select(with_mutant, balanced, few).pseudo_labels == {"w": 0, "z": 1}  # the surplus is dropped in that order


@pytest.mark.parametrize("moved_to", [None, 0.002, 0.05, 0.9])
@pytest.mark.parametrize(("temperature", "bias"), [(1.0, 0.0), (0.6, 0.5), (2.5, -0.5)])
def test_at_equal_deviation_the_higher_probability_is_first(moved_to, temperature, bias):
    correction = Correction(
        Calibration(temperature, bias, 20, True), 8, 0.38, Interval(0.1, 0.0, 0.2, 2), moved_to, ((1.0, 0.0, 0.5, 0.5),)
    )
    values = (0.01, 0.1, 0.3, 0.45, 0.6, 0.8, 0.9, 0.94, 0.97, 0.995)
    found = {f"{value}": read_certainty(row("", value, 0.1), correction) for value in values}
    settings = SelectionSettings(rule="rank", **CALIBRATED)
    ordered = sorted(found, key=lambda name: order_key(found[name], name, settings))
    mutants, wild = ([float(name) for name in ordered if found[name].predicted_class == idh] for idh in (1, 0))
    assert (mutants, wild) == (sorted(mutants, reverse=True), sorted(wild))
    assert len(mutants) + len(wild) == len(values)


def test_a_moved_prior_changes_classes_confidence_and_ranks():
    """From even shares to one in nine the odds are divided by eight."""
    settings = SelectionSettings(rule="rank", rank_share=1.0, **CALIBRATED, prior=0.1)
    found = add_estimates(select(POOL, settings, TO_NINTH), POOL, TO_NINTH)
    moved = {case.case_id: case.moved_probability for case in found.cases}
    assert [moved[name] for name in "abc"] == pytest.approx([9 / 17, 1 / 3, 1.5 / 9.5])
    assert moved["x"] is None
    assert [case.calibrated_probability for case in found.cases[:3]] == pytest.approx([0.9, 0.8, 0.6])
    assert {case.case_id for case in found.cases if case.pseudo_label == 1} == {"a"}
    assert found.cases[1].confidence == pytest.approx(2 / 3)
    precision = found.estimates.precision
    assert precision["mutant"].estimate == pytest.approx(9 / 17)
    wild = [1 - moved[name] for name in "bcdefgh" if name in found.pseudo_labels]
    assert precision["wild type"].estimate == pytest.approx(sum(wild) / len(wild))
    assert found.notes[-1].startswith(
        "estimated share of right labels: mutant 0.529 [0.000, 1.000] of 1, wild type 0.9"
    )
    assert found.notes[-2] == (
        "estimated share of mutants in the pool: 0.100 [0.050, 0.200]; 0.500 among the calibration cases; moved to "
        "0.111"
    )
    # eq. (19) takes the moved probability, too: a and c are no longer what they were
    by_threshold = {
        "confidence_threshold": 0.8,
        "uncertainty_threshold": 0.1,
        "balance": False,
        **CALIBRATED,
        "prior": 0.1,
    }
    assert chosen(by_threshold, TO_NINTH) == "cefgh"


def test_records_are_read_back_and_old_tables_too(tmp_path):
    settings = SelectionSettings(rule="rank", **CALIBRATED, prior=0.1)
    found = add_estimates(select(POOL, settings, TO_NINTH), POOL, TO_NINTH)
    write_selection_table(tmp_path, POOL, found, settings, "digest")
    again, about = read_selection(tmp_path / "selection.parquet")
    assert again == found
    assert about["calibrated_on"] == "digest"
    assert about["estimates"]["pool_share"]["high"] == 0.2
    metrics = again.estimates.to_metrics()
    assert metrics["selected/pool_share_low"] == 0.05
    assert metrics["selected/estimated_precision_wild"] == found.estimates.precision["wild type"].estimate
    assert (
        (tmp_path / "selection.csv")
        .read_text()
        .splitlines()[0]
        .endswith('"calibrated_probability","moved_probability"')
    )
    paper = SelectionSettings()
    write_selection_table(tmp_path, POOL, select(POOL, paper), paper)
    file = pq.read_table(tmp_path / "selection.parquet")
    assert file.schema.equals(SELECTION_SCHEMA)
    assert list(json.loads(file.schema.metadata[b"about"])["selection"]) == [
        "method",
        "confidence_threshold",
        "uncertainty_threshold",
        "balance",
        "wild_per_mutant",
    ]
    assert read_selection(tmp_path / "selection.parquet")[0] == select(POOL, paper)


def test_the_picture_is_of_what_the_rule_selects():
    settings = SelectionSettings(rule="rank", rank_share=1.0, **CALIBRATED, prior=0.1)
    found = select(POOL, settings, TO_NINTH)
    figure = draw_selection(POOL, found, settings, {"a": 1, "b": 1}, "pool", TO_NINTH)["candidates"]
    said = figure.get_supxlabel().replace("\n", " ")
    assert said.startswith("Selected: 8 cases, 1 right, 1 wrong")  # b is called wild type
    assert not figure.axes[0].lines  # no thresholds


VAL = ScoreTable(
    tuple(row(f"v{at:02d}", 0.3 + 0.04 * at) for at in range(12)), {**ABOUT, "split": "val", "learned_from": []}
)
TRUTH = {f"v{at:02d}": int(at in (3, 6, 8, 9, 10, 11)) for at in range(12)}


def test_a_correction_comes_from_the_validation_scores():
    found, notes = fit_correction(POOL, {"val": VAL}, TRUTH, SelectionSettings(**CALIBRATED, prior="estimate"))
    assert (found.calibration.num_cases, found.num_mutant, notes) == (12, 6, [])
    assert found.source_share == pytest.approx(0.5, abs=1e-6)
    assert found.moved_to == found.pool_share.estimate


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"weights_sha256": "other"}, "are by other weights than the pool's"),
        ({"learned_from": None}, "do not say whom they learned from"),
        ({"learned_from": ["v01"]}, "the network learned from patients of the same ids"),
        ({"split": "train"}, "are of training cases"),
        ({"mc": {"passes": 20}}, "a calibration holds for one only"),
    ],
)
def test_scores_that_calibrate_nothing_are_refused(changes, problem):
    table = ScoreTable(VAL.rows, {**VAL.about, **changes})
    with pytest.raises(InputError, match=problem):
        fit_correction(POOL, {"val": table}, TRUTH, SelectionSettings(**CALIBRATED))


def test_cases_of_the_pool_calibrate_nothing():
    with pytest.raises(InputError, match="cases a: are in the pool and among the calibration cases"):
        fit_correction(
            POOL, {"val": replace(VAL, rows=(*VAL.rows, row("a", 0.9)))}, {**TRUTH, "a": 1}, SelectionSettings()
        )
    with pytest.raises(InputError, match="no case of the pool has a score"):
        fit_correction(ScoreTable((), ABOUT), {"val": VAL}, TRUTH, SelectionSettings())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"prior": "estimate"}, "prior is estimate but calibrate is none"),
        ({"rule": "precision"}, "rule is precision but calibrate is none"),
        ({"rule": "rank", "method": "PL"}, "method is PL, which selects every case"),
        ({"prior": 1.0, **CALIBRATED}, "a number above 0 and below 1"),
        ({"prior": "most", **CALIBRATED}, "'most' is none of none, estimate, detect and a number"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, problem):
    with pytest.raises(ValidationError, match=problem):
        SelectionSettings(**changes)


def test_thresholds_are_not_searched_for_another_rule():
    changes = {"self_training.thresholds": "search", "selection.rule": "rank"}
    with pytest.raises(InputError, match=r"thresholds is search but selection\.rule is rank"):
        override(Config(), changes)
    assert override(Config(), {**CALIBRATED_NAMES, "selection.prior": "0.05"}).selection.prior == 0.05


CALIBRATED_NAMES = {"selection.calibrate": "temperature+bias"}


def test_advice_names_the_setting_that_helps():
    large = ScoreTable(tuple(row(f"{at:02d}", 0.6 + 0.003 * at) for at in range(60)), ABOUT)
    [few] = advise(select(large, SelectionSettings()), SelectionSettings())
    everything = SelectionSettings(method="PL")
    [unknown] = advise(select(large, everything), everything)
    assert unknown.startswith("how many of these labels should be right is not known; selection.calibrate=temperature")
    assert advise(select(large, everything), everything, first=False) == []
    assert few.startswith(
        "0 of 60 cases with a score are selected, too few to change much; what helps: lower thresholds"
    )
    settings = SelectionSettings(rule="rank", rank_share=1.0, **CALIBRATED)
    at_hand = replace(TO_NINTH, moved_to=None, pool_share=Interval(0.15, 0.1, 0.25, 2))
    selection = add_estimates(select(POOL, settings, TO_HALF), POOL, at_hand)
    told = advise(selection, settings)
    assert told[0].startswith(
        "0.150 [0.100, 0.250] of the pool are estimated to be mutant, 0.500 of the calibration cases"
    )
    assert told[1] == "0.77 of the mutant labels should be right; what helps: selection.rule=precision"
    assert len(told) == 2  # a tenth of the pool is not yet rare
    assert advise(select(POOL, SelectionSettings(method="none")), SelectionSettings(method="none")) == []


@pytest.mark.parametrize(
    ("moved_to", "share", "name", "start"),
    [
        (0.09, (0.3, 0.2, 0.4), "mutant", "0.09 of the pool should be mutant: of so rare a class the surest labels"),
        (0.93, (0.3, 0.2, 0.4), "wild type", "0.07 of the pool should be wild type: of so rare a class the surest"),
        (None, (0.2, 0.04, 0.4), "mutant", "only 0.04 of the pool may be mutant (mutants: 0.200 [0.040, 0.400]; selec"),
        (None, (0.8, 0.6, 0.95), "wild type", "only 0.05 of the pool may be wild type (mutants: 0.800 [0.600, 0.950];"),
        (0.2, (0.02, 0.01, 0.3), "", ""),  # what was given or moved to counts
        (None, (0.3, 0.1, 0.89), "", ""),
    ],
)
def test_a_class_that_may_be_rare_gets_a_warning_instead_of_its_estimate(moved_to, share, name, start):
    settings = SelectionSettings(rule="rank", rank_share=1.0, prior="detect", **CALIBRATED)
    selection = add_estimates(select(POOL, settings, TO_HALF), POOL, replace(TO_NINTH, moved_to=None))
    estimates = replace(selection.estimates, pool_share=Interval(*share, 2), moved_to=moved_to)
    told = advise(replace(selection, estimates=estimates), settings)
    found = [note for note in told if "so rare a class" in note]
    assert [note.startswith(start) for note in found] == ([True] if start else [])
    estimated = any("0.77 of the mutant labels should be right" in note for note in told)
    assert estimated == (name != "mutant")  # a promise beside the warning would contradict it
    others = tuple(
        replace(case, selected=case.selected and CLASS_NAMES[case.pseudo_label] != name) for case in selection.cases
    )
    told = advise(replace(selection, cases=others, estimates=estimates), settings)
    assert not [note for note in told if "so rare a class" in note]  # none of its labels is selected


def test_searched_thresholds_get_no_advice_that_a_search_refuses():
    large = ScoreTable(tuple(row(f"{at:02d}", 0.6 + 0.003 * at) for at in range(60)), ABOUT)
    [few] = advise(select(large, SelectionSettings()), SelectionSettings(), searched=True)
    cure = few.rpartition("what helps: ")[2].partition(",")[0].split(" with ")
    assert cure == ["self_training.thresholds=fixed", "selection.rule=rank"]
    search = {"self_training.thresholds": "search"}
    override(Config(), {**search, **dict(one.split("=") for one in cure)})
    everything = SelectionSettings(method="PL")
    assert advise(select(large, everything), everything, searched=True) == []
