"""The latents of a data set, encoded once: shards on disk, and a data set of what is in them.

`latents/` is a job (`structdiff.artifacts.Job`): shards are written whole and recorded afterwards
with their checksums, so a process killed at any moment leaves whole shards and goes on after
them, and a shard that is missing or damaged is made again. The job knows which codec and which
data it is of; where either has changed, all is encoded again, for no model must see the latents
of two codecs. What is encoded is deterministic, the mean where a codec has a law.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from structdiff.artifacts import Job, Made, Part, differences, partition, read_json
from structdiff.codecs.latent import LatentCodec
from structdiff.codecs.stored import codec_checksum
from structdiff.runs.asked import whole
from structdiff.runs.codecs import Samples
from structdiff.runs.progress import Progress, stoppable

__all__ = ["Latents", "encode_data", "samples_checksum"]

Precision = Literal["float32", "float16"]


class Latents:
    """Latents in shards, by number; they are read from the disk when they are asked for.

    Arguments:
        files: The shards, in the order of the samples.

    Raises:
        ValueError: If a shard is damaged.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        # The tensors are views of mapped files: what is not asked for is not read.
        self.shards = [_mapped(path) for path in files]
        self.ends = list(accumulate(len(shard) for shard in self.shards))

    def __len__(self) -> int:
        """How many there are."""
        return self.ends[-1] if self.ends else 0

    def __getitem__(self, index: NDArray[np.int64] | Sequence[int]) -> Tensor:
        """Some of them, `(n, *latent)`, as float32, or int64 where they are classes.

        Arguments:
            index: Their numbers.

        Raises:
            IndexError: If there is no such number.
        """
        wanted = torch.as_tensor(np.asarray(index, np.int64))
        if len(wanted) and not (int(wanted.min()) >= 0 and int(wanted.max()) < len(self)):
            msg = f"latents have numbers from 0 to {len(self) - 1}, got {wanted.tolist()[:10]}"
            raise IndexError(msg)
        first = self.shards[0]
        found = first.new_empty((len(wanted), *first.shape[1:]))
        which = torch.bucketize(wanted.contiguous(), torch.tensor(self.ends), right=True)
        for number in torch.unique(which).tolist():
            here = (which == number).nonzero().flatten()
            low = self.ends[number] - len(self.shards[number])
            found[here] = self.shards[number][wanted[here] - low]
        return found.float() if found.is_floating_point() else found.long()


def encode_data(
    path: Path | str,
    codec: LatentCodec,
    data: Samples,
    *,
    identity: Mapping[str, Any],
    precision: Precision = "float32",
    shard_size: int = 4096,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    say: Callable[[str], None] = print,
) -> Latents:
    """Encode all samples into a folder, or what of them is not there yet.

    With several processes, the first one calls before the others (`first_alone`).

    Arguments:
        path: The folder.
        codec: The codec, ready for use.
        data: The samples.
        identity: What tells the data from others, for JSON; `samples_checksum` does.
        precision: Of real latents on disk; float16 halves the space and rounds.
        shard_size: Samples of a shard, which is what memory holds.
        batch_size: Samples that are encoded together.
        device: Where to encode; codec and samples are moved there.
        say: Where to report.

    Raises:
        ValueError: If the folder holds something else, a number is out of range, there are no
            samples, latents are not finite, or memory runs out for one sample alone.
        Stopped: If a signal asked to stop.
        OSError: If a file cannot be written.
    """
    if precision not in ("float32", "float16"):
        msg = f"precision must be 'float32' or 'float16', got {precision!r}"
        raise ValueError(msg)
    shard_size, batch_size = whole("shard_size", shard_size, 1), whole("batch_size", batch_size, 1)
    if not len(data):
        msg = "data has no samples: there is nothing to encode"
        raise ValueError(msg)
    codec = codec.to(device).eval()
    asked = {
        "codec": codec_checksum(codec),
        "data": dict(identity),
        "samples": len(data),
        "precision": "classes" if codec.classes else precision,
        "shard_size": shard_size,
    }
    job = _opened(Path(path), asked, say)
    kept = _kept_as(codec, precision)
    done = sum(record.high - record.low for record in job.records())
    if done < len(data):
        with (
            stoppable(lambda: f"stopped while {path} was filled; the same again goes on"),
            Progress(len(data), unit="latent", settled=done) as bar,
        ):

            def make(part: Part) -> Made:
                z = _encoded(codec, data, part, batch_size, device, kept, bar.walk(part))
                bar.settle(part.high - part.low)
                return Made({".safetensors": save({"z": z})}, {})

            job.run(partition(len(data), shard_size), make)
    return Latents(job.files())


