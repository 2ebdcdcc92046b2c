"""structdiff: diffusion models for structured data.

One diffusion core (a schedule, a process, a denoiser, a sampler), specialised per data type.
Time is a float in [0, 1]: 0 is data, 1 is noise.
"""

import pkgutil
from typing import TYPE_CHECKING

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
from structdiff.later import later  # noqa: E402
from structdiff.layout import Layout  # noqa: E402
from structdiff.likelihood import bound, continuous_bound, flow_log_prob  # noqa: E402
from structdiff.objectives import (  # noqa: E402
    ConditionDropout,
    ContinuousBound,
    Denoising,
    GivenRows,
    ImplicitScore,
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
    Heun,
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
)

if TYPE_CHECKING:
    from structdiff.acceleration import tune_sampler
    from structdiff.calibration import Calibrated
    from structdiff.objectives import OrderAgnostic
    from structdiff.processes import Affine
    from structdiff.remembering import Remembering
    from structdiff.reverse_variance import (
        AnalyticVariance,
        FixedVariance,
        NormalVariance,
        second_order_score,
    )
    from structdiff.samplers import Churn, FirstHitting, Leaping, Picard, Truncated, encode
    from structdiff.schedules import translate

__version__ = "0.1.0"

__all__ = [
    "Adaptive",
    "Affine",
    "AnalyticVariance",
    "Batch",
    "Brownian",
    "Calibrated",
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
    "FixedVariance",
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
    "NormalVariance",
    "OrderAgnostic",
    "Picard",
    "PowerTime",
    "Product",
    "Randomness",
    "RateGuided",
    "RePaint",
    "Remembering",
    "Replacement",
    "Sharpened",
    "Shifted",
    "Sigmoid",
    "SimpleLinear",
    "StepBound",
    "Truncated",
    "UniformLogSNR",
    "UniformTime",
    "ZeroTerminal",
    "absorbing",
    "bound",
    "continuous_bound",
    "encode",
    "fit",
    "flow_log_prob",
    "log_prob",
    "marginal",
    "sample",
    "second_order_score",
    "to_standard",
    "translate",
    "tune_sampler",
    "uniform",
]

__getattr__ = later(
    __name__,
    {
        "Affine": "processes",
        "AnalyticVariance": "reverse_variance",
        "Calibrated": "calibration",
        "Churn": "samplers",
        "FirstHitting": "samplers",
        "FixedVariance": "reverse_variance",
        "Leaping": "samplers",
        "NormalVariance": "reverse_variance",
        "OrderAgnostic": "objectives",
        "Picard": "samplers",
        "Remembering": "remembering",
        "Truncated": "samplers",
        "encode": "samplers",
        "second_order_score": "reverse_variance",
        "translate": "schedules",
        "tune_sampler": "acceleration",
    },
)
