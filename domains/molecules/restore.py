"""Settings, codec and network of a run; what is damaged or does not fit is named."""

from __future__ import annotations

from pydantic import ValidationError

from structdiff.artifacts import RunFolder, read_json
from structdiff.denoiser import NetworkDenoiser
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.recipe import MoleculesConfig, build

__all__ = ["model_of", "stored_codec", "stored_config"]


def stored_config(folder: RunFolder) -> MoleculesConfig:
    """The settings of a run.

    Raises:
        ValueError: If one is not known, or out of range; it names the file and the fields.
    """
    try:
        return MoleculesConfig.model_validate(folder.read_config("molecules"))
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, fault['loc']))} = {fault['input']!r}: {fault['msg']}"
            for fault in error.errors()
        )
        msg = f"{folder.config}: {'; '.join(faults)}. Mend it, or restore it from a copy"
        raise ValueError(msg) from None


def stored_codec(folder: RunFolder) -> MoleculeCodec:
    """The codec of a run.

    Raises:
        ValueError: If a part is missing or wrong; it names the file.
    """
    state = read_json(folder.codec)
    try:
        return MoleculeCodec.from_state(state)
    except ValueError as error:
        msg = f"{folder.codec} is damaged: {error}. Restore it from a copy"
        raise ValueError(msg) from None


def model_of(config: MoleculesConfig, codec: MoleculeCodec, source: str) -> NetworkDenoiser:
    """The untrained denoiser.

    Raises:
        ValueError: If there is none for these settings, as for a width beyond all memory.
    """
    try:
        return build(config, codec)
    except (ArithmeticError, MemoryError, RuntimeError, TypeError, ValueError) as error:
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        msg = f"{source} make no model ({why}): choose other values"
        raise ValueError(msg) from error
