"""Pictures that are the same, or nearly: scaled, encoded again, darker, or with a small mark.

A difference hash finds the pairs that may be near. A small colour copy decides, since products on
white look alike in grey. A picture that was cut anew is another one to both.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt64

from date_jax.data.survey.looks import Look
from date_jax.run.countdown import Countdown

# Of 128 bits. On 300 of our photos, encoding at quality 30 or half the size changed 8 in 99 of 100.
MAX_BITS = 14
# 1 - correlation of two small copies. Below it are 98 to 100 % of those photos encoded again, at
# half the size, darker or with a mark in the corner, and 5 of 5.5 million pairs of other pictures.
MAX_DISTANCE = 0.006
_BLOCK = 512  # pictures that are compared with all later ones at a time


def same_files(looks: Mapping[str, Look]) -> list[list[str]]:
    """The groups of names whose files are equal byte by byte, in order."""
    names_of = defaultdict(list)
    for name, look in looks.items():
        names_of[look.digest].append(name)
    return [names for names in names_of.values() if len(names) > 1]


def near_pairs(looks: Mapping[str, Look]) -> list[tuple[str, str]]:
    """The pairs of pictures that are nearly the same, the nearest first.

    Of files that are equal the first stands for all. Blank pictures are like all others of their
    kind, and are left out.
    """
    first = {look.digest: name for name, look in reversed([*looks.items()])}
    names = [name for name in looks if first[looks[name].digest] == name]
    names = [name for name in names if looks[name].fault != "blank"]
    if not names:
        return []
    hashes = np.stack([looks[name].difference_hash for name in names])
    small = np.stack([looks[name].small for name in names])
    links = _links(hashes, small)
    order = np.argsort(links.distances, kind="stable")
    return [(names[one], names[other]) for one, other in links.ends[order]]


class _Links(NamedTuple):
    """Pairs of rows that are near, and their distances."""

    ends: Int[np.ndarray, "L 2"]
    distances: Float[np.ndarray, " L"]


def _links(hashes: UInt64[np.ndarray, "N 2"], small: Float[np.ndarray, "N D"]) -> _Links:
    """The pairs of rows that are near, by hash and then by small copy."""
    ends, distances = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.float32)]
    countdown = Countdown("comparing pictures", len(hashes))
    for start in range(0, len(hashes), _BLOCK):
        # One word at a time, with later rows alone: a table of bits of all pairs would not fit.
        block = hashes[start : start + _BLOCK]
        bits = sum(
            np.bitwise_count(block[:, None, word] ^ hashes[None, start:, word])
            for word in range(hashes.shape[1])
        )
        one, other = np.nonzero(np.asarray(bits) <= MAX_BITS)
        is_later = other > one
        one, other = one[is_later] + start, other[is_later] + start
        # In pieces: a million candidates have three gigabytes of small copies.
        for piece in range(0, len(one), 1 << 16):
            part = slice(piece, piece + (1 << 16))
            distance = 1 - np.einsum("nd,nd->n", small[one[part]], small[other[part]])
            is_near = distance <= MAX_DISTANCE
            ends.append(np.stack([one[part], other[part]], 1)[is_near])
            distances.append(distance[is_near])
        countdown.at(min(start + _BLOCK, len(hashes)))
    return _Links(np.concatenate(ends), np.concatenate(distances))
