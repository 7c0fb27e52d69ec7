import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from echojax.models import MODELS
from echojax.models.layers import dropout, split_keys
from tests.models.promises import IDS, KEYS, LENGTHS, build


def test_mean_is_kept_and_the_rate_is_met():
    x = jnp.ones((200, 500))
    y = np.asarray(dropout(x, 0.2, jax.random.split(jax.random.key(0), 200)))
    assert abs((y == 0).mean() - 0.2) < 0.005
    assert abs(y.mean() - 1) < 0.005
    np.testing.assert_allclose(np.unique(y)[-1], 1.25, rtol=1e-4)


def test_off_without_key_or_rate():
    x = jnp.arange(6.0)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jax.random.split(jax.random.key(0), 6)) is x


# Of two layers where a model has layers; after the item table comes one draw for each of:
PLACES = {
    "echomamba4rec": 1 + 2 * len(["filter", "forward Mamba", "backward Mamba", "linear unit"]),
    "mamba4rec": 1 + 2 * len(["Mamba", "inside the feed-forward network", "after it"]),
    "sasrec": 1 + 2 * len(["attention", "feed-forward network"]),
    "bert4rec": 1 + 2 * len(["attention", "feed-forward network"]),
    "fmlp-rec": 1 + 2 * len(["filter", "feed-forward network"]),
    "hstu": 1 + 2 * len(["layer"]),
    "esasrec": 1 + 2 * len(["attention", "inside the feed-forward network", "after it"]),
    "gru4rec": 1,
    "narm": 1 + len(["both vectors"]),
    "caser": len(["both convolutions"]),
}


def draws(model, method, keys):
    """Return how often random bits are drawn in a pass."""
    encode = getattr(model, method)
    traced = jax.make_jaxpr(lambda keys: encode(IDS, LENGTHS, dropout_keys=keys))(keys)
    return str(traced).count("random_bits")


@pytest.mark.parametrize("name", MODELS)
def test_every_place_of_a_model_has_dropout_in_training_and_none_in_evaluation(name):
    sizes = {} if name in ("gru4rec", "narm", "caser") else {"layers": 2}
    model = build(MODELS[name], dropout=0.5, **sizes)
    for method in ("encode", "encode_all"):
        if method == "encode" or (hasattr(model, method) and name != "echomamba4rec"):
            assert draws(model, method, KEYS) == PLACES[name], method
            assert draws(model, method, None) == 0, method


@pytest.mark.parametrize("method", ["readout", "__call__"])
def test_each_direction_of_a_bidirectional_mamba_is_dropped(method):
    """With one direction's output 0, the other's alone depends on the keys."""
    mamba = build(MODELS["echomamba4rec"], dropout=0.5).layers[0].mambas[0]
    x = jax.random.normal(KEYS[0], (*IDS.shape, 8))

    @jax.jit
    def encode(forward, keys):
        loud = nnx.clone(mamba)
        loud.forward.out_proj.kernel[...] *= forward
        loud.backward.out_proj.kernel[...] *= 1 - forward
        return getattr(loud, method)(x, jnp.asarray(LENGTHS), dropout_keys=keys)

    for forward in (0.0, 1.0):
        first, same, other = (encode(forward, keys) for keys in (KEYS, KEYS, KEYS[::-1]))
        assert jnp.array_equal(first, same)
        assert (jnp.abs(first - other).reshape(len(IDS), -1).max(axis=1) > 1e-3).all()


def test_both_directions_of_a_bidirectional_mamba_have_masks_of_their_own():
    """Where their outputs are the same, the sum is twice one's but for dropout."""
    mamba = nnx.clone(build(MODELS["echomamba4rec"], dropout=0.5).layers[0].mambas[0])
    mamba.norm_backward = mamba.norm_forward
    x, out = jax.random.normal(jax.random.key(1), (2, len(IDS), 8))

    @jax.jit
    def sums(keys):
        both = mamba._sum(out, lambda _: out, x, keys)
        return both, 2 * mamba.norm_forward(dropout(out, 0.5, split_keys(keys, 2)[0]) + x)

    assert jnp.allclose(*sums(None), rtol=1e-5)
    assert (jnp.abs(jnp.subtract(*sums(KEYS))).max(axis=1) > 1e-3).all()
