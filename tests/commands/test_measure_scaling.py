"""The page about scaling, in small: every case timed, bytes against arithmetic."""

import json
import subprocess
import sys

import pytest

from tests.commands.conftest import ROOT

SMALL = [
    "--model", "gru4rec", "--items", "31", "--large-items", "16", "--events", "6", "--d-model", "8",
    "--devices", "2", "--rows", "16", "--steps", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def written(environment, tmp_path_factory):
    """Return the folder, and scaling.json."""
    folder = tmp_path_factory.mktemp("scaling")
    process = subprocess.run(
        [sys.executable, ROOT / "experiments/measure_scaling.py", "--output", folder, *SMALL],
        env=environment, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return folder, json.loads((folder / "scaling.json").read_text())


def test_every_case_is_measured(written):
    times = written[1]["measured"]
    assert all(row["seconds"] > 0 for row in times)
    assert [(row["items"], row["devices"], row["rows"], row["item_shards"]) for row in times] == [
        (31, 1, 16, 1), (31, 2, 16, 1), (31, 1, 8, 1), (31, 2, 16, 1),
        (16, 2, 16, 1), (16, 2, 16, 2),
    ]  # fmt: skip


def test_exchanged_bytes_are_those_of_arithmetic(written):
    small, large, parts = (row for row in written[1]["exchanged"] if row["devices"] == 2)
    # GRU4Rec of width 8: a table of 8 numbers an item, and the same rest for both catalogues.
    rest = small["parameters"] - 8 * 31
    assert large["parameters"] == rest + 8 * 16
    for row, shared in ((small, rest + 8 * 31), (large, rest + 8 * 16), (parts, rest)):
        # float32 gradients of what both devices have; loss, weight; what their hosts ask.
        expected = 4 * shared + 4 + 4 + 4
        reduced = row["kinds"]["all-reduce"]
        assert reduced == {"bytes": expected, "wire_bytes": 2 * 1 / 2 * expected}
        assert row["arithmetic_bytes"] == expected
    assert set(small["kinds"]) == set(large["kinds"]) == {"all-reduce"}
    # Of 16 rows of 6 events: both devices need the rows of the items that the other asks for.
    asked = 4 * 16 * 6 * 8
    assert asked <= parts["kinds"]["reduce-scatter"]["bytes"] <= 1.4 * asked


def test_the_page_tells_it(written):
    folder, figures = written
    page = (folder / "scaling.md").read_text()
    assert "share these" in page
    assert f"{figures['exchanged'][1]['arithmetic_bytes']:,}" in page
    assert "--item-shards" in page
    assert (folder / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--devices", "3"], "--devices must be a power of two, not 3"),
        (["--large-items", "100"], "--large-items 100 is not a multiple of --devices 8"),
        (["--rows", "12"], "--rows 12 is not a multiple of --devices 8"),
        (["--output", "nowhere"], "--output nowhere is no folder"),
    ],
)
def test_bad_flags(command, flags, line):
    code, _, err = command("measure_scaling.py", *flags)
    assert code == 2
    assert err.startswith("error: ")
    assert line in err
    assert len(err.strip().splitlines()) == 1
