"""The compilation cache, by which a second start does not compile again, and signs of life."""

import logging
import os
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import jax

from echojax.errors import UserError
from echojax.files import cache_dir

log = logging.getLogger(__name__)


def use_compilation_cache() -> None:
    """Keep compiled programs in $JAX_COMPILATION_CACHE_DIR or the user's cache folder."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        with suppress(UserError):  # a user without a home, as in containers, compiles again
            jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # A cache that cannot be used, as on a full disk, only costs time. So does the truncated entry
    # of a killed process, which JAX does not replace, and whose name it does not report.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")


def compiler_options() -> dict[str, str | bool] | None:
    """Return the options that the programs of models are compiled with; ``None``: the defaults.

    XLA's CPU compiler halves AVX-512 vectors unless told not to, which costs a sixth of a Mamba.
    """
    wide: dict[str, str | bool] = {"xla_cpu_prefer_vector_width": "512"}
    return wide if jax.default_backend() == "cpu" else None


@contextmanager
def cache_hits() -> Iterator[list[str]]:
    """Give a list that grows with each program that comes from the cache inside."""
    hits: list[str] = []

    def note(event: str, **_: str | int) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            hits.append(event)

    jax.monitoring.register_event_listener(note)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(note)


@contextmanager
def still_compiling(every: float = 20.0) -> Iterator[None]:
    """Log every ``every`` seconds that what is compiled inside takes its time."""
    ended, began = threading.Event(), time.perf_counter()

    def remind() -> None:
        while not ended.wait(every):
            log.info(f"still compiling, for {time.perf_counter() - began:.0f} s now")

    thread = threading.Thread(target=remind, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
