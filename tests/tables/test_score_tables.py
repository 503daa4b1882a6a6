import csv
import re
import shutil
import subprocess
from statistics import fmean

import numpy as np
import pytest
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest, t, ttest_rel

from mttu.errors import InputError
from mttu.figures.differences import draw_differences
from mttu.metrics.delong import compare_auc
from mttu.tables.case_tests import compare_on_cases
from mttu.tables.files import COLUMNS, tabulate, write_csv, write_latex, write_markdown
from mttu.tables.scores import LESIONS, METRICS, CaseTest, CaseTests, measure_cell, summarise, to_panels

REGIONS = ("wt", "tc", "et")


def case(name, idh=1, probability=0.9, dice=(0.9, 0.8, 0.7), hd95=(3.0, 4.0, 8.0)):
    scores = {f"dice_{region}": value for region, value in zip(REGIONS, dice, strict=True)}
    distances = {f"hd95_{region}": value for region, value in zip(REGIONS, hd95, strict=True)}
    return {"case_id": name, "idh": idh, "mutant_probability": probability, **scores, **distances}


def test_a_training_is_measured_where_its_cases_define_a_score():
    cases = [
        case("a", 1, 0.8),
        case("b", 1, 0.4, dice=(0.7, 0.6, None), hd95=(5.0, 6.0, None)),
        case("c", 0, 0.5, dice=(0.8, 0.1, 0.2)),  # 0.5 is called mutant
        case("d", 0, 0.1),
        case("e", -1, 0.9),
        case("f", 0, None),
    ]
    found = measure_cell(cases)
    assert found["dice_wt"] == pytest.approx((0.9 * 4 + 0.7 + 0.8) / 6)
    assert found["dice_et"] == pytest.approx((0.7 * 4 + 0.2) / 5)
    assert found["hd95_tc"] == pytest.approx((4.0 * 5 + 6.0) / 6)
    assert found["dice"] == pytest.approx(np.mean([found[f"dice_{region}"] for region in REGIONS]))
    assert found["hd95"] == pytest.approx(np.mean([found[f"hd95_{region}"] for region in REGIONS]))
    assert (found["auc"], found["accuracy"], found["sensitivity"], found["specificity"]) == (0.75, 0.5, 0.5, 0.5)
    assert found.keys() == METRICS.keys() - set(LESIONS)


def test_what_is_undefined_is_left_out():
    assert measure_cell([]) == {}
    whole_tumour = measure_cell([case("a", -1, None, (0.9, None, None), (2.0, None, None))])
    assert whole_tumour == {"dice_wt": 0.9, "hd95_wt": 2.0}
    one_class = measure_cell([case("a", 1, 0.9)])
    assert one_class.keys() & {"auc", "accuracy", "sensitivity", "specificity"} == {"accuracy", "sensitivity"}


def test_impossible_scores_are_refused_together():
    short = case("b")
    del short["hd95_wt"]
    cases = [case("a", idh=2), short, case("a", probability=1.5, dice=(float("nan"), -0.1, 1), hd95=("3", 0, -1))]
    with pytest.raises(InputError) as caught:
        measure_cell(cases)
    assert caught.value.problems == [
        "case a: idh is 2; allowed are 1 (mutant), 0 (wild type), -1 (unknown)",
        "case b: has no hd95_wt; give None where a score is undefined",
        "case a: occurs twice; give each case once",
        "case a: dice_wt is nan; allowed are numbers from 0 to 1, or None where undefined",
        "case a: dice_tc is -0.1; allowed are numbers from 0 to 1, or None where undefined",
        "case a: hd95_wt is '3'; allowed are numbers from 0 (mm), or None where undefined",
        "case a: hd95_et is -1; allowed are numbers from 0 (mm), or None where undefined",
        "case a: mutant_probability is 1.5; allowed are numbers from 0 to 1, or None where undefined",
    ]


DICE = {
    "full": [0.80, 0.82, 0.81, 0.85, 0.79],
    "close": [0.79, 0.83, 0.80, 0.84, 0.80],
    "worse": [0.75, 0.76, 0.765, 0.80, 0.735],
    "bad": [0.70, 0.73, 0.70, 0.75, 0.69],
}
AUC = {"full": [0.9, 0.91, 0.88, 0.9, 0.92], "close": [0.85, 0.86], "idh": [0.8, 0.9]}
TITLES = {"full": "MTTU-Net", "close": "Close & near", "bad": "50 % of_it #1", "idh": "ClsNet"}


