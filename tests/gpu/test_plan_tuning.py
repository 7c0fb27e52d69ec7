"""The best plan is the one that is fast at every size; the choices are those the kernels have."""

import pytest

from echojax.gpu.plan_tuning import best_plans, plans
from selective_scan.gpu.plans import PLANS

A, B, C = "block 32, chunk 16, ahead 1", "block 64, chunk 8, ahead 1", "block 64, chunk 8, ahead 2"


def problem(states=16, **milliseconds):
    """Return a problem's row; None stands for a plan that does not compile."""
    names = {"a": A, "b": B, "c": C}
    programs = []
    for name, value in milliseconds.items():
        row = {"implementation": names[name], "pass": "forward+backward", "status": "measured"}
        if value is None:
            programs.append(row | {"status": "failed", "reason": "too much shared memory"})
        else:
            programs.append(row | {"queued": {"median_seconds": value / 1e3}})
    return {"states": states, "programs": programs}


def test_the_geometric_mean_decides():
    (line,) = best_plans([problem(a=1, b=2, c=1.1), problem(a=4, b=2, c=2.2)])
    assert line["slowness"] == {
        A: pytest.approx(2**0.5), B: pytest.approx(2**0.5), C: pytest.approx(1.1),
    }  # fmt: skip
    assert line["line"] == "16: Plan(block=64, chunk=8, ahead=2),"
    assert line["present"] == "block {}, chunk {}, ahead {}".format(*PLANS[16])


def test_a_plan_must_run_at_all_sizes_of_its_line():
    (line,) = best_plans([problem(a=1, b=2), problem(a=None, b=2)])
    assert line["best"] == {"block": 64, "chunk": 8, "ahead": 1}
    (line,) = best_plans([problem(a=None, b=None)])
    assert "best" not in line


def test_each_line_has_its_own():
    lines = best_plans([problem(16, a=1, b=2), problem(32, a=2, b=1)])
    assert [line["best"]["block"] for line in lines] == [32, 64]


def test_plans():
    every = plans()
    assert len(set(every)) == len(every) == 18
    assert all(plan.block * plan.chunk % 512 == 0 for plan in every)
    assert set(PLANS.values()) <= set(every)
