import jax
import jax.numpy as jnp
import numpy as np

from echojax.models.dropout import dropout


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
