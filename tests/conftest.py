"""Where the shared data and golden numbers are; tests that need them skip where they are not."""

import logging
import os
from pathlib import Path

import jax
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
# Most of the tests' time is compilation, which takes a fraction of it without LLVM's optimisations
# and XLA's fusion emitters. Results up to rounding are the same; nothing here is timed in earnest.
FAST_TO_COMPILE = "--xla_backend_optimization_level=0"
if jax.__version_info__ < (0, 11):  # later releases know no such flag, and XLA ends the process
    FAST_TO_COMPILE += " --xla_cpu_use_fusion_emitters=false"
os.environ["XLA_FLAGS"] = f"{FAST_TO_COMPILE} {os.environ.get('XLA_FLAGS', '')}"
SHARED = Path(os.environ.get("ECHOJAX_SHARED", ROOT.parent / "shared"))
GOLDEN = Path(os.environ.get("ECHOJAX_GOLDEN", SHARED / "golden"))


@pytest.fixture(autouse=True)
def _logs_reach_caplog(monkeypatch):
    """Undo what a command that ran in this process has set (``log_to``)."""
    monkeypatch.setattr(logging.getLogger("echojax"), "propagate", True)


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
