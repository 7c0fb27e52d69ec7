"""Programs from the cache are told from those that are compiled."""

import os
import random
import subprocess
import sys
import time
import warnings
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from echojax import compilation
from echojax.compilation import cache_hits, still_compiling


def test_cache_hits():
    number = random.random()  # of a program that no earlier run has left
    found = []
    for _ in range(2):
        with cache_hits() as hits:
            jax.jit(lambda x: jnp.sin(x) + number).lower(np.ones(3)).compile()
        found.append(len(hits))
    assert found == [0, 1]


def test_a_long_compilation_shows_signs_of_life(caplog):
    """It is one call into XLA, in which other threads go on."""
    program = jax.jit(lambda x: sum(jnp.sin(x + random.random()) @ x for _ in range(60)))
    lowered = program.lower(np.ones((3, 3)))
    with caplog.at_level("INFO", "echojax"), still_compiling(every=0.01):
        lowered.compile()
    said = [one.getMessage() for one in caplog.records]
    assert said
    assert all(line.startswith("still compiling, for 0 s") for line in said[:3])
    with caplog.at_level("INFO", "echojax"):
        time.sleep(0.03)
    assert len(caplog.records) == len(said)


CACHED = """
import jax
import numpy as np
from echojax.compilation import use_compilation_cache

use_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(jax.jit(lambda x: x + 17)(np.ones(3)))
"""


def test_a_truncated_entry_is_compiled_again_without_a_word(tmp_path):
    """A command that is killed while JAX writes one leaves it so; JAX never writes it again."""
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    for start in range(2):
        found = subprocess.run(
            [sys.executable, "-c", CACHED],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (found.stdout, found.stderr) == ("[18. 18. 18.]\n", "")
        for entry in tmp_path.glob("*-cache"):
            if not start:
                entry.write_bytes(entry.read_bytes()[: entry.stat().st_size // 2])
    assert [*tmp_path.glob("*-cache")]


def test_a_cache_that_cannot_be_used_is_no_warning(monkeypatch):
    config = SimpleNamespace(update=lambda name, value: None)
    monkeypatch.setattr(compilation, "jax", SimpleNamespace(config=config))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compilation.use_compilation_cache()
        warnings.warn("Error writing persistent compilation cache entry for 'x'", stacklevel=1)
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", stacklevel=1)
