"""Molecules in three dimensions: positions, elements and maybe bonds, generated together."""

from structdiff.domains.molecules import commands
from structdiff.domains.molecules.chemistry import Verdict, judge
from structdiff.domains.molecules.codec import MoleculeCodec
from structdiff.domains.molecules.data import embedded, read
from structdiff.domains.molecules.measures.chemistry import ChemistryReport, chemistry_report
from structdiff.domains.molecules.measures.descriptors import frechet_chemnet
from structdiff.domains.molecules.metrics import evaluate
from structdiff.domains.molecules.output import write
from structdiff.domains.molecules.recipe import MoleculesConfig
from structdiff.domains.molecules.regressor import Regressor, RegressorConfig, train_regressor
from structdiff.domains.molecules.reports.card import write_card
from structdiff.domains.molecules.reports.doctor import examine
from structdiff.domains.molecules.reports.evaluation import Evaluation, evaluate_run
from structdiff.domains.molecules.reports.scoring import Scores
from structdiff.domains.molecules.run import Run, train
from structdiff.domains.molecules.sampling import Samples
from structdiff.domains.molecules.structures import Structures

__all__ = [
    "ChemistryReport",
    "Evaluation",
    "MoleculeCodec",
    "MoleculesConfig",
    "Regressor",
    "RegressorConfig",
    "Run",
    "Samples",
    "Scores",
    "Structures",
    "Verdict",
    "chemistry_report",
    "commands",
    "embedded",
    "evaluate",
    "evaluate_run",
    "examine",
    "frechet_chemnet",
    "judge",
    "read",
    "train",
    "train_regressor",
    "write",
    "write_card",
]
