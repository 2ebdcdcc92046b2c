"""Audio: sounds by models of their spectrograms or their waves, and vocoders between the two."""

from structdiff.domains.audio import commands
from structdiff.domains.audio.clips import Clips, Data
from structdiff.domains.audio.codec import AudioCodec
from structdiff.domains.audio.data import load_sounds, read
from structdiff.domains.audio.judging import judge_of, judged
from structdiff.domains.audio.output import write
from structdiff.domains.audio.pictures import spectrograms
from structdiff.domains.audio.recipe import AudioConfig
from structdiff.domains.audio.reports.card import write_card
from structdiff.domains.audio.reports.doctor import examine
from structdiff.domains.audio.reports.evaluation import Evaluation, evaluate_run
from structdiff.domains.audio.request import Known
from structdiff.domains.audio.run import Run, train
from structdiff.domains.audio.sounds import Sound
from structdiff.metrics.judgement import Judgement

__all__ = [
    "AudioCodec",
    "AudioConfig",
    "Clips",
    "Data",
    "Evaluation",
    "Judgement",
    "Known",
    "Run",
    "Sound",
    "commands",
    "evaluate_run",
    "examine",
    "judge_of",
    "judged",
    "load_sounds",
    "read",
    "spectrograms",
    "train",
    "write",
    "write_card",
]
