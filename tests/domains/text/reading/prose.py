"""Letters to read, and what was read."""

SENTENCE = "The quick brown fox jumps over the lazy dog, été comme hiver.\n"


def whole(data):
    return "".join(
        data.vocabulary.decode(part.tokens) for part in (data.train, data.validation, data.test)
    )
