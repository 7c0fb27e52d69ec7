"""Mamba (Gu and Dao, 2023) in Flax NNX on ``selective_scan``, with the published weights.

    huggingface-cli download state-spaces/mamba-130m-hf --local-dir mamba-130m
    model = load("mamba-130m/model.safetensors")
    logits = model(ids)  # (B, L) -> (B, L, V)
    ids = generate(model, ids, 20)

It needs flax and safetensors. Dimension letters: B batch, L length, D model width, E channels, N
states per channel, K taps of the convolution, V vocabulary.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from safetensors.flax import load_file

from selective_scan import selective_scan, selective_scan_step


class State(NamedTuple):
    """The state of a block in decoding: the convolution's last inputs and the scan's state."""

    inputs_BxTxE: Array  # T = K - 1
    h_BxExN: Array


class MambaBlock(nnx.Module):
    """The block of section 3.4: projection, convolution, selective scan, gate, projection."""

    def __init__(
        self, d_model: int, d_inner: int, d_state: int, d_conv: int, rank: int, *, rngs: nnx.Rngs
    ):
        linear = partial(nnx.Linear, use_bias=False, rngs=rngs)
        self.in_proj = linear(d_model, 2 * d_inner)
        self.conv1d = nnx.Conv(
            *(d_inner, d_inner, d_conv),
            padding="CAUSAL",
            feature_group_count=d_inner,
            rngs=rngs,
        )
        self.x_proj = linear(d_inner, rank + 2 * d_state)
        self.dt_proj = nnx.Linear(rank, d_inner, rngs=rngs)
        self.A_log = nnx.Param(jnp.log(jnp.tile(jnp.arange(1.0, d_state + 1), (d_inner, 1))))
        self.D = nnx.Param(jnp.ones(d_inner))
        self.out_proj = linear(d_inner, d_model)

    def __call__(self, x_BxLxD: Array) -> Array:
        """Return the output at every position, (B, L, D)."""
        u_BxLxE, z_BxLxE = jnp.split(self.in_proj(x_BxLxD), 2, axis=-1)
        u_BxLxE = nnx.silu(self.conv1d(u_BxLxE))
        y_BxLxE = selective_scan(*self._inputs(u_BxLxE, z_BxLxE), delta_softplus=True)
        return self.out_proj(y_BxLxE)

    def start(self, batch: int) -> State:
        """Return the state before the first position."""
        d_inner, d_state = self.A_log.shape
        taps = self.conv1d.kernel.shape[0]
        return State(jnp.zeros((batch, taps - 1, d_inner)), jnp.zeros((batch, d_inner, d_state)))

    def step(self, state: State, x_BxD: Array) -> tuple[State, Array]:
        """Advance by one position; return the state after it, and its output (B, D)."""
        u_BxE, z_BxE = jnp.split(self.in_proj(x_BxD), 2, axis=-1)
        window_BxKxE = jnp.concatenate([state.inputs_BxTxE, u_BxE[:, None]], axis=1)
        u_BxE = jnp.einsum("bke,ke->be", window_BxKxE, self.conv1d.kernel[:, 0])
        u_BxE = nnx.silu(u_BxE + self.conv1d.bias[...])
        y_BxE, h_BxExN = selective_scan_step(
            state.h_BxExN, *self._inputs(u_BxE, z_BxE), delta_softplus=True
        )
        return State(window_BxKxE[:, 1:], h_BxExN), self.out_proj(y_BxE)

    def _inputs(self, u: Array, z: Array) -> tuple[Array, ...]:
        """Return the arguments of the scan for u and z, (..., E): delta, B and C depend on u."""
        rank, states = self.dt_proj.kernel.shape[0], self.A_log.shape[1]
        dt, B, C = jnp.split(self.x_proj(u), [rank, rank + states], axis=-1)
        delta = dt @ self.dt_proj.kernel[...]
        A = -jnp.exp(self.A_log[...])
        return u, delta, A, B, C, self.D[...], z, self.dt_proj.bias[...]


class Layer(nnx.Module):
    """A residual layer: x + mixer(norm(x))."""

    def __init__(self, d_model: int, *sizes: int, rngs: nnx.Rngs):
        self.norm = nnx.RMSNorm(d_model, epsilon=1e-5, rngs=rngs)
        self.mixer = MambaBlock(d_model, *sizes, rngs=rngs)


class Mamba(nnx.Module):
    """A language model whose output layer is tied to its embedding."""

    def __init__(self, vocabulary: int, layers: int, d_model: int, *sizes: int, rngs: nnx.Rngs):
        self.embeddings = nnx.Embed(vocabulary, d_model, rngs=rngs)
        self.layers = nnx.List([Layer(d_model, *sizes, rngs=rngs) for _ in range(layers)])
        self.norm_f = nnx.RMSNorm(d_model, epsilon=1e-5, rngs=rngs)

    def __call__(self, ids_BxL: Array) -> Array:
        """Return the logits of the next token at every position, (B, L, V)."""
        x_BxLxD = self.embeddings(ids_BxL)
        for layer in self.layers:
            x_BxLxD += layer.mixer(layer.norm(x_BxLxD))
        return self.embeddings.attend(self.norm_f(x_BxLxD))

    def start(self, batch: int) -> list[State]:
        """Return the state before the first token."""
        return [layer.mixer.start(batch) for layer in self.layers]

    def step(self, states: list[State], ids_B: Array) -> tuple[list[State], Array]:
        """Advance by one token, (B,); return the states, and the next one's logits (B, V)."""
        x_BxD, after = self.embeddings(ids_B), []
        for layer, state in zip(self.layers, states, strict=True):
            state, y_BxD = layer.mixer.step(state, layer.norm(x_BxD))
            x_BxD += y_BxD
            after.append(state)
        return after, self.embeddings.attend(self.norm_f(x_BxD))


