"""The page about runs: what it shows, that it asks no host for anything, that nothing in it can run as HTML."""

import base64
import gzip
import hashlib
import json
import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from page_folders import EVIL, RULES, make_patients, make_rounds, write_scores

from mttu.cli import main
from mttu.config import Config, override
from mttu.data.manifest import Manifest, write_manifest
from mttu.data.preprocess import prepare_case
from mttu.errors import InputError
from mttu.inference.postprocessing import KeptPostprocessing, postprocess, write_postprocessing
from mttu.inference.windows import predict_volume
from mttu.networks.checkpoint import read_checkpoint
from mttu.report.page import plan_page, write_page
from mttu.report.page.cases import choose_cases
from mttu.report.page.rendering import compare_runs, compare_with_paper
from mttu.report.page.runs import read_run


@dataclass
class Page(HTMLParser):
    """The tags of a page, and the text of those that are read back."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    raw: dict[str, str] = field(default_factory=dict)
    inside: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = dict(attrs).get("id") or tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.raw[self.inside] = self.raw.get(self.inside, "") + data
        elif data.strip():
            self.texts.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="module")
def patients(phantom_manifest: Manifest) -> Manifest:
    """See `make_patients`."""
    return make_patients(phantom_manifest)


@pytest.fixture(scope="module")
def no_figures() -> Any:
    """Figures of matplotlib, which take most of the time, are tiny; their own tests look at them."""
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_curves", "draw_summary", "draw_reliability"):
            patch.setattr(f"mttu.report.page.figures.{name}", lambda *_: Figure(figsize=(1, 1)))
        patch.setattr("mttu.report.page.figures.draw_pictures", lambda *_: {"roc": Figure(figsize=(1, 1))})
        patch.setattr("mttu.report.page.rendering.draw_feature_maps", lambda *_, **__: Figure(figsize=(1, 1)))
        patch.setattr("mttu.report.files.draw_pictures", lambda *_: {})
        yield


@pytest.fixture(scope="module")
def folder(
    patients: Manifest, finished_training: Path, no_figures: None, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A manifest, a training in a folder with an evil name, its evaluation, and their page."""
    place = tmp_path_factory.mktemp("page")
    write_manifest(patients, place / "cohort.parquet")
    (place / "cohort-findings.csv").write_text(
        "severity,case_id,finding\n"
        "error,lost,/home/someone/lost: no FLAIR; IDH is 'glioma grade 7'\n"
        f"error,{patients.cases[0].case_id},said of an earlier cohort\n"
        "error,/home/someone/row 3,cannot be read\n"
        f'warning,other,"{EVIL.replace(chr(34), chr(34) * 2)}"\nnote,,fine\n'
    )
    run = place / EVIL
    shutil.copytree(finished_training, run)
    write_postprocessing(run / "best", KeptPostprocessing(RULES, 2))
    write_scores(place / "scores", patients, f"{EVIL}/best", failed=(EVIL,))
    plan = plan_page(
        [run],
        place / "report.html",
        [place / "scores"],
        [place / "cohort.parquet"],
        pictures=True,
        passes=2,
        device="cpu",
    )
    size = write_page(plan)
    assert size == (place / "report.html").stat().st_size < 15_000_000
    return place


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return read(folder / "report.html")


def test_nothing_is_loaded_from_anywhere(page: Page, folder: Path) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "background"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/svg+xml;base64,", "data:image/png;base64,", "#")), tag
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
    assert not page.all("link") + page.all("iframe") + page.all("object") + page.all("embed")
    for text in (page.raw["style"], page.raw["script"]):
        assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch|XMLHttp|WebSocket|import\(|eval|innerHTML", text)


def test_the_policy_allows_the_pages_own_style_and_script_alone(page: Page) -> None:
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    for name in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.raw[name].encode()).digest()).decode()
        assert rules[f"{name}-src"] == f"'sha256-{digest}'"
    kinds = [one.get("type") for one in page.all("script")]
    assert kinds.count(None) == 1
    assert set(kinds) == {None, "application/json"}


