"""Values that a setting is searched over: a choice, a range, a range of the logarithm, whole numbers."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from mttu.config.schema import AboveZero, Positive, Settings

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+")


def read_number(value: Any) -> Any:
    """A number that YAML takes for text, because it has no point, such as 1e-4; anything else as it is."""
    return float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


class Choice(Settings):
    """One of several values."""

    choice: Annotated[list[Any], Field(min_length=1)]

    @field_validator("choice")
    @classmethod
    def _read_numbers(cls, values: list[Any]) -> list[Any]:
        return [read_number(one) for one in values]

    @model_validator(mode="after")
    def _check(self) -> "Choice":
        twice = [value for place, value in enumerate(self.choice) if value in self.choice[:place]]
        if twice:
            raise ValueError(f"{twice[0]!r} is listed twice")
        return self

    @property
    def ends(self) -> list[Any]:
        """Values that the setting has to accept."""
        return self.choice

    def list_all(self) -> list[Any] | None:
        """All values, in order; None if there is no end of them."""
        return self.choice


class _Range(Settings):
    @property
    def ends(self) -> list[Any]:
        """Values that the setting has to accept: the lowest and the highest."""
        raise NotImplementedError

    @model_validator(mode="after")
    def _check(self) -> "_Range":
        low, high = self.ends
        if not low < high:
            raise ValueError(f"[{low}, {high}]: the first must be below the second")
        return self


class Uniform(_Range):
    """A number between two, both included."""

    uniform: tuple[float, float]
    step: AboveZero | None = None
    """Quantised: the lowest value plus multiples of it."""

    @property
    def ends(self) -> list[Any]:
        """See `_Range`."""
        return list(self.uniform)

    def list_all(self) -> list[Any] | None:
        """All values of a quantised range."""
        if self.step is None:
            return None
        low, high = self.uniform
        return [round(low + place * self.step, 12) for place in range(int((high - low) / self.step + 1e-9) + 1)]


class LogUniform(_Range):
    """A number above 0, uniform in its logarithm."""

    log_uniform: tuple[AboveZero, AboveZero]

    @property
    def ends(self) -> list[Any]:
        """See `_Range`."""
        return list(self.log_uniform)

    def list_all(self) -> list[Any] | None:
        """None: there is no end of them."""
        return None


class Integer(_Range):
    """A whole number between two, both included."""

    integer: tuple[int, int]
    step: Positive = 1

    @property
    def ends(self) -> list[Any]:
        """See `_Range`."""
        return list(self.integer)

    def list_all(self) -> Sequence[Any] | None:
        """All values, in order."""
        low, high = self.integer
        return range(low, high + 1, self.step)


Values = Choice | Uniform | LogUniform | Integer
KINDS: Mapping[str, type[Settings]] = {
    "choice": Choice,
    "uniform": Uniform,
    "log_uniform": LogUniform,
    "integer": Integer,
}
"""By the key that a space gives them under."""
