r"""Transitions with any matrix of rates.

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021),
    appendix A.2.4 (kernels as exponentials of rate matrices).
    https://arxiv.org/abs/2107.03006
    A Continuous Time Framework for Discrete Denoising Models (Campbell et al., 2022).
    https://arxiv.org/abs/2205.14987
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.processes.draws import draw_class
from structdiff.processes.transitions.base import Kernel
from structdiff.processes.transitions.generated import Generated, safe_log
from structdiff.processes.transitions.semigroup import Dense, reachable, stationary_law
from structdiff.processes.transitions.table import Table, weigh

__all__ = ["Rates", "check_generator", "relaxed"]


class Rates(Generated):
    r"""Any generator R: Q_{t|s} = exp(R log(alpha_s / alpha_t)).

    Time runs in units of -log alpha, so R says how fast things go: with R = 1 pi^T - I a row
    survives with probability alpha. `relaxed` scales a generator so that its slowest mode
    decays as alpha does.

    Small entries have their own relative accuracy (1e-12 at 1e-30, see `Semigroup`). About 35
    S x S matrices are stored. Kernels that all rows share are matrices too, of which a plan of n
    steps holds 2 n. With times by row a draw costs one product with a matrix where R is
    reversible, and otherwise, as a density does, about 20 + log2(16 c tau) of them, c being the
    largest exit rate. Meant for hundreds of symbols.

    Arguments:
        generator: R, `(S, S)`, not negative off the diagonal; rows sum to zero.
        classes: Number K <= S of data classes, the first of the symbols; all by default.

    Raises:
        ValueError: If R is no generator, has several stationary laws, or some symbol cannot be
            reached from a class.

    Example:
        >>> ring = torch.tensor([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0], [1.0, 0.0, -1.0]])
        >>> Rates(ring).stationary.tolist()
        [0.3333333333333333, 0.3333333333333333, 0.3333333333333333]
    """

    generator: Tensor
    rates_in: Tensor
    decay: Tensor | None
    left: Tensor | None
    right: Tensor | None

    def __init__(self, generator: Tensor, classes: int | None = None) -> None:
        generator = check_generator(generator)
        classes = len(generator) if classes is None else classes
        if not 1 <= classes <= len(generator):
            msg = f"classes must be in 1 to {len(generator)}, the rows of generator, got {classes}"
            raise ValueError(msg)
        links = reachable(generator)
        law = stationary_law("generator", generator, links)
        partial = None if bool(links.all()) else links
        super().__init__(classes, law, partial)
        self.semigroup = Dense(generator, law, partial)
        inward = generator.T.clone().fill_diagonal_(0)
        self.register_buffer("rates_in", inward, persistent=False)
        modes = reversible_modes(generator, law)
        for name, value in zip(("decay", "left", "right"), modes, strict=True):
            self.register_buffer(name, value, persistent=False)

    def after(self, tau: Tensor) -> Kernel:
        """A matrix where rows share the time."""
        return self.each(tau.unsqueeze(0))[0] if tau.ndim == 0 else RatesKernel(self, tau)

    def each(self, taus: Tensor) -> Sequence[Kernel]:
        """All matrices at once."""
        return [Table(matrix) for matrix in self.semigroup.matrices(taus)]

    def inflow(self, x_t: Tensor) -> Tensor:
        """A column of R."""
        return self.rates_in.to(x_t.device)[x_t]

    def law(self, x: Tensor, tau: Tensor) -> Tensor:
        """q(x_t | x_s = x) to an absolute accuracy of 1e-13, `(..., S)`."""
        if self.decay is None or self.left is None or self.right is None:
            return self.semigroup.push(F.one_hot(x, self.symbols).double(), tau)
        left, decay, right = (m.to(x.device) for m in (self.left, self.decay, self.right))
        tau = tau.double().unsqueeze(-1)
        modes = left[x] * torch.exp(torch.where(decay == 0, 0.0, decay * tau))
        return (modes @ right).clamp(min=0)


class RatesKernel(Kernel):
    """exp(R tau) at times by row.

    Arguments:
        transition: What has the generator.
        tau: Times, shaped to broadcast against rows.
    """

    def __init__(self, transition: Rates, tau: Tensor) -> None:
        self.transition, self.tau = transition, tau

    def draw(self, x_s: Tensor, uniform: Tensor) -> Tensor:
        """By inverse CDF."""
        fresh = draw_class(safe_log(self.transition.law(x_s, self.tau)), uniform)
        return torch.where(self.tau == 0, x_s, fresh)

    def log_prob(self, x_t: Tensor, x_s: Tensor) -> Tensor:
        """One entry of a column."""
        return self.column(x_t).gather(-1, x_s.unsqueeze(-1)).squeeze(-1)

    def column(self, x_t: Tensor) -> Tensor:
        """By products from the right."""
        ends = F.one_hot(x_t, self.transition.symbols).double()
        return safe_log(self.transition.semigroup.push(ends, self.tau, back=True))

    def push(self, log_law: Tensor) -> Tensor:
        """By products from the left."""
        y, scale = weigh(log_law)
        return safe_log(self.transition.semigroup.push(y, self.tau)) + scale


def check_generator(generator: Tensor) -> Tensor:
    """A generator in float64, its diagonal made such that rows sum to zero.

    Raises:
        ValueError: If it is none.
    """
    r = generator.detach().double().cpu()
    if r.ndim != 2 or r.shape[0] != r.shape[1] or len(r) < 2:
        msg = f"generator must be a square matrix of at least 2 x 2, got {tuple(r.shape)}"
        raise ValueError(msg)
    off = r.clone().fill_diagonal_(0)
    bad = torch.nonzero(~((off >= 0) & off.isfinite()).all(1))[:, 0]
    if len(bad):
        row = int(bad[0])
        must = "rates to other symbols must be finite and not negative"
        msg = f"row {row} of generator: {must}, got {float(off[row].min()):.4g}"
        raise ValueError(msg)
    sums = r.sum(1)
    bad = torch.nonzero(~(sums.abs() <= 1e-5 * off.sum(1).clamp(min=1e-30)))[:, 0]
    if len(bad):
        row, mend = int(bad[0]), "set the diagonal to minus the sum of the other rates"
        msg = f"row {row} of generator must sum to 0, got {float(sums[row]):.4g}: {mend}"
        raise ValueError(msg)
    if not bool((off > 0).any()):
        msg = "generator must have a positive rate, got none: nothing would ever change"
        raise ValueError(msg)
    return off - torch.diag(off.sum(1))


def relaxed(generator: Tensor) -> Tensor:
    """The generator, scaled so that its slowest mode decays as alpha does.

    Arguments:
        generator: With one stationary law.

    Raises:
        ValueError: If it is no generator or has several stationary laws.

    Example:
        >>> relaxed(torch.tensor([[-2.0, 2.0], [2.0, -2.0]])).tolist()
        [[-0.5, 0.5], [0.5, -0.5]]
    """
    r = check_generator(generator)
    stationary_law("generator", r, reachable(r))
    real: Tensor = torch.linalg.eigvals(r).real.sort(descending=True).values
    return r / -real[1]


def reversible_modes(
    generator: Tensor, law: Tensor
) -> tuple[Tensor, Tensor, Tensor] | tuple[None, None, None]:
    """Decay rates, and left and right factors, of a reversible generator; else nothing."""
    if float(law.min()) < 1e-6 * float(law.max()):
        return None, None, None
    flow = law[:, None] * generator
    if not bool(((flow - flow.T).abs() <= 1e-12 * flow.abs().max()).all()):
        return None, None, None
    root = law.sqrt()
    even = root[:, None] * generator / root
    decay, modes = torch.linalg.eigh((even + even.T) / 2)
    decay = decay.clamp(max=0)
    decay[-1] = 0
    return decay, modes / root[:, None], modes.T * root
