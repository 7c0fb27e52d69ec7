"""EchoMamba4Rec against its equations; what the corrected and the official model promise."""

import functools
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from echojax.errors import UserError
from echojax.models.echomamba4rec import VARIANTS, Components, Corrections, EchoMamba4Rec
from tests.models.float64_mamba import echomamba4rec
from tests.models.promises import (
    GAPS,
    HISTORIES,
    IDS,
    LENGTHS,
    CausalPromises,
    Promises,
    TimedCausalPromises,
    TimedPromises,
    build,
    by_name,
    float64,
)

OFFICIAL = VARIANTS["official"]
# Of what does not depend on the scan: this one is quick to compile.
SEQUENTIAL = functools.partial(EchoMamba4Rec, scan="sequential")


class Equations:
    """Those of a variant, for a test to inherit."""

    variant = "echojax"

    def encode(self, p, items, gaps=None):
        return echomamba4rec(p, items, 7, VARIANTS[self.variant], gaps)


class TestEchoMamba4Rec(Equations, Promises):
    """The corrected model, one layer."""

    kind = EchoMamba4Rec


@pytest.mark.slow  # the authors' own numbers are compared in tests/interop
class TestOfficial(Equations, Promises):
    """The authors' function."""

    variant = "official"
    kind = staticmethod(functools.partial(SEQUENTIAL, corrections=OFFICIAL))

    test_padding_and_columns_do_not_matter = None  # it reads what lies behind the end
    # What does not depend on the corrections is the corrected model's to promise.
    test_longer_histories_are_refused = None
    test_rows_do_not_meet_and_dropout_follows_each_ones_key = None


class TestCausal(Equations, CausalPromises):
    """The corrected model with a causal filter: every prefix in one pass."""

    variant = "causal"
    kind = staticmethod(functools.partial(SEQUENTIAL, corrections=VARIANTS["causal"]))


@pytest.mark.slow
class TestTimed(Equations, TimedPromises):
    kind = staticmethod(functools.partial(SEQUENTIAL, time_gaps=True))


class TestTimedCausal(Equations, TimedCausalPromises):
    variant = "causal"
    kind = staticmethod(
        functools.partial(SEQUENTIAL, corrections=VARIANTS["causal"], time_gaps=True)
    )


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ({"corrections": OFFICIAL}, "--time-gaps is for an EchoMamba4Rec that reads no padding"),
        ({"d_conv": 1}, "--time-gaps with a backward Mamba needs --d-conv 2 or more"),
    ],
)
def test_gaps_that_it_cannot_read_exactly_are_refused(sizes, why):
    with pytest.raises(UserError, match=why):
        EchoMamba4Rec(10, time_gaps=True, **sizes, rngs=nnx.Rngs(0))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("d_conv", "gaps"), [pytest.param(1, None, marks=pytest.mark.slow), (3, GAPS)]
)
def test_readouts_of_all_prefixes_have_the_gradients_of_each(d_conv, gaps):
    """Of a backward Mamba; what is around it is the same for one prefix and for all."""
    sizes = {"components": Components(filter=False), "d_state": 3, "d_conv": d_conv}
    graphdef, params = float64(SEQUENTIAL, time_gaps=gaps is not None, **sizes)
    mamba = nnx.merge(graphdef, params).layers[0].mambas[0].backward
    graphdef, params = nnx.split(mamba)
    rng = np.random.default_rng(2)
    x, weights = rng.normal(size=(2, *IDS.shape, 8))
    weights *= (np.arange(7) < LENGTHS[:, None])[..., None]
    rows, stops = np.nonzero(weights[..., 0])
    of_prefixes = None if gaps is None else gaps[rows]

    def at_once(params, x):
        mamba = nnx.merge(graphdef, params)
        return jnp.sum(weights * mamba.readout_of_prefixes(x, LENGTHS, gaps_BxL=gaps))

    def one_by_one(params, x):
        mamba, ends = nnx.merge(graphdef, params), stops + 1
        vectors = mamba.readout(x[rows], 0 * ends, ends, gaps_BxL=of_prefixes, reverse=True)
        return jnp.sum(weights[rows, stops] * vectors)

    ours, theirs = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1)))(params, x) for f in (at_once, one_by_one)
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-12), ours, theirs)


