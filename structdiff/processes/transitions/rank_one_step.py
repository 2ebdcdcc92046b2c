r"""One reverse step of a rank-one chain, in O(K) and without cancellation.

Write i = x_t, a = alpha_t / alpha_s, p for the estimate and D = alpha_t + sigma_t pi_i, with
sigma = 1 - alpha. Bayes' rule, averaged over p, is

    r(j) = (1 - a) [alpha_s p_j / sigma_t + sigma_s pi_j V]                 for j != i,
    r(i) = (a + (1 - a) pi_i) [alpha_s p_i / D + sigma_s V],
    V    = (1 - p_i) / sigma_t + p_i pi_i / D,

free of a division by pi (which may be zero). The *carry* kernel, c delta(x_t) + (1 - c) p with
c = sigma_s / sigma_t, keeps the same marginals and draws no fresh class from pi; the step is
(1 - eta^2) carry + eta^2 Bayes. Both are mixtures of three laws,

    r = A p + B pi + C delta_i,              A = (1 - a) alpha_s / sigma_t,
    B = (1 - a) (sigma_s / sigma_t) (1 - alpha_t p_i / D),
    C = a (sigma_s / sigma_t) (1 + (alpha_s - alpha_t) p_i / D),

so that a draw needs the distribution function of p alone.

References:
    Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021), eqs. 3-4.
    https://arxiv.org/abs/2107.03006
    Denoising Diffusion Implicit Models (Song et al., 2021), appendix A (the carry kernel).
    https://arxiv.org/abs/2010.02502
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from structdiff.processes.draws import draw_class
from structdiff.processes.transitions.base import Reverse, log_sum

__all__ = ["RankOneStep"]


class RankOneStep(Reverse):
    """A step between two levels.

    Arguments:
        alpha_t: Survival at the start.
        sigma_t: 1 - alpha_t.
        alpha_s: Survival at the end.
        sigma_s: 1 - alpha_s.
        bayes: Share eta^2 of the Bayes kernel.
        law: The stationary law.
        redraw: Draws from it.
    """

    def __init__(
        self,
        alpha_t: float,
        sigma_t: float,
        alpha_s: float,
        sigma_s: float,
        bayes: float,
        law: Tensor,
        redraw: Callable[[Tensor], Tensor],
    ) -> None:
        self.alpha_t, self.sigma_t, self.alpha_s, self.sigma_s = alpha_t, sigma_t, alpha_s, sigma_s
        self.bayes, self.law, self.redraw = bayes, law, redraw

    def log_kernel(self, log_p: Tensor, x_t: Tensor) -> Tensor:
        """Log-probabilities of x_s over the S symbols."""
        log_p = F.pad(log_p, (0, len(self.law) - log_p.shape[-1]), value=-torch.inf)
        at = x_t.unsqueeze(-1)
        if self.bayes == 1:
            return self._log_bayes(log_p, at)
        log_carry = self._log_carry(log_p, at)
        if self.bayes == 0:
            return log_carry
        log_bayes = self._log_bayes(log_p, at) + math.log(self.bayes)
        return log_sum(log_carry + math.log1p(-self.bayes), log_bayes)

    def _log_carry(self, log_p: Tensor, at: Tensor) -> Tensor:
        c = self.sigma_s / self.sigma_t
        fresh = log_p + _log(1 - c)
        stay = log_sum(fresh.gather(-1, at), fresh.new_tensor(_log(c)))
        return fresh.scatter(-1, at, stay)

    def _log_bayes(self, log_p: Tensor, at: Tensor) -> Tensor:
        log_law, tiny = self.law.to(log_p).log(), torch.finfo(log_p.dtype).tiny
        log_p_i, log_pi_i = log_p.gather(-1, at).clamp(max=0), log_law[at]
        pi_i = log_pi_i.exp()
        a = self.alpha_t / self.alpha_s
        # At least something: a row that is held may be where noise cannot be.
        scale = torch.log((self.alpha_t + self.sigma_t * pi_i).clamp(min=tiny))
        left = -torch.expm1(log_p_i)
        sure = left <= 0
        others = torch.where(sure, -torch.inf, torch.where(sure, 1.0, left).log())
        log_v = log_sum(others - _log(self.sigma_t), log_p_i + log_pi_i - scale)
        from_data = _log((1 - a) * self.alpha_s / self.sigma_t)
        from_noise = _log((1 - a) * self.sigma_s)
        away = log_sum(log_p + from_data, log_law + log_v + from_noise)
        stay = log_sum(log_p_i + _log(self.alpha_s) - scale, log_v + _log(self.sigma_s))
        return away.scatter(-1, at, stay + torch.log(a + (1 - a) * pi_i))

    def draw(self, log_p: Tensor, x_t: Tensor, uniform: Tensor) -> Tensor:
        """Which of the three laws, then a draw of it, from one number."""
        data, noise, stay = self.shares(log_p, x_t)
        place = uniform * (data + noise + stay) - stay
        fresh = self.redraw(place / noise)
        clean = draw_class(log_p, ((place - noise) / data).clamp_(0, 1))
        return torch.where(place < 0, x_t, torch.where(place < noise, fresh, clean))

    def shares(self, log_p: Tensor, x_t: Tensor) -> tuple[float, Tensor, Tensor]:
        """A, and B and C of the shape of x_t; float64."""
        at = x_t.clamp(max=log_p.shape[-1] - 1).unsqueeze(-1)
        p_i = log_p.gather(-1, at).squeeze(-1).double().exp_()
        if len(self.law) > log_p.shape[-1]:
            p_i *= x_t < log_p.shape[-1]
        # At least something: a row that is held may be where noise cannot be.
        scale = self.alpha_t + self.sigma_t * self.law.to(x_t.device)[x_t]
        q = p_i / scale.clamp_(min=1e-30)
        a, c, share = self.alpha_t / self.alpha_s, self.sigma_s / self.sigma_t, self.bayes
        data = share * (1 - a) * self.alpha_s / self.sigma_t + (1 - share) * (1 - c)
        noise = (1 - self.alpha_t * q).clamp_(min=0).mul_(share * (1 - a) * c)
        stay = (self.alpha_s - self.alpha_t) * q + 1
        return data, noise, stay.mul_(share * a * c).add_((1 - share) * c)


def _log(x: float) -> float:
    return math.log(x) if x > 0 else -math.inf
