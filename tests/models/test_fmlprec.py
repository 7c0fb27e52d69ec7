"""FMLP-Rec against its equations, and its promises."""

import numpy as np
import pytest

from echojax.models.fmlprec import FMLPRec
from tests.models import float64_layers as layers
from tests.models.promises import HISTORIES, IDS, LENGTHS, Promises, build


class TestFMLPRec(Promises):
    kind = FMLPRec

    def encode(self, p, items):
        before = self.max_len - len(items)
        x = np.vstack([np.zeros((before, 8)), p["item_embedding"][items]])
        x = layers.place(p["positions"], x)
        for layer in p["layers"].values():
            x[:before] = 0
            x = layers.feed_forward(layer["ffn"], layers.spectral_filter(layer["filter"], x))
        return x[-1]


@pytest.mark.slow  # the filter is EchoMamba4Rec's, which is compared in an even window
@pytest.mark.usefixtures("x64")
def test_even_windows_have_a_frequency_that_mirrors_itself():
    promises = TestFMLPRec()
    promises.max_len = 8
    promises.test_scores_and_their_gradient_are_those_of_the_equations()


def test_histories_end_where_the_window_ends():
    rolled = np.asarray(build(FMLPRec).arranged(IDS, LENGTHS)[0])
    assert rolled.tolist() == [[0] * (7 - len(items)) + items for items in HISTORIES]
