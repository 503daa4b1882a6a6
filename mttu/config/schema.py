"""What all settings share: frozen, no unknown field, every field documented by the string below it."""

from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True)
class MayChange:
    """Mark of a setting, or of a section, that may change while a run is stopped, because results so far stay valid.

    Another device or another number of threads changes the last bits.
    """

    in_rounds: bool = True
    """Whether it may change in a self-training as well; a plain training does not use the others."""


MAY_CHANGE = MayChange()
OUTSIDE_OF_TRAINING = MayChange(in_rounds=False)


class Settings(BaseModel):
    """Base of every settings section: immutable, strict about names, numbers finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
