"""Metrics: how near what a model draws is to real data, and whether it was copied."""

from structdiff.metrics.comparison import (
    Comparison,
    Extracted,
    Extractor,
    Line,
    accuracy,
    compared,
    extracted,
    pooled,
    told,
)
from structdiff.metrics.frechet import Measured, bootstrapped, frechet, frechet_of_moments
from structdiff.metrics.inception import InceptionFeatures
from structdiff.metrics.judge import JUDGING, Judge, Labelled, load_judge, logits, train_judge
from structdiff.metrics.kernel import Kernel, cubic, discrepancy, kernel_distance
from structdiff.metrics.laws import crps, jensen_shannon, sliced_wasserstein, total_variation
from structdiff.metrics.nearest import Copying, Neighbours, copying, nearest
from structdiff.metrics.precision import Overlap, expected_coverage, overlap, radii

__all__ = [
    "JUDGING",
    "Comparison",
    "Copying",
    "Extracted",
    "Extractor",
    "InceptionFeatures",
    "Judge",
    "Kernel",
    "Labelled",
    "Line",
    "Measured",
    "Neighbours",
    "Overlap",
    "accuracy",
    "bootstrapped",
    "compared",
    "copying",
    "crps",
    "cubic",
    "discrepancy",
    "expected_coverage",
    "extracted",
    "frechet",
    "frechet_of_moments",
    "jensen_shannon",
    "kernel_distance",
    "load_judge",
    "logits",
    "nearest",
    "overlap",
    "pooled",
    "radii",
    "sliced_wasserstein",
    "told",
    "total_variation",
    "train_judge",
]
