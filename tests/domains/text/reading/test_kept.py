"""What is kept on the disk of a text: once for each content, whole or not at all."""

import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from structdiff.domains.text import data as module
from structdiff.domains.text.data import read
from tests.domains.text.reading.prose import SENTENCE, whole


def test_a_second_start_reads_what_the_first_wrote(cache, prose, monkeypatch):
    for tokens in ("characters", "bpe"):
        first = read(prose[0], tokens=tokens, vocabulary_size=300, length=40)
        with monkeypatch.context() as patch:
            patch.setattr(module, "Writer", None)
            patch.setattr(module, "_fit", None)
            second = read(prose[0], tokens=tokens, vocabulary_size=300, length=50)
        assert second.vocabulary == first.vocabulary
        assert second.train.tokens.tolist() == first.train.tokens.tolist()
        assert isinstance(second.train.tokens, np.memmap)
    assert len(list(cache.iterdir())) == 2


def test_another_text_or_vocabulary_is_another_entry(cache, prose):
    path, text = prose
    identity = read(path, length=40).train.identity()
    assert read(path, length=40).train.identity() == identity
    assert read(path, length=41).train.identity()["samples"] != identity["samples"]
    assert read(path, tokens="bytes", length=40).train.identity() != identity
    path.write_text(text[::-1], encoding="utf-8", newline="")
    assert read(path, length=40).train.identity()["digest"] != identity["digest"]
    assert len(list(cache.iterdir())) == 3


def test_equal_ids_of_other_letters_are_other_data(cache, tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 100)
    (tmp_path / "b.txt").write_text("xy" * 100)
    one, other = (read(tmp_path / name, length=5).train for name in ("a.txt", "b.txt"))
    assert one.tokens.tolist() == other.tokens.tolist()
    assert one.identity() != other.identity()


@pytest.mark.parametrize("damage", ["tokens", "entry.json"])
def test_a_damaged_entry_is_written_anew(cache, prose, damage):
    first = read(prose[0], length=40).train.tokens.tolist()
    file = next(cache.iterdir()) / damage
    file.write_bytes(file.read_bytes()[:-9])
    assert read(prose[0], length=40).train.tokens.tolist() == first


def test_a_killed_writer_leaves_no_entry(cache, prose):
    """It is killed after some of the tokens are on the disk."""
    code = (
        "import os, signal, sys\n"
        "from structdiff.domains.text import data, files\n"
        "from structdiff.domains.text.tokens import Characters\n"
        "files._BLOCK = 1000\n"
        "encode = Characters.encode\n"
        "def dying(self, text, calls=[]):\n"
        "    calls.append(text)\n"
        "    if len(calls) > 5: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return encode(self, text)\n"
        "Characters.encode = dying\n"
        "data.read(sys.argv[1], length=40)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(prose[0])], check=False)
    assert ended.returncode == -9
    left = list(cache.iterdir())
    assert [path.name[0] for path in left] == ["."]
    data = read(prose[0], length=40)
    assert whole(data) == prose[1]
    os.utime(left[0], (0, 0))
    read(prose[0], tokens="bytes", length=40)
    assert left[0].exists()  # of another entry
    entry = next(path for path in cache.iterdir() if left[0].name.startswith(f".{path.name}."))
    (entry / "entry.json").unlink()
    read(prose[0], length=40)
    assert not left[0].exists()


def test_memory_does_not_grow_with_the_text(tmp_path):
    """4 MB and 16 MB of characters: the same peak to 10 %, and less than the larger text."""
    peaks = {}
    for size in (4, 16):
        path = tmp_path / f"{size}.txt"
        path.write_text((SENTENCE * 17_000)[:1_000_000] * size, encoding="utf-8", newline="")
        tracemalloc.start()
        data = read(path, cache=tmp_path / "cache")
        data.train.collate(np.arange(64))
        data.train.identity()
        data.train.sizes()
        peaks[size] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert sum(len(p.tokens) for p in (data.train, data.validation, data.test)) == size * 10**6
    assert peaks[16] < 1.1 * peaks[4]
    assert peaks[16] < 16e6
