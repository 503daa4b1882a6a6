"""The one error a user's mistake raises: every problem at once, each with what was found and what is allowed."""

from collections.abc import Iterable, Sequence


class InputError(ValueError):
    """Input that was refused at the border; the command line prints it and exits with code 2.

    Args:
        problems: One sentence per problem: case or setting, the value found, what is allowed, what to do.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["InputError"], tuple[list[str]]]:
        return InputError, (self.problems,)


def raise_if_any(problems: list[str]) -> None:
    """Raises one `InputError` that names all problems, if there are any."""
    if problems:
        raise InputError(problems)


def say_count(number: int, one: str, several: str) -> str:
    """A number with the words that go with it: `say_count(1, "case is", "cases are")` is "1 case is"."""
    return f"{number} {one if number == 1 else several}"


def name_some(names: Sequence[str], most: int = 8) -> str:
    """The first names of many: `A, B and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class RunError(RuntimeError):
    """A run that stopped itself for a named reason; the command line prints it and exits with code 1.

    Args:
        message: What happened, where, and what to change.
        all_ranks: Whether every rank stops with this error, or this one alone.
    """

    def __init__(self, message: str, all_ranks: bool = True) -> None:
        super().__init__(message)
        self.all_ranks = all_ranks

    def __reduce__(self) -> tuple[type["RunError"], tuple[str, bool]]:
        return RunError, (str(self), self.all_ranks)
