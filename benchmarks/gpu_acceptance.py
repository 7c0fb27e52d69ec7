"""Acceptance test of the scan on an H100 or H200: python benchmarks/gpu_acceptance.py.

It runs `pytest -m gpu` (correctness), `benchmarks/scans.py` with mamba_ssm (times and memory), and
trainings with the scan that "auto" takes and with "tiled", each in its own process, and writes one
JSON file with all results. That takes about ten minutes; an unfinished file is continued. With
--before FOLDER it runs only the tests, and times the kernels before and after a change, in about
six minutes.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import harness
import scan_programs
import scan_report
import scans
from echojax.data import DATASETS
from echojax.errors import UserError
from echojax.evaluation.metrics import SHOWN
from echojax.files import read_json, read_record
from harness import NO_TIME, Row, Skipped, log
from selective_scan import implementations

_ROOT = Path(__file__).parent.parent
_TESTS = "tests/selective_scan/test_gpu.py"
_SHAPES = ("2048,50,128,32", "2048,200,128,32", "8,16384,2048,16")
# The seconds that each section may take.
_LIMITS = {
    "tests": 220,
    "after": 60,
    "before": 60,
    "scans": 180,
    "directions": 30,
    "training": 120,
}


@dataclass(frozen=True)
class Flags(harness.Flags):
    """Test, time and train with the scan on this machine's GPU; write one JSON file.

    The exit code is 1 if something failed, and 2 if nothing could be run.
    """

    data_dir: Path | None = None
    """Folder that holds ml-1m, to train on that data set, too."""
    before: Path | None = None
    """A clone of an earlier version: run the tests, and time the kernels of both versions only."""
    dry_run: bool = False
    """Run every section with tiny sizes, on any machine; without a GPU the tests are skipped."""


def main(flags: Flags) -> None:
    """Run the sections that have no rows yet."""
    if not flags.dry_run and (reason := implementations()["pallas_gpu"]) is not None:
        raise UserError(f"pallas_gpu {reason}; --dry-run runs every section with tiny sizes")
    source = DATASETS["ml-1m"]
    files = (*source.files, *(origin.file for origin in source.origins))
    if flags.data_dir is not None and not any((flags.data_dir / file).is_file() for file in files):
        raise UserError(f"--data-dir {flags.data_dir} holds no ml-1m; put {files[0]} there")
    script = "benchmarks/scans.py"
    if flags.before is not None and not (flags.before / script).is_file():
        raise UserError(f"--before {flags.before} holds no {script}; name a clone of this project")
    # Several processes share the GPU's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    settings = {"dry_run": flags.dry_run, "data": flags.data_dir is not None}
    settings |= {"before": flags.before is not None}
    others = [] if flags.before else scan_programs.torch_scans()
    with harness.record_of("gpu_acceptance", flags, settings, others=others) as record:
        if not record.of({"section": "tests", "name": "all"}):
            passed = {r["name"] for r in record.of({"section": "tests", "status": "passed"})}
            for row in run_tests(passed, flags):
                record.add({"section": "tests"} | row)
        for section in ("after", "before") if flags.before else ("scans", "directions"):
            if not record.of({"section": section, "name": "all"}):
                kept = [row for row in record.document.rows if row["section"] != section]
                record.document.rows = kept
                record.add(*run_scans(section, flags, record.path, bool(others)))
        cases: list[Row] = [{"section": "training", "dataset": "synthetic"}]
        cases += [{"section": "training", "dataset": "ml-1m"}] if flags.data_dir else []
        for case in [] if flags.before else record.missing(cases):
            with record.row(case) as row:
                row |= compare_training(case["dataset"], flags)
        failed = summary(record.document.rows)
    if failed:
        raise SystemExit(1)


def limit_of(section: str, flags: Flags) -> int:
    """Return the seconds that a section may take; a dry run may be on a slow machine, so more."""
    return _LIMITS[section] * (10 if flags.dry_run else 1)


def run_tests(passed: set[str], flags: Flags) -> Iterator[Row]:
    """Run the tests that have not passed yet, in parallel; yield a row when each has ended."""
    workers = ["-n", "1" if flags.dry_run else "8", "--dist", "load"]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", *workers, _TESTS]
    command += [word for name in sorted(passed) for word in ("--deselect", name)]
    # By default the tests set flags for fast compilation.
    environment = os.environ | {"XLA_FLAGS": "--xla_backend_optimization_level=3"}
    began = time.monotonic()
    command = ["timeout", str(limit_of("tests", flags)), *command]
    out, err = subprocess.PIPE, subprocess.STDOUT
    with subprocess.Popen(
        command, cwd=_ROOT, env=environment, text=True, stdout=out, stderr=err
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line.rstrip())
            if found := re.search(r"\] (PASSED|FAILED|ERROR|SKIPPED) (\S+::.+)", line):
                log.info(line.rstrip())
                status = {"ERROR": "failed"}.get(found[1], found[1].lower())
                yield {"name": found[2].strip(), "status": status, "reason": None}
    code, seconds = process.returncode, round(time.monotonic() - began, 1)
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if code == 124:  # ``timeout`` ended the command
        yield {"name": "all", "status": "skipped", "reason": NO_TIME, "seconds": seconds}
        return
    status, words = ("passed", None) if not code else ("failed", "; ".join(failures or lines[-3:]))
    yield {"name": "all", "status": status, "reason": words, "seconds": seconds}


def run_scans(section: str, flags: Flags, path: Path, torch: bool) -> list[Row]:
    """Run ``scans.py`` for a section, in its own process, and return its rows."""
    shapes = ("2,9,5,3",) if flags.dry_run else _SHAPES[: 1 if section == "directions" else None]
    words = [word for shape in shapes for word in ("--shape", shape)]
    words += ["--seconds", "0.01" if flags.dry_run else "0.3"]
    if section == "directions":
        words += ["--implementations", scan_programs.ONE_LAUNCH, scan_programs.TWO_LAUNCHES]
    elif section in ("after", "before"):
        words += ["--implementations", "tiled" if flags.dry_run else "pallas_gpu"]
    elif torch:
        words += ["--against", "torch"]
    out = path.with_name(f"{path.stem}-{section}.json")
    root = flags.before.resolve() if flags.before and section == "before" else _ROOT
    places = [str(root), str(root / "kernels"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, str(root / "benchmarks" / "scans.py"), *words]
    command += ["--out", str(out), "--time-limit", str(limit_of(section, flags))]
    code = subprocess.run(command, check=False, env=environment).returncode
    if code:
        reason = f"scans.py ended with {code}"
        return [{"section": section, "name": "all", "status": "failed", "reason": reason}]
    done = read_record(out, harness.Document)
    end = {"status": "measured", "reason": None}
    if not done.finished:
        end = {"status": "skipped", "reason": NO_TIME}
    rows = [{"section": section} | scans.held_to_tolerance(row) for row in done.rows]
    if section in ("after", "before"):  # so that the tables show both
        rows = [row | {"implementation": f"{row['implementation']}, {section}"} for row in rows]
    return [*rows, {"section": section, "name": "all"} | end]


def compare_training(dataset: str, flags: Flags) -> Row:
    """Train with both scans; the metrics of "auto" must lie in the intervals of "tiled"."""
    runs = {scan: train(dataset, scan, flags) for scan in ("auto", "tiled")}
    auto, tiled = runs["auto"], runs["tiled"]
    row: Row = {
        "speed_of_auto_over_tiled": auto["steps_per_second"] / tiled["steps_per_second"],
        "runs": runs,
    }
    outside = []
    for name in SHOWN:
        low, high = tiled["test"]["interval"][name]
        if not low <= auto["test"][name] <= high:
            outside.append(f"{name} {auto['test'][name]:.4f} not in [{low:.4f}, {high:.4f}]")
    return row | ({"status": "failed", "reason": "; ".join(outside)} if outside else {})


def train(dataset: str, scan: str, flags: Flags) -> Row:
    """Run ``train.py`` and return its speed and its test metrics."""
    words = ["--dataset", dataset, "--scan", scan, "--epochs", "2"]
    if flags.dry_run:
        words += ["--d-model", "8", "--d-state", "4", "--max-len", "6", "--max-steps", "3"]
    with tempfile.TemporaryDirectory() as folder:
        words += ["--run-dir", f"{folder}/run"]
        data_dir = flags.data_dir if dataset == "ml-1m" else None
        command = harness.train_command(data_dir, *words)
        limit = limit_of("training", flags)
        try:
            subprocess.run(command, check=True, timeout=limit, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            raise Skipped(NO_TIME) from None
        except subprocess.CalledProcessError as error:
            raise RuntimeError(f"train.py: {error.stderr.strip()}") from None
        results = read_json(Path(folder) / "run" / "results.json")
    run = results["train"]
    return {name: run[name] for name in ("steps", "epochs", "seconds", "examples_per_second")} | {
        "steps_per_second": run["steps"] / run["seconds"],
        "epoch_seconds": run["examples"] / run["examples_per_second"],
        "input_wait_share": run["input_wait_share"],
        "test": {name: results["test"][name] for name in (*SHOWN, "interval")},
    }


def summary(rows: Sequence[Row]) -> bool:
    """Print the times, the counts and the failures; return whether there are any."""
    for table in scan_report.tables([row for row in rows if "pass" in row]):
        harness.console.print(table.terminal())
    counts = Counter((row["section"], row["status"]) for row in rows)
    log.info("\n".join(f"{section} {status}: {n}" for (section, status), n in counts.items()))
    failed = [row for row in rows if row["status"] == "failed"]
    for row in failed:
        log.info(f"failed: {json.dumps({k: v for k, v in row.items() if isinstance(v, str)})}")
    return bool(failed)


if __name__ == "__main__":
    harness.run(Flags, main)
