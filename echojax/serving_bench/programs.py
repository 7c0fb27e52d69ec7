"""A case made ready to be timed: compiled, its memory known, before anything runs."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.serving.streaming import Stream, StreamState
from echojax.serving.top_k import top_k
from echojax.serving_bench.models import ITEMS, make_model
from echojax.serving_bench.settings import Case

WIDTH = 64  # of the vectors searched
BEST = 16  # how many are searched for, as Recommender does for k = 10
EXCLUDED = 64  # items of the history left out of the search


class Program(NamedTuple):
    """What is run again and again.

    Attributes:
        prepare: makes the arguments of a run; not timed.
        run: computes everything and waits for it.
        compile_seconds: tracing and compiling.
        memory_bytes: arguments, outputs and temporary arrays, where the compiler tells.
    """

    prepare: Callable[[], tuple[Any, ...]]
    run: Callable[..., Any]
    compile_seconds: float
    memory_bytes: int | None


def make_program(case: Case) -> Program:
    """Return the program of a case; nothing of it has run yet."""
    return {"encode": _encode, "event": _event, "top-k": _search}[case.kind](case)


def expected_bytes(case: Case) -> int:
    """Return what a case's inputs will take, where they are large."""
    return 0 if case.catalogue is None else 2 * 4 * WIDTH * case.catalogue


def _encode(case: Case) -> Program:
    assert case.model is not None
    assert case.length is not None
    graphdef, params = nnx.split(make_model(case.model, case.length))
    rng = np.random.default_rng(0)
    item_ids_BxL = rng.integers(1, ITEMS, (case.batch, case.length), np.int32)
    lengths_B = np.full(case.batch, case.length, np.int32)

    def encode(params: nnx.State, item_ids_BxL: jax.Array, lengths_B: jax.Array) -> jax.Array:
        return nnx.merge(graphdef, params).encode(item_ids_BxL, lengths_B)

    return _compiled(jax.jit(encode), lambda: (params, item_ids_BxL, lengths_B))


def _event(case: Case) -> Program:
    assert case.model is not None
    assert case.length is not None
    stream = Stream(make_model(case.model, case.length))
    item_B = np.random.default_rng(0).integers(1, ITEMS, case.batch, np.int32)
    nearly_full_B = jnp.full(case.batch, case.length - 1, jnp.int32)

    def prepare() -> tuple[StreamState, np.ndarray]:
        state = stream.start(case.batch)
        if state.count_B is not None:  # the window's last place is free
            state = state._replace(count_B=jnp.copy(nearly_full_B))
        return jax.block_until_ready(state), item_B

    return _compiled(jax.jit(stream.add, donate_argnums=0), prepare)


def _search(case: Case) -> Program:
    assert case.catalogue is not None
    keys = jax.random.split(jax.random.key(0), 2)
    normal = jax.jit(jax.random.normal, static_argnums=1)
    item_VxD = normal(keys[0], (case.catalogue, WIDTH))
    user_BxD = np.asarray(normal(keys[1], (case.batch, WIDTH)))
    excluded_BxS = np.random.default_rng(0).integers(
        1, case.catalogue, (case.batch, EXCLUDED), np.int32
    )
    num_items = np.int32(case.catalogue)
    search = jax.jit(top_k, static_argnames="k")
    return _compiled(search, lambda: (user_BxD, item_VxD, excluded_BxS, num_items), k=BEST)


def _compiled(function: Any, prepare: Callable[[], tuple[Any, ...]], **fixed: Any) -> Program:
    began = time.perf_counter()
    compiled = function.lower(*prepare(), **fixed).compile()
    seconds = time.perf_counter() - began
    analysis = compiled.memory_analysis()
    memory = None
    if analysis is not None:
        memory = int(
            analysis.argument_size_in_bytes
            + analysis.output_size_in_bytes
            + analysis.temp_size_in_bytes
            - analysis.alias_size_in_bytes
        )
    return Program(
        prepare, lambda *arguments: jax.block_until_ready(compiled(*arguments)), seconds, memory
    )
