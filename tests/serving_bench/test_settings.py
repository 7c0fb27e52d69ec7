"""Settings, records and growth, without a subprocess."""

import pytest

from echojax.errors import UserError
from echojax.serving_bench.measure import measure
from echojax.serving_bench.record import new_results, read_unfinished, row_of, write_results
from echojax.serving_bench.settings import Case, Flags, resolved
from echojax.serving_bench.tables import growth, milliseconds

MACHINE = {"processor": "a"}


def test_cases_hold_every_combination():
    settings = resolved(Flags(lengths=(5, 7), batches=(1, 2), models=("sasrec",), catalogues=(9,)))
    cases = settings.cases()
    assert len(cases) == len(set(cases)) == 2 * 2 * (1 + len(settings.streams)) + 2
    assert Case("top-k", 2, catalogue=9) in cases
    assert Case("event", 2, "echomamba4rec-no-filter", 7) in cases


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (Flags(lengths=(5, 0)), "--lengths must be 1 or more, not 0"),
        (Flags(seconds=float("nan")), "--seconds must be a number above 0, not nan"),
        (Flags(max_memory_gib=0), "--max-memory-gib must be a number above 0, not 0"),
        (Flags(streams=("bert4rec",)), "unknown model in --streams 'bert4rec'"),
        (Flags(catalogues=(1,)), "--catalogues must be 2 or more, not 1"),
        (Flags(cores=0), "--cores must be 1 or more, not 0"),
    ],
)
def test_values_of_no_use_are_refused(flags, says):
    with pytest.raises(UserError, match=says):
        resolved(flags)


def test_only_the_same_benchmark_goes_on(tmp_path):
    settings = resolved(Flags(quick=True))
    assert read_unfinished(tmp_path, settings, MACHINE) is None
    results = new_results("command", settings, MACHINE)
    results["cases"].append(Case("top-k", 2, catalogue=9)._asdict() | {"p50_seconds": 1.0})
    write_results(tmp_path, results)
    assert read_unfinished(tmp_path, settings, MACHINE) == results
    assert row_of(results, Case("top-k", 2, catalogue=9))["p50_seconds"] == 1.0
    assert row_of(results, Case("top-k", 1, catalogue=9)) is None
    with pytest.raises(UserError, match=r"with lengths \[16, 32\], not \[1\]; name another"):
        read_unfinished(tmp_path, resolved(Flags(quick=True, lengths=(1,))), MACHINE)
    with pytest.raises(UserError, match="with processor a, not b; name another folder"):
        read_unfinished(tmp_path, settings, {"processor": "b"})
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(UserError, match="is not of a benchmark of serving"):
        read_unfinished(tmp_path, settings, MACHINE)


def test_too_large_is_skipped_with_its_reason():
    settings = resolved(Flags(quick=True, max_memory_gib=0.001))
    row = measure(Case("top-k", 1, catalogue=1_000_000), settings, lambda: None)
    assert row["status"] == "skipped"
    assert row["reason"] == "needs 0.477 GiB, 0.001 GiB may be used"
    assert row["p50_seconds"] is None


def test_growth_is_the_power_between_the_two_longest():
    rows = [{"length": n, "p50_seconds": s} for n, s in ((10, 9.0), (4, 7.0), (20, 36.0))]
    assert growth(rows) == pytest.approx(2)
    assert growth(rows[:1]) is None
    assert growth([*rows[:1], {"length": 40, "p50_seconds": None}]) is None


def test_milliseconds_have_three_digits():
    assert [milliseconds(s) for s in (0.0000123, 0.0123, 1.23456)] == ["0.0123", "12.3", "1,235"]
