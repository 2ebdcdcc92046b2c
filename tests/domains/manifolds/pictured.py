"""Points of every space to draw, and a figure that is drawn."""

import numpy as np
from scipy.spatial.transform import Rotation


def uniform(rows, seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, 3))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def close(figure):
    """Lays the figure out: what cannot be drawn fails here."""
    figure.canvas.draw()
    return figure


def covariances(rows, size, seed=0):
    x = np.random.default_rng(seed).standard_normal((rows, size, 2 * size))
    return x @ x.transpose(0, 2, 1) / (2 * size)


def points_in(space, rows, seed):
    kind, _, n = space.partition(":")
    random = np.random.default_rng(seed)
    match kind:
        case "sphere":
            x = random.standard_normal((rows, int(n) + 1))
            return x / np.linalg.norm(x, axis=1, keepdims=True)
        case "so3":
            return Rotation.random(rows, random_state=seed).as_matrix()
        case "spd" | "log-euclidean":
            return covariances(rows, int(n), seed)
        case "simplex":
            return random.dirichlet(np.ones(int(n)), rows)
        case "hyperbolic":
            v = random.standard_normal((rows, int(n)))
            return np.concatenate([np.sqrt(1 + (v**2).sum(1, keepdims=True)), v], 1)
        case "ball":
            return 0.5 * np.tanh(random.standard_normal((rows, int(n))))
        case _:
            return random.uniform(-3, 3, (rows, int(n)))


SPHERE = points_in("sphere:2", 4, 0)
