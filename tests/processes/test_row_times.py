"""Rows with times of their own (D19): each steps as it would with that time for all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from structdiff import Categorical, Generator
from structdiff.processes import Tractable
from structdiff.schedules import CLEAN
from tests.processes.cases import CASES, Case, said_by_a_network

cases = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
LATE = torch.tensor([0.9, 0.7, 0.4, 0.2, CLEAN], dtype=torch.float64)
EARLY = torch.tensor([0.8, 0.3, 0.2, 0.1, CLEAN], dtype=torch.float64)


def stepped(process: Tractable, x_t: Tensor, plan: object, at: Tensor) -> Tensor:
    estimate = process.decode(said_by_a_network(process, x_t), x_t, at)
    if isinstance(process, Categorical):
        return process.log_kernel(estimate, x_t, plan).exp()
    return process.step(x_t, estimate, plan, Generator(5))


# Rows of a sample that share noise share their time; frozen rates of chains are asked for at
# shared times.
PLANS = [
    (name, frozen)
    for name, case in CASES.items()
    for frozen in (False, True)
    if name not in ("gaussian centred", "affine shared")
    and not (frozen and case.kind == "classes")
]


@pytest.mark.parametrize(("name", "frozen"), PLANS)
def test_each_row_steps_at_its_own_time(name: str, frozen: bool) -> None:
    """Odd rows by one grid, even rows by another: as if each had been for all."""
    case = CASES[name]
    process = case.process.bind(case.batch())
    rows = len(case.batch()["x"])
    odd = torch.arange(rows) % 2 == 1
    mixed = torch.where(odd, EARLY[:, None], LATE[:, None])
    x_t = process.diffuse(case.batch()["x"], mixed[0], Generator(1))
    late, early, own = (
        process.leap(grid) if frozen else process.plan(grid, 1.0) for grid in (LATE, EARLY, mixed)
    )
    for i in range(len(LATE) - 1):
        found = stepped(process, x_t, own[i], mixed[i])
        for mask, plan, grid in ((odd, early, EARLY), (~odd, late, LATE)):
            expected = stepped(process, x_t, plan[i], grid[i])
            torch.testing.assert_close(found[mask], expected[mask], rtol=1e-12, atol=1e-12)


@cases
def test_one_time_for_all_rows_is_the_ordinary_plan(case: Case) -> None:
    process, rows = case.process.bind(case.batch()), len(case.batch()["x"])
    x_t = process.diffuse(case.batch()["x"], LATE[0], Generator(1))
    ordinary, own = process.plan(LATE, 1.0), process.plan(LATE[:, None].expand(-1, rows), 1.0)
    for i in range(len(LATE) - 1):
        a, b = (stepped(process, x_t, plan[i], LATE[i]) for plan in (ordinary, own))
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
