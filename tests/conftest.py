"""Where the shared data and golden numbers are; tests that need them skip where they are not."""

import contextlib
import fcntl
import gc
import io
import logging
import os
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from echojax import compilation, losses, models
from echojax.command_line import _ConsoleHandler
from echojax.commands import main
from echojax.data import sources
from echojax.errors import UserError
from echojax.evaluation import metrics
from echojax.training import results, run

ROOT = Path(__file__).parent.parent
# Most of the tests' time is compilation, which takes a fraction of it without LLVM's optimisations
# and XLA's fusion emitters. Results up to rounding are the same; nothing here is timed in earnest.
FAST_TO_COMPILE = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # later releases know no such flag, and XLA ends the process
    FAST_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
if jax.__version_info__ >= (0, 12):  # earlier ones know no preset
    FAST_TO_COMPILE += " --xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE"
os.environ["XLA_FLAGS"] = f"{FAST_TO_COMPILE} {os.environ.get('XLA_FLAGS', '')}"
REPORTING = run.write_analysis, results.write_report
SHARED = Path(os.environ.get("ECHOJAX_SHARED", ROOT.parent / "shared"))
GOLDEN = Path(os.environ.get("ECHOJAX_GOLDEN", SHARED / "golden"))

SMALL = [
    "--d-model", "8", "--d-state", "4", "--max-len", "8", "--batch-size", "64",
    "--k-core", "2", "--learning-rate", "0.01", "--scan", "sequential",  # quick to compile
]  # fmt: skip

# The run that others, disturbed, must end like.
WHOLE = [*SMALL, "--epochs", "8", "--checkpoint-every", "8"]


def pytest_collection_modifyitems(items):
    """Begin with the longest, so that no worker is left alone with it in the end."""
    items.sort(key=lambda item: item.path.name != "test_devices.py")


def pytest_collection_finish():
    """Keep the garbage collector from what stays: it took a tenth of the time."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True)
def _logs_reach_caplog(monkeypatch):
    """Undo what a command that ran in this process has set (``log_to``)."""
    logger = logging.getLogger("echojax")
    monkeypatch.setattr(logger, "propagate", True)
    # Not by a list of the others: pytest adds its own handlers to this one, and removes them again.
    for handler in [one for one in logger.handlers if isinstance(one, _ConsoleHandler)]:
        logger.removeHandler(handler)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """Return a folder that all workers of a test run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def compiled_programs(shared_folder):
    """Share compiled programs between tests, workers and the processes that tests start.

    A folder in ``$JAX_COMPILATION_CACHE_DIR`` is used as it is, so that programs outlast a run.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(shared_folder / "programs"))
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    # Small programs are many: a process that reads them starts to compute seconds earlier.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    compilation_cache.reset_cache()
    jax.devices()  # JAX has started: no command that a test calls changes the number of devices


@pytest.fixture(scope="session")
def environment(compiled_programs, tmp_path_factory):
    """Return an environment with caches of its own and no way to a network."""
    nowhere = "http://127.0.0.1:9"
    return os.environ | {
        "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("caches")),
        "PIP_INDEX_URL": nowhere, "PIP_NO_INDEX": "1", "HTTPS_PROXY": nowhere, "COLUMNS": "100",
    }  # fmt: skip


@contextlib.contextmanager
def made_once(folder):
    """Let one worker fill a shared folder; the others wait for it.

    Gives whether it is still to be filled.
    """
    folder.mkdir(exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done"
        yield not done.exists()
        done.touch()


@pytest.fixture(scope="session")
def data_file(shared_folder):
    """Return a file of 60 users who walk around a ring of 30 items, with some noise; titles too."""
    folder = shared_folder / "ring"
    path = folder / "ring.inter"
    with made_once(folder) as wanted:
        if wanted:
            write_ring(path)
    return path


def write_events(path, rows):
    """Write rows of user, item and time in RecBole's format; return the path."""
    head = ("user_id:token", "item_id:token", "timestamp:float")
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in (head, *rows)))
    return path


