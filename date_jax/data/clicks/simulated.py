"""A made-up shop's click log, in which it is known which offers show the same product.

    python -m date_jax.data.simulated_clicks --rows=1000000 --out=clicks     # three files

A shopper looks for a product with some words of one offer's title. The result page mixes offers of
that product, of its category, with a word of the query in their titles, and advertised ones. What
is clicked depends on what it is and on how far up it stands; some visits click without looking.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from date_jax.data import command
from date_jax.data.clicks.simulated_catalogue import catalogue, named
from date_jax.data.streams import Stream
from date_jax.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa
else:  # a package of the extra "clicks"
    pa = Any

SHOWN = 10  # offers on a result page
VISITS_AT_ONCE = 1 << 17


class Source(NamedTuple):
    """Where offers of a page come from: how many, how well ranked, how likely clicked if seen."""

    offers: int
    rank: float
    click: float


SOURCES = {
    "product": Source(8, 1.5, 0.6),
    "category": Source(6, 0.5, 0.15),
    "word": Source(6, 0.5, 0.12),
    "advertised": Source(4, 0.8, 0.08),
}
WIDTHS = [source.offers for source in SOURCES.values()]
START = 1_767_225_600  # 2026-01-01, in seconds since 1970; a session begins every second
CARELESS = 0.03  # share of visits that click whatever it is, with
CARELESS_CLICK = 0.25
DECAY = 0.5  # a place n is looked at with probability n ** -DECAY


class Pages(NamedTuple):
    """What there is to show for each of Q queries: L offers, some of them there twice."""

    query: "pa.Array"  # Q texts
    offer: Int[np.ndarray, "Q L"]
    known: Bool[np.ndarray, "Q L"]  # False for one that is there already
    rank: Float[np.ndarray, "Q L"]
    click: Float[np.ndarray, "Q L"]


class Groups:
    """Offers by a code that each has, or several of: draws a random one of those with a code."""

    def __init__(self, code: Int[np.ndarray, " N"], offer: Int[np.ndarray, " N"]) -> None:
        order = np.argsort(code, kind="stable")
        self.offer = offer[order]
        self.count = np.bincount(code)
        self.start = np.cumsum(self.count) - self.count

    def drawn(
        self, rng: np.random.Generator, code: Int[np.ndarray, "Q n"]
    ) -> Int[np.ndarray, "Q n"]:
        within = (rng.random(code.shape) * self.count[code]).astype(np.int64)
        return self.offer[self.start[code] + within]


def codes(column: Any) -> Int[np.ndarray, " N"]:
    """Equal values of a column as equal numbers from 0."""
    import pyarrow as pa

    texts = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return texts.dictionary_encode().indices.to_numpy().astype(np.int64)


class Titles(NamedTuple):
    """The words of all titles, one after the other: text and code of each, where a title begins
    and how many words it has."""

    text: "pa.Array"
    code: Int[np.ndarray, " W"]
    begin: Int[np.ndarray, " N"]
    length: Int[np.ndarray, " N"]


def titles(offers: "pa.Table") -> Titles:
    import pyarrow.compute as pc

    said = pc.utf8_split_whitespace(pc.utf8_lower(offers["title"])).combine_chunks()
    length = said.value_lengths().to_numpy().astype(np.int64)
    return Titles(said.flatten(), codes(said.flatten()), np.cumsum(length) - length, length)


def pages(offers: "pa.Table", queries: int, rng: np.random.Generator) -> Pages:
    """A result page for each of Q queries, which are up to three neighbouring words of a title."""
    said = titles(offers)
    target = rng.integers(offers.num_rows, size=queries)
    length = said.length[target][:, None]
    turned = rng.integers(length) + np.arange(3)  # the first word comes after the last
    place = said.begin[target][:, None] + turned % length
    asked = np.take_along_axis(place, rng.integers(np.minimum(length, 3), size=(queries, 6)), 1)
    offer = candidates(offers, said, target, said.code[asked], rng)
    rank, click = (
        np.repeat([getattr(source, name) for source in SOURCES.values()], WIDTHS)
        for name in ("rank", "click")
    )
    product = codes(offers["product_id"])
    same = product[offer] == product[target][:, None]
    return Pages(
        query=phrase(said.text, place, np.arange(3) < length),
        offer=offer,
        known=first(offer),
        rank=rank + rng.normal(size=offer.shape),
        click=np.where(same, SOURCES["product"].click, click),
    )


def phrase(
    text: "pa.Array", place: Int[np.ndarray, "Q n"], spoken: Bool[np.ndarray, "Q n"]
) -> "pa.Array":
    """The words at each row's places where `spoken`, as one text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    words = [
        text.take(pa.array(at, mask=~there)) for at, there in zip(place.T, spoken.T, strict=True)
    ]
    return pc.binary_join_element_wise(*words, " ", null_handling="skip")


def candidates(
    offers: "pa.Table",
    said: Titles,
    target: Int[np.ndarray, " Q"],
    asked: Int[np.ndarray, "Q 6"],
    rng: np.random.Generator,
) -> Int[np.ndarray, "Q L"]:
    """Offers from each of SOURCES, for the target offers and the codes of asked words."""
    count, everything = len(target), np.arange(offers.num_rows)
    product, category = codes(offers["product_id"]), codes(offers["category"])
    drawn = {
        "product": (product, everything, product[target][:, None]),
        "category": (category, everything, category[target][:, None]),
        "word": (said.code, np.repeat(everything, said.length), asked),
        "advertised": (np.zeros_like(everything), everything, np.zeros((count, 1), np.int64)),
    }
    return np.concatenate(
        [
            Groups(code, offer).drawn(rng, np.broadcast_to(wanted, (count, SOURCES[name].offers)))
            for name, (code, offer, wanted) in drawn.items()
        ],
        axis=1,
    )


