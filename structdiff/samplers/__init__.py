"""Samplers: how estimates become samples, for every space alike."""

import importlib
from typing import TYPE_CHECKING, Any

from structdiff.samplers.adaptive import Adaptive
from structdiff.samplers.ancestral import DDIM, DDPM, Ancestral
from structdiff.samplers.base import Carry, Sampler, Walk
from structdiff.samplers.blocks import Blocks
from structdiff.samplers.churn import Churn
from structdiff.samplers.corrector import PredictorCorrector
from structdiff.samplers.first_hitting import FirstHitting
from structdiff.samplers.heun import Heun
from structdiff.samplers.leaping import Leaping
from structdiff.samplers.multistep import Multistep
from structdiff.samplers.remasking import Remasking
from structdiff.samplers.routing import Routed, confidence, even, purity
from structdiff.samplers.staggered import Staggered

if TYPE_CHECKING:
    from structdiff.samplers.coupled import Coupled
    from structdiff.samplers.encoding import Rising, encode, slerp
    from structdiff.samplers.gotta_go_fast import GottaGoFast
    from structdiff.samplers.langevin import AnnealedLangevin, LangevinCorrector
    from structdiff.samplers.own_time import MatchedVariance, OwnTime
    from structdiff.samplers.picard import Picard
    from structdiff.samplers.pseudo import PNDM
    from structdiff.samplers.recorded import Recording, Replayed, record
    from structdiff.samplers.restart import Restart
    from structdiff.samplers.runge_kutta import StochasticRungeKutta
    from structdiff.samplers.singlestep import Singlestep
    from structdiff.samplers.thresholded import Thresholded
    from structdiff.samplers.trajectory import Trajectory
    from structdiff.samplers.truncated import Init, Since, Truncated
    from structdiff.samplers.unnormalised import Evidence, LogDensity, PathDivergence, evidence

__all__ = [
    "Adaptive",
    "Ancestral",
    "AnnealedLangevin",
    "Blocks",
    "Carry",
    "Churn",
    "Coupled",
    "DDIM",
    "DDPM",
    "Evidence",
    "FirstHitting",
    "GottaGoFast",
    "Heun",
    "Init",
    "LangevinCorrector",
    "Leaping",
    "LogDensity",
    "MatchedVariance",
    "Multistep",
    "OwnTime",
    "PNDM",
    "PathDivergence",
    "Picard",
    "PredictorCorrector",
    "Recording",
    "Remasking",
    "Replayed",
    "Restart",
    "Rising",
    "Routed",
    "Sampler",
    "Since",
    "Singlestep",
    "Staggered",
    "StochasticRungeKutta",
    "Thresholded",
    "Trajectory",
    "Truncated",
    "Walk",
    "confidence",
    "encode",
    "even",
    "evidence",
    "purity",
    "record",
    "slerp",
]

_LATER = {
    "AnnealedLangevin": "langevin",
    "Coupled": "coupled",
    "Evidence": "unnormalised",
    "GottaGoFast": "gotta_go_fast",
    "Init": "truncated",
    "LangevinCorrector": "langevin",
    "LogDensity": "unnormalised",
    "MatchedVariance": "own_time",
    "OwnTime": "own_time",
    "PNDM": "pseudo",
    "PathDivergence": "unnormalised",
    "Picard": "picard",
    "Recording": "recorded",
    "Replayed": "recorded",
    "Restart": "restart",
    "Rising": "encoding",
    "Since": "truncated",
    "Singlestep": "singlestep",
    "StochasticRungeKutta": "runge_kutta",
    "Thresholded": "thresholded",
    "Trajectory": "trajectory",
    "Truncated": "truncated",
    "encode": "encoding",
    "evidence": "unnormalised",
    "record": "recorded",
    "slerp": "encoding",
}
"""What is loaded when it is asked for, so that the core stays light to import."""


def __getattr__(name: str) -> Any:
    """A walk that is loaded now."""
    if name not in _LATER:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(f"structdiff.samplers.{_LATER[name]}"), name)
