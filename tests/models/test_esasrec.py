"""eSASRec against its equations, and its promises."""

from echojax.models.esasrec import ESASRec
from tests.models import float64_layers as layers
from tests.models.promises import CausalPromises


class TestESASRec(CausalPromises):
    kind = ESASRec

    def encode(self, p, items):
        x = p["item_embedding"][items] + p["position_LxD"][: len(items)]
        for layer in p["layers"].values():
            attention, ffn = layer["attention"], layer["ffn"]
            z = layers.layer_norm(attention["norm"], x, 1e-5)
            heads = layers.attend(attention, z, 1, causal=True)
            x = x + gate(attention, x) * layers.linear(attention["out"], heads)
            z = layers.layer_norm(ffn["norm"], x, 1e-5)
            inner = layers.silu(layers.linear(ffn["w_1"], z)) * layers.linear(ffn["w_3"], z)
            x = x + gate(ffn, x) * layers.linear(ffn["w_2"], inner)
        return x[-1]


def gate(p, x):
    return layers.sigmoid(layers.linear(p["gate"], x))
