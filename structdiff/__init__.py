"""structdiff: diffusion models for structured data.

One diffusion core (a schedule, a process, a denoiser, a sampler), specialised per data type.
Time is a float in [0, 1]: 0 is data, 1 is noise.
"""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)

from structdiff.batch import Batch  # noqa: E402
from structdiff.denoiser import Denoiser, NetworkDenoiser  # noqa: E402
from structdiff.layout import Layout  # noqa: E402
from structdiff.likelihood import bound  # noqa: E402
from structdiff.objectives import Denoising  # noqa: E402
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
from structdiff.samplers import DDIM, DDPM, Heun, Multistep  # noqa: E402
from structdiff.schedules import (  # noqa: E402
    Cosine,
    Discrete,
    Flow,
    Geometric,
    Karras,
    KarrasGrid,
    Linear,
    UniformLogSNR,
    UniformTime,
)

__version__ = "0.1.0"

__all__ = [
    "DDIM",
    "DDPM",
    "Batch",
    "Brownian",
    "Categorical",
    "Cosine",
    "Denoiser",
    "Denoising",
    "Discrete",
    "Flow",
    "Gaussian",
    "Generator",
    "Geometric",
    "Heun",
    "Karras",
    "KarrasGrid",
    "Layout",
    "Linear",
    "Multistep",
    "NetworkDenoiser",
    "Product",
    "Randomness",
    "UniformLogSNR",
    "UniformTime",
    "absorbing",
    "bound",
    "fit",
    "marginal",
    "sample",
    "uniform",
]
