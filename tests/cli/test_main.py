import os
import subprocess
import sys

import pytest
import yaml

import mttu
from mttu.config import Config
from mttu.data.manifest import read_manifest
from mttu.errors import RunError
from mttu.networks import build_network
from mttu.networks.checkpoint import write_checkpoint
from mttu.search.presets import preset


def test_version_and_help(run):
    assert run("--version") == (0, f"mttu {mttu.__version__}\n", "")
    code, out, _ = run("--help")
    assert code == 0
    assert all(name in out for name in ("phantom", "cohort", "prepare", "train", "predict", "demo"))
    assert "Research use only" in " ".join(out.split())


def test_printed_settings_are_the_papers_and_can_be_read_again(run, tmp_path):
    code, out, _ = run("train", "--print-config")
    assert code == 0
    assert Config.model_validate(yaml.safe_load(out)) == Config()
    file = tmp_path / "settings.yaml"
    file.write_text(out)
    again = run("train", "--preset", "demo", "--config", file, "--print-config", "optim.lr=1e-4")
    assert again[0] == 0
    assert yaml.safe_load(again[1])["optim"]["lr"] == 1e-4
    assert yaml.safe_load(again[1])["patch"]["size"] == [128, 128, 128]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train"], "data.manifest: not set; give the file that `mttu cohort` wrote"),
        (["train", "optim.lr"], "argument 'optim.lr': expected SECTION.NAME=VALUE"),
        (["train", "optim.speed=1"], "optim.speed"),
        (
            ["train", "--preset", "huge"],
            "preset 'huge': unknown; choose one of paper, robust, small, demo, pool, or several",
        ),
        (["train", "--config", "missing.yaml"], "missing.yaml: cannot be read"),
        (["train", "data.manifest=missing.parquet"], "missing.parquet: not found"),
        (["cohort", "missing", "-o", "x.parquet"], "missing: not found or no folder"),
        (["prepare", "missing.parquet"], "missing.parquet: not found"),
        (["predict", "missing", "cases", "-o", "out"], "checkpoint missing:"),
        (["predict", "missing", "cases", "-o", "out", "--device", "tpu"], "--device 'tpu': choose auto, cpu or gpu"),
    ],
)
def test_refusals_exit_with_two_and_one_clear_line_each(run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = run(*words)
    assert code == 2
    assert message in err
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert list(tmp_path.iterdir()) == []


def test_phantom_says_how_well_its_idh_can_be_told(run, tmp_path):
    words = ["phantom", tmp_path / "p", "--cases", 6, "--size", 24, "--difficulty", 0.2, "--missing-masks", 0.5]
    code, out, _ = run(*words)
    assert code == 0
    assert "IDH AUC, ideal observer of the signs: 1.000 (6 cases, 2 mutant; 1.000 expected)" in out
    assert "IDH AUC, logistic regression on volume and mean intensities: " in out
    assert "IDH AUC, age alone: " in out
    assert len(list((tmp_path / "p").rglob("*_seg.nii.gz"))) == 3
    code, again, _ = run(*words)
    assert code == 0
    assert again == out[out.index("IDH AUC") :]
    code, _, err = run(*words, "--sites", 40)
    assert code == 2
    assert "sites: 40; expected 1 to 20" in err


def test_cohort_says_what_it_found(run, phantom_folder, tmp_path):
    output = tmp_path / "cohort.parquet"
    code, out, _ = run("cohort", phantom_folder, "--clinical", phantom_folder / "clinical.csv", "-o", output)
    assert code == 0
    assert "train: 4 cases (2 mutant, 2 wild type, 4 with a mask)" in out
    assert "cohort.parquet: 8 cases" in out
    assert read_manifest(output).synthetic


def test_cohort_refuses_a_findings_table_that_cannot_be_written_before_it_reads(run, phantom_folder, tmp_path):
    (tmp_path / "cohort-findings.csv").mkdir()
    code, _, err = run("cohort", phantom_folder, "-o", tmp_path / "cohort.parquet")
    assert code == 2
    assert "is a folder, and the table of findings goes there" in " ".join(err.split())
    assert "check 1/" not in err


def test_predict_names_failures_and_goes_on(run, phantom_folder, tmp_path):
    config = preset("demo")
    write_checkpoint(tmp_path / "best", build_network(config.network).state_dict(), config, {})
    case = sorted(path for path in phantom_folder.iterdir() if path.is_dir())[0]
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "broken_flair.nii.gz").write_bytes(b"not an image")
    code, out, err = run("predict", tmp_path, case, broken, "-o", tmp_path / "out", "--min-enhancing-mm3", "500")
    assert code == 1
    assert "1 predicted, 1 failed. Research use only." in out
    assert err.startswith("broken: ")
    assert (tmp_path / "out" / f"{case.name}_seg.nii.gz").exists()
    assert (tmp_path / "out" / f"{case.name}_overlay.png").exists()


def test_a_run_that_stopped_itself_exits_with_one(run, monkeypatch):
    def stop(*arguments, **options):
        raise RunError("epoch 3, step 1: the loss is nan")

    monkeypatch.setattr("mttu.training.run.run_training", stop)
    code, _, err = run("train", "data.manifest=x.parquet")
    assert (code, err) == (1, "stopped: epoch 3, step 1: the loss is nan\n")


def test_a_full_disk_is_no_stack_trace(run, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device", "runs/x")

    monkeypatch.setattr("mttu.training.run.run_training", fail)
    code, _, err = run("train", "data.manifest=x.parquet")
    assert (code, err) == (1, "stopped: runs/x: No space left on device\n")


def test_help_needs_none_of_the_slow_imports():
    script = "import sys, mttu.cli; print({'torch', 'ray', 'monai', 'mlflow'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_a_terminal_that_knows_ascii_only_gets_its_results(tmp_path):
    script = (
        "from mttu.cli.display import console; import mttu.cli as cli; "
        "cli.app = lambda *a, **o: console.print('49.6 ± 1'); cli.main([])"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "49.6 ? 1\n", "")
