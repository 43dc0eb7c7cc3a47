"""The random streams of rendered pictures and simulated clicks, each with its number.

A picture or a click follows from `numpy.random.default_rng([seed, Stream.NAME, ...])` alone. Two
streams with different numbers share no draw, so that a change to one moves nothing in another.
"""

from enum import IntEnum


class Stream(IntEnum):
    """The number of each stream; what follows it in the stream's key is in brackets.

    A number in use never changes: prepared data and published results follow from it.
    """

    # rendering/products.py and rendering/parts.py: which products there are
    PRODUCT_ORDER = 1  # []
    PRODUCT_TRAITS = 2  # [product]
    PART_ORDER = 8  # []
    # rendering/shop_pictures.py and rendering/post_pictures.py: one picture
    SHOP_PICTURE = 3  # [domain, split, index]
    SUITE_PICTURE = 5  # [kind, split, index]
    # rendering/offer_pictures.py and rendering/offer_scenes.py: the catalogue's offers
    SUPPLIER_STYLE = 11  # [supplier]
    PRODUCT_OFFERS = 12  # [product]
    MAKER_PICTURE = 13  # [product]
    OFFER_PICTURE = 14  # [product, offer, 0 title or 1 scene or 2 camera]
    # datasets/derived.py: composites of pasted products
    PASTED_PRODUCTS = 30  # []
    PASTED_PICTURE = 31  # [index]
    # clicks/: the simulated shop and its shoppers
    CLICK_CATALOGUE = 20  # []
    CLICK_PAGES = 21  # []
    CLICK_VISITS = 22  # [first visit]
