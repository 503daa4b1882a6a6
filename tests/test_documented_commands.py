"""The commands of the pages about evaluation, prediction and reports, each run as it stands there on small files."""

import shlex
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from empty_pictures import save_empty
from matplotlib.figure import Figure
from test_shipped_files import ROOT, shell_lines

from mttu.cli import main
from mttu.cohort.build import discover
from mttu.data.labels import IDH_UNKNOWN
from mttu.data.manifest import Manifest, write_manifest
from mttu.files import read_json
from mttu.predict import plan_predictions, predict_cases
from mttu.report import Source, evaluate_cases, plan_evaluation, write_evaluation
from mttu.self_training.evaluation import TEST_ROWS, write_rows
from mttu.self_training.round_folder import RoundRecord, write_history, write_record

PAGES = ("evaluation.md", "predict.md", "report.md")
LINES = [line for page in PAGES for line in shell_lines(ROOT / "docs" / page)]
SLOW = ("--pictures", "--maps", "--passes", "runs/none", "runs/paper", "runs:/")
"""What lines hold that predict with many passes or more than once; they run with the slow tests."""
RECORDS = {
    **{"evaluate": "summary.json", "compare": "table.tex", "failures": "failures.md"},
    "predict": "predictions.csv",
}
"""Command to a file that it writes."""
TO_MSD = np.array([0, 2, 1, 0, 3])
"""Label of BraTS to that of the decathlon."""


@pytest.fixture(scope="module")
def undrawn() -> Iterator[None]:
    """Figures of matplotlib are empty; their own tests look at them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("draw_curves", "draw_summary", "draw_reliability"):
            patch.setattr(f"mttu.report.page.figures.{name}", lambda *_: Figure(figsize=(1, 1)))
        patch.setattr("mttu.report.page.rendering.draw_feature_maps", lambda *_, **__: Figure(figsize=(1, 1)))
        patch.setattr("mttu.report.comparison_files.save_figure", save_empty)
        for module in ("files", "page.inputs", "page.figures"):
            patch.setattr(f"mttu.report.{module}.draw_pictures", lambda *_: {})
        yield


@pytest.fixture(scope="module")
def files(
    phantom_folder: Path,
    finished_training: Path,
    tiny_checkpoint: Path,
    undrawn: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """What the pages' commands read, by the names that they have there; `/data` is `data`."""
    place = tmp_path_factory.mktemp("documented")
    shutil.copytree(phantom_folder, place / "data" / "cohort")
    manifest = _write_cohort(place, discover(place / "data" / "cohort", phantom_folder / "clinical.csv"))
    for name in ("mttu-net", "paper", "first", "none", "ups"):
        shutil.copytree(finished_training, place / "runs" / name)
    for name in ("runs/self-a", "runs/self-b", "data/runs/self-a"):
        _write_rounds(place / name, manifest, tiny_checkpoint)
    shutil.copytree(manifest.cases[0].images["flair"].parent, place / "data" / "new-cases" / manifest.cases[0].case_id)
    predict_cases(
        plan_predictions(place / "runs" / "paper", [place / "cohort.parquet"], place / "predictions", split="test")
    )
    for name in ("other-predictions", "n0", "n1", "n2", "u0", "u1", "u2"):
        shutil.copytree(place / "predictions", place / name)
    _evaluate(place, Source(place / "predictions"), "scores")
    _evaluate(place, Source(place / "radiomics.csv"), "radiomics")
    for name in ("none", "ups", "n0", "n1", "u0", "u1"):
        shutil.copytree(place / "scores", place / f"scores-{name}")
    return place


def _write_cohort(place: Path, manifest: Manifest) -> Manifest:
    """Of `finished_training` the val cases, the others test; their true masks as nnU-Net's, and two tables for them."""
    cases = [case if case.split == "val" else replace(case, split="test") for case in manifest.cases]
    cohort = replace(manifest, cases=tuple(cases))
    write_manifest(cohort, place / "cohort.parquet")
    (place / "nnunet").mkdir()
    test = cohort.split("test")
    for case in test:
        image = nib.load(case.seg)
        seg = TO_MSD[np.asarray(image.dataobj).astype(int)].astype(np.uint8)
        nib.save(nib.Nifti1Image(seg, image.affine), place / "nnunet" / f"{case.case_id}.nii.gz")
    known = [case.case_id for case in test if case.idh != IDH_UNKNOWN]
    for name in ("radiomics", "resnet"):
        rows = [f"{case_id},{0.9 - 0.1 * number}" for number, case_id in enumerate(known)]
        (place / f"{name}.csv").write_text("\n".join(["case_id,idh_mutant_probability", *rows]) + "\n")
    return cohort


