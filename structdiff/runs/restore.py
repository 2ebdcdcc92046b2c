"""Settings, codec and weights of a run; what is damaged or does not fit is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from torch import nn

from structdiff.artifacts import RunFolder, load_tensors, read_json
from structdiff.training import pick_device

__all__ = ["averaged", "model_of", "stored_codec", "stored_config"]

Config = TypeVar("Config", bound=BaseModel)
T = TypeVar("T")
Model = TypeVar("Model", bound=nn.Module)


def stored_config(folder: RunFolder, domain: str, kind: type[Config]) -> Config:
    """The settings of a run.

    Arguments:
        folder: The run.
        domain: Name of the domain.
        kind: What its settings are.

    Raises:
        ValueError: If one is not known, or out of range; it names the file and the fields.
    """
    try:
        return kind.model_validate(folder.read_config(domain))
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, fault['loc']))} = {fault['input']!r}: {fault['msg']}"
            for fault in error.errors()
        )
        msg = f"{folder.config}: {'; '.join(faults)}. Mend it, or restore it from a copy"
        raise ValueError(msg) from None


def stored_codec(folder: RunFolder, from_state: Callable[[dict[str, Any]], T]) -> T:
    """The codec of a run.

    Arguments:
        folder: The run.
        from_state: What makes a codec of its state.

    Raises:
        ValueError: If a part is missing or wrong; it names the file.
    """
    state = read_json(folder.codec)
    try:
        return from_state(state)
    except ValueError as error:
        msg = f"{folder.codec} is damaged: {error}. Restore it from a copy"
        raise ValueError(msg) from None


def model_of(build: Callable[[], Model], source: str) -> Model:
    """The untrained denoiser.

    Arguments:
        build: What makes it.
        source: Where its settings are from, for errors.

    Raises:
        ValueError: If there is none for these settings, as for a width beyond all memory.
    """
    try:
        return build()
    except (ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"{source} make no model ({why}): choose other values"
        raise ValueError(msg) from error


def averaged(folder: RunFolder, build: Callable[[], Model], device: str) -> Model:
    """The denoiser of a finished run with averaged weights, ready for use.

    Arguments:
        folder: The run.
        build: What makes the untrained denoiser.
        device: Name of the device, see `pick_device`.

    Raises:
        FileNotFoundError: If the training has not ended.
        ValueError: If a file is damaged, or does not fit this version.
    """
    denoiser = model_of(build, f"{folder.config} and {folder.codec}")
    if not folder.ema.exists():
        msg = f"{folder.ema} does not exist: the training has not ended, train again to go on"
        raise FileNotFoundError(msg)
    weights, _ = load_tensors(folder.ema)
    try:
        denoiser.load_state_dict(weights)
    except RuntimeError as error:
        said = [line.strip() for line in str(error).splitlines()]
        msg = (
            f"{folder.ema} does not fit {folder.config} and {folder.codec}: "
            f"{said[min(1, len(said) - 1)]} Restore the three from a copy"
        )
        raise ValueError(msg) from None
    return denoiser.to(pick_device(device)).eval()
