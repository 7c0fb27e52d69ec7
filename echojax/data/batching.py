"""Shuffled batches of examples on grain, reachable by number.

Batch s is a pure function of (examples, batch size, seed, s). A resume is therefore an index: no
iterator state has to be saved, and it does not matter how many processes prepared the batches.
"""

import os
import threading
import time
from dataclasses import dataclass
from functools import partial

import grain
import numpy as np
from absl import flags

from echojax.data.examples import Examples, Windows
from echojax.data.packing import packed

_ROUNDS = 6


def shuffled(positions: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Return where a permutation of 0..size-1, chosen by seed and epoch, sends positions.

    A Feistel network over the next power of two, walked again while it leaves the range. Only
    the asked positions are computed, whole batches at once; grain's own ``shuffle`` computes one
    example at a time in Python (8 us each, more than a GPU needs for its training step) and
    gives epoch e of seed s the order of epoch e-1 of seed s+1.

    ``positions`` are int (B,) in 0..size-1.
    """
    bits = max(1, (size - 1).bit_length())
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << bits // 2) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    keys = np.random.SeedSequence([seed, epoch]).generate_state(_ROUNDS, np.uint64)
    result = positions.astype(np.uint64)
    outside = np.arange(result.size)
    while outside.size:
        high, low = result[outside] >> low_bits, result[outside] & low_mask
        for key_high, key_low in keys.reshape(-1, 2):
            high ^= _mix64(low ^ key_high) & high_mask
            low ^= _mix64(high ^ key_low) & low_mask
        result[outside] = (high << low_bits) | low
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def _mix64(x: np.ndarray) -> np.ndarray:
    """Return the finaliser of SplitMix64, uint64: every output bit depends on every input bit.

    A bijection (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195).
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Batches:
    """All batches of all epochs, by number; every epoch shows each example once."""

    examples: Examples | Windows
    batch_size: int  # rows B of every batch
    seed: int  # determines the order
    # The rows of each batch that this host makes, for its own devices; ``None``: all. Rows from
    # ``batch_size`` on are filling, so that every device has the same number of rows.
    rows: range | None = None
    # How many of these rows, those of one device, are packed together; only for ``Windows``.
    # ``None``: they are not packed.
    pack: int | None = None

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch; the last may be padded."""
        return -(-len(self.examples) // self.batch_size)

    def count(self, step: int) -> int:
        """Return how many examples batch ``step`` has, on all hosts."""
        left = len(self.examples) - step % self.per_epoch * self.batch_size
        return min(self.batch_size, left)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Return batch ``step`` (from 0, counted over all epochs).

        It has what the examples' ``gather`` gives, and ``weights`` float32 (B,): 1 for an example,
        0 for a row that only fills up. Where they are packed, it has the same events in fewer rows
        (``packing.packed``).
        """
        epoch, number = divmod(step, self.per_epoch)
        rows = np.array(range(self.batch_size) if self.rows is None else self.rows)
        positions = number * self.batch_size + rows
        real = (positions < len(self.examples)) & (rows < self.batch_size)
        # A filling row repeats the epoch's first example: harmless, and its weight is 0.
        indices = shuffled(np.where(real, positions, 0), len(self.examples), self.seed, epoch)
        batch = self.examples.gather(indices) | {"weights": real.astype(np.float32)}
        if self.pack is None:
            return batch
        parts = [
            packed({name: x[first : first + self.pack] for name, x in batch.items()})
            for first in range(0, rows.size, self.pack)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@dataclass(frozen=True)
class StackedBatches:
    """The batches of several seeds side by side: every array has a leading axis S."""

    parts: tuple[Batches, ...]  # one for each seed, alike but for the order

    @property
    def batch_size(self) -> int:
        """Rows B of a batch of one seed."""
        return self.parts[0].batch_size

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch."""
        return self.parts[0].per_epoch

    def count(self, step: int) -> int:
        """Return how many examples batch ``step`` of a seed has, on all hosts."""
        return self.parts[0].count(step)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Return batch ``step`` of every seed, (S, B, ...)."""
        rows = [part[step] for part in self.parts]
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def iterate(
    source: Batches | StackedBatches,
    start_step: int = 0,
    stop_step: int = 1 << 62,
    *,
    workers: int = 0,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """Return an iterator over batches from ``start_step`` on, prepared in the background.

    ``workers`` are processes that make batches; 0 makes them in a thread of this one. Each holds
    ``prefetch`` batches ready. ``close()`` of the iterator stops its thread or processes.
    """
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    steps = grain.MapDataset.range(start_step, stop_step).map(source.__getitem__)
    batches = steps.to_iter_dataset(options)
    if workers:
        # grain's processes read absl flags, which only absl.app.run would have parsed.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch),
            worker_init_fn=partial(_end_with, os.getpid()),
        )
    return iter(batches)


def _end_with(parent: int, worker: int, workers: int) -> None:
    """End this worker when its parent process is gone: one that is killed closes nothing."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
