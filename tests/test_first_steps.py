"""The commands of the README, run from first to last as they stand there, on a small phantom in place of BraTS."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_shipped_files import ROOT, shell_lines

from mttu.phantom import Recipe, write_phantom

SMALL = [
    *("train.epochs=2", "train.steps_per_epoch=2", "train.global_batch=2", "train.batch_per_worker=2"),
    *("network.widths=[4,4,4,8]", "network.blocks=[1,1,1,1]", "network.bottleneck.width=16"),
    *("network.bottleneck.mlp_width=16", "tracking.enabled=false"),
]


@pytest.mark.slow
@pytest.mark.ray
def test_a_brats_folder_becomes_a_report_by_the_commands_of_the_readme(tmp_path: Path) -> None:
    data = tmp_path / "brats"
    write_phantom(data, Recipe(cases=14, size=32, unlabelled_fraction=0.0, test_fraction=0.3, mutant_fraction=0.5))
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    section = page[page.index("## From a BraTS folder to a report") :]
    first = section[: section.index("\n|")]
    lines = [line for line in shell_lines(ROOT / "README.md") if line.startswith("mttu ") and line in first]
    assert [line.split()[1] for line in lines][:5] == ["cohort", "prepare", "train", "predict", "evaluate"]
    assert len(lines) < 10
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}
    environment.pop("RAY_ADDRESS", None)
    for line in lines:
        words = shlex.split(line.replace("/data/brats", str(data)).replace("clinical.csv", str(data / "clinical.csv")))
        if words[1] == "compare":  # another system's scores: those of the same
            shutil.copytree(tmp_path / "scores", tmp_path / "other-scores")
        if words[1] == "train":
            words = [word.replace("robust", "demo") for word in words] + SMALL
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
        assert "\x1b" not in done.stdout + done.stderr
    assert {"README.txt", "summary.json"} <= {path.name for path in (tmp_path / "scores").iterdir()}
    assert "other-scores" in (tmp_path / "comparison" / "table.md").read_text(encoding="utf-8")
    assert "Research use only" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(list((tmp_path / "predictions").glob("*_overlay.png"))) == 4
