r"""Networks that each know an interval of the clock: experts.

With borders b_1 < b_2 < ... expert k answers for the samples whose clock is from b_k to b_{k+1}:
the first for the noisiest ones. Experts may differ in architecture and size. Two of them are a
chain above a time t* and a denoising autoencoder below it.

Where experts overlap by w, both are asked from w / 2 before a border to w / 2 after it, and their
answers are weighted by a share that rises from 0 to 1: both learn there, and answers do not jump.

References:
    Multi-Architecture Multi-Expert Diffusion Models (Lee et al., 2023), section 4: an expert of
    its own architecture for each interval. https://arxiv.org/abs/2306.04990
    On Analyzing Generative and Denoising Capabilities of Diffusion-based Deep Generative Models
    (Deja et al., 2022), section 4: two parts. https://arxiv.org/abs/2206.00070
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from structdiff.batch import Batch
from structdiff.layout import Layout

__all__ = ["Experts"]


class Experts(nn.Module):
    """A backbone that asks for each sample the one whose interval its clock is in.

    A sample's clock is the least one of its rows. Which experts are asked is read from the device
    once a call, and each is asked about its own samples alone, so that a call costs what one
    network does. With weights that are sharded over processes all of these must ask the same
    experts in a step, or they wait for one another: train experts replicated.

    Arguments:
        experts: Backbones, the one for the noisiest samples first.
        borders: Clocks, rising, one fewer than experts: `process.clock` of the times that part
            the intervals.
        leaf: Name of the leaf whose clock counts.
        overlap: Width of the interval of the clock around a border in which both are asked.

    Raises:
        ValueError: If the borders are not numbers, do not rise or are of another number, or
            overlaps meet; on a call with samples of several experts, if a leaf has edge rows.

    Example:
        >>> coarse, fine = nn.Identity(), nn.Identity()
        >>> Experts([coarse, fine], [0.0]).shares(torch.tensor([-1.0, 0.0, 2.0])).tolist()
        [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """

    borders: Tensor

    def __init__(
        self,
        experts: Sequence[nn.Module],
        borders: Sequence[float],
        *,
        leaf: str = "x",
        overlap: float = 0.0,
    ) -> None:
        super().__init__()
        if len(borders) != len(experts) - 1:
            msg = f"borders must be one fewer than the {len(experts)} experts, got {len(borders)}"
            raise ValueError(msg)
        if any(map(math.isnan, borders)) or not math.isfinite(overlap):
            msg = f"borders must be numbers and overlap finite, got {list(borders)} and {overlap}"
            raise ValueError(msg)
        gaps = [after - before for before, after in zip(borders, borders[1:], strict=False)]
        if overlap < 0 or not all(gap > 0 and gap >= overlap for gap in gaps):
            msg = f"borders must rise by more than 0 and by the overlap {overlap} at least"
            raise ValueError(f"{msg}, got {list(borders)}: give clocks, the noisiest first")
        self.experts, self.leaf, self.overlap = nn.ModuleList(experts), leaf, overlap
        self.register_buffer("borders", torch.tensor(borders).float(), persistent=False)

    def shares(self, clock: Tensor) -> Tensor:
        """How much each expert says at these clocks, `(clocks, experts)`; they sum to one.

        Arguments:
            clock: Clocks, `(clocks,)`.
        """
        beyond = clock.unsqueeze(1) - self.borders.to(clock.dtype)
        if self.overlap > 0:
            above = (beyond / self.overlap + 0.5).clamp(0, 1)
        else:
            above = (beyond >= 0).to(clock.dtype)
        ones, zeros = torch.ones_like(clock).unsqueeze(1), torch.zeros_like(clock).unsqueeze(1)
        return torch.cat([ones, above], 1) - torch.cat([above, zeros], 1)

    def forward(
        self, batch: Batch, clock: Mapping[str, Tensor], previous: Mapping[str, Tensor] | None
    ) -> Mapping[str, Tensor]:
        """Outputs by leaf; see `structdiff.denoiser.Backbone`."""
        share = self.shares(_least(clock[self.leaf], batch.layouts[self.leaf]))
        asked = (share > 0).tolist()
        total: dict[str, Tensor] = {}
        for k, expert in enumerate(self.experts):
            samples = [i for i, row in enumerate(asked) if row[k]]
            if len(samples) == len(asked):
                said = expert(batch, clock, previous)
            elif samples:
                said = expert(*_part(samples, batch, clock, previous))
            else:
                continue
            for name, output in said.items():
                _add(total, name, output, samples, share[:, k], batch.layouts[name])
        return total


def _least(clock: Tensor, layout: Layout) -> Tensor:
    """The least clock of each sample's rows, `(samples,)`, or `(1,)` where all have one."""
    if clock.ndim == 0:
        return clock.unsqueeze(0)
    row = clock.flatten(1).amin(1) if clock.ndim > 1 else clock
    least = row.new_full((layout.samples,), torch.inf)
    return least.scatter_reduce(0, layout.sample, row, "amin")


def _part(
    samples: Sequence[int],
    batch: Batch,
    clock: Mapping[str, Tensor],
    previous: Mapping[str, Tensor] | None,
) -> tuple[Batch, dict[str, Tensor], dict[str, Tensor] | None]:
    """What an expert is asked about some of the samples."""
    index = torch.tensor(samples, device=batch.device)
    rows = {name: layout.rows_of(index) for name, layout in batch.layouts.items()}
    times = {name: x[rows[name]] if x.ndim else x for name, x in clock.items()}
    shown = None if previous is None else {name: x[rows[name]] for name, x in previous.items()}
    return batch.select(index), times, shown


def _add(
    total: dict[str, Tensor],
    name: str,
    output: Tensor,
    samples: Sequence[int],
    share: Tensor,
    layout: Layout,
) -> None:
    """Add an expert's share of the output of a leaf, of some samples or of all."""
    weight = share.expand(layout.samples)[layout.sample].to(output.dtype)
    weight = weight.reshape(-1, *(1,) * (output.ndim - 1))
    if len(output) == layout.rows:
        heard = weight * output
        total[name] = total[name] + heard if name in total else heard
    else:
        rows = layout.rows_of(torch.tensor(samples, device=output.device))
        zeros = output.new_zeros(layout.rows, *output.shape[1:])
        total[name] = total.get(name, zeros).index_add(0, rows, weight[rows] * output)
