"""Random numbers, and networks whose layers that begin at zero are awake."""

import torch


def random(*shape, seed=0, dtype=torch.float64):
    draw = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draw.to(dtype)


def awake(network, seed=1, dtype=torch.float64):
    """The network with random weights also where they begin at zero."""
    generator = torch.Generator().manual_seed(seed)
    for weight in network.parameters():
        if not weight.any():
            weight.data.normal_(generator=generator).mul_(0.3)
    return network.to(dtype)


def seen_from(network, x, place):
    """Which entries of x the outputs at a place look at, by autograd: `x.shape`, of samples 0."""
    x = x.clone().requires_grad_()
    out = network(x)
    out[(slice(None), slice(None), *place)].square().sum().backward()
    return x.grad.abs() > 1e-13 * x.grad.abs().max()
