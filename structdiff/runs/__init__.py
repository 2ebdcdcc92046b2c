"""Runs: what the domains share around training and drawing, from settings to a finished folder."""

from structdiff.runs.asked import checksum, circumstances, model_checksum, noise_of, whole
from structdiff.runs.drawing import Draw, collect, drawn_of, fill
from structdiff.runs.fit import fit, load_together
from structdiff.runs.progress import Progress, stoppable
from structdiff.runs.restore import averaged, model_of, stored_codec, stored_config
from structdiff.runs.settings import Settings, with_sampler

__all__ = [
    "Draw",
    "Progress",
    "Settings",
    "averaged",
    "checksum",
    "circumstances",
    "collect",
    "drawn_of",
    "fill",
    "fit",
    "load_together",
    "model_checksum",
    "model_of",
    "noise_of",
    "stoppable",
    "stored_codec",
    "stored_config",
    "whole",
    "with_sampler",
]
