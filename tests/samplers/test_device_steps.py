"""A step reads nothing back from the device, and a compiler sees it whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from structdiff import (
    DDIM,
    DDPM,
    Batch,
    Brownian,
    Categorical,
    Churn,
    Counter,
    Denoiser,
    Flow,
    Gaussian,
    Generator,
    Geometric,
    Heun,
    Layout,
    Linear,
    Multistep,
    NetworkDenoiser,
    Product,
    Randomness,
    UniformTime,
    absorbing,
)
from structdiff.processes import Estimate
from structdiff.samplers import PredictorCorrector, Singlestep
from structdiff.spaces import SO3, ZeroCentre

READS = {
    torch.ops.aten._local_scalar_dense.default,  # item, bool, int, float
    torch.ops.aten.nonzero.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.unique_dim.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.equal.default,
}
"""What waits for the device, because the host has to know a number."""


INDEXED = {torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default}
"""With a mask among the indices these have to count."""


def is_mask(index: Tensor | None) -> bool:
    return index is not None and index.dtype is torch.bool


class ReadError(AssertionError):
    """A number was asked back from the device."""


class NoReads(TorchDispatchMode):
    """Refuses all of `READS`."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # noqa: ANN001, ANN201
        if func in READS or (func in INDEXED and any(map(is_mask, args[1]))):
            raise ReadError(f"{func} reads the device inside a step")
        return func(*args, **(kwargs or {}))


class Stored(Denoiser):
    """A denoiser that always gives the same answer."""

    def __init__(self, process: Any, value: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.process = process
        self.estimate = {name: Estimate(x) for name, x in value.items()}

    def forward(self, batch: Batch, t: Any, previous: Any = None) -> Mapping[str, Estimate]:
        return self.estimate


COUNTS = [2, 1, 3]
SAMPLERS: dict[str, Callable[[Denoiser], Any]] = {
    "DDIM": lambda d: DDIM(d, UniformTime(6)),
    "DDPM": lambda d: DDPM(d, UniformTime(6)),
    "Heun": lambda d: Heun(d, UniformTime(6)),
    "Heun with noise": lambda d: Heun(d, UniformTime(6), eta=1.0),
    "Multistep": lambda d: Multistep(d, UniformTime(6), order=3),
    "Multistep with noise": lambda d: Multistep(d, UniformTime(6), order=2, eta=1.0),
    "Singlestep": lambda d: Singlestep(d, UniformTime(6), order=2),
    "Churn": lambda d: Churn(d, UniformTime(6), Linear(), churn=2.0),
    "PredictorCorrector": lambda d: PredictorCorrector(DDPM(d, UniformTime(6))),
}


def record() -> tuple[Product, Batch, dict[str, Tensor]]:
    """A leaf of each kind, ragged, some rows given."""
    process = Product(
        {
            "position": Gaussian(Linear(), event=(3,), space=ZeroCentre()),
            "element": Categorical(Flow(), absorbing(4)),
            "frame": Brownian(Geometric(0.01, 3.0), SO3()),
        }
    )
    ragged = Layout.ragged(COUNTS)
    layouts = {"position": ragged, "element": ragged, "frame": Layout.regular(3)}
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    leaves = {
        "position": x,
        "element": torch.tensor([0, 1, 2, 3, 1, 0]),
        "frame": torch.eye(3).expand(3, 3, 3).contiguous(),
    }
    given = {"element": torch.tensor([True, False, False, True, False, False])}
    batch = Batch(leaves, layouts, given=given)
    said = {
        "position": x - x.mean(0),
        "element": torch.log_softmax(torch.arange(24.0).reshape(6, 4) / 7, -1),
        "frame": torch.full((3, 3), 0.1),
    }
    return process, batch, said


@pytest.mark.parametrize("random", [Generator, Counter])
@pytest.mark.parametrize("name", SAMPLERS)
def test_no_step_reads_the_device(name: str, random: Callable[[int], Randomness]) -> None:
    process, batch, said = record()
    walk = SAMPLERS[name](Stored(process, said)).bind(batch, random(0))
    with torch.no_grad():
        carry = walk.start()
        for i in range(walk.steps):
            with NoReads():
                carry = walk.step(carry, i)
    assert torch.equal(carry.x["element"][[0, 3]], torch.tensor([0, 3]))


def test_a_read_is_seen() -> None:
    """By a denoiser that looks at its input, in three ways."""
    process, batch, said = record()
    looks: list[Callable[[Tensor], Any]] = [
        lambda x: x.sum().item(),
        lambda x: bool((x > 0).any()),
        lambda x: x[x > 0],
    ]
    for look in looks:

        class Looking(Stored):
            def forward(self, batch: Batch, t: Any, previous: Any = None) -> Any:
                look(batch["position"])  # noqa: B023
                return self.estimate

        walk = DDIM(Looking(process, said), UniformTime(3)).bind(batch, Generator(0))
        carry = walk.start()
        with pytest.raises(ReadError, match="reads the device"), NoReads():
            walk.step(carry, 0)


class Refusing(Counter):
    """A source that must not be asked."""

    def normal(self, *args: Any) -> Tensor:
        raise AssertionError("a number was drawn")

    uniform = normal


def test_no_number_is_drawn_on_a_deterministic_path() -> None:
    process = Product({"x": Gaussian(Linear(), event=(2,)), "r": Brownian(Geometric(), SO3())})
    batch = Batch.of({"x": torch.zeros(3, 2), "r": torch.eye(3).expand(3, 3, 3).contiguous()})
    denoiser = Stored(process, {"x": torch.ones(3, 2), "r": torch.full((3, 3), 0.1)})
    for name in ("DDIM", "Heun", "Multistep", "Singlestep"):
        walk = SAMPLERS[name](denoiser)
        carry = walk.bind(batch, Generator(0)).start()
        bound = walk.bind(batch, Refusing(0))
        for i in range(bound.steps):
            carry = bound.step(carry, i)
        assert not torch.equal(carry.x["x"], torch.zeros(3, 2))
    with pytest.raises(AssertionError, match="a number was drawn"):
        bound = DDPM(denoiser, UniformTime(3)).bind(batch, Refusing(0))
        bound.step(carry, 0)


class Network(torch.nn.Module):
    """A linear map of the leaf and its clock."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, batch: Batch, clock: Any, previous: Any) -> dict[str, Tensor]:
        x = batch["x"]
        now = clock["x"].to(x).expand(len(x))[:, None]
        return {"x": self.layer(torch.cat([x, now], 1))}


@pytest.mark.filterwarnings("ignore")  # of the compiler's own modules
@pytest.mark.parametrize("name", ["DDIM", "DDPM", "Heun", "Multistep", "Singlestep"])
def test_a_step_compiles_without_a_graph_break(name: str) -> None:
    """Fresh noise by address: a generator's stream is opaque to the compiler."""
    torch.manual_seed(0)
    denoiser = NetworkDenoiser(Network(), Product({"x": Gaussian(Linear(), event=(2,))}))
    walk = SAMPLERS[name](denoiser).bind(Batch.of({"x": torch.zeros(4, 2)}), Counter(0))
    torch._dynamo.reset()
    with torch.no_grad():
        start = walk.start()
        plain = walk.step(walk.step(start, 0), 1)
        step = torch.compile(walk.step, fullgraph=True, dynamic=False, backend="eager")
        compiled = step(step(start, 0), 1)
    assert torch.equal(plain.x["x"], compiled.x["x"])
