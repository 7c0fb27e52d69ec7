"""A mixing function on 64-bit words, for hashes and shuffles."""

import numpy as np


def mix64(x: np.ndarray) -> np.ndarray:
    """Return the finaliser of SplitMix64, uint64: every output bit depends on every input bit.

    A bijection (Steele, Lea and Flood 2014, doi:10.1145/2660193.2660195).
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
