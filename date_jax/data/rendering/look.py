"""The numbers that make a domain what it is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """Everything that makes one domain easy or hard, and unlike the other.

    Lengths are fractions of the picture's side; blur is in pixels of a 64-pixel picture; pairs
    are ranges that are drawn from uniformly, other numbers are upper limits or probabilities.
    """

    count: tuple[int, int]  # products in a picture
    crowd: float  # the mean count lies this share of the way from the fewest to the most
    size: tuple[float, float]  # of a product
    shown_off: float  # the queried product is larger than the others, as a seller holds it up
    rotation: float  # degrees, either way
    shear: float
    margin: float  # kept free along the border
    cut: float  # how far a product's box may stand out of the picture, share of the box's side
    overlap: float  # of two products' boxes, share of the smaller one
    hard_negative: float  # a neighbour shares category or colour with the queried product
    mark_said: float  # the query names the printed mark
    own_words: float  # a word of the query is one that only this domain uses
    texture: float  # a textured ground (live)
    clutter: int  # things in the background that are no products
    banner: float  # each of banner, sticker, frame (mall); chat and LIVE badge (live)
    occlusion: float  # a hand reaches for one of the products
    shadow: float  # darkness of the shadow
    cast: float  # a channel's gain is 1 +- cast
    brightness: tuple[float, float]  # gain
    contrast: tuple[float, float]  # around the picture's mean
    blur: tuple[float, float]  # sigma
    noise: tuple[float, float]  # sigma, levels of 255
