"""Programs from the cache are told from those that are compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from echojax.compilation import cache_hits

SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}


@pytest.fixture
def empty_cache(tmp_path):
    before = {name: getattr(jax.config, name) for name in (*SETTINGS, "jax_compilation_cache_dir")}
    for name, value in {**SETTINGS, "jax_compilation_cache_dir": str(tmp_path)}.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def test_cache_hits(empty_cache):
    found = []
    for _ in range(2):
        with cache_hits() as hits:
            jax.jit(lambda x: jnp.sin(x) + 17).lower(np.ones(3)).compile()
        found.append(len(hits))
        jax.clear_caches()
    assert found == [0, 1]