@partial(nnx.jit, static_argnums=2)
def generate(model: Mamba, prompt_BxL: Array, count: int) -> Array:
    """Return ``count`` tokens by greedy decoding after a prompt, (B, L) -> (B, count)."""

    def read(states: list[State], ids_B: Array) -> tuple[list[State], Array]:
        states, logits_BxV = model.step(states, ids_B)
        return states, jnp.argmax(logits_BxV, axis=-1)

    def go_on(carry: Any, _: None) -> tuple[Any, Array]:
        states, ids_B = carry
        return read(states, ids_B), ids_B

    states, next_LxB = jax.lax.scan(read, model.start(len(prompt_BxL)), prompt_BxL.T)
    _, ids_CxB = jax.lax.scan(go_on, (states, next_LxB[-1]), None, length=count)
    return ids_CxB.T


def load(path: str | Path) -> Mamba:
    """Load a model from a file in Hugging Face's format, such as ``state-spaces/mamba-130m-hf``.

    Raises:
        ValueError: the file lacks a tensor, has one too many, or has one of another shape.
    """
    tensors = {name.removeprefix("backbone."): x for name, x in load_file(path).items()}
    head = tensors.pop("lm_head.weight", None)
    try:
        embedding = tensors["embeddings.weight"]
        d_inner, d_state = tensors["layers.0.mixer.A_log"].shape
        d_conv = tensors["layers.0.mixer.conv1d.weight"].shape[2]
        rank = tensors["layers.0.mixer.dt_proj.weight"].shape[1]
    except KeyError as missing:
        raise ValueError(
            f"{path} lacks {missing}; it is no Mamba in Hugging Face's format"
        ) from None
    if head is not None and not np.array_equal(head, embedding):
        raise ValueError(f"{path}: lm_head.weight is not the embedding; this model ties the two")
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
    sizes = (*embedding.shape[:1], layers, embedding.shape[1], d_inner, d_state, d_conv, rank)
    model = nnx.eval_shape(lambda: Mamba(*sizes, rngs=nnx.Rngs(0)))
    state = nnx.state(model, nnx.Param)
    params = {_name(path): param for path, param in nnx.to_flat_state(state)}
    if odd := params.keys() ^ tensors.keys():
        raise ValueError(f"{path}: {min(odd)} is missing, or one too many")
    for name, param in params.items():
        # Flax has a kernel's outputs as the last axis, the file as the first.
        array = tensors[name].T if name.endswith("weight") and "emb" not in name else tensors[name]
        if array.shape != param.shape:
            raise ValueError(f"{path}: {name} has shape {tensors[name].shape}")
        param.set_value(array)
    nnx.update(model, state)
    return model


def _name(path: tuple[Any, ...]) -> str:
    """Return a parameter's name in the file: kernels, scales and embeddings are "weight" there."""
    *names, last = map(str, path)
    return ".".join(
        [*names, {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(last, last)]
    )