def first(offer: Int[np.ndarray, "Q L"]) -> Bool[np.ndarray, "Q L"]:
    """False where a row has had the offer before."""
    order = np.argsort(offer, axis=1, kind="stable")
    ordered = np.take_along_axis(offer, order, 1)
    fresh = np.ones_like(offer, bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    known = np.empty_like(fresh)
    np.put_along_axis(known, order, fresh, 1)
    return known


def log(offers: "pa.Table | Mapping[str, Any]", *, rows: int, seed: int) -> "pa.Table":
    """A click log over a catalogue, as one table: the `batches` together."""
    import pyarrow as pa

    return pa.concat_tables(batches(offers, rows=rows, seed=seed))


def batches(
    offers: "pa.Table | Mapping[str, Any]", *, rows: int, seed: int
) -> Iterator["pa.Table"]:
    """A click log of `rows` rows, one an offer shown, in tables of about a million rows.

    user, session, query, offer_id, supplier, category, time, position (from 1), clicked. The
    ground truth, product_id, decides about clicks and is not in the log.

    Args:
        offers: offer_id, product_id, title, supplier, category: N values each.
    """
    import pyarrow as pa

    offers = offers if isinstance(offers, pa.Table) else pa.table(dict(offers))
    visits = rows // SHOWN + 1
    made = pages(offers, max(1, visits // 40), np.random.default_rng([seed, Stream.CLICK_PAGES]))
    start = 0
    while rows > 0:
        rng = np.random.default_rng([seed, Stream.CLICK_VISITS, start])
        shown = visited(offers, made, start, visits, rng)
        yield shown.slice(0, rows)
        rows -= shown.num_rows
        start += VISITS_AT_ONCE


def visited(
    offers: "pa.Table", made: Pages, start: int, visits: int, rng: np.random.Generator
) -> "pa.Table":
    """VISITS_AT_ONCE visits from number `start`: two a session, some queries far more often."""
    import pyarrow as pa

    number = start + np.arange(VISITS_AT_ONCE)
    session, queries = number // 2, len(made.query)
    # Zipf's law from the tenth place on: the u-th part of the visits ask the first queries.
    often = np.cumsum(1 / (10 + np.arange(queries)))
    query = np.searchsorted(often / often[-1], rng.random(VISITS_AT_ONCE))
    rank = made.rank[query] + rng.normal(size=(VISITS_AT_ONCE, made.rank.shape[1]))
    place = np.argsort(np.where(made.known[query], -rank, np.inf), axis=1)[:, :SHOWN]
    offer, known, click = (
        np.take_along_axis(part[query], place, 1) for part in (made.offer, made.known, made.click)
    )
    careless = rng.random((VISITS_AT_ONCE, 1)) < CARELESS
    looked = np.arange(1, place.shape[1] + 1) ** -DECAY
    clicked = rng.random(place.shape) < np.where(careless, CARELESS_CLICK, click * looked)
    visit, position = np.nonzero(known)
    shown = pa.array(offer[known])
    user = np.repeat(rng.integers(max(1, visits // 10), size=VISITS_AT_ONCE // 2), 2)
    return pa.table(
        {
            "user": named("u", user[visit]),
            "session": named("v", session[visit]),
            "query": made.query.take(pa.array(query[visit])),
            **{name: offers[name].take(shown) for name in ("offer_id", "supplier", "category")},
            "time": pa.array(START + session[visit], pa.timestamp("s")),
            "position": pa.array(position + 1, pa.int8()),
            "clicked": clicked[known],
        }
    )


def write(out: Path, *, rows: int, products: int, seed: int) -> None:
    """log.parquet, catalogue.parquet, and what only evaluation may read, truth.parquet."""
    import pyarrow.parquet as pq

    out.mkdir(parents=True, exist_ok=True)
    offers = catalogue(products, seed=seed)
    pq.write_table(offers.drop_columns("product_id"), out / "catalogue.parquet")
    pq.write_table(offers.select(["offer_id", "product_id"]), out / "truth.parquet")
    parts = batches(offers, rows=rows, seed=seed)
    part = next(parts)
    with pq.ParquetWriter(out / "log.parquet", part.schema) as writer:
        writer.write_table(part)
        for part in parts:
            writer.write_table(part)


def main(arguments: Sequence[str]) -> int:
    """Writes a simulated log and its catalogue; returns the exit code."""
    parser = command.Parser("simulated_clicks", __doc__)
    parser.add_argument("--out", type=Path, default=Path("clicks"), help="the folder to write")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the log (1000000)")
    parser.add_argument("--products", type=int, default=0, help="(a 400th of the rows)")
    parser.add_argument("--seed", type=int, default=0)
    interrupted = "the log may be cut off; start again"
    return command.run(parser, arguments, write_files, interrupted=interrupted)


def write_files(options: argparse.Namespace) -> None:
    """Writes the files of one simulation, as the command's flags say.

    Raises:
        UsageError: a number is too small.
    """
    products = options.products or max(20, options.rows // 400)
    if min(options.rows, products) < 1 or options.seed < 0:
        raise UsageError("--rows and --products must be 1 or more, --seed 0 or more")
    write(options.out, rows=options.rows, products=products, seed=options.seed)
    print(f"wrote {options.out}: {options.rows:,} rows, {products:,} products")
