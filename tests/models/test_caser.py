"""Caser against its equations, and its promises."""

import numpy as np

from echojax.models.caser import Caser
from tests.models import float64_layers as layers
from tests.models.promises import CausalPromises


class TestCaser(CausalPromises):
    kind = Caser

    def encode(self, p, items):
        image = np.zeros((5, p["item_embedding"].shape[1]))
        newest = p["item_embedding"][items[-5:]]
        image[5 - len(newest) :] = newest
        found = []
        for height, filters in enumerate(p["heights"].values(), start=1):
            rows = [image[i : i + height].ravel() for i in range(5 - height + 1)]
            found.append(np.max([np.maximum(layers.linear(filters, row), 0) for row in rows], 0))
        found.append(layers.linear(p["vertical"], image.T).ravel())
        return np.maximum(layers.linear(p["dense"], np.concatenate(found)), 0)