def _write_rounds(folder: Path, manifest: Manifest, checkpoint: Path) -> None:
    """A self-training after round 0."""
    place = folder / "round_0"
    place.mkdir(parents=True)
    shutil.copytree(checkpoint, place / "best")
    write_manifest(manifest, place / "manifest.parquet")
    write_history([{"epoch": 1, "train/loss": 1.0}], place)
    write_record(RoundRecord(0, {}, "", "", None, None, 1, 1, 8, 0, 0, None, None, {"val/score": 0.4}, ()), place)
    rows = [{"case_id": case.case_id, "round": 0, "dice_wt": 0.5} for case in manifest.split("test")]
    write_rows(rows, folder / TEST_ROWS, {})


def _evaluate(place: Path, source: Source, name: str) -> None:
    found = evaluate_cases(plan_evaluation(source, place / "cohort.parquet", place / name, num_resamples=20))
    tables = found.region_rows, found.idh_rows, found.summary, found.fact_rows, found.baseline_rows
    write_evaluation(place / name, *tables)


@pytest.fixture
def execute(
    files: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> Callable[[str], Path | None]:
    """Runs a line on files of its own; what it wrote. Fewer resamples; weights of MLflow are there already."""
    place = tmp_path / "here"
    shutil.copytree(files, place)
    monkeypatch.chdir(place)
    monkeypatch.setattr("mttu.tracking.fetch_checkpoint", lambda _, into, *rest: shutil.copytree(tiny_checkpoint, into))

    def run(line: str) -> Path | None:
        words = [word.replace("/data/", f"{place}/data/") for word in shlex.split(line)]
        if words[0] == "python":
            words = ["mttu", Path(words[1]).stem.replace("_", "-"), *words[2:]]
        name, *words = words
        assert name == "mttu", line
        output = Path(words[words.index("-o") + 1]) if "-o" in words else None
        if output is not None and output.is_dir():
            shutil.rmtree(output)  # another command's input
        if words[0] in ("evaluate", "compare"):
            words += ["--resamples", "20"]
        with pytest.raises(SystemExit) as caught:
            main(words)
        out, err = capsys.readouterr()
        assert not caught.value.code, f"{line}: {out[-1000:]} {err[-2000:]}"
        return output

    return run


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=[pytest.mark.slow] * any(part in line for part in SLOW)) for line in LINES]
)
def test_a_command_of_a_page_does_what_it_says(line: str, execute: Callable[[str], Path | None]) -> None:
    output = execute(line)
    if output is None:
        assert "postprocess" in line
        assert (read_json(Path("runs/first/best/postprocessing.json")))["format_version"]
    elif output.suffix == ".html":
        assert "Research use only" in output.read_text(encoding="utf-8")
        assert ("pictures of synthetic cases" in output.read_text(encoding="utf-8")) == ("--pictures" in line)
    else:
        command, first = line.split()[1:3]
        several = command == "evaluate" and "=" in first
        written = "comparison/table.tex" if several else RECORDS[command]
        assert (output / written).stat().st_size > 100


@pytest.mark.parametrize(
    "line",
    [
        "mttu evaluate predictions cohort.parquet -o scores --split tset",
        "mttu evaluate nnunet cohort.parquet -o scores --labels nnunet",
        "mttu evaluate prediction cohort.parquet -o scores",
        "mttu compare scores-none scores-upps -o comparison",
        "mttu predict runs/first data/new-case -o out",
        "nnunet evaluate predictions cohort.parquet -o scores",
    ],
)
def test_a_command_that_no_longer_works_would_be_seen(line: str, execute: Callable[[str], Path | None]) -> None:
    with pytest.raises(AssertionError):
        execute(line)
