import re

import pytest
import typer

from mttu.cli import app
from mttu.cli.groups import GROUPS, LONGEST_SUMMARY

ROOT = typer.main.get_command(app)


def list_leaves(group=ROOT, words=()):
    """(words, command) of every command that does something, such as ("cache", "verify")."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from list_leaves(command, (*words, name))
        else:
            yield (*words, name), command


def test_every_command_is_in_one_group():
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(ROOT.commands), "mttu/cli/groups.py names each command once"


def test_help_has_the_groups_in_the_order_of_the_work_and_cuts_nothing(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("--help")
    assert code == 0
    titles = [line[:-1] for line in out.splitlines() if re.fullmatch(r"[A-Z][\w -]*:", line)]
    assert titles == ["Options", *GROUPS]
    shown = [line.split()[0] for line in out[out.index("Try it:") :].splitlines() if line.startswith("  ")]
    assert shown == [name for names in GROUPS.values() for name in names]  # one line each
    assert "..." not in out.replace("[ARGS]...", "")
    assert max(map(len, out.splitlines())) <= 80


LEAVES = {" ".join(words): command for words, command in list_leaves()}


@pytest.mark.parametrize("words", LEAVES)
def test_a_summary_is_one_short_sentence_and_every_command_can_be_quiet_or_speak_json(words):
    command = LEAVES[words]
    summary = command.get_short_help_str(1000)
    assert summary.endswith(".")
    assert len(summary) <= LONGEST_SUMMARY
    assert {"--quiet", "--json"} <= {name for option in command.params for name in option.opts}


def test_groups_of_commands_list_theirs_without_a_cut(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("cache", "export", "figures"):
        _, out, _ = run(name, "--help")
        assert len(ROOT.commands[name].get_short_help_str(1000)) <= LONGEST_SUMMARY
        assert "..." not in out.replace("[ARGS]...", ""), out


def test_a_command_in_no_group_is_still_listed(run, monkeypatch):
    monkeypatch.setattr("mttu.cli.groups.GROUPS", {"Data": GROUPS["Data"]})
    _, out, _ = run("--help")
    assert "\nMore:\n" in out
    assert out.index("  cohort ") < out.index("  train ")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("mttu se", {"select", "self-train"}),
        ("mttu train optim.l", {"optim.lr="}),
        ("mttu train --preset s", {"small"}),
        ("mttu train --fr", {"--fresh"}),
        ("mttu train --ablation layers-", {f"layers-{number}" for number in (1, 2, 3, 4, 5, 6)}),
    ],
)
def test_the_shell_completes_commands_options_settings_and_names(run, monkeypatch, words, expected):
    monkeypatch.setenv("_MTTU_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    assert set(run()[1].split()) == expected
