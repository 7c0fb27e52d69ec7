"""Activations in bfloat16: every model, and what stays float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from echojax.models import MODELS, mamba
from echojax.models.base import with_precision
from tests.models.promises import EVERY_MODEL, IDS, KEYS, LENGTHS, build


def encode(name, precision):
    """Return a function of the parameters, and the parameters."""
    options = {"layers": 1} if name in ("sasrec", "esasrec", "bert4rec", "fmlp-rec", "hstu") else {}
    if name in ("mamba4rec", "echomamba4rec"):
        options = {"scan": "sequential"}  # the quickest to compile
    graphdef, params = nnx.split(build(MODELS[name], dropout=0.1, **options))

    def vectors(params):
        model = with_precision(nnx.merge(graphdef, params), precision)
        return model.encode(IDS, LENGTHS, dropout_keys=KEYS)

    return vectors, params


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_bf16_is_used_and_close(name):
    vectors, params = encode(name, "bf16")
    assert "bf16" in str(jax.make_jaxpr(vectors)(params))
    exact, _ = encode(name, "float32")

    def loss(params):
        user_BxD = vectors(params).astype(jnp.float32)
        return jnp.sum(user_BxD * jnp.cos(jnp.arange(1.0 * user_BxD.shape[-1]))), user_BxD

    both = jax.jit(lambda params: (jax.grad(loss, has_aux=True)(params), exact(params)))
    (gradient, found), wanted = jax.device_get(both(params))
    assert np.linalg.norm(found - wanted) < 0.05 * np.linalg.norm(wanted)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert leaf.dtype == jnp.float32, path
        assert np.isfinite(leaf).all(), path


@pytest.mark.parametrize("name", ["mamba4rec", "echomamba4rec"])
def test_time_steps_and_decays_stay_float32(name, monkeypatch):
    seen = []
    for scan in ("selective_scan", "selective_scan_readout"):
        plain = getattr(mamba, scan)

        def spy(u, delta, A, *rest, plain=plain, **options):
            seen.append((u.dtype.name, delta.dtype.name, A.dtype.name))
            return plain(u, delta, A, *rest, **options)

        monkeypatch.setattr(mamba, scan, spy)
    vectors, params = encode(name, "bf16")
    jax.make_jaxpr(vectors)(params)
    assert seen
    assert set(seen) == {("bfloat16", "float32", "float32")}
