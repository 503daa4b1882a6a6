"""README and docs: every command on them can be parsed, every link leads somewhere, what is generated is up to date."""

import re
import runpy
import shlex
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from test_shipped_files import DOCUMENTS, ROOT, shell_lines

from mttu.cli import app
from mttu.cli.settings import read_given, resolve
from mttu.config import override, parse_overrides
from mttu.search.presets import preset

PAGES = sorted({*DOCUMENTS, *(ROOT / "docs").rglob("*.md"), ROOT / "CHANGELOG.md"})
MTTU = typer.main.get_command(app)


def parse(words: list[str]) -> tuple[Any, dict[str, Any]]:
    """The command and its parameters, as the command line would read them; nothing is run.

    Raises an error of Typer's where a command, an option or an argument does not exist.
    """
    command, context = MTTU, MTTU.make_context("mttu", [], resilient_parsing=True)
    while hasattr(command, "commands"):
        name, *words = words
        if name not in command.commands:
            raise ValueError(f"no command {name}")
        command = command.commands[name]
        context = command.make_context(
            name,
            words if not hasattr(command, "commands") else [],
            parent=context,
            resilient_parsing=hasattr(command, "commands"),
        )
    return command, context.params


def check_line(line: str) -> None:
    """Fails where a command line names what does not exist: a command, an option, a setting, a preset, an ablation."""
    words = [word for word in shlex.split(line) if word != "..." and not word.startswith("2>")]
    while "=" in words[0] and words[0].partition("=")[0].isupper():
        words = words[1:]  # variables of the environment
    if words[0].endswith("python") and words[1].startswith("jobs/"):
        words = ["mttu", Path(words[1]).stem.replace("_", "-"), *words[2:]]
    if words[0] != "mttu" or len(words) == 1:
        return
    if words[1].startswith("--"):
        assert words[1] in {name for option in MTTU.params for name in option.opts} | {"--help"}
        return
    command, found = parse(words[1:])
    given = found.get("arguments") or []
    if command.name in ("select", "score"):
        override(preset("paper"), parse_overrides(given))
    else:
        resolve(found.get("preset_name") or "paper", read_given(None, given, found.get("ablations")))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_on_a_page_can_be_parsed(path: Path) -> None:
    for line in shell_lines(path):
        try:
            check_line(line)
        except Exception as error:
            message = getattr(error, "message", error)
            raise AssertionError(f"{path.name}: {line}: {message}") from error


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mttu trian data.manifest=x", "no command trian"),
        ("mttu train --presets small", "No such option"),
        ("mttu train optim.rate=1", "no such setting"),
        ("mttu train --preset tiny", "preset 'tiny'"),
        ("mttu train -a layers-9", "layers-9"),
        ("mttu cohort folder", "Missing parameter: output"),
        ("mttu cache verfiy x", "no command verfiy"),
        ("MTTU_PRIVATE=1 python jobs/train.py optim.rate=1", "no such setting"),
        ("mttu --hlep", ""),
    ],
)
def test_a_wrong_command_would_be_seen(line: str, said: str) -> None:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        check_line(line)
    assert said in f"{caught.value} {getattr(caught.value, 'message', '')}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_benchmarks_on_a_page_take_their_options(path: Path) -> None:
    for line in shell_lines(path):
        for script in re.findall(r"\bbenchmarks/\w+\.py", line):
            source = (ROOT / script).read_text(encoding="utf-8")
            options = re.findall(r"(?<= )--[a-z-]+", line.partition(script)[2])
            assert [option for option in options if f'"{option}"' not in source] == [], f"{path.name}: {line}"


@lru_cache
def list_anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as code hosts and the site name them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_to_pages_and_headings_that_are_there(path: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if "://" in target:
            continue
        place = (path.parent / target).resolve() if target else path
        assert place.is_file(), f"{path.name}: {target}"
        if anchor:
            assert anchor in list_anchors(place), f"{path.name}: {target}#{anchor}"


def test_every_page_is_in_the_sites_contents_once() -> None:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, tag, node: None)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    named = re.findall(r"[\w/-]+\.md", str(site["nav"]))
    here = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert sorted(named) == sorted(here | {"index.md", "contributing.md", "changelog.md"})


def test_the_reference_of_settings_is_that_of_the_settings() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "site" / "settings.py"))["write_page"]()
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == written, "run `make settings`"
    row = next(line for line in page.splitlines() if line.startswith("| `data.folds`"))
    assert row.startswith("| `data.folds` | whole number, at least 0 | `0` | 0: the manifest's own split; 2 or more:")
    names = set(re.findall(r"^\| `([\w.]+)`", page, flags=re.MULTILINE))
    known = override(preset("paper"), {}).model_dump()
    assert {
        f"{section}.{name}"
        for section, values in known.items()
        for name, value in values.items()
        if not isinstance(value, dict)
    } <= names


def read_sources() -> str:
    """All of mttu's source, its adjoining pieces of text joined."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "mttu").rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", text)


def test_messages_in_troubleshooting_are_those_that_are_printed() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    source = re.sub(r"\{[^{}]*\}", "{}", read_sources())
    messages = re.findall(r"^### `(.*)`$", page, flags=re.MULTILINE)
    assert len(messages) >= 20
    names = r"\b[A-Z]\b|\b[A-Z]{2,}:[A-Z]{2,}\b|\b(?:CACHE|REASON|USER|MACHINE|HOST)\b|NAME"
    value = rf"{names}|\d+|\{{[^}}]*\}}|\S+\.csv|[:;,(=] ?"
    for message in messages:
        pieces = [piece.strip(" :;,.()'") for piece in re.split(value, message)]
        longest = max(pieces, key=len)
        assert len(longest) >= 12, message
        assert longest in source, f"{message}: {longest!r} is in no source file"


def test_the_site_leads_links_out_of_docs_to_where_it_has_them() -> None:
    pytest.importorskip("mkdocs")
    lead = runpy.run_path(str(ROOT / "docs" / "site" / "hooks.py"))["lead_links"]
    assert lead("[a](docs/tune.md#searches) ![p](docs/pictures/x.png)", "index.md") == (
        "[a](tune.md#searches) ![p](pictures/x.png)"
    )
    assert lead("[a](../cluster.yaml) [b](../README.md) [c](tune.md)", "cluster.md") == (
        "[a](cluster.yaml) [b](index.md) [c](tune.md)"
    )
    assert (
        lead("[a](../settings.md) [b](https://x.org/a.md)", "api/data.md")
        == "[a](../settings.md) [b](https://x.org/a.md)"
    )
    assert lead("[a](LICENSE)", "index.md") == "[a](LICENSE.txt)"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("material")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="getting-started.html"' in page
    assert "fonts.googleapis" not in page
