"""Small runs in this process: users who walk around a ring of 12 items, with some noise."""

import io
import logging

import numpy as np
import pytest
from rich.console import Console

from echojax.command_line import log_to
from echojax.config import Config
from echojax.training.run import run


@pytest.fixture(scope="session")
def make_ring(tmp_path_factory):
    """Return a function that writes the file of a ring and returns its path."""

    def write(users, in_order, seed):
        rng, lines = np.random.default_rng(seed), []
        for user in range(users):
            item = rng.integers(12)
            for _ in range(rng.integers(6, 14)):
                item = (item + 1) % 12 if rng.random() < in_order else rng.integers(12)
                lines.append(f"u{user} i{item}")
        path = tmp_path_factory.mktemp("data") / "ring.pairs"
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def train(data, folder, **options):
    """Train on a file; return what is printed."""
    out = io.StringIO()
    log_to(console := Console(file=out))
    logging.getLogger("echojax").propagate = True  # to caplog, too
    run(Config(data_path=str(data), run_dir=str(folder), **options), console)
    return out.getvalue()
