"""Settings of a run: nested groups of numbers, strings and small choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

__all__ = ["Settings", "with_sampler"]

Config = TypeVar("Config", bound=BaseModel)


class Settings(BaseModel):
    """A group of settings: no other names, no changes, no infinities."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def with_sampler(config: Config, changes: Mapping[str, Any]) -> Config:
    """The same settings with others of the group `sampler`; None leaves one as it is.

    Arguments:
        config: Settings with a group `sampler`.
        changes: Name to value.

    Raises:
        ValueError: If a setting is not known or out of range.
    """
    old: BaseModel = getattr(config, "sampler")  # noqa: B009
    new = {name: value for name, value in changes.items() if value is not None}
    try:
        sampler = type(old).model_validate(old.model_dump() | new)
    except ValidationError as error:
        faults = (
            f"sampler.{'.'.join(map(str, fault['loc']))} = {fault['input']!r}: {fault['msg']}"
            for fault in error.errors()
        )
        raise ValueError("; ".join(faults)) from None
    return config.model_copy(update={"sampler": sampler})
