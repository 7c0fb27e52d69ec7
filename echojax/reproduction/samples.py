"""A few users of a data set, as a file of their own: a suite's quick data."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from echojax.data import load_dataset
from echojax.files import write_atomically
from echojax.reproduction.suite import Data


def write_sample(path: Path, data: Data, data_dir: str | None, say: Callable[[str], None]) -> None:
    """Draw users and write all their interactions, unless that has been done.

    The same users are drawn every time; 5-core and the rest of the preparation happen when the
    file is read.

    Args:
        path: the file, in RecBole's format.
        data: which data set, and how many users.
        data_dir: where the data set lies.
        say: prints one line.

    Raises:
        UserError: the data set is not to be had.
    """
    if path.exists():
        return
    assert data.sample_users is not None
    whole = load_dataset(data.flags["dataset"], data_dir=data_dir, k_core=0)
    count = min(data.sample_users, whole.num_users)
    users = np.sort(np.random.default_rng(0).choice(whole.num_users, count, replace=False))
    lines = ["user_id:token\titem_id:token\ttimestamp:float"]
    for user in users:
        events = slice(whole.offsets[user], whole.offsets[user + 1])
        for item, time in zip(whole.items_T[events], whole.times_T[events], strict=True):
            lines.append(f"{whole.user_ids[user]}\t{whole.item_ids[item]}\t{float(time)!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, "\n".join(lines) + "\n")
    say(f"{data.name}: {count} users of {data.flags['dataset']}, in {path}")
