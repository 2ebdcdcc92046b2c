"""The public EDM molecules code as a peer: found, imported, fed with QM9 as it pads it.

Its repository is never part of this one: fetch ehoogeboom/e3_diffusion_for_molecules (commit
fce07d7 was used) and name its folder. Of it only the network, the diffusion, the loss, the law of
sizes, the moving average and the clipping of gradients are imported, unchanged; they need torch
and numpy. Its reader of data is not used, since it downloads: molecules come from ours, in the
same split, and are padded here as its `collate_fn` pads them.

References:
    Equivariant Diffusion for Molecule Generation in 3D (Hoogeboom et al., 2022).
    https://arxiv.org/abs/2203.17003
"""

from __future__ import annotations

import importlib
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from structdiff.domains.molecules.structures import Structures

__all__ = ["ELEMENTS", "EDMCode", "Padded", "quiet"]

ELEMENTS = (1, 6, 7, 8, 9)  # as EDM's atom_encoder numbers them
_NAMES = {
    "dynamics": "egnn.models",
    "diffusion": "equivariant_diffusion.en_diffusion",
    "averages": "equivariant_diffusion.utils",
    "models": "qm9.models",
    "losses": "qm9.losses",
    "training": "utils",
    "datasets": "configs.datasets_config",
}


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing on standard output: the peer prints tables of its schedule and each clipping."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


@dataclass(frozen=True)
class Padded:
    """Molecules padded with zeros to the largest of the batch, and masks, as EDM's collate makes.

    Arguments:
        position: `(molecules, atoms, 3)`, Angstrom, each molecule about its mean.
        element: One-hot, `(molecules, atoms, 5)`.
        atoms: What is no padding, `(molecules, atoms, 1)`.
        edges: Ordered pairs of different real atoms, `(molecules, atoms * atoms)`.
    """

    position: Tensor
    element: Tensor
    atoms: Tensor
    edges: Tensor

    @classmethod
    def of(cls, molecules: Structures, index: NDArray[np.int64]) -> Padded:
        """Some molecules."""
        part = molecules.select(index)
        most = int(part.count.max())
        real = np.arange(most) < part.count[:, None]
        position = np.zeros((*real.shape, 3), np.float32)
        element = np.zeros((*real.shape, len(ELEMENTS)), np.float32)
        position[real] = part.position
        element[real] = part.number[:, None] == np.array(ELEMENTS)
        position[real] -= (position.sum(1) / part.count[:, None])[part.owner]
        pairs = real[:, :, None] & real[:, None, :] & ~np.eye(most, dtype=bool)
        return cls(
            torch.from_numpy(position),
            torch.from_numpy(element),
            torch.from_numpy(real[..., None].astype(np.float32)),
            torch.from_numpy(pairs.reshape(len(real), -1).astype(np.float32)),
        )


@dataclass(frozen=True)
class EDMCode:
    """The modules of a fetched repository.

    Example: `EDMCode.load(Path("edm")).model(layers=4, width=64)`.
    """

    modules: dict[str, ModuleType]

    @classmethod
    def load(cls, folder: Path | None) -> EDMCode:
        """Import from a folder.

        Raises:
            FileNotFoundError: If the repository is not there.
        """
        if folder is None or not (folder / "egnn" / "egnn_new.py").is_file():
            raise FileNotFoundError(
                f"no EDM repository at {folder or 'all'}: fetch "
                "ehoogeboom/e3_diffusion_for_molecules and name its folder with --edm or $EDM"
            )
        # Its packages have the names of scripts beside this file, so its folder goes first, and
        # its names leave sys.modules afterwards.
        roots = {name.split(".")[0] for name in _NAMES.values()}
        before = {n: m for n, m in sys.modules.items() if n.split(".")[0] in roots}
        path = list(sys.path)
        here = str(Path(__file__).parent)
        try:
            for name in before:
                del sys.modules[name]
            sys.path[:] = [str(folder.resolve()), *(p for p in path if p not in (here, ""))]
            found = {key: importlib.import_module(name) for key, name in _NAMES.items()}
        finally:
            sys.path[:] = path
            for name in [n for n in sys.modules if n.split(".")[0] in roots]:
                del sys.modules[name]
            sys.modules.update(before)
        return cls(found)

    def model(self, *, layers: int, width: int, charges: bool = False) -> tuple[nn.Module, Any]:
        """The diffusion with the settings of its README for QM9, and its law of sizes."""
        settings = Namespace(
            include_charges=charges,
            conditioning=[],
            condition_time=True,
            context_node_nf=0,
            nf=width,
            n_layers=layers,
            attention=True,
            tanh=True,
            model="egnn_dynamics",
            norm_constant=1,
            inv_sublayers=1,
            sin_embedding=False,
            normalization_factor=1,
            aggregation_method="sum",
            probabilistic_model="diffusion",
            diffusion_steps=1000,
            diffusion_noise_schedule="polynomial_2",
            diffusion_noise_precision=1e-5,
            diffusion_loss_type="l2",
            normalize_factors=[1, 4, 10],
        )
        information = self.modules["datasets"].get_dataset_info("qm9", remove_h=False)
        with quiet():
            model, sizes, _ = self.modules["models"].get_model(
                settings, torch.device("cpu"), information, None
            )
        return model, sizes

    def optimiser(self, model: nn.Module, rate: float = 1e-4) -> torch.optim.Optimizer:
        """Its optimiser: AdamW with amsgrad and next to no decay."""
        return self.modules["models"].get_optim(Namespace(lr=rate), model)

    def loss(self, model: nn.Module, sizes: Any, batch: Padded) -> Tensor:
        """Its training loss in training mode; in evaluation mode the bound, log p(N) included."""
        centred = self.modules["averages"].remove_mean_with_mask(batch.position, batch.atoms)
        features = {"categorical": batch.element, "integer": torch.zeros(0)}
        masks = batch.atoms, batch.edges
        kind = Namespace(probabilistic_model="diffusion")
        loss, _, _ = self.modules["losses"].compute_loss_and_nll(
            kind, model, sizes, centred, features, *masks, None
        )
        return loss

    def bound(self, model: nn.Module, batch: Padded) -> Tensor:
        """Its bound of each molecule given its size, nats, `(molecules,)`; the model evaluates."""
        features = {"categorical": batch.element, "integer": torch.zeros(0)}
        return model(batch.position, features, batch.atoms, batch.edges, None)

    def clip(self, model: nn.Module, norms: Any) -> None:
        """Its clipping at 1.5 means and two deviations of the last norms."""
        self.modules["training"].gradient_clipping(model, norms)

    def norms(self, kept: Sequence[float] = (3000.0,)) -> Any:
        """The last norms of the gradient."""
        queue = self.modules["training"].Queue()
        queue.items = [float(norm) for norm in kept]
        return queue