def write_ring(path):
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        item = rng.integers(30)
        for time in range(rng.integers(8, 20)):
            item = (item + 1) % 30 if rng.random() < 0.9 else rng.integers(30)
            rows.append((f"u{user}", f"i{item}", time))
    write_events(path, rows)
    titles = "".join(f"i{n}\tStop {n}\t{1990 + n}\n" for n in range(30))
    path.with_suffix(".item").write_text(
        f"item_id:token\tname:token_seq\trelease_year:token\n{titles}"
    )


@pytest.fixture(scope="session")
def call(environment):
    """Return a function that calls a command in this process: (exit code, stdout, stderr).

    Of the environment only the caches and the network differ, as for a command that is started.
    """

    def call(*words, cwd=None):
        out, err, code = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["echojax", *map(str, words)])
            patch.setattr(compilation, "use_compilation_cache", lambda: None)
            for key, value in environment.items():
                patch.setenv(key, value)
            patch.chdir(cwd or ROOT)
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                try:
                    main()
                except SystemExit as stop:
                    code = stop.code or 0
        return code, out.getvalue(), err.getvalue()

    return call


def only_line(err):
    """Return the only line of what a command wrote to standard error: why it ended."""
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.fixture(scope="session")
def works(call):
    """Return a function that calls a command that ends well: what it printed."""

    def works(*words, cwd=None):
        code, out, err = call(*words, cwd=cwd)
        assert code == 0, err
        return out

    return works


@pytest.fixture(scope="session")
def mistake(call):
    """Return a function that calls a command that refuses its flags or files: the line on why."""

    def mistake(*words, cwd=None):
        code, _, err = call(*words, cwd=cwd)
        assert code == 2, err
        return only_line(err)

    return mistake


@contextlib.contextmanager
def refused(*says):
    """Expect a ``UserError`` inside, of one line that says all of this."""
    with pytest.raises(UserError) as caught:
        yield
    assert all(words in str(caught.value) for words in says), caught.value
    assert "\n" not in str(caught.value)


def without_report(folder):
    """Stand in for what draws a run's report."""
    return folder / "report.html"


@contextlib.contextmanager
def reporting(analyse=REPORTING[0], report=REPORTING[1]):
    """Let runs that end inside be analysed and reported, as a user's are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_analysis", analyse)
        patch.setattr(results, "write_report", report)
        yield


@pytest.fixture(scope="session", autouse=True)
def _without_reports():
    """Both are tested elsewhere, and take longer than training does here."""
    with reporting(lambda *of_run: None, without_report):
        yield


@pytest.fixture(scope="session")
def finished(works, data_file, shared_folder):
    """Return the folder of a run that ended undisturbed, and what it printed."""
    folder = shared_folder / "finished"
    run, printed = folder / "run", folder / "out.txt"
    with made_once(folder) as wanted:
        if wanted:
            with reporting():
                out = works("train", "--data-path", data_file, *WHOLE, "--run-dir", run)
            printed.write_text(out)
    return run, printed.read_text()


@pytest.fixture
def registries():
    """Forget afterwards what a test registers, and where plug-ins were looked for."""
    tables = (models.MODELS, losses.LOSSES, sources.DATASETS, metrics.REGISTERED)
    before, path = [dict(table) for table in tables], sys.path[:]
    yield
    for table, content in zip(tables, before, strict=True):
        table.clear()
        table.update(content)
    sys.path[:] = path


@pytest.fixture
def golden():
    """Return a function that loads a golden file by name, or skips the test."""

    def load(name: str) -> dict[str, np.ndarray]:
        path = GOLDEN / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"golden numbers not found: {path} (set $ECHOJAX_GOLDEN)")
        with np.load(path) as file:
            return dict(file)

    return load


@pytest.fixture
def real_data():
    """Return the folder of real data, or skip the test."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"real data not found: {folder} (set $ECHOJAX_SHARED)")
    return folder


@pytest.fixture
def x64():
    """Switch float64 on for one test, in all threads: callbacks run in XLA's."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)
