"""What all settings share: frozen, no unknown field, every field documented by the string below it."""

from pydantic import BaseModel, ConfigDict


class Settings(BaseModel):
    """Base of every settings section: immutable, strict about names, numbers finite."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
