"""Pictures of molecules: spheres and sticks by ray casting, in numpy.

The molecule is projected along its thinnest principal axis. Each atom is a sphere and each bond
a pair of half sticks in the colours of their atoms; per pixel the front surface wins (a depth
buffer), is lit by one lamp, and fades to the background with depth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from structdiff.domains.molecules.structures import AROMATIC, NUMBERS, SYMBOLS, Bonds, Floats

Image = NDArray[np.float64]
_RGB = {
    "H": "eef0f2", "C": "565c66", "N": "3a63d8", "O": "dd3a34", "F": "63c454", "B": "f2a58f",
    "Si": "d9b48a", "P": "f08a24", "S": "ebc02c", "Cl": "35b84b", "Br": "96392b", "I": "7d2f9c",
}  # fmt: skip
_OTHER = "c48ad0"
_LIGHT = np.array([-0.42, 0.52, 0.74])
_STICK = 0.13  # Angstrom
_BALL = {"H": 0.24, "F": 0.33, "O": 0.35, "N": 0.36}
ASPECT = 0.75  # height by width of a picture
_SMOOTH = 2  # pixels are drawn this many times finer


@dataclass(frozen=True)
class Frame:
    """How positions become pixels: a centre, a rotation and half the width of the picture."""

    centre: Floats
    axes: Floats
    reach: float

    def around(self, position: Floats) -> Frame:
        """The same look at positions with another centre."""
        return replace(self, centre=position.mean(0))


def frame(position: Floats, *, margin: float = 0.7, reach: float = 0.0) -> Frame:
    """Looks along the thinnest principal axis, tilted a little so that rings show depth."""
    centre = position.mean(0)
    _, _, axes = np.linalg.svd(position - centre, full_matrices=True)
    axes = axes * np.sign(axes[np.arange(3), np.abs(axes).argmax(1)])[:, None]
    axes[2] = np.cross(axes[0], axes[1])
    a, b = np.deg2rad(14), np.deg2rad(18)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    axes = about_x @ about_y @ axes
    seen = (position - centre) @ axes[:2].T
    half = np.abs(seen).max(0) + margin
    return Frame(centre, axes, max(float(half[0]), float(half[1]) / ASPECT, reach))


class _Canvas:
    """An image with a depth buffer."""

    def __init__(self, pixels: int, reach: float) -> None:
        self.shape = np.array([round(pixels * ASPECT), pixels]) * _SMOOTH
        self.reach = np.array([reach, reach * ASPECT])
        self.rgb = np.ones((*self.shape, 3))
        self.depth = np.full(self.shape, -np.inf)

    def window(self, low: Floats, high: Floats) -> tuple[tuple[slice, slice], Image, Image]:
        """The pixels of a box and their coordinates in Angstrom."""
        size = self.shape[::-1]
        scale = size / (2 * self.reach)
        left, bottom = np.clip(np.floor((low + self.reach) * scale), 0, size).astype(int)
        right, top = np.clip(np.ceil((high + self.reach) * scale) + 1, 0, size).astype(int)
        x = (np.arange(left, right) + 0.5) / scale[0] - self.reach[0]
        y = (np.arange(bottom, top) + 0.5) / scale[1] - self.reach[1]
        return (slice(bottom, top), slice(left, right)), x[None, :], y[:, None]

    def paint(self, at: tuple[slice, slice], z: Image, normal: Image, colour: Image) -> None:
        """Shades the surface where it is in front of what is there; z is -inf off the surface."""
        front = z > self.depth[at]
        half = _LIGHT + [0, 0, 1]
        diffuse = np.clip(normal @ _LIGHT, 0, 1)[..., None]
        shine = np.clip(normal @ (half / np.linalg.norm(half)), 0, 1)[..., None] ** 40
        rim = np.clip(normal[..., 2:], 0, 1) ** 0.45
        shaded = np.clip(colour * (0.5 + 0.62 * diffuse) * (0.5 + 0.5 * rim) + 0.38 * shine, 0, 1)
        self.depth[at] = np.where(front, z, self.depth[at])
        self.rgb[at] = np.where(front[..., None], shaded, self.rgb[at])

    def sphere(self, centre: Floats, radius: float, colour: Image) -> None:
        """Paints a ball."""
        at, x, y = self.window(centre[:2] - radius, centre[:2] + radius)
        dx, dy = np.broadcast_arrays(x - centre[0], y - centre[1])
        square = radius**2 - dx**2 - dy**2
        height = np.sqrt(np.clip(square, 0, None))
        z = np.where(square > 0, centre[2] + height, -np.inf)
        self.paint(at, z, np.stack([dx, dy, height], -1) / radius, colour)

    def stick(self, start: Floats, end: Floats, radius: float, colour: Image) -> None:
        """Paints a cylinder: the front root w of |q - (q.u)u| = radius, q = (dx, dy, w)."""
        u = end - start
        length = float(np.linalg.norm(u))
        u = u / max(length, 1e-9)
        slope = 1 - u[2] ** 2
        if slope < 1e-6:  # seen from its end, behind the atom
            return
        low, high = np.minimum(start, end)[:2] - radius, np.maximum(start, end)[:2] + radius
        at, x, y = self.window(low, high)
        dx, dy = np.broadcast_arrays(x - start[0], y - start[1])
        along = dx * u[0] + dy * u[1]
        inside = (u[2] * along) ** 2 - slope * (dx**2 + dy**2 - along**2 - radius**2)
        w = (u[2] * along + np.sqrt(np.clip(inside, 0, None))) / slope
        s = along + w * u[2]
        on = (inside > 0) & (s >= 0) & (s <= length)
        normal = (np.stack([dx, dy, w], -1) - s[..., None] * u) / radius
        self.paint(at, np.where(on, start[2] + w, -np.inf), normal, colour)

    def image(self, fog: float) -> Image:
        """The picture as RGBA, smoothed, the far parts faded by up to `fog`."""
        hit = np.isfinite(self.depth)
        far = np.zeros_like(self.depth)
        if hit.any():
            low, high = self.depth[hit].min(), self.depth[hit].max()
            far[hit] = fog * (high - self.depth[hit]) / max(high - low, 2.0)
        rgb = self.rgb + (1 - self.rgb) * far[..., None]
        fine = np.concatenate([rgb * hit[..., None], hit[..., None]], axis=-1)
        height, width = self.shape // _SMOOTH
        coarse = fine.reshape(height, _SMOOTH, width, _SMOOTH, 4).mean((1, 3))
        coarse[..., :3] /= np.maximum(coarse[..., 3:], 1e-9)
        return np.asarray(np.clip(coarse[::-1], 0, 1))


def render(
    number: NDArray[np.uint8], position: Floats, bonds: Bonds, view: Frame, pixels: int = 400
) -> Image:
    """Draws one molecule with finite positions as an RGBA image.

    Arguments:
        number: Atomic numbers, `(n,)`.
        position: Coordinates in Angstrom, `(n, 3)`.
        bonds: Its bonds, atoms counted from 0.
        view: The projection, see `frame`.
        pixels: The width; the height is 3/4 of it.
    """
    canvas = _Canvas(pixels, view.reach)
    seen = (position - view.centre) @ view.axes.T
    colours = _colours(number)
    for atom, symbol in enumerate(SYMBOLS[z] for z in number):
        canvas.sphere(seen[atom], _BALL.get(symbol, 0.38), colours[atom])
    for i, j, order in zip(*bonds.pair.tolist(), bonds.order.tolist(), strict=True):
        for start, end, radius in _strands(seen[i], seen[j], order):
            middle = (start + end) / 2
            canvas.stick(start, middle, radius, colours[i])
            canvas.stick(middle, end, radius, colours[j])
    return canvas.image(fog=0.35)


def _colours(number: NDArray[np.uint8]) -> NDArray[Any]:
    palette = np.tile(_colour(_OTHER), (len(SYMBOLS), 1))
    for symbol, code in _RGB.items():
        palette[NUMBERS[symbol]] = _colour(code)
    return palette[number]


def _colour(code: str) -> Image:
    return np.array([int(code[k : k + 2], 16) / 255 for k in (0, 2, 4)])


def _strands(start: Floats, end: Floats, order: int) -> list[tuple[Floats, Floats, float]]:
    """One, two or three parallel sticks, side by side on the page; two for an aromatic bond."""
    order = 2 if order == AROMATIC else order
    along = end - start
    side = np.array([-along[1], along[0], 0.0])
    length = float(np.linalg.norm(side))
    if order == 1 or length < 1e-6:
        return [(start, end, _STICK)]
    radius = 0.085 if order == 2 else 0.062
    offsets = np.linspace(-1, 1, order) * (0.125 if order == 2 else 0.17)
    return [(start + o * side / length, end + o * side / length, radius) for o in offsets]
