"""structdiff: diffusion models for structured data.

One diffusion core (a schedule, a process, a denoiser, a sampler), specialised per data type.
Time is a float in [0, 1]: 0 is data, 1 is noise.
"""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)

from structdiff.batch import Batch  # noqa: E402
from structdiff.counter import Counter  # noqa: E402
from structdiff.denoiser import Denoiser, NetworkDenoiser, to_standard  # noqa: E402
from structdiff.guidance import ClassifierFree, RePaint, Replacement  # noqa: E402
from structdiff.layout import Layout  # noqa: E402
from structdiff.likelihood import bound  # noqa: E402
from structdiff.objectives import ConditionDropout, Denoising, GivenRows  # noqa: E402
from structdiff.plain import fit, sample  # noqa: E402
from structdiff.processes import (  # noqa: E402
    Brownian,
    Categorical,
    Gaussian,
    Product,
    absorbing,
    marginal,
    uniform,
)
from structdiff.random import Generator, Randomness  # noqa: E402
from structdiff.samplers import DDIM, DDPM, Churn, Heun, Multistep  # noqa: E402
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
    "DDIM",
    "DDPM",
    "Batch",
    "Brownian",
    "Categorical",
    "Churn",
    "ClassifierFree",
    "ConditionDropout",
    "Cosine",
    "Counter",
    "Denoiser",
    "Denoising",
    "Discrete",
    "Flow",
    "Gaussian",
    "Generator",
    "Geometric",
    "GivenRows",
    "Heun",
    "Karras",
    "KarrasGrid",
    "Layout",
    "Linear",
    "Multistep",
    "NetworkDenoiser",
    "PowerTime",
    "Product",
    "Randomness",
    "RePaint",
    "Replacement",
    "Shifted",
    "Sigmoid",
    "SimpleLinear",
    "UniformLogSNR",
    "UniformTime",
    "ZeroTerminal",
    "absorbing",
    "bound",
    "fit",
    "marginal",
    "sample",
    "to_standard",
    "translate",
    "uniform",
]
