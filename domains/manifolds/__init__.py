"""Manifolds: points of spheres, tori, rotations, matrices and other curved spaces, as columns."""

from structdiff.domains.manifolds import commands
from structdiff.domains.manifolds.codec import ManifoldsCodec
from structdiff.domains.manifolds.data import read
from structdiff.domains.manifolds.points import Data, Points
from structdiff.domains.manifolds.recipe import ManifoldsConfig
from structdiff.domains.manifolds.run import Run, train
from structdiff.domains.manifolds.scoring import Scores

__all__ = [
    "Data",
    "ManifoldsCodec",
    "ManifoldsConfig",
    "Points",
    "Run",
    "Scores",
    "commands",
    "read",
    "train",
]
