"""The geodesic random walk with a drift on the circle, by Fourier series."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from structdiff import Generator
from structdiff.processes import Estimate
from structdiff.spaces import HeatLaw, Torus
from tests.processes.cases import time
from tests.processes.geodesic_walks import WIDE, bound, tau_of


class TestCircle:
    """With a drift on the circle: the Fokker-Planck equation by Fourier series."""

    space = Torus(1)
    law = HeatLaw(Torus(1), 1.0)
    nodes = 64
    x = (torch.arange(nodes, dtype=torch.float64) / nodes * 2 - 1) * math.pi

    def density(self, tau: float) -> Tensor:
        """p_tau on the nodes for data from a heat kernel around 2 at 0.1."""
        wave = torch.fft.fftfreq(self.nodes, 1 / self.nodes, dtype=torch.float64)
        unit = torch.eye(self.nodes, dtype=torch.float64)
        slope = torch.fft.ifft(1j * wave[:, None] * torch.fft.fft(unit, dim=0), dim=0).real
        drift = torch.diag(self.law.score(self.x[:, None])[:, 0])
        generator = 0.5 * slope @ (slope - drift)
        data = HeatLaw(self.space, 0.1, torch.tensor([2.0])).log_prob(self.x[:, None]).exp()
        return torch.linalg.matrix_exp(tau * generator) @ data

    def series(self, tau: float) -> tuple[Tensor, Tensor]:
        coefficient = torch.fft.fft(self.density(tau)) / self.nodes
        return coefficient, torch.fft.fftfreq(self.nodes, 1 / self.nodes, dtype=torch.float64)

    def score(self, x: Tensor, tau: float) -> Tensor:
        """d log p / dx at any angles, `(rows, 1)`, by the 24 slowest waves."""
        coefficient, wave = (part[:25] for part in self.series(tau))
        turn = (x + math.pi) * wave
        real, imaginary = (
            2 * torch.cat([part[:1] / 2, part[1:]])
            for part in (coefficient.real, coefficient.imag)
        )
        cosine, sine = torch.cos(turn), torch.sin(turn)
        p = cosine @ real - sine @ imaginary
        return ((-sine @ (wave * real) - cosine @ (wave * imaginary)) / p)[:, None]

    def quantiles(self, tau: float, rows: int) -> Tensor:
        """Evenly spaced quantiles of p_tau, `(rows, 1)`."""
        fine = torch.linspace(-math.pi, math.pi, 4001, dtype=torch.float64)
        coefficient, wave = self.series(tau)
        p = (torch.exp(1j * (fine[:, None] + math.pi) * wave) @ coefficient).real
        mass = torch.cumulative_trapezoid(p, fine)
        u = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
        place = torch.searchsorted(mass, u).clamp(max=len(mass) - 1)
        below = torch.cat([mass.new_zeros(1), mass])[place]
        share = (u - below) / (mass[place] - below)
        return (fine[place] + share * (fine[1] - fine[0]))[:, None]

    def mean(self, tau: float) -> Tensor:
        """E cos x and E sin x."""
        coefficient, _ = self.series(tau)
        first = coefficient[1] * math.pi * 2 * torch.exp(torch.tensor(1j * math.pi))
        return torch.stack([first.real, -first.imag])

    @staticmethod
    def moments(x: Tensor) -> Tensor:
        return torch.stack([torch.cos(x).mean(), torch.sin(x).mean()])

    def test_quantiles(self) -> None:
        """The fixture itself."""
        got = self.moments(self.quantiles(0.8, 20_000))
        torch.testing.assert_close(got, self.mean(0.8), atol=1e-3, rtol=0)

    def test_walk(self) -> None:
        errors, tau = [], 1.0
        for steps in (4, 16):
            x = self.quantiles(0.0, 200_000)[torch.randperm(200_000)]
            process = bound(self.space, x, steps, law=self.law)
            end = process.walk(x, torch.tensor(tau).double(), Generator(steps))
            errors.append(float((self.moments(end) - self.mean(tau)).norm()))
        assert errors[0] > 0.015
        assert errors[1] < errors[0] / 2.3

    @pytest.mark.parametrize(("eta", "rows"), [(0.0, 2000), (1.0, 60_000)])
    def test_reverse_walk_with_the_exact_score(self, eta: float, rows: int) -> None:
        """From p_t back to p_s: the error falls with the step."""
        errors = []
        for steps in (4, 8, 16):
            times = torch.linspace(1.0, 0.55, steps + 1, dtype=torch.float64)
            x = self.quantiles(float(WIDE.sigma(times[0])) ** 2, rows)
            process = bound(self.space, x, 1, law=self.law)
            for t, step in zip(times, process.plan(times, eta), strict=False):
                tau = float(WIDE.sigma(t)) ** 2
                estimate = Estimate(tau * self.score(x, tau))
                x = process.step(x, estimate, step, Generator(int(steps * 1000 + 100 * t)))
            errors.append(float((self.moments(x) - self.mean(tau_of(0.55))).norm()))
        assert errors[0] < 0.1
        assert errors[0] / errors[1] > 1.6
        assert errors[1] / errors[2] > 1.6 or errors[2] < 0.004

    def test_velocity_moves_the_density(self) -> None:
        """The continuity equation: dp/dt + d(p velocity)/dx = 0."""
        t, h = 0.8, 1e-5
        process = bound(self.space, self.x[:, None], 1, law=self.law)
        rate = (self.density(tau_of(t + h)) - self.density(tau_of(t - h))) / (2 * h)
        tau = tau_of(t)
        estimate = Estimate(tau * self.score(self.x[:, None], tau))
        flux = self.density(tau) * process.velocity(estimate, self.x[:, None], time(t))[:, 0]
        wave = torch.fft.fftfreq(self.nodes, 1 / self.nodes, dtype=torch.float64)
        slope = torch.fft.ifft(1j * wave * torch.fft.fft(flux)).real
        torch.testing.assert_close(rate, -slope, atol=1e-5, rtol=0)
