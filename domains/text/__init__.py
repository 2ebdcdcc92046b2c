"""Text: characters, bytes or sub-words, generated together by a discrete chain."""

from structdiff.domains.text import commands
from structdiff.domains.text.codec import TextCodec
from structdiff.domains.text.data import Data, read
from structdiff.domains.text.recipe import TextConfig
from structdiff.domains.text.run import Run, train
from structdiff.domains.text.scoring import Scores

__all__ = ["Data", "Run", "Scores", "TextCodec", "TextConfig", "commands", "read", "train"]
