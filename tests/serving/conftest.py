"""A small run, trained once, for everything that uses a trained model."""

import numpy as np
import pytest
from rich.console import Console

from echojax.config import Config
from echojax.training.run import run
from tests.conftest import reporting


@pytest.fixture(scope="session")
def ring_run(tmp_path_factory):
    """Return the folder of a run on 60 users who walk around a ring of 30 items."""
    rng = np.random.default_rng(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in range(60):
        item = rng.integers(30)
        for time in range(rng.integers(8, 20)):
            item = (item + 1) % 30 if rng.random() < 0.9 else rng.integers(30)
            lines.append(f"u{user}\ti{item}\t{time}")
    folder = tmp_path_factory.mktemp("ring")
    (folder / "ring.inter").write_text("\n".join(lines) + "\n")
    titles = "".join(f"i{n}\tStop {n}\t{1990 + n}\n" for n in range(30))
    (folder / "ring.item").write_text(
        "item_id:token\tname:token_seq\trelease_year:token\n" + titles
    )
    config = Config(
        data_path=str(folder / "ring.inter"), d_model=8, d_state=4, max_len=8, batch_size=64,
        k_core=2, learning_rate=0.01, epochs=6, run_dir=str(folder / "run"),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        with reporting():
            run(config, Console(quiet=True))
        yield folder / "run"