def study():
    """Rows with Dice, AUC, or both; two repeats of AUC are missing in one, and one row is not finished."""
    scores = {row: {} for row in ("close", "full", "none", "worse", "bad", "idh")}
    for metric, table in {"dice": DICE, "auc": AUC}.items():
        for row, values in table.items():
            for seed, value in enumerate(values):
                scores[row].setdefault(f"seed {seed}", {})[metric] = value
    for row, values in DICE.items():
        for seed, value in enumerate(values):
            parts = {f"dice_{region}": value + shift for region, shift in zip(REGIONS, (0.05, 0, -0.05), strict=True)}
            scores[row][f"seed {seed}"] |= {**parts, "hd95_wt": 20 * (1 - value)}
    return scores


SUMMARY = summarise(study(), "full", TITLES)


def row_of(name):
    return next(row for row in SUMMARY.rows if row.name == name)


def test_means_and_t_intervals_over_repeats():
    assert [row.name for row in SUMMARY.rows] == ["close", "full", "none", "worse", "bad", "idh"]
    assert SUMMARY.metrics == ("dice", "dice_wt", "dice_tc", "dice_et", "hd95_wt", "auc")
    found = row_of("full").scores["dice"]
    values = np.array(DICE["full"])
    low, high = t.interval(0.95, 4, values.mean(), values.std(ddof=1) / np.sqrt(5))
    assert (found.n, found.mean, found.std) == (5, pytest.approx(values.mean()), pytest.approx(values.std(ddof=1)))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))
    assert found.high - found.mean == pytest.approx(2.776445105 * values.std(ddof=1) / np.sqrt(5))  # from a t-table
    assert [row.n for row in SUMMARY.rows] == [5, 5, 0, 5, 5, 2]
    empty = row_of("none").scores["dice"]
    assert (empty.n, empty.mean, empty.std, empty.low, empty.high) == (0, None, None, None, None)
    assert row_of("worse").scores["auc"].mean is None
    one = summarise({"a": {"seed 0": {"auc": 0.5}}}, "a", {}).rows[0]
    assert (one.title, one.scores["auc"].mean, one.scores["auc"].std, one.scores["auc"].low) == ("a", 0.5, None, None)


def test_differences_are_paired_and_adjusted_by_holm():
    p_values = {}
    for name in ("close", "worse", "bad"):
        found = row_of(name).differences["dice"]
        differences = np.array(DICE[name]) - np.array(DICE["full"])
        test = ttest_rel(DICE[name], DICE["full"])
        assert found.n == 5
        assert found.mean == pytest.approx(differences.mean())
        np.testing.assert_allclose([found.low, found.high], test.confidence_interval(0.95))
        assert found.p == pytest.approx(test.pvalue)
        p_values[name] = test.pvalue
    smallest, middle, largest = sorted(p_values, key=p_values.__getitem__)
    adjusted = 3 * p_values[smallest]
    assert row_of(smallest).differences["dice"].p_holm == pytest.approx(adjusted)
    adjusted = max(adjusted, 2 * p_values[middle])
    assert row_of(middle).differences["dice"].p_holm == pytest.approx(adjusted)
    assert row_of(largest).differences["dice"].p_holm == pytest.approx(max(adjusted, p_values[largest]))
    assert [row_of(name).differences["dice"].is_significant for name in ("close", "worse", "bad")] == [0, 1, 1]
    assert row_of("none").differences["dice"].n == 0
    assert row_of("none").differences["dice"].p_holm is None
    assert row_of("full").differences == {}


def test_only_repeats_that_both_have_are_paired():
    found = row_of("close").differences["auc"]
    assert found.repeats == {"seed 0": pytest.approx(-0.05), "seed 1": pytest.approx(-0.05)}
    assert (found.mean, found.p) == (pytest.approx(-0.05), None)  # no spread to test against
    scores = {
        "a": {"seed 0": {"auc": 0.5}, "seed 1": {"auc": 0.9}},
        "b": {"seed 2": {"auc": 0.6}, "seed 1": {"auc": 1}},
    }
    found = summarise(scores, "a", {}).rows[1].differences["auc"]
    assert (found.n, found.mean, found.low, found.p) == (1, pytest.approx(0.1), None, None)


