"""A folder filled part by part: stopped anywhere, it ends as if it had not been."""

import errno
import json
import os

import numpy as np
import pytest
import torch

from structdiff.artifacts import Job, Made, Part, partition, piecewise

ASKED = {"seed": 0, "sampler": {"steps": 3}}
PARTS = partition(10, 4)


def content(part):
    """Bytes that depend on the key, as noise of a batch does."""
    return f"{part.low} to {part.high} by {part.key}\n".encode()


def make(part):
    return Made({".txt": content(part)}, {"drawn": part.high - part.low})


def shards(path):
    return {p.name: p.read_bytes() for p in path.iterdir() if p.name != "job.json"}


def stopping(after):
    """A maker that is interrupted in the part after so many."""
    made = []

    def stop(part):
        if len(made) == after:
            raise KeyboardInterrupt
        made.append(part)
        return make(part)

    return stop, made


@pytest.fixture
def whole(tmp_path):
    """Shards of a job that nothing disturbed."""
    job = Job(tmp_path / "whole", ASKED)
    job.run(PARTS, make)
    return shards(job.path)


def test_shards_are_those_of_the_parts(whole):
    assert whole == {f"samples-0000{i}.txt": content(part) for i, part in enumerate(PARTS)}
    assert [part.high - part.low for part in PARTS] == [4, 4, 2]


def test_the_folder_says_what_was_asked_and_what_is_done(tmp_path):
    job = Job(tmp_path, ASKED, about={"device": "cpu"})
    stop, _ = stopping(2)
    with pytest.raises(KeyboardInterrupt):
        job.run(PARTS, stop)
    found = json.loads((tmp_path / "job.json").read_text())
    assert (found["asked"], found["about"]) == (ASKED, {"device": "cpu"})
    assert [(p["low"], p["high"], p["key"]) for p in found["parts"]] == [(0, 4, [0]), (4, 8, [1])]
    assert [p["counts"] for p in found["parts"]] == [{"drawn": 4}, {"drawn": 4}]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_stopped_job_goes_on_and_ends_the_same(tmp_path, whole, after):
    stop, _ = stopping(after)
    with pytest.raises(KeyboardInterrupt):
        Job(tmp_path / "out", ASKED).run(PARTS, stop)
    again, made = stopping(99)
    Job(tmp_path / "out", ASKED, about={"device": "other"}).run(PARTS, again)
    assert made == PARTS[after:]
    assert shards(tmp_path / "out") == whole


def test_what_was_not_recorded_is_not_trusted(tmp_path, whole):
    job = Job(tmp_path / "out", ASKED)
    job.run(PARTS[:1], make)
    (job.path / "samples-00001.txt").write_bytes(b"written, not recorded")
    (job.path / ".samples-00002.txt.77.tmp").write_bytes(b"half")
    (job.path / ".job.json.77.tmp").write_bytes(b"{")
    (job.path / "samples-of-mine.txt").write_bytes(b"mine")
    opened = Job(job.path, ASKED)
    kept = {"samples-00000.txt": whole["samples-00000.txt"], "samples-of-mine.txt": b"mine"}
    assert shards(job.path) == kept
    opened.run(PARTS, make)
    assert shards(job.path) == whole | {"samples-of-mine.txt": b"mine"}


def test_a_damaged_or_missing_shard_is_made_again(tmp_path, whole):
    job = Job(tmp_path / "out", ASKED)
    job.run(PARTS, make)
    (job.path / "samples-00000.txt").write_bytes(content(PARTS[0])[:-1] + b"!")
    (job.path / "samples-00002.txt").unlink()
    again, made = stopping(99)
    opened = Job(job.path, ASKED)
    assert opened.lost == ("samples-00000.txt", "samples-00002.txt")
    opened.run(PARTS, again)
    assert made == [PARTS[0], PARTS[2]]
    assert shards(job.path) == whole


def test_a_full_disk_is_one_error_and_the_job_goes_on(tmp_path, whole, monkeypatch):
    sync, calls = os.fsync, []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:  # job.json, shard, job.json, and then the second shard
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"samples-00001.txt: No space left"):
        Job(tmp_path / "out", ASKED).run(PARTS, make)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"job.json", "samples-00000.txt"}
    monkeypatch.undo()
    Job(tmp_path / "out", ASKED).run(PARTS, make)
    assert shards(tmp_path / "out") == whole


def limited(most, error):
    """A maker for which memory runs out above a number of samples."""
    made = []

    def make_small(part):
        if part.high - part.low > most:
            raise error
        made.append(part)
        return make(part)

    return make_small, made


