"""What all settings share: frozen, no unknown field, every field documented by the string below it."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


@dataclass(frozen=True)
class MayChange:
    """Marks a setting or section that may change while a run is stopped: earlier results stay valid.

    A different device or number of threads still changes the last bits.
    """

    in_rounds: bool = True
    """Whether it may also change in a self-training; if not, only a self-training uses it."""


MAY_CHANGE = MayChange()
"""For a setting whose change leaves earlier results valid."""
NOT_USED_BY_TRAINING = MayChange(in_rounds=False)
"""For a setting that a plain training does not read; a self-training depends on it."""

Positive = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
AtLeastZero = Annotated[float, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """Base of every settings section: immutable, strict about names, numbers finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
