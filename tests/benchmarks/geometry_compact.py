"""Delicate places of spheres and rotations: opposite points and half turns."""

from __future__ import annotations

import importlib
import importlib.util
import math

import torch
from geometry_libraries import Library, of_geomstats, peer, structdiff
from geometry_place import NARROW, WIDE, Cell, Place, number, slope
from torch import Tensor

from structdiff.spaces import SO3
from structdiff.spaces.sphere import Sphere

# Spheres.


def sphere() -> Place:
    def curve(t: Tensor) -> Tensor:
        return torch.stack([torch.cos(t), torch.sin(t), 0 * t], 1)

    def apart() -> tuple[Tensor, Tensor]:
        return tuple(curve(torch.tensor([3.0 + s], dtype=torch.float64)) for s in (0.0, 1e-6))

    def opposite(library: Library) -> Cell:
        x = curve(torch.tensor([0.0], dtype=torch.float64))
        return library.length(x, -x).item(), math.pi, WIDE

    def slope_opposite(library: Library) -> str:
        """Of the distance along y(t) at t = pi, the cut locus: from -1 to 1."""
        t = number(math.pi)
        value = slope(library.length(curve(0 * t.detach()), curve(t)), t).item()
        if math.isnan(value):
            return "**NaN**"
        return f"right ({value:.0f})" if abs(value) < 1 + WIDE else f"**wrong: {value:.1g}**"

    origin, unit = curve(torch.zeros(1).double()), torch.tensor([[0.0, 1.0, 0.0]])
    return Place(
        curve,
        Sphere(2),
        apart,
        {
            "structdiff": structdiff(Sphere(2), 1),
            **peer("geoopt", lambda g: g.Sphere(), origin, unit),
            **peer("geomstats", of_geomstats("hypersphere.Hypersphere(2)"), origin, unit),
            **peer("flow-matching", lambda m: m.Sphere(), origin, unit),
        },
        {
            "length of log, opposite points": opposite,
            "slope of the distance there": slope_opposite,
        },
    )


# Rotations.


def about(t: Tensor, axis: tuple[float, float, float] = (0.0, 0.0, 1.0)) -> Tensor:
    """Rotations by `t`, by Rodrigues' formula."""
    n = torch.tensor(axis, dtype=t.dtype)
    x, y, z = n.tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=t.dtype)
    square = cross @ cross
    s, c = torch.sin(t)[:, None, None], 2 * torch.sin(t / 2).square()[:, None, None]
    return torch.eye(3, dtype=t.dtype) + s * cross + c * square


def rotations() -> Place:
    place = (0.48, 0.6, 0.64)

    def apart() -> tuple[Tensor, Tensor]:
        x = about(torch.tensor([1.0], dtype=torch.float64), place)
        return x, x @ about(torch.tensor([1e-6], dtype=torch.float64))

    def half(library: Library, dtype: torch.dtype = torch.float64) -> Cell:
        x = torch.eye(3, dtype=dtype)[None]
        y = about(torch.tensor([math.pi], dtype=torch.float64), place).to(dtype)
        off = (library.back(x, y) - y).abs().max().item()
        return 1 + off, 1.0, WIDE if dtype == torch.float64 else NARROW

    def near_half(library: Library) -> Cell:
        x = torch.eye(3, dtype=torch.float32)[None]
        angle = math.pi - 1e-3
        y = about(torch.tensor([angle], dtype=torch.float64), place).float()
        return library.length(x, y).item(), angle, 1e-6

    def slope_half(library: Library) -> Cell:
        """The angle's slope, from below."""
        t = number(math.pi - 1e-7)
        y = about(t, place)
        return slope(library.length(torch.eye(3).double()[None], y), t).item(), 1.0, WIDE

    libraries = {"structdiff": structdiff(SO3(), 2)}
    skew = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    libraries |= peer(
        "geomstats",
        of_geomstats("special_orthogonal.SpecialOrthogonal(3)"),
        torch.eye(3)[None],
        skew,
    )
    if importlib.util.find_spec("roma") is not None:
        roma = importlib.import_module("roma")

        def log(x: Tensor, y: Tensor) -> Tensor:
            return roma.rotmat_to_rotvec(x.mT @ y)

        axis = torch.tensor([[0.0, 0.0, 1.0]])
        libraries["roma"] = Library(
            exp=lambda t: roma.rotvec_to_rotmat(t[:, None] * axis.to(t)),
            log=lambda y: roma.rotmat_to_rotvec(y)[:, 2],
            dist=roma.rotmat_geodesic_distance,
            square=lambda x, y: roma.rotmat_geodesic_distance(x, y).square(),
            length=lambda x, y: log(x, y).norm(dim=1),
            back=lambda x, y: x @ roma.rotvec_to_rotmat(log(x, y)),
        )
    from scipy.spatial.transform import Rotation

    def rotvec(x: Tensor, y: Tensor) -> Tensor:
        return torch.as_tensor(Rotation.from_matrix((x.mT @ y).detach().numpy()).as_rotvec())

    libraries["scipy (no gradients)"] = Library(
        exp=lambda t: torch.as_tensor(Rotation.from_rotvec([[0, 0, t.item()]]).as_matrix()),
        log=lambda y: rotvec(torch.eye(3, dtype=y.dtype)[None], y)[:, 2],
        dist=lambda x, y: rotvec(x, y).norm(dim=1),
        square=lambda x, y: rotvec(x, y).square().sum(1),
        length=lambda x, y: rotvec(x, y).norm(dim=1),
        back=lambda x, y: (
            x @ torch.as_tensor(Rotation.from_rotvec(rotvec(x, y).numpy()).as_matrix()).to(x)
        ),
    )
    return Place(
        about,
        SO3(),
        apart,
        libraries,
        {
            "exp(log) of a half turn": half,
            "the same in float32": lambda library: half(library, torch.float32),
            "angle pi - 1e-3, float32": near_half,
            "slope of the angle at pi - 1e-7": slope_half,
        },
    )
