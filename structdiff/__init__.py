"""structdiff: diffusion models for structured data.

One diffusion core (a schedule, a process, a denoiser, a sampler), specialised per data type.
Time is a float in [0, 1]: 0 is data, 1 is noise.
"""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)

from structdiff.batch import Batch  # noqa: E402
from structdiff.counter import Counter  # noqa: E402
from structdiff.denoiser import Denoiser, NetworkDenoiser, to_standard  # noqa: E402
from structdiff.guidance import (  # noqa: E402
    ClassifierFree,
    Guided,
    RateGuided,
    RePaint,
    Replacement,
    Sharpened,
)
from structdiff.layout import Layout  # noqa: E402
from structdiff.likelihood import bound, continuous_bound, flow_log_prob  # noqa: E402
from structdiff.objectives import (  # noqa: E402
    ConditionDropout,
    ContinuousBound,
    Denoising,
    GivenRows,
    ImplicitScore,
    OrderAgnostic,
    StepBound,
)
from structdiff.plain import fit, log_prob, sample  # noqa: E402
from structdiff.processes import (  # noqa: E402
    Brownian,
    Categorical,
    Gaussian,
    GeodesicFlow,
    Product,
    absorbing,
    marginal,
    uniform,
)
from structdiff.random import Generator, Randomness  # noqa: E402
from structdiff.samplers import (  # noqa: E402
    DDIM,
    DDPM,
    Adaptive,
    Churn,
    FirstHitting,
    Heun,
    Leaping,
    Multistep,
)
from structdiff.schedules import (  # noqa: E402
    Cosine,
    Discrete,
    Flow,
    Geometric,
    Karras,
    KarrasGrid,
    Linear,
    PowerTime,
    Shifted,
    Sigmoid,
    SimpleLinear,
    UniformLogSNR,
    UniformTime,
    ZeroTerminal,
    translate,
)

__version__ = "0.1.0"

__all__ = [
    "Adaptive",
    "Batch",
    "Brownian",
    "Categorical",
    "Churn",
    "ClassifierFree",
    "ConditionDropout",
    "ContinuousBound",
    "Cosine",
    "Counter",
    "DDIM",
    "DDPM",
    "Denoiser",
    "Denoising",
    "Discrete",
    "FirstHitting",
    "Flow",
    "Gaussian",
    "Generator",
    "GeodesicFlow",
    "Geometric",
    "GivenRows",
    "Guided",
    "Heun",
    "ImplicitScore",
    "Karras",
    "KarrasGrid",
    "Layout",
    "Leaping",
    "Linear",
    "Multistep",
    "NetworkDenoiser",
    "OrderAgnostic",
    "PowerTime",
    "Product",
    "Randomness",
    "RateGuided",
    "RePaint",
    "Replacement",
    "Sharpened",
    "Shifted",
    "Sigmoid",
    "SimpleLinear",
    "StepBound",
    "UniformLogSNR",
    "UniformTime",
    "ZeroTerminal",
    "absorbing",
    "bound",
    "continuous_bound",
    "fit",
    "flow_log_prob",
    "log_prob",
    "marginal",
    "sample",
    "to_standard",
    "translate",
    "uniform",
]
