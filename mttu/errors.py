"""The one error a user's mistake raises: every problem at once, each with what was found and what is allowed."""

from collections.abc import Iterable


class InputError(ValueError):
    """Input that was refused at the border; the command line prints it and exits with code 2.

    Args:
        problems: One sentence per problem: case or setting, the value found, what is allowed, what to do.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def raise_if_any(problems: list[str]) -> None:
    """Raises one `InputError` that names all problems, if there are any."""
    if problems:
        raise InputError(problems)
