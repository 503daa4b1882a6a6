"""YAML of settings files, read so that an untrusted file can neither exhaust the memory nor take minutes."""

import re
from pathlib import Path
from typing import Any

import yaml

from mttu.errors import InputError

LONGEST_YAML = 2**16
"""Characters of a settings file."""
_MOST_BRACKETS = 20
_TAGS = "tag:yaml.org,2002:"
_NUMBER_TAGS = {f"{_TAGS}int", f"{_TAGS}float"}
_MOST_DIGITS = 20
"""Longest whole number, its sign included: 64 bits. Python refuses to print more than 4300 digits."""


class _PlainLoader(yaml.SafeLoader):
    """The safe loader, but it refuses aliases, which can expand half a kilobyte to a billion values; deep nesting and
    long base-60 numbers, which take minutes; and tags, which make PyYAML fail unpredictably on text that does not fit
    (`!!bool abc`).
    """

    def fetch_flow_collection_start(self, token: type[yaml.Token]) -> None:
        if self.flow_level >= _MOST_BRACKETS:
            raise yaml.YAMLError(f"line {self.line + 1} is nested too deeply")
        super().fetch_flow_collection_start(token)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"line {line} has an alias (*name), which settings do not need; write the value out")
        event = self.peek_event()  # type: ignore[no-untyped-call]
        node = super().compose_node(parent, index)
        if event.tag is not None:
            raise yaml.YAMLError(
                f"line {event.start_mark.line + 1} has a tag ({event.tag.replace(_TAGS, '!!')[:40]}), which settings "
                "do not need; leave it out, and put a text in quotes"
            )
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node: yaml.ScalarNode = super().compose_scalar_node(anchor)
        if node.tag in _NUMBER_TAGS and ":" in node.value:
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1} has {node.value[:20]!r}, to YAML a number in base 60; put it in "
                "quotes, or write the number out"
            )
        if node.tag == f"{_TAGS}int" and len(node.value) > _MOST_DIGITS:
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1} has a whole number of {len(node.value)} digits "
                f"({node.value[:_MOST_DIGITS]}...); at most {_MOST_DIGITS} are read; put it in quotes if it is a text"
            )
        return node


def load_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        ValueError: Longer than `LONGEST_YAML`, refused by `_PlainLoader`, or not YAML.
    """
    if len(text) > LONGEST_YAML:
        raise ValueError(f"longer than {LONGEST_YAML} characters; settings take a few thousand")
    try:
        return yaml.load(text, _PlainLoader)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (yaml.YAMLError, ArithmeticError) as error:
        raise ValueError(str(error)) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML mapping.

    Raises:
        InputError: The file is missing, too large, not YAML, or not a mapping; see `load_yaml`.
    """
    return parse_yaml(read_text(path), path)


def read_text(path: Path) -> str:
    """The text of a settings file, at most one character more than `LONGEST_YAML`.

    Raises:
        InputError: The file is missing, or not UTF-8.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(LONGEST_YAML + 1)
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8; save it in UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}); give a YAML settings file") from None


def parse_yaml(text: str, path: Path) -> dict[str, Any]:
    """The mapping that a YAML text holds; `path` is for messages.

    Raises:
        InputError: Not YAML, or not a mapping; see `load_yaml`.
    """
    tabbed = [line for line, words in enumerate(text.splitlines(), start=1) if re.match(r" *\t+ *[^\s#]", words)]
    if tabbed:
        raise InputError(f"{path}: line {tabbed[0]} is indented by a tab; YAML takes spaces alone")
    try:
        content = load_yaml(text)
    except ValueError as error:
        raise InputError(f"{path}: not valid YAML ({error})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}; expected a mapping of sections")
    return content
