"""Which items may be recommended: the whole catalogue, or what candidates and a filter leave."""

from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from echojax.errors import UserError
from echojax.serving.batches import power_of_two
from echojax.serving.item_ids import ItemIds, check_list

# A filter that a user gives: it is told an item's own id and says whether to recommend it.
Filter = Callable[[str], bool]


class Pool:
    """Items that may be recommended, as a catalogue of their own.

    Attributes:
        number_C: the items' numbers, int32, rising from padding's 0 in column 0.
        item_CxD: their vectors, filled up with padding to a power of two where it is a part.

    Args:
        item_VxD: the whole catalogue.
        numbers: those that may be recommended, int32, rising; ``None`` takes all.
    """

    def __init__(self, item_VxD: jax.Array, numbers: np.ndarray | None):
        if numbers is None:
            self._column_V = None
            self.number_C = np.arange(item_VxD.shape[0], dtype=np.int32)
            self.item_CxD = item_VxD
        else:
            self.number_C = np.append(np.int32(0), numbers)
            self._column_V = np.zeros(item_VxD.shape[0], np.int32)
            self._column_V[self.number_C] = np.arange(len(self.number_C))
            rows = np.zeros(power_of_two(len(self.number_C)), np.int32)
            rows[: len(self.number_C)] = self.number_C
            self.item_CxD = jnp.take(item_VxD, rows, axis=0)

    def columns(self, numbers: np.ndarray) -> np.ndarray:
        """Return where items stand in the pool; 0 where they are not in it."""
        return numbers if self._column_V is None else self._column_V[numbers]


def chosen(
    item_ids: ItemIds, candidates: Iterable[object] | None, keep: Filter | None
) -> np.ndarray | None:
    """Return the numbers that candidates and filter leave, rising; ``None`` where neither is given.

    Raises:
        UserError: nothing is left, or candidates are no list.
    """
    if candidates is None and keep is None:
        return None
    if candidates is None:
        numbers = np.arange(1, len(item_ids), dtype=np.int32)
    else:
        check_list("candidates", candidates)
        numbers = np.unique(item_ids.numbers(candidates)[0])
    if keep is not None:
        kept = [keep(item) for item in item_ids.ids(numbers)]
        numbers = numbers[np.array(kept, bool)]
    if not numbers.size:
        raise UserError("candidates and filter leave no item of the catalogue; widen them")
    return numbers
