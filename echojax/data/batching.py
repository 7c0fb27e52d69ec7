"""Shuffled batches of examples, by number, prepared in the background by grain.

Batch s is a pure function of (examples, batch size, seed, s). To resume, the number of the next
batch is enough: no state of an iterator has to be saved, and the number of processes that prepare
batches does not matter.
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
    """Return the images of positions under a permutation of 0..size-1 of this seed and epoch.

    The permutation is a Feistel network over the next power of two, applied again while the result
    is outside the range. It is computed for these positions only, for a whole batch at once.
    grain's own ``shuffle`` computes one example at a time in Python (8 us each, more than a GPU
    needs for its training step), and gives epoch e of seed s the order of epoch e-1 of seed s+1.

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

    It is a bijection (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195).
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
        """The number of batches in an epoch; the last one may be padded."""
        return -(-len(self.examples) // self.batch_size)

    def count(self, step: int) -> int:
        """Return the number of examples in batch ``step``, on all hosts together."""
        left = len(self.examples) - step % self.per_epoch * self.batch_size
        return min(self.batch_size, left)

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        """Return batch ``step`` (from 0, counted over all epochs).

        It has the arrays of the examples' ``gather``, and ``weights`` float32 (B,): 1 for an
        example, 0 for a filling row. A packed batch has the same events in fewer rows
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
    """The batches of several seeds, stacked: every array has a leading axis S."""

    parts: tuple[Batches, ...]  # one for each seed; they differ in the order only

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

    ``workers`` is the number of processes that make batches; with 0, a thread makes them. Each
    keeps ``prefetch`` batches ready. The iterator's ``close()`` stops its thread or processes.
    """
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    steps = grain.MapDataset.range(start_step, stop_step).map(source.__getitem__)
    batches = steps.to_iter_dataset(options)
    if workers:
        # grain's processes read absl flags, which nobody has parsed: this is no absl program.
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        batches = batches.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch),
            worker_init_fn=partial(_end_with, os.getpid()),
        )
    return iter(batches)


def _end_with(parent: int, worker: int, workers: int) -> None:
    """End this worker process when its parent is gone: a killed parent does not close it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