def samples_checksum(data: Samples, batch_size: int = 1024) -> str:
    """What tells samples from others: a digest of all their numbers.

    Arguments:
        data: The samples.
        batch_size: How many are looked at together.

    Example:
        >>> samples_checksum(torch.zeros(2)) == samples_checksum(torch.zeros(3))
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in partition(len(data), batch_size):
        x = data[np.arange(part.low, part.high)].detach().cpu().contiguous()
        digest.update(f"{tuple(x.shape[1:])}{x.dtype}".encode() if not part.low else b"")
        digest.update(x.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


@torch.no_grad()
def _encoded(
    codec: LatentCodec,
    data: Samples,
    part: Part,
    batch_size: int,
    device: torch.device | str,
    kept: torch.dtype,
    shown: Callable[[float], None],
) -> Tensor:
    """The latents of a shard, on the CPU.

    Raises:
        ValueError: If some are not finite.
    """
    z = torch.empty((part.high - part.low, *codec.latent), dtype=kept)
    for low in range(part.low, part.high, batch_size):
        high = min(low + batch_size, part.high)
        place = slice(low - part.low, high - part.low)
        z[place] = codec.encode(data[np.arange(low, high)].to(device)).cpu()
        shown((high - part.low) / len(z))
    broken = (~torch.isfinite(z)).flatten(1).any(1).nonzero().flatten() + part.low
    if len(broken):
        msg = (
            f"latents of the samples {broken.tolist()[:10]} are not finite as {kept}: leave these "
            "samples out, or keep float32"
        )
        raise ValueError(msg)
    return z


def _kept_as(codec: LatentCodec, precision: Precision) -> torch.dtype:
    """The type of latents on disk: of classes the smallest that holds them."""
    if not codec.classes:
        return torch.float16 if precision == "float16" else torch.float32
    fitting = (d for d in (torch.uint8, torch.int16) if codec.classes - 1 <= torch.iinfo(d).max)
    return next(fitting, torch.int32)


def _opened(path: Path, asked: Mapping[str, Any], say: Callable[[str], None]) -> Job:
    """The job of a folder, begun anew where it is of another codec or other data.

    Raises:
        ValueError: If the folder holds something else.
    """
    changed = differences(_asked_before(path / "job.json", asked), asked)
    job = Job(path, asked, stem="latents", overwrite=True)
    if changed:
        say(f"{path} was asked otherwise, all is encoded again: {'; '.join(changed)}")
    if job.lost:
        say(f"missing or changed in {path}, encoded again: {', '.join(job.lost)}")
    return job


def _asked_before(index: Path, asked: Mapping[str, Any]) -> Any:
    """What a job was asked, as far as it can be read; `Job` says what is wrong with it."""
    try:
        return read_json(index)["asked"]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return asked


def _mapped(path: Path) -> Tensor:
    """The tensor of a shard, mapped.

    Raises:
        ValueError: If the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            z: Tensor = file.get_tensor("z")
    except (SafetensorError, OSError) as error:
        msg = f"{path} is damaged ({error}): encode again, which mends it"
        raise ValueError(msg) from None
    return z
