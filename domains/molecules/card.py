"""The model card of a run."""

from __future__ import annotations

from structdiff.artifacts import write_atomic
from structdiff.domains.molecules.run import Run
from structdiff.domains.molecules.structures import SYMBOLS

__all__ = ["write_card"]


def write_card(run: Run, table: str = "") -> None:
    """Write `README.md` into the folder of a run.

    Arguments:
        run: The run.
        table: Measures, Markdown.
    """
    config, codec = run.config, run.codec
    parameters = sum(p.numel() for p in run.denoiser.parameters())
    elements = ", ".join(SYMBOLS[z] for z in codec.elements)
    data = config.data.path or "2,000 molecules of QM9 that come with structdiff"
    last = [line for line in run.folder.read_metrics() if "bound" in line]
    bound = f"{last[-1]['bound']:.1f} nats per molecule" if last else "not measured"
    text = f"""# A model of molecules

- data: {data}; hydrogens {config.data.hydrogens}; elements {elements};
  {sum(codec.sizes)} training molecules of up to {len(codec.sizes) - 1} atoms
- process: centred Gaussian on positions ({config.noise.sigma_min} to {config.noise.sigma_max}
  Angstrom) x {config.noise.element} chain on elements
- network: equivariant graph network, {config.network.layers} layers, {parameters:,} parameters
- training: {config.training.steps} updates of {config.training.batch_size} molecules,
  seed {config.training.seed}
- validation bound: {bound} (upper bound on -log p given the size)

Use: molecules like those of the data. They are not checked for synthesis, toxicity or strain.

{table}
"""
    write_atomic(run.folder.path / "README.md", text.encode())