def test_scores_that_cannot_be_summarised_are_refused_together():
    scores = {"a": {"seed 0": {"f1": 0.5, "auc": float("nan")}}, "b": {"seed 1": {"dice": None}}}
    with pytest.raises(InputError) as caught:
        summarise(scores, "c", {})
    assert caught.value.problems == [
        "reference 'c': no such row; choose one of a, b",
        f"row a, seed 0: metric 'f1': unknown; allowed are {', '.join(METRICS)}",
        "row a, seed 0: auc is nan; leave out what is undefined",
        "row b, seed 1: dice is None; leave out what is undefined",
    ]


def test_csv_holds_every_number_in_full(tmp_path):
    write_csv(SUMMARY, tmp_path / "study.csv")
    with (tmp_path / "study.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == COLUMNS
    assert [(line["row"], line["metric"]) for line in lines] == [
        (row.name, metric) for row in SUMMARY.rows for metric in SUMMARY.metrics
    ]
    worse = next(line for line in lines if (line["row"], line["metric"]) == ("worse", "dice"))
    score, difference = row_of("worse").scores["dice"], row_of("worse").differences["dice"]
    assert [float(worse[name]) for name in COLUMNS[3:13]] == [
        *(score.n, score.mean, score.std, score.low, score.high),
        *(difference.mean, difference.low, difference.high, difference.p, difference.p_holm),
    ]
    assert [worse[name] for name in COLUMNS[13:]] == ["paired t over repeats", str(difference.n)]
    empty = next(line for line in lines if (line["row"], line["metric"]) == ("none", "auc"))
    assert [empty[name] for name in COLUMNS[3:]] == ["0", *[""] * 9, "paired t over repeats", "0"]
    assert next(line["p"] for line in lines if line["row"] == "full") == ""


def read_markdown(path):
    """Tables as lists of cells; pipes within a cell are escaped."""
    tables, inside = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not inside:
                tables.append([])
            tables[-1].append(cells)
        inside = line.startswith("|")
    return tables


def test_markdown_has_the_papers_columns(tmp_path):
    write_markdown(SUMMARY, "Test split, 5 seeds.", tmp_path / "study.md")
    scores, differences = read_markdown(tmp_path / "study.md")
    assert scores[0] == ["", "n", "Dice WT (%)", "Dice TC (%)", "Dice ET (%)", "HD95 WT (mm)", "AUC"]
    assert {len(cells) for cells in scores} == {7}
    body = {cells[0]: cells[1:] for cells in scores[2:]}
    half = 2.776445105 * np.std(DICE["full"], ddof=1) / np.sqrt(5)
    assert body["MTTU-Net (ref.)"][:2] == ["5", f"**86.4** ± {100 * half:.1f}"]
    assert body["none"] == ["0", "-", "-", "-", "-", "-"]
    assert body["worse"][1].endswith("\\*")
    assert "**" not in body["worse"][1]
    assert not body["Close & near"][1].endswith("\\*")
    assert body["50 % of\\_it \\#1"][4].startswith("5.7 ± ")  # mm, largest, so not bold
    assert body["MTTU-Net (ref.)"][4].startswith("**3.7** ± 0.")
    assert body["MTTU-Net (ref.)"][5].startswith("**0.902** ± 0.0")
    assert body["worse"][5] == "-"
    assert differences[0] == ["", "Dice (percentage points)", "n", "AUC", "n"]
    below = {cells[0]: cells[1:] for cells in differences[2:]}
    assert list(below) == ["Close & near", "none", "worse", "50 % of\\_it \\#1", "ClsNet"]
    low, high = ttest_rel(DICE["worse"], DICE["full"]).confidence_interval(0.95)
    assert below["worse"] == [f"-5.2 [{100 * low:+.1f}, {100 * high:+.1f}]\\*", "5", "-", "0"]
    assert below["ClsNet"][:2] == ["-", "0"]
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert text.startswith("Test split, 5 seeds. Mean ± half-width")
    assert "\\*: differs from MTTU-Net (paired t-test" in text
    assert "Over fewer repeats than n: Close & near AUC (2)." in text


def test_ties_as_shown_are_all_bold_and_a_lonely_value_is_not(tmp_path):
    scores = {
        "a": {"seed 0": {"accuracy": 0.8, "hd95_wt": 4.04, "auc": 0.9}},
        "b": {"seed 0": {"accuracy": 0.8004, "hd95_wt": 4.01}},
        "c": {"seed 0": {"accuracy": 0.7, "hd95_wt": 5.0}},
    }
    write_markdown(summarise(scores, "a", {"b": "b | [x]"}), "", tmp_path / "study.md")
    table, _ = read_markdown(tmp_path / "study.md")
    assert table[2:] == [
        ["a (ref.)", "1", "**4.0**", "0.900", "**80.0**"],
        ["b \\| \\[x\\]", "1", "**4.0**", "-", "**80.0**"],
        ["c", "1", "5.0", "-", "70.0"],
    ]
    assert "differs from" not in (tmp_path / "study.md").read_text()


def test_a_study_without_a_finished_row_still_has_tables(tmp_path):
    summary = summarise({"a": {}, "b": {}}, "a", {})
    write_markdown(summary, "Nothing yet.", tmp_path / "study.md")
    assert read_markdown(tmp_path / "study.md") == [[["", "n"], ["---", "---:"], ["a (ref.)", "0"], ["b", "0"]]]
    write_latex(summary, "Nothing yet.", tmp_path / "study.tex")
    check_latex((tmp_path / "study.tex").read_text(encoding="utf-8"))
    write_csv(summary, tmp_path / "study.csv")
    assert (tmp_path / "study.csv").read_text().split() == [",".join(COLUMNS)]
    assert tabulate(summary) == (["row", "n"], [["a (ref.)", "0"], ["b", "0"]])
    assert to_panels(summary) == []


def check_latex(text):
    """Braces, environments and dollars are balanced; every line of a tabular has as many cells as its columns."""
    bare = re.sub(r"(?m)(?<!\\)%.*$", "", text.replace(r"\ifdim\wd0>\textwidth", ""))
    plain = re.sub(r"\\[{}$&%#_^]", "", bare)
    depth = 0
    for sign in plain:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0
    assert plain.count("$") % 2 == 0
    assert not set("#~^<>") & set(re.sub(r"\$[^$]*\$", "", plain))
    assert "_" not in plain
    environments = re.findall(r"\\(begin|end)\{(\S+?)\}", plain)
    opened = []
    for what, name in environments:
        if what == "begin":
            opened.append(name)
        else:
            assert opened.pop() == name
    assert opened == []
    tables = re.findall(r"\\begin\{tabular\}\{([lrc]+)\}(.*?)\\end\{tabular\}", plain, re.DOTALL)
    for alignment, body in tables:
        lines = re.findall(r"(?m)^(.*) \\\\$", body)
        assert len(lines) >= 2
        for line in lines:
            cells = re.split(r"&", line)
            spans = [int(size) - 1 for size in re.findall(r"\\multicolumn\{(\d+)\}", line)]
            assert len(cells) + sum(spans) == len(alignment), line
        assert not re.search(r"(\\\\|rule)\s*[\[*]", body)  # would be read as an argument
    return tables


def test_latex_is_a_complete_table(tmp_path):
    write_latex(SUMMARY, "Dice & HD95_95, 100 % of {all} ~70 cases, p < 0.05.", tmp_path / "study.tex")
    text = (tmp_path / "study.tex").read_text(encoding="utf-8")
    (alignment, scores), (_, differences) = check_latex(text)
    assert alignment == "lrccccc"
    assert r"\multicolumn{4}{c}{Segmentation (Dice in , HD95 in mm)} & \multicolumn{1}{c}{IDH genotyping} \\" in scores
    assert r" & n & Dice WT & Dice TC & Dice ET & HD95 WT & AUC \\" in scores
    assert r"{Segmentation (Dice in \%, HD95 in mm)}" in text
    assert r"\cmidrule(lr){3-6} \cmidrule(lr){7-7}" in scores
    assert r"\caption{Dice \& HD95\_95, 100 \% of \{all\} $\sim$70 cases, p $<$ 0.05. Mean $\pm$" in text
    half = 2.776445105 * np.std(DICE["full"], ddof=1) / np.sqrt(5)
    assert rf"MTTU-Net (ref.) & 5 & \textbf{{86.4}}\,$\pm$\,{100 * half:.1f} & " in text
    assert r"none & 0 & -- & -- & -- & -- & -- \\" in text
    assert r"50 \% of\_it \#1 & 5 & 76.4" in text
    assert "worse & $-5.2$ [$-" in differences
    assert r"]$^{*}$ & 5 & -- & 0 \\" in differences
    assert (text.count(r"\toprule"), text.count(r"\midrule"), text.count(r"\bottomrule")) == (2, 2, 2)


AWKWARD = {"a": r"[F1] \ {x} ^ ~", "b": '* 50 % & "U_Net" #1 $x$ < > |', "c": "τ ≥ 0.9 † ± –", "d": "Ünet ł 中🧠"}  # noqa: RUF001


def awkward():
    return summarise({name: {"seed 0": {"auc": 0.5, "dice": 0.1}} for name in AWKWARD}, "a", AWKWARD)


def test_titles_of_any_signs_are_escaped(tmp_path):
    write_latex(awkward(), "Any\n\nsigns", tmp_path / "study.tex")
    text = (tmp_path / "study.tex").read_text(encoding="utf-8")
    check_latex(text)
    assert r"{[}F1{]} $\backslash$ \{x\} \^{} $\sim$ (ref.) & 1" in text
    assert r"{*} 50 \% \& ''U\_Net'' \#1 \$x\$ $<$ $>$ $|$ & 1" in text
    assert r"$\tau$ $\geq$ 0.9 $\dagger$ $\pm$ -- & 1" in text
    assert r"\"{U}net {\l} U+4E2DU+1F9E0 & 1" in text
    assert text.isascii()


def wide():
    cells = {name: {f"seed {seed}": dict.fromkeys(METRICS, 0.5 + seed / 10) for seed in range(2)} for name in "ab"}
    return summarise(cells, "a", {"a": "A network whose name is as long as this", "b": "a_b&c%"})


@pytest.mark.parametrize("summary", [SUMMARY, awkward(), wide()], ids=["study", "awkward", "wide"])
def test_latex_compiles_and_fits_the_page(summary, tmp_path):
    program = shutil.which("pdflatex") or shutil.which("tectonic")
    if program is None:
        pytest.skip("neither pdflatex nor tectonic is installed")
    write_latex(summary, "Dice & HD95, 100 % of cases.", tmp_path / "study.tex")
    main = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{study}\end{document}"
    (tmp_path / "main.tex").write_text(main)
    options = ["-interaction=nonstopmode", "-halt-on-error"] if program.endswith("pdflatex") else []
    done = subprocess.run([program, *options, "main.tex"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
    assert (tmp_path / "main.pdf").stat().st_size > 1000


def test_a_terminal_of_80_columns_shows_all():
    headers, rows = tabulate(SUMMARY)
    assert headers == ["row", "n", "Dice %", "WT %", "TC %", "ET %", "AUC"]
    assert rows[1] == ["MTTU-Net (ref.)", "5", "81.4", "86.4", "81.4", "76.4", "0.902"]
    assert rows[2] == ["none", "0", "-", "-", "-", "-", "-"]
    assert rows[3] == ["worse", "5", "76.2*", "81.2*", "76.2*", "71.2*", "-"]
    full = dict.fromkeys(METRICS, 0.8)
    headers, rows = tabulate(summarise({"modalities": {"seed 0": full}}, "modalities", {"modalities": "flair + t1ce"}))
    assert headers == ["row", "n", "Dice %", "WT %", "TC %", "ET %", "HD95 mm", "AUC", "Acc %"]
    table = Table(*headers)
    table.add_row(*rows[0])
    console = Console(width=80)
    with console.capture() as shown:
        console.print(table)
    assert all(text in shown.get() for text in [*headers, *rows[0][1:]])


def test_the_picture_gets_the_numbers_of_the_tables():
    dice, auc = to_panels(SUMMARY)
    assert (dice.metric, dice.unit, dice.smaller_is_better) == ("Dice", "percentage points", False)
    assert (auc.metric, auc.unit) == ("AUC", "")
    assert [row.title for row in dice.rows] == [row.title for row in SUMMARY.others]
    worse = dice.rows[2]
    found = row_of("worse").differences["dice"]
    assert worse.difference.value == pytest.approx(100 * found.mean)
    assert (worse.difference.low, worse.difference.high) == (100 * found.low, 100 * found.high)
    np.testing.assert_allclose(worse.repeats, 100 * (np.array(DICE["worse"]) - np.array(DICE["full"])))
    assert [row.is_significant for row in dice.rows] == [False, False, True, True, False]
    assert [dice.rows[1].absence, dice.rows[4].absence] == ["no finished repeat", "not measured"]
    other = {"a": {"seed 0": {"dice": 0.5}}, "b": {"seed 1": {"dice": 0.6, "hd95_wt": 4.0}}}
    panels = to_panels(summarise(other, "a", {}), ("dice", "hd95_wt", "auc"))
    assert [panel.rows[0].absence for panel in panels] == ["no repeat in common", "not measured for the reference"]
    assert panels[1].smaller_is_better
    figure = draw_differences([dice, auc], SUMMARY.reference_title)
    assert [axes.get_title() for axes in figure.axes] == ["Dice", "AUC"]
    with pytest.raises(InputError, match="metric 'f1': unknown"):
        to_panels(SUMMARY, ["f1"])


def test_costs_stand_beside_the_scores_and_are_neither_marked_nor_compared(tmp_path):
    scores = {"a": {"seed 0": {"auc": 0.5}, "seed 1": {"auc": 0.6}}, "b": {"seed 0": {"auc": 0.9}}, "c": {}}
    costs = {
        "a": {"parameters": [33_398_054], "multiply_adds": [324_474_421_312], "step_seconds": [0.5, 0.7]},
        "b": {"parameters": [3_875_894], "multiply_adds": [26_127_892_480], "step_seconds": []},
    }
    summary = summarise(scores, "a", {}, costs)
    assert summary.costs == ("parameters", "multiply_adds", "step_seconds")
    write_markdown(summary, "Networks.", tmp_path / "study.md")
    table, below = read_markdown(tmp_path / "study.md")
    assert table[0] == ["", "n", "AUC", "Params (M)", "MACs (G)", "Step (s)"]
    assert [cells[3:] for cells in table[2:]] == [["33.40", "324.47", "0.600"], ["3.88", "26.13", "-"], ["-"] * 3]
    assert below[0] == ["", "AUC", "n"]
    write_latex(summary, "Networks.", tmp_path / "study.tex")
    text = (tmp_path / "study.tex").read_text(encoding="utf-8")
    (alignment, _), _ = check_latex(text)
    assert alignment == "lrcccc"
    assert r"\multicolumn{3}{c}{Cost (Params in M, MACs in G, Step in s)}" in text
    assert r"\cmidrule(lr){3-3} \cmidrule(lr){4-6}" in text
    write_csv(summary, tmp_path / "study.csv")
    with (tmp_path / "study.csv").open(newline="", encoding="utf-8") as file:
        step = next(line for line in csv.DictReader(file) if (line["row"], line["metric"]) == ("a", "step_seconds"))
    assert (step["n"], float(step["mean"]), step["p"]) == ("2", pytest.approx(0.6), "")
    assert tabulate(summary)[0] == ["row", "n", "AUC"]
    assert len(to_panels(summary, ["dice", "auc"])) == 1


def on_cases(shift, probabilities, *, without_et=()):
    """Two repeats of six cases; a case's Dice differs by the shift and by its number, its probability by the repeat."""
    return {
        f"seed {repeat}": [
            case(
                f"case {number}",
                number % 2,
                probability + 0.1 * repeat,
                dice=(
                    0.8 - shift * number / 100,
                    0.7,
                    None if number in without_et else 0.5 + shift * repeat / 10 + number / 1000,
                ),
            )
            for number, probability in enumerate(probabilities)
        ]
        for repeat in (0, 1)
    }


def test_rows_are_tested_on_cases_that_are_averaged_over_repeats():
    first, second = (0.1, 0.8, 0.2, 0.7, 0.6, 0.5), (0.5, 0.42, 0.1, 0.6, 0.62, 0.3)
    more = [case(f"case {number}", number % 2, 0.99, dice=(0.1, 0.1, 0.1)) for number in range(6)]
    other = on_cases(2, second)
    other["seed 0"].append(case("of the reference alone"))
    own = {**on_cases(1, first, without_et=(3,)), "seed 2": more}  # a seed that the reference has not
    own["seed 1"].append(case("of the row alone"))
    found = compare_on_cases({"a": own, "b": other, "c": on_cases(1, first), "d": {}}, "b").found
    assert found.keys() == {"a", "c", "d"}
    wt = [[0.8 - shift * number / 100 for number in range(6)] for shift in (1, 2)]
    assert found["a"]["dice_wt"].p == pytest.approx(ttest_rel(*wt).pvalue)
    assert (found["a"]["dice_wt"].test, found["a"]["dice_wt"].tested) == ("paired t on cases", 6)
    assert found["a"]["dice_tc"].p == 1.0  # equal everywhere
    assert (found["a"]["dice_et"].p, found["a"]["dice_et"].tested) == (None, 5)  # always the same difference
    mean = [[fmean([0.8 - shift * n / 100, 0.7, 0.5 + shift / 20]) for n in (0, 1, 2, 4, 5)] for shift in (1, 2)]
    assert found["a"]["dice"].p == pytest.approx(ttest_rel(*mean).pvalue)
    means = [[value + 0.05 for value in values] for values in (first, second)]
    idh = [number % 2 for number in range(6)]
    assert found["a"]["auc"].p == pytest.approx(compare_auc(*means, idh).p)
    assert (found["a"]["auc"].test, found["a"]["auc"].tested) == ("DeLong on cases", 6)
    # means 0.15 0.85 0.25 0.75 0.65 0.55 are right but for case 4; 0.55 0.47 0.15 0.65 0.67 0.35 in cases 2 and 3 alone
    assert found["a"]["accuracy"].p == pytest.approx(binomtest(3, 3).pvalue)
    assert found["c"]["dice_wt"].p_holm == pytest.approx(min(1.0, 2 * found["c"]["dice_wt"].p))  # Holm over two rows
    assert (found["d"]["dice_wt"].p, found["d"]["dice_wt"].tested) == (None, 0)


def test_a_score_counts_in_the_repeats_where_both_rows_have_it():
    values = {"a": ((0.9, 0.5), (0.7, None), (0.8, 0.6)), "b": ((0.3, 0.2), (0.5, 0.8), (0.6, 0.9))}
    cells = {
        row: {
            f"seed {seed}": [
                case(f"{number}", -1 if number == 2 else number, None if number == 2 else 0.5, dice=(both[seed],) * 3)
                for number, both in enumerate(cases)
            ]
            for seed in (0, 1)
        }
        for row, cases in values.items()
    }
    found = compare_on_cases(cells, "b").found["a"]
    # case 0: 0.7 and 0.25; case 1 in seed 0 alone: 0.7 and 0.5; case 2: 0.7 and 0.75
    assert found["dice_wt"].p == pytest.approx(ttest_rel([0.7, 0.7, 0.7], [0.25, 0.5, 0.75]).pvalue)
    assert found["auc"].tested == found["accuracy"].tested == 2  # the third has no known status


def test_the_star_of_a_table_of_networks_is_of_the_tests_on_cases(tmp_path):
    values = {"a": {"seed 0": {"auc": 0.5, "dice_wt": 0.8}}, "b": {"seed 0": {"auc": 0.9, "dice_wt": 0.7}}}
    tests = CaseTests("by hand", {"b": {"auc": CaseTest("DeLong", 70, 0.01, 0.04)}})
    summary = summarise(values, "a", {}, None, tests)
    write_markdown(summary, "Networks.", tmp_path / "study.md")
    text = (tmp_path / "study.md").read_text(encoding="utf-8")
    assert "differs from a (by hand, p adjusted by Holm over the other rows of the column \\< 0.05)" in text
    (_, _, _, line), _ = read_markdown(tmp_path / "study.md")
    assert line == ["b", "1", "70.0", "**0.900**\\*"]
    write_csv(summary, tmp_path / "study.csv")
    with (tmp_path / "study.csv").open(newline="", encoding="utf-8") as file:
        lines = {(line["row"], line["metric"]): line for line in csv.DictReader(file)}
    assert [lines["b", "auc"][name] for name in ("p", "p_holm", "test", "tested")] == ["0.01", "0.04", "DeLong", "70"]
    assert [lines["b", "dice_wt"][name] for name in ("p", "p_holm", "test", "tested")] == ["", "", "", "0"]
    figure = draw_differences(to_panels(summary, ["auc"]), "a", tests=summary.tests)
    assert "Filled: differs from 0 (by hand; p adjusted by Holm" in " ".join(
        " ".join(text.get_text().split()) for text in figure.texts
    )
