"""A seeded permutation of range(n) that is computed one index at a time, so that nothing of size n is ever held."""

from functools import lru_cache

import numpy as np

ROUNDS = 8
WORD = 2**64 - 1


def permute(i: int, n: int, key: tuple[int, ...]) -> int:
    """Where a permutation of range(n), 1 ≤ n < 2⁶⁴, puts i. Each `key` has a permutation of its own; keys are integers ≥ 0,
    equally many.

    A Feistel network (Luby and Rackoff 1988) on the smallest number of bits that hold n, at least 4; its rounds are
    SplitMix64's finaliser (Steele, Lea and Flood 2014). It is walked along its cycle until it is back in range(n): a
    bijection of the larger range is then one of the smaller (Black and Rogaway 2002, §4). From n = 9 on that is less
    than two walks on average.
    """
    if not 0 <= i < n:
        raise ValueError(f"{i} is outside of range({n})")
    bits = max((n - 1).bit_length(), 4)
    low = bits // 2
    masks = (2**low - 1, 2 ** (bits - low) - 1)
    while True:
        # An even number of rounds gives either half its own width back.
        left, right = i >> low, i & masks[0]
        for turn, round_key in enumerate(_round_keys(key)):
            mixed = right ^ round_key
            mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & WORD
            mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & WORD
            left, right = right, left ^ ((mixed ^ (mixed >> 31)) & masks[1 - turn % 2])
        i = left << low | right
        if i < n:
            return i


@lru_cache(maxsize=256)  # sources and lanes are in different epochs at one time
def _round_keys(key: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64).tolist())
