"""Things of which a picture says little: parts that differ by a printed number or words only."""

import functools
from typing import NamedTuple

import numpy as np

from date_jax.data.rendering.silhouettes import Part, Silhouette, band, block, oval, polygon
from date_jax.data.streams import Stream

# As `silhouettes.CATEGORIES`: parts from back to front, and the disk of the printed number.
PARTS: dict[str, Silhouette] = {
    "bearing": Silhouette(
        (
            Part("metal", oval(0, 0, 1, 1)),
            Part("dark", band(0, 0, 0.62, 0.62, 0.14)),
            Part("light", oval(0, 0, 0.4, 0.4)),
        ),
        (0, -0.78, 0.24),
    ),
    "battery": Silhouette(
        (
            Part("metal", block(-0.18, -1, 0.18, -0.84, 0.04)),
            Part("dark", block(-0.5, -0.88, 0.5, 1, 0.1)),
            Part("metal", block(-0.5, -0.4, 0.5, 0.5)),
        ),
        (0, 0.05, 0.4),
    ),
    "cartridge": Silhouette(
        (
            Part("dark", block(-1, -0.5, 1, 0.5, 0.08)),
            Part("metal", block(-0.96, 0.3, 0.96, 0.46)),
            Part("light", block(-0.6, -0.36, 0.6, 0.2, 0.05)),
        ),
        (0, -0.08, 0.4),
    ),
    "bolt": Silhouette(
        (
            Part("metal", polygon((-0.5, -0.9), (0.5, -0.9), (0.62, -0.66), (0.5, -0.42),
                                  (-0.5, -0.42), (-0.62, -0.66))),
            Part("metal", block(-0.24, -0.42, 0.24, 1, 0.05)),
            *(Part("dark", block(-0.24, y, 0.24, y + 0.06)) for y in (0.1, 0.3, 0.5, 0.7)),
        ),
        (0, 0, 0),
    ),
    "cable": Silhouette(
        (
            Part("dark", band(0, 0, 0.7, 0.6, 0.2)),
            Part("metal", block(0.5, 0.3, 1, 0.56, 0.05)),
            Part("metal", block(-1, -0.56, -0.5, -0.3, 0.05)),
        ),
        (0, 0, 0),
    ),
    "filter": Silhouette(
        (
            Part("light", block(-0.7, -0.9, 0.7, 0.9, 0.1)),
            *(Part("metal", block(x, -0.7, x + 0.1, 0.7)) for x in (-0.5, -0.2, 0.1, 0.4)),
        ),
        (0, 0, 0),
    ),
}  # fmt: skip
NUMBERED = ("bearing", "battery", "cartridge")  # these have their number printed on them
MATERIALS = ("steel", "brass", "zinc", "nylon", "copper", "titanium", "rubber", "ceramic")
_SIZES = (30, 30, len(MATERIALS))


class Code(NamedTuple):
    """The code that tells a part from its kind: three words, or three parts of a number."""

    first: int
    second: int
    third: int

    def number(self) -> str:
        """The code as one printed number: "14-32c"."""
        return f"{self.first}-{self.second}{'abcdefgh'[self.third]}"

    def words(self) -> list[str]:
        """The code as words of a title: m14, 32 mm, zinc."""
        return [f"m{self.first}", f"{self.second} mm", MATERIALS[self.third]]


@functools.lru_cache(maxsize=4)
def _order(seed: int) -> np.ndarray:
    """The seed's order of all codes."""
    return np.random.default_rng([seed, Stream.PART_ORDER]).permutation(int(np.prod(_SIZES)))


def part_code(seed: int, number: int) -> Code:
    """The code of product `number`; two are equal only from the 7,200th product on."""
    # Neighbouring products have codes that have nothing in common.
    order = _order(seed)
    first, second, third = np.unravel_index(order[number % len(order)], _SIZES)
    return Code(10 + int(first), 10 + int(second), int(third))
