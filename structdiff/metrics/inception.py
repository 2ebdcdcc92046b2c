r"""The features of Inception-v3, for those who have its weights.

The library carries no weights. `InceptionFeatures.load` reads them from a safetensors file whose
tensors are named as those of torchvision's `inception_v3` (`Mixed_5b.branch1x1.conv.weight`, ...);
layers beyond the features (`fc`, `AuxLogits`) are left out. TorchScript and pickled files are
executable code and are not read: convert them once, where they are trusted, with
`safetensors.torch.save_file(state_dict, path)`.

The network is the one that the Frechet inception distance (FID) of the literature is computed
with, as it differs from the published one: means over windows leave out the rim, and the last
block takes a maximum. Images are scaled to 299 x 299, bilinearly. Which numbers come out depends
on the weights; a file of torchvision's own training gives other distances.

References:
    Rethinking the Inception Architecture for Computer Vision (Szegedy et al., 2016), section 6.
    https://arxiv.org/abs/1512.00567
    GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium (Heusel et
    al., 2017). https://arxiv.org/abs/1706.08500
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from structdiff.runs.asked import checksum

__all__ = ["InceptionFeatures"]

Kernel = int | tuple[int, int]
Step = tuple[str, int, Kernel, int]  # name, outputs, kernel, stride
Chain = tuple[Step, ...]

_SIDE = 299
_POOL: Step = ("pool", 0, 3, 1)
_LINE, _COLUMN = (1, 7), (7, 1)


class _Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU; with a stride of 2 without a rim."""

    def __init__(self, inputs: int, outputs: int, kernel: Kernel, stride: int, rim: bool) -> None:
        super().__init__()
        sides = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (sides[0] // 2, sides[1] // 2) if rim else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, sides, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Mixed(nn.Module):
    """Chains of convolutions side by side; steps of one name are one step."""

    def __init__(self, inputs: int, chains: tuple[Chain, ...], pool: nn.Module) -> None:
        super().__init__()
        self.names = tuple(tuple(step[0] for step in chain) for chain in chains)
        self.outputs = 0
        for chain in chains:
            channels = inputs
            for name, outputs, kernel, stride in chain:
                if name == "pool":
                    self.add_module(name, pool)
                    continue
                if not hasattr(self, name):
                    made = _Convolution(channels, outputs, kernel, stride, stride == 1)
                    self.add_module(name, made)
                channels = outputs
            self.outputs += channels

    def forward(self, x: Tensor) -> Tensor:
        done = dict[str, Tensor]()
        ends = []
        for chain in self.names:
            y = x
            for name in chain:
                if name not in done:
                    done[name] = self.get_submodule(name)(y)
                y = done[name]
            ends.append(y)
        return torch.cat(ends, 1)


def _near(pool: int) -> tuple[Chain, ...]:
    """Windows of 1, 3 and 5."""
    return (
        (("branch1x1", 64, 1, 1),),
        (("branch5x5_1", 48, 1, 1), ("branch5x5_2", 64, 5, 1)),
        (
            ("branch3x3dbl_1", 64, 1, 1),
            ("branch3x3dbl_2", 96, 3, 1),
            ("branch3x3dbl_3", 96, 3, 1),
        ),
        (_POOL, ("branch_pool", pool, 1, 1)),
    )


def _far(inner: int) -> tuple[Chain, ...]:
    """Lines and columns of 7."""
    return (
        (("branch1x1", 192, 1, 1),),
        (
            ("branch7x7_1", inner, 1, 1),
            ("branch7x7_2", inner, _LINE, 1),
            ("branch7x7_3", 192, _COLUMN, 1),
        ),
        (
            ("branch7x7dbl_1", inner, 1, 1),
            ("branch7x7dbl_2", inner, _COLUMN, 1),
            ("branch7x7dbl_3", inner, _LINE, 1),
            ("branch7x7dbl_4", inner, _COLUMN, 1),
            ("branch7x7dbl_5", 192, _LINE, 1),
        ),
        (_POOL, ("branch_pool", 192, 1, 1)),
    )


_HALVING: tuple[Chain, ...] = (
    (("branch3x3", 384, 3, 2),),
    (("branch3x3dbl_1", 64, 1, 1), ("branch3x3dbl_2", 96, 3, 1), ("branch3x3dbl_3", 96, 3, 2)),
    (_POOL,),
)
_HALVING_AGAIN: tuple[Chain, ...] = (
    (("branch3x3_1", 192, 1, 1), ("branch3x3_2", 320, 3, 2)),
    (
        ("branch7x7x3_1", 192, 1, 1),
        ("branch7x7x3_2", 192, _LINE, 1),
        ("branch7x7x3_3", 192, _COLUMN, 1),
        ("branch7x7x3_4", 192, 3, 2),
    ),
    (_POOL,),
)
_FIRST, _SECOND = ("branch3x3_1", 384, 1, 1), ("branch3x3dbl_1", 448, 1, 1)
_THIRD = ("branch3x3dbl_2", 384, 3, 1)
_WIDE: tuple[Chain, ...] = (
    (("branch1x1", 320, 1, 1),),
    (_FIRST, ("branch3x3_2a", 384, (1, 3), 1)),
    (_FIRST, ("branch3x3_2b", 384, (3, 1), 1)),
    (_SECOND, _THIRD, ("branch3x3dbl_3a", 384, (1, 3), 1)),
    (_SECOND, _THIRD, ("branch3x3dbl_3b", 384, (3, 1), 1)),
    (_POOL, ("branch_pool", 192, 1, 1)),
)
_STEM: tuple[tuple[str, int, int, int, bool], ...] = (
    ("Conv2d_1a_3x3", 32, 3, 2, False),
    ("Conv2d_2a_3x3", 32, 3, 1, False),
    ("Conv2d_2b_3x3", 64, 3, 1, True),
    ("halve_1", 0, 3, 2, False),
    ("Conv2d_3b_1x1", 80, 1, 1, False),
    ("Conv2d_4a_3x3", 192, 3, 1, False),
    ("halve_2", 0, 3, 2, False),
)


class InceptionFeatures(nn.Module):
    """2,048 features of images in [-1, 1]; grey ones are taken for colour.

    It is an extractor, see `structdiff.metrics.comparison.Extractor`. Made like this it has random
    weights, which measure something, but nothing that is known: use `load`.

    Attributes:
        name: What the weights are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name = "Inception-v3 with random weights"
        channels = 3
        self.stem = [name for name, *_ in _STEM]
        for name, outputs, kernel, stride, rim in _STEM:
            if outputs:
                self.add_module(name, _Convolution(channels, outputs, kernel, stride, rim))
                channels = outputs
            else:
                self.add_module(name, nn.MaxPool2d(kernel, stride))
        self.mixed = [name for name, *_ in _blocks()]
        for name, chains, pool in _blocks():
            block = _Mixed(channels, chains, pool)
            self.add_module(name, block)
            channels = block.outputs
        self.eval()

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """With the weights of a safetensors file.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is no safetensors file, or lacks a tensor.
        """
        if not Path(path).is_file():
            msg = f"no such file: {path}; check its name"
            raise FileNotFoundError(msg)
        try:
            weights = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            msg = f"{path} is no safetensors file ({error}): convert it where you trust it"
            raise ValueError(msg) from None
        with torch.device("meta"):  # no random weights that are not used
            made = cls()
        kept = {name: x.float() for name, x in weights.items() if name in made.state_dict()}
        lacking = sorted(
            name
            for name in made.state_dict()
            if name not in kept and not name.endswith("num_batches_tracked")
        )
        if lacking:
            few = ", ".join(lacking[:3])
            msg = f"{path} lacks {len(lacking)} tensors of torchvision's inception_v3, as {few}"
            raise ValueError(msg)
        counters = {
            name: torch.zeros((), dtype=torch.long)
            for name in made.state_dict()
            if name.endswith("num_batches_tracked")
        }
        try:
            made.load_state_dict({**kept, **counters}, assign=True)
        except RuntimeError as error:
            msg = f"{path} has tensors of other shapes: {str(error).splitlines()[-1].strip()}"
            raise ValueError(msg) from None
        digest = checksum(*(x.contiguous().numpy().tobytes() for x in kept.values()))
        made.name = f"Inception-v3, weights of {Path(path).name} ({digest[:8]})"
        return made

    def about(self) -> str:
        """What it is, in words."""
        return self.name

    def features(self, x: Tensor) -> Tensor:
        """Features `(images, 2048)` of images `(images, 1 or 3, height, width)`."""
        return self(x)  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """The mean over places of the last block."""
        x = F.interpolate(x, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
        x = x.expand(-1, 3, -1, -1)
        for name in (*self.stem, *self.mixed):
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


def _blocks() -> list[tuple[str, tuple[Chain, ...], nn.Module]]:
    """Names, chains and pools of the blocks."""
    mean = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    return [
        ("Mixed_5b", _near(32), mean),
        ("Mixed_5c", _near(64), mean),
        ("Mixed_5d", _near(64), mean),
        ("Mixed_6a", _HALVING, nn.MaxPool2d(3, 2)),
        ("Mixed_6b", _far(128), mean),
        ("Mixed_6c", _far(160), mean),
        ("Mixed_6d", _far(160), mean),
        ("Mixed_6e", _far(192), mean),
        ("Mixed_7a", _HALVING_AGAIN, nn.MaxPool2d(3, 2)),
        ("Mixed_7b", _WIDE, mean),
        ("Mixed_7c", _WIDE, nn.MaxPool2d(3, 1, 1)),
    ]
