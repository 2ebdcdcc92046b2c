"""Samplers: how estimates become samples, for every space alike."""

from typing import TYPE_CHECKING

from structdiff.later import later
from structdiff.samplers.adaptive import Adaptive
from structdiff.samplers.ancestral import DDIM, DDPM, Ancestral
from structdiff.samplers.base import Carry, Sampler, Walk
from structdiff.samplers.heun import Heun
from structdiff.samplers.multistep import Multistep, Tabled

if TYPE_CHECKING:
    from structdiff.samplers.blocks import Blocks
    from structdiff.samplers.churn import Churn
    from structdiff.samplers.corrector import PredictorCorrector
    from structdiff.samplers.coupled import Coupled
    from structdiff.samplers.encoding import Rising, encode, slerp
    from structdiff.samplers.first_hitting import FirstHitting
    from structdiff.samplers.gotta_go_fast import GottaGoFast
    from structdiff.samplers.langevin import AnnealedLangevin, LangevinCorrector
    from structdiff.samplers.leaping import Leaping
    from structdiff.samplers.own_time import MatchedVariance, OwnTime
    from structdiff.samplers.picard import Picard
    from structdiff.samplers.pseudo import PNDM
    from structdiff.samplers.recorded import Recording, Replayed, record
    from structdiff.samplers.remasking import Remasking
    from structdiff.samplers.restart import Restart
    from structdiff.samplers.routing import Routed, confidence, even, purity
    from structdiff.samplers.runge_kutta import StochasticRungeKutta
    from structdiff.samplers.singlestep import Singlestep
    from structdiff.samplers.solvers import DEIS, DPMSolver, UniPC
    from structdiff.samplers.splitting import SymmetricSplitting
    from structdiff.samplers.staggered import Staggered
    from structdiff.samplers.thresholded import Thresholded
    from structdiff.samplers.trajectory import Trajectory
    from structdiff.samplers.truncated import Init, Since, Truncated
    from structdiff.samplers.unnormalised import Evidence, LogDensity, PathDivergence, evidence
    from structdiff.samplers.warps import Warp, arctan

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
    "DEIS",
    "DPMSolver",
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
    "SymmetricSplitting",
    "Tabled",
    "Thresholded",
    "Trajectory",
    "Truncated",
    "UniPC",
    "Walk",
    "Warp",
    "arctan",
    "confidence",
    "encode",
    "even",
    "evidence",
    "purity",
    "record",
    "slerp",
]

__getattr__ = later(
    __name__,
    {
        "AnnealedLangevin": "langevin",
        "Blocks": "blocks",
        "Churn": "churn",
        "Coupled": "coupled",
        "DEIS": "solvers",
        "DPMSolver": "solvers",
        "Evidence": "unnormalised",
        "FirstHitting": "first_hitting",
        "GottaGoFast": "gotta_go_fast",
        "Init": "truncated",
        "LangevinCorrector": "langevin",
        "Leaping": "leaping",
        "LogDensity": "unnormalised",
        "MatchedVariance": "own_time",
        "OwnTime": "own_time",
        "PNDM": "pseudo",
        "PathDivergence": "unnormalised",
        "Picard": "picard",
        "PredictorCorrector": "corrector",
        "Recording": "recorded",
        "Remasking": "remasking",
        "Replayed": "recorded",
        "Restart": "restart",
        "Rising": "encoding",
        "Routed": "routing",
        "Since": "truncated",
        "Singlestep": "singlestep",
        "Staggered": "staggered",
        "StochasticRungeKutta": "runge_kutta",
        "SymmetricSplitting": "splitting",
        "Thresholded": "thresholded",
        "Trajectory": "trajectory",
        "Truncated": "truncated",
        "UniPC": "solvers",
        "Warp": "warps",
        "arctan": "warps",
        "confidence": "routing",
        "encode": "encoding",
        "even": "routing",
        "evidence": "unnormalised",
        "purity": "routing",
        "record": "recorded",
        "slerp": "encoding",
    },
)