def refused(ask):
    """What is raised by asking for more memory than there is."""
    with pytest.raises((MemoryError, RuntimeError)) as error:
        ask()
    return error.value


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        refused(lambda: np.zeros(1 << 55)),
        refused(lambda: torch.empty(1 << 55)),
        torch.cuda.OutOfMemoryError("CUDA ran short. Tried to allocate 2 GiB"),
        RuntimeError("MPS backend out of memory (allocated: 8 GB)"),
    ],
)
def test_parts_are_halved_when_memory_runs_out(error):
    make_small, _ = limited(1, error)
    halved = []
    found = [part for part, _ in piecewise([Part(0, 3, (7,))], make_small, halved.append)]
    assert found == [Part(0, 1, (7, 0)), Part(1, 2, (7, 1, 0)), Part(2, 3, (7, 1, 1))]
    assert halved == [Part(0, 3, (7,)), Part(1, 3, (7, 1))]


def test_halves_are_recorded_and_kept_where_memory_is_larger(tmp_path):
    small, made = limited(2, MemoryError())
    full = Job(tmp_path / "full", ASKED)
    full.run(PARTS, small)
    assert [part.key for part in made] == [(0, 0), (0, 1), (1, 0), (1, 1), (2,)]
    assert [path.name for path in full.files()][:2] == [
        "samples-00000-0.txt",
        "samples-00000-1.txt",
    ]
    stop, _ = stopping(1)

    def short(part):
        if part == PARTS[0]:
            raise MemoryError
        return stop(part)

    with pytest.raises(KeyboardInterrupt):
        Job(tmp_path / "out", ASKED).run(PARTS, short)
    again, made = stopping(99)
    Job(tmp_path / "out", ASKED).run(PARTS, again)
    assert [part.key for part in made] == [(0, 1), (1,), (2,)]
    record = json.loads((tmp_path / "out" / "job.json").read_text())
    assert record["halved"] == [[0]]
    assert [p["key"] for p in record["parts"]] == [[0, 0], [0, 1], [1], [2]]


def test_one_sample_that_does_not_fit_is_an_error():
    make_small, _ = limited(0, MemoryError())
    with pytest.raises(ValueError, match=r"memory runs out for sample 4 alone \(MemoryError\)"):
        list(piecewise([Part(4, 6, (0,))], make_small))


def test_other_errors_are_not_taken_for_memory():
    make_small, made = limited(0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        list(piecewise([Part(0, 2, (0,))], make_small))
    assert made == []


def test_the_next_part_is_asked_for_when_the_last_is_recorded(tmp_path):
    job, seen = Job(tmp_path, ASKED), []

    def until_six():
        for part in partition(100, 2):
            total = sum(record.counts["drawn"] for record in job.records())
            seen.append(total)
            if total >= 6:
                return
            yield part

    job.run(until_six(), make)
    assert seen == [0, 2, 4, 6]
    assert len(job.files()) == 3


def test_another_request_is_refused_with_what_differs(tmp_path, whole):
    other = {"seed": 1, "sampler": {"steps": 3}}
    Job(tmp_path / "out", ASKED).run(PARTS, make)
    with pytest.raises(ValueError, match="asked otherwise: seed: 0 -> 1. Ask the same") as error:
        Job(tmp_path / "out", other)
    assert "steps" not in str(error.value)
    assert shards(tmp_path / "out") == whole
    assert Job(tmp_path / "out", ASKED, overwrite=True).done.keys() == {(0,), (1,), (2,)}
    assert Job(tmp_path / "out", other, overwrite=True).done == {}
    assert shards(tmp_path / "out") == {}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "job.json is damaged"),
        ("[]", "not a job's"),
        ('{"schema": 1, "asked": {}}', "not a job's"),
        ('{"schema": 9, "asked": {}, "halved": [], "parts": []}', "schema 9, .* up to 1: upgrade"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused(tmp_path, text, why):
    (tmp_path / "job.json").write_text(text)
    with pytest.raises(ValueError, match=why):
        Job(tmp_path, ASKED)
    assert (tmp_path / "job.json").read_text() == text


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "samples-00000.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty and has no job.json"):
        Job(tmp_path, ASKED)
    assert shards(tmp_path) == {"samples-00000.txt": b"mine"}
    with pytest.raises(OSError, match=r"cannot create the folder .*samples-00000.txt"):
        Job(tmp_path / "samples-00000.txt", ASKED)


def test_a_kill_inside_the_first_record_does_not_block_the_folder(tmp_path):
    (tmp_path / ".job.json.4242.tmp").write_text("{")
    Job(tmp_path, ASKED)
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]
