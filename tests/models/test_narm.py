"""NARM against its equations, and its promises."""

import numpy as np

from echojax.models.narm import NARM
from tests.models import float64_layers as layers
from tests.models.promises import CausalPromises


class TestNARM(CausalPromises):
    kind = NARM

    def encode(self, p, items):
        h = layers.gru(p["gru"], p["item_embedding"][items])
        local = np.zeros(h.shape[1])
        for state in h:
            pair = layers.linear(p["a_1"], h[-1]) + layers.linear(p["a_2"], state)
            local += layers.linear(p["v"], layers.sigmoid(pair)) * state
        return layers.linear(p["b"], np.concatenate([local, h[-1]]))
