"""A small text, small settings, and a run of them."""

import numpy as np

from structdiff.domains.text import TextConfig

WORDS = ["the cat sat on the mat", "a dog ran to the park", "we read a book", "it was late"]


def sentences(count, seed=0):
    """Sentences of few kinds: much of a character follows from its neighbours."""
    order = np.random.default_rng(seed).integers(len(WORDS), size=count)
    return ". ".join(WORDS[i] for i in order) + ".\n"


def settings(path, **groups):
    """Settings of a training of seconds."""
    small = {
        "data": {"path": str(path), "length": 32, "tokenizer": "characters"},
        "network": {"width": 32, "layers": 2, "heads": 2},
        "training": {
            "steps": 150,
            "batch_size": 16,
            "learning_rate": 5e-3,
            "warm_up": 10,
            "ema": 0.95,
            "bf16": False,
            "log_every": 50,
            "validate_every": 150,
        },
        "sampler": {"steps": 16, "batch_size": 4},
    }
    for name, group in groups.items():
        small[name] = {**small.get(name, {}), **group}
    return TextConfig.model_validate(small)
