r"""Dirichlet diffusion: probabilities of classes noised by independent Jacobi diffusions.

A point p of the simplex is broken as a stick: v_k = p_k / (p_k + ... + p_K) is the share that
class k takes of what the classes before it left, and p_k = v_k prod_{j < k} (1 - v_j). Each of the
K - 1 shares follows a Jacobi diffusion in the Brownian time tau = sigma_t^2 of a schedule with
alpha = 1. With v_k ~ Beta(c_k, c_{k+1} + ... + c_K) in the end, p ends in Dirichlet(c). A share of
nothing (after a class that has it all) is not known: it is in its final law at all times.

The diffusion is reversible, so that with h = grad log of the density of v against that law the
time reversal is the same diffusion with the drift v (1 - v) h more. The estimate is
g = E[v (1 - v) h | v_t], `(rows, K - 1)`: bounded near the data's corners too, and zero at the
law. A step moves the angles theta = 2 arcsin sqrt(v), in which the noise is that of Brownian
motion and which fold at both ends, so that no point leaves the simplex:

    theta <- theta + [(a - 1/2) cot(theta / 2) / 2 - (b - 1/2) tan(theta / 2) / 2
                      + g / sqrt(v (1 - v))] h + sqrt(h) z,

right to first order in its length h, with the singular drifts bounded at the size of a step.

References:
    Dirichlet Diffusion Score Model for Biological Sequence Generation (Avdeyev et al., 2023).
    https://arxiv.org/abs/2305.10699
"""

from __future__ import annotations
