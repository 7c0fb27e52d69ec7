"""EchoMamba4Rec with the GPU kernels against the same model with "fused"."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from echojax.config import Config
from echojax.gpu.against_oracle import judged, relative_error
from echojax.gpu.record import Row, Task
from echojax.models import build_model, with_sizes

_ITEMS = 300
# Between two float32 computations of several layers each; looser than for one scan.
_TOLERANCE = 1e-4


def model_checks(*, rehearse: bool) -> Iterator[Task]:
    """Return a check of each variant: vectors of users, gradients of all parameters."""
    sizes: dict[str, Any] = {"max_len": 50, "layers": 2}
    if rehearse:
        sizes = {"max_len": 6, "layers": 1, "d_model": 8, "d_state": 4}
    variants: tuple[Literal["echojax", "official"], ...] = ("echojax", "official")
    for variant in variants[:1] if rehearse else variants:
        config = with_sizes(Config(dropout=0.0, variant=variant, **sizes))
        yield f"EchoMamba4Rec, {variant}", partial(check_model, config, rows=64)


def check_model(config: Config, rows: int) -> Row:
    """Compare vectors and gradients of the model with either scan."""
    assert config.max_len is not None
    assert config.d_model is not None
    rng = np.random.default_rng(0)
    lengths_B = rng.integers(1, config.max_len + 1, rows)
    ids_BxL = rng.integers(1, _ITEMS, (rows, config.max_len))
    ids_BxL[np.arange(config.max_len) >= lengths_B[:, None]] = 0
    weights_BxD = rng.normal(size=(rows, config.d_model)).astype(np.float32)
    fused, params = nnx.split(build_model(dataclasses.replace(config, scan="fused"), _ITEMS))
    kernels = nnx.graphdef(
        nnx.eval_shape(lambda: build_model(dataclasses.replace(config, scan="pallas_gpu"), _ITEMS))
    )
    found, wanted = (
        _results(graphdef, params, ids_BxL, lengths_B, weights_BxD) for graphdef in (kernels, fused)
    )
    errors = {name: relative_error(x, wanted[name]) for name, x in found.items()}
    return judged(errors, _TOLERANCE)


def _results(
    graphdef: nnx.GraphDef,
    params: nnx.State,
    ids_BxL: np.ndarray,
    lengths_B: np.ndarray,
    weights_BxD: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return the users' vectors and the gradient of each parameter by name."""

    def loss(params: nnx.State) -> tuple[jax.Array, jax.Array]:
        user_BxD = nnx.merge(graphdef, params).encode(ids_BxL, lengths_B)
        return jnp.sum(user_BxD * weights_BxD), user_BxD

    # GPUs round the factors of float32 products to ten bits unless told not to.
    with jax.default_matmul_precision("highest"):
        gradients, user_BxD = jax.jit(jax.grad(loss, has_aux=True))(params)
    named = {
        "gradient of " + ".".join(map(str, path)): np.asarray(x[...], np.float64)
        for path, x in nnx.to_flat_state(gradients)
    }
    return {"user": np.asarray(user_BxD, np.float64)} | named
