"""What lies around the code: shipped YAML, jobs, README, licence, wheel."""

import io
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from contextlib import redirect_stdout
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from mttu.cli import app, main
from mttu.cohort.layouts import OTHER_VOLUMES
from mttu.config import override
from mttu.search.ablations import rows_of
from mttu.search.presets import preset
from mttu.search.spaces import expand, load_space
from mttu.search.study import count_trials

ROOT = Path(__file__).parent.parent
SPACES = sorted((ROOT / "tune_spaces").glob("*.yaml"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120", "PYTHONPATH": ""}
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def shell_lines(document: Path) -> list[str]:
    """Commands in a document's `sh` blocks, continued lines joined, comments cut off."""
    blocks = re.findall(r"```sh\n(.*?)```", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]


@pytest.mark.parametrize("name", ["paper", "small", "demo"])
@pytest.mark.parametrize("path", SPACES, ids=lambda path: path.stem)
def test_every_search_space_can_be_searched_and_each_value_counts(path: Path, name: str) -> None:
    base = preset(name)
    space = load_space(path, base)
    assert space.plan.description
    start = override(base, space.plan.settings)
    for one in space.parameters:
        values = one.values.list_all() or one.values.ends
        changes = [expand({**one.when, one.name: value}) for value in values]
        assert len({override(start, change).model_dump_json() for change in changes}) == len(values) > 1


@pytest.mark.parametrize(
    ("name", "trials"),
    [
        ("modalities", 15),
        ("optimisation", 30),
        ("transformer_depth", 8),
        ("ups_thresholds", 12),
        ("ups_thresholds_offline", 1000),
    ],
)
def test_search_spaces_have_as_many_trials_as_their_heads_and_the_documents_say(name: str, trials: int) -> None:
    path = ROOT / "tune_spaces" / f"{name}.yaml"
    assert path in SPACES
    assert len(SPACES) == 5
    assert count_trials(load_space(path)) == trials


def test_the_depth_space_covers_table_2_and_no_layer() -> None:
    space = load_space(ROOT / "tune_spaces" / "transformer_depth.yaml")
    kind, depth = "network.bottleneck.kind", "network.bottleneck.num_layers"
    expected = [*({kind: "transformer", depth: layers} for layers in range(7)), {kind: "convolution"}]
    assert list(space.list_grid()) == expected


def test_the_space_of_modalities_has_every_row_of_that_table() -> None:
    space = load_space(ROOT / "tune_spaces" / "modalities.yaml")
    assert sorted(one["ablation"] for one in space.list_grid()) == sorted(rows_of("modalities"))


def cluster() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))
    return content


def test_the_cluster_file_passes_rays_own_check() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster()))
    with pytest.raises(Exception, match="min_worker"):  # the check does look at the node types
        validate_config(prepare_config({**cluster(), "available_node_types": {"head": {"min_worker": 1}}}))


