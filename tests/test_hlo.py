"""Reading collectives from HLO text: loops, branches, tuples, asynchronous pairs, groups."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from echojax.hlo import Collective, collectives
from echojax.mesh import DATA, one_device

TEXT = """\
HloModule jit_f, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %x = f32[8]{0:T(8)} get-tuple-element(%p), index=1
  %gathered = f32[32]{0} all-gather(%x), replica_groups=[2,4]<=[8], dimensions={0}
  ROOT %pair = (s32[], f32[8]{0}) tuple(%i, %x)
}

%dear (p: bf16[4]) -> bf16[4] {
  ROOT %moved = bf16[4]{0} collective-permute(%p), source_target_pairs={{0,1},{1,0}}
}

%cheap (p: bf16[4]) -> bf16[4] {
  ROOT %p.1 = bf16[4]{0} parameter(0)
}

ENTRY %main (a: f32[3,5]) -> f32[3,5] {
  %a = f32[3,5]{1,0} parameter(0)
  %b = pred[] parameter(1)
  %p = bf16[4]{0} parameter(2)
  %start = ((f32[3,5]{1,0:T(8,128)}, pred[]), (f32[3,5]{1,0}, pred[])) all-reduce-start(%a, /*index=1*/%b), replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %done = (f32[3,5]{1,0}, pred[]) all-reduce-done(%start)
  %loop = (s32[], f32[8]{0}) while(%init), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"6"}}
  %unknown = (s32[], f32[8]{0}) while(%init), condition=%c, body=%body
  %one = bf16[4]{0} conditional(%b, %p, %p), branch_computations={%cheap, %dear}
  ROOT %part = f32[3]{0} reduce-scatter(%a), replica_groups={}, dimensions={0}, to_apply=%add
}
"""  # noqa: E501


def test_every_collective_of_a_text():
    assert collectives(TEXT, 8) == [
        Collective("start", "all-reduce", 61, 4, 1),
        Collective("gathered", "all-gather", 32, 4, 6),
        Collective("gathered", "all-gather", 32, 4, None),
        Collective("moved", "collective-permute", 8, 8, 1),
        Collective("part", "reduce-scatter", 60, 8, 1),
    ]


@pytest.mark.parametrize(
    ("kind", "wire"),
    [
        ("all-reduce", 150), ("all-gather", 300), ("reduce-scatter", 75), ("all-to-all", 75),
        ("collective-permute", 100),
    ],
)  # fmt: skip
def test_bytes_on_the_wire_of_a_ring_of_4(kind, wire):
    assert Collective("x", kind, 100, 4, 1).wire_bytes == wire


def test_what_this_compiler_writes_is_understood():
    def f(x):
        return jax.lax.psum(jnp.sin(x), DATA), jax.lax.all_gather(x, DATA)

    mapped = jax.shard_map(f, mesh=one_device(), in_specs=P(DATA), out_specs=P(), check_vma=False)
    text = jax.jit(mapped).lower(jnp.ones((4, 8))).compile().as_text()
    # On one device XLA may drop any of them.
    assert all(c.bytes == 128 and c.times == 1 for c in collectives(text, 1))
