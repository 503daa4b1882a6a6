"""What a page is made of: which cases, evaluations and kept files belong to a run, and what is refused."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from page_folders import RULES, make_patients, make_rounds, write_scores

from mttu.data.manifest import Manifest, write_manifest
from mttu.errors import InputError
from mttu.files import read_json, write_json
from mttu.inference.postprocessing import KeptPostprocessing, write_postprocessing
from mttu.networks.ensemble import describe_checkpoint
from mttu.report.page import plan_page
from mttu.report.page.inputs import is_of
from mttu.report.page.runs import WEIGHTS, read_run
from mttu.self_training.evaluation import FORMAT_VERSION, SUMMARY


@pytest.fixture(scope="module")
def patients(phantom_manifest: Manifest) -> Manifest:
    """See `make_patients`."""
    return make_patients(phantom_manifest)


def test_evaluated_cases_may_come_from_a_manifest_of_their_own(
    patients: Manifest, finished_training: Path, tmp_path: Path
) -> None:
    write_scores(tmp_path / "scores", patients, "first/best")
    elsewhere = replace(patients, cases=patients.split("test"))  # another hospital: no val case of the run
    write_manifest(elsewhere, tmp_path / "elsewhere.parquet")
    output, scores = tmp_path / "report.html", [tmp_path / "scores"]
    plan = plan_page([finished_training], output, scores, [tmp_path / "elsewhere.parquet"], pictures=True)
    assert plan.runs[0].manifest is None  # its cohort is not taken for that of the run
    (choice,) = plan.choices.values()
    assert [place for place, _, _ in choice.cases] == ["Best", "Median", "Worst"]
    assert [score for _, _, score in choice.cases] == pytest.approx([0.9, 0.5, 0.2])
    assert plan.synthetic is False
    with pytest.raises(InputError, match="no manifest has a case with a mask named"):
        plan_page([finished_training], output, scores, pictures=True)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"severity,case_id\nfatal,a\n", b"a,b\n1,2\n"])
def test_a_damaged_table_of_findings_is_refused_first(
    finished_training: Path, patients: Manifest, tmp_path: Path, content: bytes
) -> None:
    write_manifest(patients, tmp_path / "cohort.parquet")
    (tmp_path / "cohort-findings.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"cohort-findings\.csv: no table of findings, or damaged"):
        plan_page([finished_training], tmp_path / "p.html", manifests=[tmp_path / "cohort.parquet"])


def test_a_finished_self_training_is_shown_with_what_is_kept_in_its_best(
    cohort: Manifest, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    run = make_rounds(tmp_path / "self", cohort, tiny_checkpoint)
    assert read_run(run).postprocessing.rules == {}
    shutil.copytree(tiny_checkpoint, run / "best")
    write_postprocessing(run / "best", KeptPostprocessing(RULES, 2))
    summary = {"format_version": FORMAT_VERSION, "chosen_round": 0, "rounds_wanted": 5, "missing": {}, "rounds": []}
    write_json(run / SUMMARY, summary)
    shown = read_run(run)
    assert shown.postprocessing.rules == RULES
    assert shown.settings.self_training.rounds == 5  # as asked for; it ended after 1
    (run / "best" / WEIGHTS).write_bytes(b"others")
    assert read_run(run).postprocessing.rules == {}


def test_an_evaluation_is_of_the_run_with_its_weights(
    patients: Manifest, cohort: Manifest, tiny_checkpoint: Path, finished_training: Path, tmp_path: Path
) -> None:
    make_rounds(tmp_path / "first", cohort, tiny_checkpoint)  # another run of the same name
    scores, output = write_scores(tmp_path / "scores", patients, "first/best"), tmp_path / "p.html"
    folders = [finished_training, tmp_path / "first"]
    with pytest.raises(InputError, match="evaluation scores: says only that it is of first/best, and the runs"):
        plan_page(folders, output, [scores])
    summary = read_json(scores / "summary.json")
    summary["systems"][0]["weights_sha256"] = describe_checkpoint(finished_training / "best")["weights_sha256"]
    write_json(scores / "summary.json", summary)
    plan = plan_page(folders, output, [scores])
    assert [is_of(plan.evaluations[0], run) for run in plan.runs] == [True, False]


def test_a_manifest_that_shows_nothing_is_refused_with_pictures_too(
    patients: Manifest, finished_training: Path, tmp_path: Path
) -> None:
    write_scores(tmp_path / "scores", patients, "first/best")
    write_manifest(patients, tmp_path / "cohort.parquet")
    write_manifest(replace(patients, cases=patients.split("train")), tmp_path / "others.parquet")
    given = [tmp_path / "cohort.parquet", tmp_path / "others.parquet"]
    with pytest.raises(InputError, match=r"others\.parquet: holds the val cases of no training .* no case that was sc"):
        plan_page([finished_training], tmp_path / "p.html", [tmp_path / "scores"], given, pictures=True)


def test_phantoms_beside_a_run_of_unknown_cases_are_not_called_synthetic(
    cohort: Manifest, tiny_checkpoint: Path, finished_training: Path, tmp_path: Path
) -> None:
    run = make_rounds(tmp_path / "self", cohort, tiny_checkpoint)
    assert plan_page([run], tmp_path / "p.html").synthetic
    assert not plan_page([run, finished_training], tmp_path / "p.html").synthetic
