"""The compilation cache: a second start does not compile again."""

import os
from pathlib import Path

import jax


def use_compilation_cache() -> None:
    """Keep compiled programs in $JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "echojax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
