"""Offers and pairs of them from a table of photos, by product and by the words of the titles.

    python -m date_jax.data.photo_offers --path=photos.jsonl --domain=mall \
        --out=offers.jsonl --pairs=pairs.csv

writes the two files that configs/same_style.py:files reads. Rows of one split show the same product

    by product_id   where a product has several pictures in the split
    by title        else, where their category is the same and their words are alike: colours, sizes
                    and numbers apart, the share of words that both titles have is --share or more

Of the second kind a group has a first row, and each further one is like that row, so that no chain
of small changes joins different products. Such groups are a style more than a product.
"""

import argparse
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from date_jax.data import command
from date_jax.data.conversion.picture_files import relative_name
from date_jax.data.files.annotations import Row, annotations
from date_jax.errors import DataError, UsageError, spelling_hint

_COLOURS = (
    "beige black blue bronze brown burgundy charcoal coffee copper coral cream cyan dark fuchsia "
    "gold golden gray green grey indigo ivory khaki lavender light lime magenta maroon mauve mint "
    "multi multicolor multicolored multicolour multicoloured mustard navy nude olive orange peach "
    "pink plum purple red rose rust salmon sand silver tan taupe teal turquoise violet white yellow"
)
_SIZES = "large medium mini small big xs s m l xl xxl xxxl cm ml"
# Words that tell offers of one style apart.
VARIANTS = frozenset((*_COLOURS.split(), *_SIZES.split()))


def main(arguments: Sequence[str]) -> int:
    """Writes the offers and their pairs; returns the exit code."""
    parser = command.Parser("photo_offers", __doc__)
    parser.add_argument("--path", type=Path, required=True, help="the .jsonl or .csv file")
    parser.add_argument("--out", type=Path, required=True, help="the offers to write, .jsonl")
    parser.add_argument("--pairs", type=Path, required=True, help="the pairs to write, .csv")
    parser.add_argument("--domain", default="", help="of the rows that are offers; default: all")
    parser.add_argument("--share", type=float, default=0.6, help="of words in common; 1 = all")
    parser.add_argument("--without", default="", help="further words that do not count, by commas")
    return command.run(parser, arguments, write_offers, interrupted="start again")


def write_offers(options: argparse.Namespace) -> None:
    """Writes the offers and their pairs, as the command's flags say.

    Raises:
        DataError: the table is malformed, or no two of its rows make a pair to train on.
        UsageError: a flag's value cannot be.
    """
    for flag, path, ending in (("out", options.out, ".jsonl"), ("pairs", options.pairs, ".csv")):
        if path.suffix.lower() != ending:
            raise UsageError(f"--{flag}={path}: expected a name that ends in {ending}")
    if not 0 < options.share <= 1:
        raise UsageError(f"--share={options.share:g}: expected a number above 0, at most 1")
    rows = annotations(options.path)
    domains = {row.domain for row in rows}
    if options.domain and options.domain not in domains:
        raise UsageError(
            f"--domain={options.domain}: no row of {options.path} has it"
            f"{spelling_hint(options.domain, domains)}; it has {', '.join(sorted(domains))}"
        )
    rows = [row for row in rows if options.domain in ("", row.domain)]
    # A search needs to know what is right: each offer gets the number of its group.
    without = VARIANTS | {*words(options.without)}
    numbers = same_style_numbers(rows, share=options.share, without=without)
    pairs = number_pairs(numbers)
    if not any(rows[pair[0]].split == "train" for pair in pairs):
        raise DataError(
            f"{options.path}: no two training rows are alike\n"
            "  a lower --share takes less for alike; products with several pictures are pairs too"
        )
    _write_files(rows, numbers, pairs, options.path.parent, options.out, options.pairs)
    counts = {
        split: (
            sum(row.split == split for row in rows),
            sum(rows[one].split == split for one, _ in pairs),
        )
        for split in ("train", "val", "test")
    }
    listed = ", ".join(f"{name} {size:,} ({count:,})" for name, (size, count) in counts.items())
    print(f"{options.out}: {len(rows):,} offers (pairs): {listed}")


def words(title: str) -> frozenset[str]:
    """The words of a title, in small letters, without numbers and a plural's or a genitive's s.

    >>> sorted(words("Nike Men's T-Shirts 3 Stripe"))
    ['men', 'nike', 'stripe', 'tshirt']
    """
    title = re.sub(r"['’]s\b", "", title.lower()).replace("t-shirt", "tshirt")
    singular = (re.sub(r"(?<=..)s$", "", word) for word in re.findall(r"\w+", title))
    return frozenset(word for word in singular if not word.isdecimal())


def same_style_numbers(
    rows: Sequence[Row], *, share: float, without: frozenset[str] = VARIANTS
) -> list[int]:
    """The number of each row's group: rows of one group show the same product or style.

    Args:
        rows: of the table, in its order.
        share: of words in common, of all words of both titles, from which titles are alike.
        without: words that do not count.

    Returns:
        The place of the first row of the group.
    """
    # Products that have several pictures in a split are known; their titles decide nothing.
    places_of = defaultdict(list)
    for place, row in enumerate(rows):
        places_of[row.split, row.product_id].append(place)
    numbers = list(range(len(rows)))
    by_product: set[int] = set()
    for places in places_of.values():
        if len({rows[place].image for place in places}) > 1:
            by_product.update(places)
            for place in places:
                numbers[place] = places[0]
    # The others join the first rows of their category that are most like them.
    firsts = defaultdict[tuple[str, str], list[tuple[int, frozenset[str]]]](list)
    for place, row in enumerate(rows):
        title = words(row.text) - without
        if place in by_product or not title:
            continue
        leaders = firsts[row.split, row.category]
        likeness = [(len(title & other) / len(title | other), -first) for first, other in leaders]
        best, first = max(likeness, default=(0.0, 0))
        if best >= share:
            numbers[place] = -first
        else:
            leaders.append((place, title))
    return numbers


def number_pairs(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """The pairs of places with the same number, the smaller place first."""
    places_of = defaultdict(list)
    for place, number in enumerate(numbers):
        places_of[number].append(place)
    return [pair for places in places_of.values() for pair in itertools.combinations(places, 2)]


def _write_files(
    rows: Sequence[Row],
    numbers: Sequence[int],
    pairs: Sequence[tuple[int, int]],
    folder: Path,
    out: Path,
    pairs_out: Path,
) -> None:
    """Writes the offers and their pairs.

    Args:
        folder: that the rows' pictures are relative to.
    """
    # By the lines of the table, so that an offer can be looked up there.
    ids = [f"line{row.line}" for row in rows]
    offers = [
        {
            "offer_id": ids[place],
            "title": row.text,
            "supplier": "",
            "category": row.category or "unknown",
            "image": relative_name(folder / row.image, out.parent),
            "product_id": f"style{rows[numbers[place]].line}",
            "split": row.split,
        }
        for place, row in enumerate(rows)
    ]
    lines = (json.dumps(offer, ensure_ascii=False) + "\n" for offer in offers)
    out.write_text("".join(lines), encoding="utf-8")
    names = (f"{ids[one]},{ids[other]}\n" for one, other in pairs)
    pairs_out.write_text("".join(["trigger_id,offer_id\n", *names]), encoding="utf-8")