def test_the_cluster_is_closed_to_the_world() -> None:
    content = cluster()
    nodes = content["available_node_types"]
    assert content["provider"]["type"] == "aws"
    assert all(node["node_config"]["SecurityGroupIds"] for node in nodes.values())
    assert all(
        disk["Ebs"]["Encrypted"] for node in nodes.values() for disk in node["node_config"]["BlockDeviceMappings"]
    )
    (start,) = [line for line in content["head_start_ray_commands"] if "--head" in line]
    assert "--dashboard-host=127.0.0.1" in start
    assert any("RAY_AUTH_MODE=token" in line for line in content["setup_commands"])


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.yaml")) + sorted(ROOT.glob(".*.yaml")), ids=lambda path: path.name)
def test_every_yaml_file_is_a_mapping(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_the_pre_commit_file_fetches_nothing() -> None:
    done = run(sys.executable, "-m", "pre_commit", "validate-config", ROOT / ".pre-commit-config.yaml")
    assert done.returncode == 0, done.stdout + done.stderr
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    assert {hook["language"] for repository in repositories for hook in repository["hooks"]} == {"system"}


@lru_cache
def read_help(*command: str) -> str:
    """What a command prints of itself, in this process; many documents name the same ones."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.setenv("COLUMNS", "120")
        with pytest.raises(SystemExit) as ended:
            main([*command, "--help"])
    assert ended.value.code == 0, f"mttu {' '.join(command)} --help: {said.getvalue()}"
    return said.getvalue()


@pytest.mark.parametrize("path", sorted((ROOT / "jobs").glob("*.py")), ids=lambda path: path.name)
def test_jobs_are_short_and_take_the_arguments_of_their_command(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) < 40
    done = run(sys.executable, path, "--help")
    assert done.returncode == 0, done.stderr
    command = read_help(path.stem.replace("_", "-"))
    assert done.stdout.splitlines()[1:] == command.splitlines()[1:]  # the first line names the program


def test_a_job_refuses_what_its_command_refuses(tmp_path: Path) -> None:
    done = run(sys.executable, ROOT / "jobs" / "train.py", "optim.rate=1", cwd=tmp_path)
    assert done.returncode == 2
    assert "optim.rate: no such setting; known there: lr" in done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "mttu").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_long(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 450


def test_no_package_is_crowded() -> None:
    folders = {path.parent for path in (ROOT / "mttu").rglob("*.py")}
    counts = {str(folder.relative_to(ROOT)): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: count for name, count in counts.items() if count > 20} == {}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_commands_options_and_files_that_exist(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    groups = {group.name for group in app.registered_groups}
    targets = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in shell_lines(path):
        words = line.split()
        if words[0] == "make":
            assert words[1] in targets
        if words[0] == "mttu":
            helped = read_help(*(words[1:3] if words[1] in groups else words[1:2]))
            options = [word for word in words[2:] if word.startswith("-")]
            assert [option for option in options if option not in helped] == [], f"{path.name}: {line}"
        for word in words:
            if word.startswith(("jobs/", "tune_spaces/")):
                assert (ROOT / word).exists()
    named = re.findall(r"`((?:mttu|tests|jobs|benchmarks|docs|tune_spaces)/[\w./]*)`", text)
    assert [place for place in named if not (ROOT / place).exists()] == []
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert link.startswith("https://") or (path.parent / link).exists()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_has_a_placeholder_left(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.fullmatch(r"[A-Z_]{8,}", line.strip())] == []


def test_the_readme_names_the_two_commands_and_the_build_server_calls_one() -> None:
    readme = shell_lines(ROOT / "README.md")
    assert {"make demo", "make test"} <= set(readme)
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    called = [line for line in script.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert called == ["set -euo pipefail", 'cd "$(dirname "${BASH_SOURCE[0]}")/.."', "exec make test"]


def test_constraints_pin_every_dependency_once_and_for_any_machine() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)] == []
    pinned = [re.split("==", line)[0].lower().replace("_", "-") for line in lines]
    assert len(set(pinned)) == len(pinned)
    wanted = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    assert {re.split(r"[\[><=]", name)[0].lower() for name in wanted} <= set(pinned)


def test_the_licence_is_apache_2_in_full() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert PROJECT["license"] == "Apache-2.0"
    assert text.lstrip().startswith("Apache License\n")
    assert "END OF TERMS AND CONDITIONS" in text
    assert len(text.splitlines()) >= 200


@pytest.mark.slow
def test_the_wheel_installs_and_runs(tmp_path: Path) -> None:
    """Built from a copy, installed into a fresh environment that sees this one's packages, run far from the source."""
    source = tmp_path / "source"
    shutil.copytree(ROOT / "mttu", source / "mttu", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shipped = {str(path.relative_to(source)) for path in (source / "mttu").rglob("*") if path.is_file()}
    assert {"mttu/py.typed", "mttu/report/page/templates/report.js"} <= shipped
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source)
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = tmp_path.glob("mttu-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert shipped == {name for name in names if ".dist-info/" not in name}
    assert any(name.endswith("licenses/LICENSE") for name in names)

    home = tmp_path / "fresh"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    (packages,) = home.glob("lib/python*/site-packages")
    (packages / "outer.pth").write_text(f"{Path(yaml.__file__).parent.parent}\n")
    installed = run(python, "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    assert installed.returncode == 0, installed.stderr
    where = run(python, "-c", "import sys, mttu; sys.stdout.write(mttu.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(home))
    for command in ([home / "bin" / "mttu", "--help"], [python, "-m", "mttu", "--help"], [python, "-m", "mttu"]):
        done = run(*command, cwd=tmp_path)
        assert "Research use only" in " ".join((done.stdout + done.stderr).split())
        assert done.returncode == (0 if "--help" in command else 2)
    assert run(home / "bin" / "mttu", "--version", cwd=tmp_path).stdout.strip() == f"mttu {PROJECT['version']}"


def test_nothing_of_a_patient_travels_with_the_code() -> None:
    """What the README's commands write may lie in the checkout; neither git, a Ray job nor `ray up` takes it along."""
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    written = ["cohort.parquet", "cache/a/image.npy", "predictions/a_seg.nii.gz", "clinical.csv", "runs/a/x", "a.nii"]
    written += [
        "deep/a.NII.GZ",
        "a.Nii",
        "Table.XLSX",
        "a.xlsm",
        "a.xls",
        "a.ods",
        "a.tsv",
        "a.TSV",
        "A.CSV",
        "x.Parquet",
    ]
    written += [f"data/a{ending}" for ending in OTHER_VOLUMES if ending != ".nii.zip"]
    others = "npz pth ckpt onnx h5 hdf5 mat feather arrow xlsb sav zip tar tgz 7z nii.bz2 nii.zst nii.xz jpg JPEG tif"
    written += [f"data/a.{ending}" for ending in [*others.split(), "TIFF", "IMA", "mnc", "PAR", "rec", "Npz", "ZIP"]]
    others = "pt2 png PNG webp bmp gif jp2 heic dicom dta sas7bdat rds numbers pkl Pickle sqlite sqlite3-wal lz4 lzma"
    written += [f"data/a.{ending}" for ending in others.split()]
    written += [f"runs.d/mlflow.db-{part}" for part in ("wal", "shm", "journal")] + ["docs/figures/case.png"]
    written += ["run/held_out.json", "ensemble/out_of_fold.csv"]
    written += ["best/weights.safetensors", "train/state.pt", "mlflow.db", "out/a_overlay.png", "cluster/B.DCM"]
    checked = run("git", "check-ignore", "--no-index", *written)
    assert checked.stdout.splitlines() == written
    assert run("git", "ls-files", "--cached", "--ignored", "--exclude-standard").stdout == ""
    (is_left_out,) = get_excludes_from_ignore_files(ROOT, include_gitignore=True)
    assert [path for path in written if not is_left_out(ROOT / path)] == []
    sent = [
        "docs/pictures/selection_study.png",
        "jobs/train.py",
        "mttu/cohort/build.py",
        "tune_spaces/transformer_depth.yaml",
        "pyproject.toml",
    ]
    assert [path for path in [*sent, "constraints.txt", "README.md"] if is_left_out(ROOT / path)] == []
    assert cluster()["rsync_filter"] == [".gitignore"]
    excluded = set(cluster()["rsync_exclude"])
    kinds = {"*.nii", "*.nii.gz", "*.npy", "*.parquet", "*.csv", "*.png"}
    assert {"runs", "cache", "predictions", "demo", *kinds} <= excluded


def test_commands_in_documents_open_nothing_and_tell_nobody() -> None:
    """What the pages tell people to start: with a token, on the loopback interface, without telemetry."""
    started = 0
    for path in DOCUMENTS:
        lines = shell_lines(path)
        for number, line in enumerate(lines):
            if "ray start" in line:
                started += 1
                assert "RAY_USAGE_STATS_ENABLED=0" in line
                assert "--dashboard-host=127.0.0.1" in line or "--head" not in line
                assert any(before.startswith("export RAY_AUTH_MODE=token") for before in lines[:number])
            if "mlflow ui" in line:
                started += 1
                assert "--host 127.0.0.1" in line
                assert "MLFLOW_DISABLE_TELEMETRY=true" in line
            assert "mlflow server" not in line
    assert started >= 3


SECURITY = ROOT / "docs" / "security.md"


def test_every_claim_of_the_security_page_names_a_test_that_is_there() -> None:
    text = SECURITY.read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_/]+\.py)::(\w+)`", text)
    assert len(named) == text.count("::") > 40
    for file, name in named:
        assert f"\ndef {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8"), f"{file}::{name}"
    claims = re.split(r"\n(?=- |\| |\n)", text)
    bare = [claim for claim in claims if claim.strip().startswith(("- ", "| ")) and "::" not in claim]
    heads = ("| logged", "| ---", "- Not tested:", "- Yours to do:")
    assert [claim for claim in bare if not claim.strip().startswith(heads)] == []


def test_nothing_of_ours_reads_or_writes_pickle() -> None:
    """Ray's own state aside, which is named on the page."""
    for path in (ROOT / "mttu").rglob("*.py"):
        code = re.sub(r'"""(?:.|\n)*?"""|#.*', "", path.read_text(encoding="utf-8"))
        assert not re.search(r"import (cloud)?pickle|joblib|allow_pickle=True|weights_only=False|unsafe_load", code), (
            path
        )
        assert code.count("torch.load(") == len(re.findall(r"torch\.load\([^)]*weights_only=True", code)), path
        assert code.count("np.load(") == len(re.findall(r"np\.load\([^)]*allow_pickle=False", code)), path


def test_tests_that_start_ray_are_kept_in_one_process(request: pytest.FixtureRequest) -> None:
    """xdist reads a test's group from the end of its id, and where that is missing it runs the tests anywhere."""
    if not request.config.getoption("loadgroup", False):
        pytest.skip("not in a process of `--dist loadgroup`")
    starting = {"ray_session", "start"}
    on_ray = [
        item.nodeid
        for item in request.session.items
        if item.get_closest_marker("ray") or starting & set(getattr(item, "fixturenames", ()))
    ]
    assert [name for name in on_ray if not name.endswith("@ray")] == []