def test_names_are_text_wherever_they_stand(page: Page, folder: Path) -> None:
    assert "x" not in [one.get("src") for one in page.all("img")]
    shown = [text for text in page.texts if EVIL in text]
    assert f"mttu report: {EVIL}" in shown
    assert f"mttu: {EVIL}" in shown  # a note of the evaluation
    assert f"mttu: not predicted: {EVIL}" in shown
    assert "<img src=x" not in (folder / "report.html").read_text(encoding="utf-8")


def test_a_reader_without_eyes_or_mouse_finds_the_way(page: Page) -> None:
    assert page.all("html") == [{"lang": "en"}]
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all(one["alt"] for one in page.all("img"))
    assert all(one["role"] == "img" and one["aria-label"] for one in page.all("canvas"))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {one["href"][1:] for one in page.all("a") if one["href"]} <= set(ids)
    assert {one["type"] for one in page.all("input")} == {"checkbox", "range"}  # those have keys of their own
    assert "prefers-color-scheme: dark" in page.raw["style"]
    assert "@media print" in page.raw["style"]


def test_pictures_of_patients_have_a_banner_and_are_those_of_the_best_median_and_worst_case(
    page: Page, patients: Manifest
) -> None:
    assert "This page holds pictures of patients." in page.texts
    test = [case.case_id for case in patients.split("test")]
    titles = [text for text in page.texts if re.match("(Best|Median|Worst): ", text)]
    assert titles == [
        f"Best: {test[0]}, Dice 0.900",
        f"Median: {test[2]}, Dice 0.500",
        f"Worst: {test[1]}, Dice 0.200",
    ]


def unpack(text: str, kind: str = "u1") -> np.ndarray:
    return np.frombuffer(gzip.decompress(base64.b64decode(text)), kind)