@pytest.mark.slow  # the fast tier has those of the backward Mamba, the part that differs
@pytest.mark.usefixtures("x64")
def test_all_positions_have_the_gradients_of_their_prefixes():
    kind = functools.partial(SEQUENTIAL, corrections=VARIANTS["causal"], d_state=3)
    graphdef, params = float64(kind, time_gaps=True, d_conv=3)
    weights = np.random.default_rng(2).normal(size=(*IDS.shape, 8))
    weights *= (np.arange(7) < LENGTHS[:, None])[..., None]
    rows, stops = np.nonzero(weights[..., 0])
    prefixes = np.where(np.arange(7) <= stops[:, None], IDS[rows], 0)

    def at_once(params):
        vectors = nnx.merge(graphdef, params).encode_all(IDS, LENGTHS, gaps_BxL=GAPS)
        return jnp.sum(weights * vectors)

    def one_by_one(params):
        model = nnx.merge(graphdef, params)
        vectors = model.encode(prefixes, stops + 1, gaps_BxL=GAPS[rows])
        return jnp.sum(weights[rows, stops] * vectors)

    ours, theirs = (jax.jit(jax.value_and_grad(f))(params) for f in (at_once, one_by_one))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-9, 1e-12), ours, theirs)


def test_what_reads_later_items_is_not_read_in_one_pass():
    with pytest.raises(ValueError, match="its filter changes every position"):
        build(EchoMamba4Rec).encode_all(IDS, LENGTHS)


SWITCHES = {
    "none": {},
    **{
        f.name: {"corrections": replace(Corrections(), **{f.name: not f.default})}
        for f in fields(Corrections)
    },
    **{
        f.name: {"components": replace(Components(), **{f.name: False})} for f in fields(Components)
    },
    "official": {"corrections": OFFICIAL},
    "no part": {"components": Components(*[False] * 3)},
    "none, even window": {"max_len": 8},
}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("off", SWITCHES)
def test_scores_of_two_layers_with_each_switch_turned_are_those_of_the_equations(off):
    """Operation by operation: few have to be compiled for one switch alone."""
    sizes = {"layers": 2, "max_len": 7, "d_state": 3, "scan": "sequential", **SWITCHES[off]}
    graphdef, params = float64(EchoMamba4Rec, **sizes)
    ours = nnx.merge(graphdef, params).encode(IDS, LENGTHS)
    p, corrections = by_name(params), sizes.get("corrections", Corrections())
    expected = [echomamba4rec(p, items, sizes["max_len"], corrections) for items in HISTORIES]
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)


def test_a_part_left_out_has_no_parameters():
    def parameters(**sizes):
        model = nnx.eval_shape(lambda: EchoMamba4Rec(10, **sizes, rngs=nnx.Rngs(0)))
        return sum(x.size for x in jax.tree.leaves(nnx.state(model)))

    for part in fields(Components):
        assert parameters(components=replace(Components(), **{part.name: False})) < parameters()


def test_depth_of_both_variants():
    def mambas(variant):
        sizes = {"layers": 3, "corrections": VARIANTS[variant]}
        model = nnx.eval_shape(lambda: EchoMamba4Rec(10, **sizes, rngs=nnx.Rngs(0)))
        return sum(len(layer.mambas) for layer in model.layers)

    assert mambas("echojax") == 3
    assert mambas("official") == 9


@pytest.mark.parametrize("variant", ["official", "echojax"])
def test_initial_values_are_those_of_the_authors_but_for_the_time_steps(variant):
    """The time steps' rank is 2, so that what is drawn for it has another bound than the taps."""
    model = EchoMamba4Rec(
        500, d_model=32, d_state=3, corrections=VARIANTS[variant], rngs=nnx.Rngs(0)
    )
    bounds = {"conv_kernel_KxE": 4**-0.5, "conv_bias_E": 4**-0.5}
    bounds |= {} if variant == "official" else {"dt_proj.kernel": 2**-0.5}
    rates_ExN = np.tile([1, 2, 3], (64, 1))
    for path, x in jax.tree.leaves_with_path(by_name(nnx.state(model))):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        bound = next((bound for end, bound in bounds.items() if name.endswith(end)), None)
        if name.endswith("dt_bias_E"):
            low, high = (np.log(2),) * 2 if variant == "official" else (1e-3, 0.1)
            steps = np.log1p(np.exp(x))
            assert low * 0.999 <= steps.min() <= steps.max() <= high * 1.001, name
        elif bound is not None:
            assert 0.9 * bound < np.abs(x).max() <= bound, name
        elif name.endswith("A_log_ExN"):
            np.testing.assert_allclose(np.exp(x), rates_ExN, rtol=1e-6)
        elif name.endswith(("D_E", "scale")):
            assert (x == 1).all(), name
        elif name.endswith(".bias"):
            assert (x == 0).all(), name
        else:
            np.testing.assert_allclose(np.std(x), 0.02, rtol=0.1, err_msg=name)