def test_slices_and_surfaces_are_those_of_the_case(page: Page, patients: Manifest, finished_training: Path) -> None:
    data = json.loads(page.raw["run-1-data-1"])
    prepared = prepare_case(patients.split("test")[0], patients.modalities, Config().data.prepare)
    assert prepared.seg is not None
    shape = tuple(data["shape"])
    assert shape == prepared.seg.shape
    classes = unpack(data["classes"]).reshape(shape)
    np.testing.assert_array_equal(classes % 4, prepared.seg)
    network, config = read_checkpoint(finished_training / "best")
    image = torch.from_numpy(prepared.image)
    found = predict_volume(network, image, config.patch.size, config.inference, torch.device("cpu"))
    assert found.seg_probabilities is not None
    predicted = found.seg_probabilities.argmax(dim=0).numpy().astype(np.uint8)
    np.testing.assert_array_equal(classes // 4, postprocess(predicted, RULES, 1.0))
    assert (classes // 4 != predicted).any()
    facts = [text for text in page.texts if "prediction post-processed: WT largest component only" in text]
    assert len(facts) == 3
    told = r"^True status: IDH .* probability of IDH mutant \d\.\d\d \((not calibrated|calibrated \d)"
    assert all(re.search(told, fact) for fact in facts)
    for said in (
        "in distribution or not: not known",
        "no patient of this id was learned from|LEARNED FROM THIS",
        "research",
    ):
        assert all(re.search(said, fact) for fact in facts), said
    assert (classes // 4 != prepared.seg).any()
    grey = unpack(data["grey"]).reshape(shape)
    outside = prepared.image[0] == 0
    assert not grey[outside].any()
    assert np.count_nonzero(grey[~outside]) > 0.98 * np.count_nonzero(~outside)
    assert grey.max() == data["levels"]
    uncertainty = unpack(data["uncertainty"]).reshape(shape)
    assert 0 < uncertainty.max() <= data["levels"]
    assert not uncertainty[outside].any()
    areas = [
        (prepared.seg > 0).sum(axis=(1, 2)),
        (prepared.seg > 0).sum(axis=(0, 2)),
        (prepared.seg > 0).sum(axis=(0, 1)),
    ]
    assert data["start"] == [int(one.argmax()) for one in areas]
    truth = data["surface"]["truth"]
    vertices = unpack(truth["vertices"], "<i2").reshape(-1, 3) / 20
    extent = np.ptp(np.argwhere(prepared.seg > 0), axis=0) + 1
    np.testing.assert_allclose(np.ptp(vertices, axis=0), extent, atol=1.0)
    assert unpack(truth["faces"], "<u4").max() == len(vertices) - 1
    shown = data["surface"].get("prediction")
    assert (shown is not None) == bool((classes // 4).any())


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"a": 0.1, "b": 0.9, "c": 0.5}, [("Best", "b"), ("Median", "c"), ("Worst", "a")]),
        ({"a": 0.5, "b": 0.5, "c": 0.5, "d": 0.5}, [("Best", "a"), ("Median", "c"), ("Worst", "d")]),
        ({"a": 0.1, "b": 0.9}, [("Best", "b"), ("Worst", "a")]),
        ({"a": 0.1}, [("Best", "a")]),
        ({}, []),
    ],
)
def test_cases_are_chosen_by_rank(scores: dict[str, float], expected: list[tuple[str, str]]) -> None:
    assert choose_cases(scores) == expected


def test_only_what_differs_from_the_paper_is_listed() -> None:
    assert compare_with_paper(Config()).rows == ()
    changed = override(Config(), {"optim.lr": 0.5, "output.name": "elsewhere", "workers.num_workers": 3})
    assert compare_with_paper(changed).rows == (("optim.lr", "0.0002", "0.5"),)
    rival = compare_with_paper(override(Config(), {"network.kind": "unet"})).rows
    assert ("network.kind", "mttu-net", "unet") in rival
    assert ("network.widths", "[16, 32, 64, 128]", "-") in rival


def test_what_was_found_is_counted_without_its_words(page: Page, folder: Path) -> None:
    assert "Found by `mttu cohort`: 3 errors, 1 warning, 1 note; they are in cohort-findings.csv." in page.texts
    assert "Left out, 2 cases: lost, 1 more." in page.texts  # the other is in the manifest
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "/home/someone" not in text
    assert "glioma grade 7" not in text


def test_without_the_flag_no_case_is_pictured(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "p.html"
    main_exit(
        [
            "report",
            str(folder / EVIL),
            "--manifest",
            str(folder / "cohort.parquet"),
            "-o",
            str(output),
            "--json",
            "--passes",
            "3",
        ]
    )
    expected = {"page": str(output), "bytes": output.stat().st_size, "cases": {}}
    said = capsys.readouterr()
    assert "--passes and --device change nothing without --pictures" in said.err
    assert json.loads(said.out) == {**expected, "pictures": False, "synthetic": False}
    page = read(tmp_path / "p.html")
    assert "No picture of a patient is on this page; cases are named by their ids." in page.texts
    assert not page.all("canvas")
    assert not [name for name in page.raw if "data" in name]


def main_exit(arguments: list[str], code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code


def test_an_unfinished_self_training_says_so(
    cohort: Manifest, tiny_checkpoint: Path, no_figures: None, tmp_path: Path
) -> None:
    run = make_rounds(tmp_path / "self", cohort, tiny_checkpoint)
    output = tmp_path / "report.html"
    write_page(plan_page([run], output))
    texts = read(output).texts
    assert "The self-training is not finished: its last round is 1, and nothing was tested." in texts
    assert f"Round 0: {EVIL}" in texts
    assert "pseudo-labels: 3 mutant, 2 wild type" in texts
    assert texts[texts.index("1 (chosen)") :][:3] == ["1 (chosen)", "3 / 2", "-"]
    assert any(text.startswith("The data are synthetic") for text in texts)
    first = output.read_bytes()
    write_page(plan_page([run], output))  # its own page is replaced, by the same bytes
    assert output.read_bytes() == first


def test_several_runs_are_put_side_by_side(
    cohort: Manifest, finished_training: Path, tiny_checkpoint: Path, no_figures: None, tmp_path: Path
) -> None:
    first, second = (
        read_run(folder) for folder in (make_rounds(tmp_path / "self", cohort, tiny_checkpoint), finished_training)
    )
    assert compare_runs([first]) is None
    rounds = tuple(replace(row, metrics={"val/dice": 0.1 * row.round, "test/idh_auc": 0.7}) for row in first.rounds)
    history = [{"epoch": 1, "val/score": 2.0, "val/dice": 0.25}, {"epoch": 2, "val/score": 1.0, "val/dice": 0.75}]
    table = compare_runs([replace(first, rounds=rounds), replace(second, histories={"training": history})])
    assert table is not None
    assert table.columns == ("run", "network", "method", "round", "Dice, val", "IDH AUC, test")
    assert table.rows == (
        ("self", "mttu-net", "UPS", "1", "0.100", "0.700"),
        ("first", "mttu-net", "-", "-", "0.250", "-"),
    )


def test_what_cannot_be_shown_is_refused_together(
    cohort: Manifest, tiny_checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "folds" / "fold_1").mkdir(parents=True)
    (tmp_path / "notes.html").write_text("mine")
    with pytest.raises(InputError) as caught:
        plan_page(
            [tmp_path / "empty", tmp_path / "folds", tmp_path / "no"], tmp_path / "notes.html", [tmp_path / "empty"]
        )
    told = "\n".join(caught.value.problems)
    assert "notes.html: holds something that `mttu report` did not write" in told
    assert "empty: holds no finished training and no finished round" in told
    assert "folds: is a cross-validation; give its folds" in told
    assert f"{tmp_path / 'no'}: is no folder" in told
    assert "summary.json: missing; give a folder that `mttu evaluate` wrote" in told
    assert (tmp_path / "notes.html").read_text() == "mine"
    with pytest.raises(InputError, match=r"folder 'a\\udcff': is no UTF-8"):
        plan_page([tmp_path / "a\udcff"], tmp_path / "report.html")
    with pytest.raises(InputError, match=r"end its name with \.html"):
        plan_page([folder / EVIL], tmp_path / "report.pdf")
    run = make_rounds(tmp_path / "self", cohort, tiny_checkpoint)
    with pytest.raises(InputError, match="holds the val cases of no training that is given"):
        plan_page([run], tmp_path / "report.html", manifests=[folder / "cohort.parquet"])
    with pytest.raises(InputError, match=r"keeps none; give an evaluation of self/best .* \(given: scores"):
        plan_page([run], tmp_path / "report.html", [folder / "scores"], pictures=True)


def test_a_page_that_is_too_large_is_not_written(
    folder: Path, no_figures: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mttu.report.page.rendering.MOST_BYTES", 1000)
    with pytest.raises(InputError, match="at most 0 are written; give fewer runs"):
        write_page(plan_page([folder / EVIL], tmp_path / "report.html"))
    assert list(tmp_path.iterdir()) == []


def find_chromium() -> str | None:
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


@pytest.mark.slow
@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")
def test_a_browser_draws_slices_and_surfaces(folder: Path, tmp_path: Path) -> None:
    command = [
        find_chromium(),
        "--headless",
        "--no-sandbox",
        f"--user-data-dir={tmp_path}",
        "--virtual-time-budget=8000",
    ]
    shutil.copy(folder / "report.html", tmp_path / "page.html")
    done = subprocess.run(
        [str(part) for part in (*command, "--dump-dom", (tmp_path / "page.html").as_uri())],
        capture_output=True,
        text=True,
        check=True,
    )
    page = Page()
    page.feed(done.stdout)
    assert len([text for text in page.texts if re.fullmatch(r"\d+ of \d+", text)]) == 9  # three planes of three cases
    assert len([text for text in page.texts if text == "40° left"]) == 3
    assert not [text for text in page.texts if text.startswith("Cannot be drawn")]
    assert "Content Security Policy" not in done.stderr
