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
from date_jax.data.clicks.simulated_catalogue import catalogue, id_texts
from date_jax.data.streams import Stream
from date_jax.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa
else:  # a package of the extra "clicks"
    pa = Any

OFFERS_A_PAGE = 10
VISITS_AT_ONCE = 1 << 17


class Source(NamedTuple):
    """One source of a page's offers: how many, how well ranked, how likely clicked if seen."""

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
    """The result pages of Q queries: L offers each, some of them twice.

    Attributes:
        query: Q texts.
        offer: rows of the catalogue.
        is_new: False for an offer that the page has further to the left.
        rank: the higher, the further up.
        click: probability of a click by a shopper who looks at it.
    """

    query: "pa.Array"
    offer: Int[np.ndarray, "Q L"]
    is_new: Bool[np.ndarray, "Q L"]
    rank: Float[np.ndarray, "Q L"]
    click: Float[np.ndarray, "Q L"]


class Groups:
    """Offers by a code that each one has, or several codes, to draw one of those with a code.

    Args:
        code: of N entries, from 0.
        offer: row of the catalogue of each entry.
    """

    def __init__(self, code: Int[np.ndarray, " N"], offer: Int[np.ndarray, " N"]) -> None:
        # Entries of one code stand together, from a start on.
        order = np.argsort(code, kind="stable")
        self._offer = offer[order]
        self._count = np.bincount(code)
        self._start = np.cumsum(self._count) - self._count

    def random_offers(
        self, rng: np.random.Generator, code: Int[np.ndarray, "Q n"]
    ) -> Int[np.ndarray, "Q n"]:
        """An offer with each of the codes."""
        within = (rng.random(code.shape) * self._count[code]).astype(np.int64)
        return self._offer[self._start[code] + within]


def codes(column: Any) -> Int[np.ndarray, " N"]:
    """Equal values of a column as equal numbers from 0."""
    import pyarrow as pa

    texts = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return texts.dictionary_encode().indices.to_numpy().astype(np.int64)


class TitleWords(NamedTuple):
    """The words of all titles, one after the other.

    Attributes:
        text: of each word.
        code: of each word; equal words have equal ones.
        begin: number of each title's first word.
        length: words of each title.
    """

    text: "pa.Array"
    code: Int[np.ndarray, " W"]
    begin: Int[np.ndarray, " N"]
    length: Int[np.ndarray, " N"]


def title_words(offers: "pa.Table") -> TitleWords:
    """The words of the offers' titles, in small letters."""
    import pyarrow.compute as pc

    words = pc.utf8_split_whitespace(pc.utf8_lower(offers["title"])).combine_chunks()
    length = words.value_lengths().to_numpy().astype(np.int64)
    return TitleWords(words.flatten(), codes(words.flatten()), np.cumsum(length) - length, length)


def pages(offers: "pa.Table", queries: int, rng: np.random.Generator) -> Pages:
    """A result page for each of Q queries, which are up to three neighbouring words of a title."""
    # The offer that each shopper has in mind, and the words of its title that make the query.
    words = title_words(offers)
    target = rng.integers(offers.num_rows, size=queries)
    length = words.length[target][:, None]
    position = rng.integers(length) + np.arange(3)
    place = words.begin[target][:, None] + position % length  # the first word follows the last
    # Six of these words bring in offers that have them too.
    choice = rng.integers(np.minimum(length, 3), size=(queries, 6))
    matched = np.take_along_axis(place, choice, 1)
    offer = candidates(offers, words, target, words.code[matched], rng)
    # Rank and clicks follow from the source, but an offer of the product is one wherever it is.
    rank, click = (
        np.repeat([getattr(source, name) for source in SOURCES.values()], WIDTHS)
        for name in ("rank", "click")
    )
    product = codes(offers["product_id"])
    is_product = product[offer] == product[target][:, None]
    return Pages(
        query=phrases(words.text, place, np.arange(3) < length),
        offer=offer,
        is_new=first_occurrences(offer),
        rank=rank + rng.normal(size=offer.shape),
        click=np.where(is_product, SOURCES["product"].click, click),
    )


def phrases(
    text: "pa.Array", place: Int[np.ndarray, "Q n"], spoken: Bool[np.ndarray, "Q n"]
) -> "pa.Array":
    """The words at each row's places where `spoken`, as one text a row."""
    import pyarrow as pa
    import pyarrow.compute as pc

    words = [
        text.take(pa.array(number, mask=~is_spoken))
        for number, is_spoken in zip(place.T, spoken.T, strict=True)
    ]
    return pc.binary_join_element_wise(*words, " ", null_handling="skip")


def candidates(
    offers: "pa.Table",
    words: TitleWords,
    target: Int[np.ndarray, " Q"],
    matched: Int[np.ndarray, "Q 6"],
    rng: np.random.Generator,
) -> Int[np.ndarray, "Q L"]:
    """Offers from each of SOURCES for each query.

    Args:
        offers: the catalogue.
        words: of its titles.
        target: rows of the offers that are looked for.
        matched: codes of words that the offers of source "word" have.
        rng: draws the offers.
    """
    count, rows = len(target), np.arange(offers.num_rows)
    product, category = codes(offers["product_id"]), codes(offers["category"])
    # Of each source: codes, the offers that have them, and the codes to draw offers of.
    sources = {
        "product": (product, rows, product[target][:, None]),
        "category": (category, rows, category[target][:, None]),
        "word": (words.code, np.repeat(rows, words.length), matched),
        "advertised": (np.zeros_like(rows), rows, np.zeros((count, 1), np.int64)),
    }
    return np.concatenate(
        [
            Groups(code, offer).random_offers(
                rng, np.broadcast_to(target_code, (count, SOURCES[name].offers))
            )
            for name, (code, offer, target_code) in sources.items()
        ],
        axis=1,
    )


def first_occurrences(offer: Int[np.ndarray, "Q L"]) -> Bool[np.ndarray, "Q L"]:
    """False where a row has had the offer before."""
    # In the order of the offers equal ones are neighbours, the first of them in front.
    order = np.argsort(offer, axis=1, kind="stable")
    ordered = np.take_along_axis(offer, order, 1)
    is_first = np.ones_like(offer, bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # Back to the order of the row.
    first = np.empty_like(is_first)
    np.put_along_axis(first, order, is_first, 1)
    return first


def log(offers: "pa.Table | Mapping[str, Any]", *, rows: int, seed: int) -> "pa.Table":
    """A click log over a catalogue, as one table: the `log_parts` together."""
    import pyarrow as pa

    return pa.concat_tables(log_parts(offers, rows=rows, seed=seed))


def log_parts(
    offers: "pa.Table | Mapping[str, Any]", *, rows: int, seed: int
) -> Iterator["pa.Table"]:
    """A click log of `rows` rows, one an offer shown, in tables of about a million rows.

    user, session, query, offer_id, supplier, category, time, position (from 1), clicked. The
    ground truth, product_id, decides about clicks and is not in the log.

    Args:
        offers: offer_id, product_id, title, supplier, category: N values each.
        rows: of the log.
        seed: of the random streams.
    """
    import pyarrow as pa

    offers = offers if isinstance(offers, pa.Table) else pa.table(dict(offers))
    # A page is made once a query, and shown to all who ask it.
    visits = rows // OFFERS_A_PAGE + 1
    rng = np.random.default_rng([seed, Stream.CLICK_PAGES])
    query_pages = pages(offers, max(1, visits // 40), rng)
    start = 0
    while rows > 0:
        rng = np.random.default_rng([seed, Stream.CLICK_VISITS, start])
        part = visits_table(offers, query_pages, start, max(1, visits // 10), rng)
        yield part.slice(0, rows)
        rows -= part.num_rows
        start += VISITS_AT_ONCE


def visits_table(
    offers: "pa.Table", pages: Pages, start: int, users: int, rng: np.random.Generator
) -> "pa.Table":
    """VISITS_AT_ONCE visits, two a session, some queries far more often: a row an offer shown.

    Args:
        offers: the catalogue.
        pages: of all queries.
        start: number of the first visit.
        users: how many there are in the whole log.
        rng: draws who asks what, and clicks.
    """
    import pyarrow as pa

    number = start + np.arange(VISITS_AT_ONCE)
    session, queries = number // 2, len(pages.query)
    # Zipf's law from the tenth place on: the u-th part of the visits ask the first queries.
    frequency = np.cumsum(1 / (10 + np.arange(queries)))
    query = np.searchsorted(frequency / frequency[-1], rng.random(VISITS_AT_ONCE))
    # The page of each visit: the best ranked, a little otherwise each time, none of them twice.
    rank = pages.rank[query] + rng.normal(size=(VISITS_AT_ONCE, pages.rank.shape[1]))
    place = np.argsort(np.where(pages.is_new[query], -rank, np.inf), axis=1)[:, :OFFERS_A_PAGE]
    offer, is_shown, click = (
        np.take_along_axis(part[query], place, 1)
        for part in (pages.offer, pages.is_new, pages.click)
    )
    # What is clicked: what is looked at and appeals, or in careless visits anything.
    careless = rng.random((VISITS_AT_ONCE, 1)) < CARELESS
    attention = np.arange(1, place.shape[1] + 1) ** -DECAY
    clicked = rng.random(place.shape) < np.where(careless, CARELESS_CLICK, click * attention)
    visit, position = np.nonzero(is_shown)
    row = pa.array(offer[is_shown])
    user = np.repeat(rng.integers(users, size=VISITS_AT_ONCE // 2), 2)
    return pa.table(
        {
            "user": id_texts("u", user[visit]),
            "session": id_texts("v", session[visit]),
            "query": pages.query.take(pa.array(query[visit])),
            **{name: offers[name].take(row) for name in ("offer_id", "supplier", "category")},
            "time": pa.array(START + session[visit], pa.timestamp("s")),
            "position": pa.array(position + 1, pa.int8()),
            "clicked": clicked[is_shown],
        }
    )


def write(out: Path, *, rows: int, products: int, seed: int) -> None:
    """Writes log.parquet, catalogue.parquet, and truth.parquet, for evaluation only."""
    import pyarrow.parquet as pq

    out.mkdir(parents=True, exist_ok=True)
    offers = catalogue(products, seed=seed)
    pq.write_table(offers.drop_columns("product_id"), out / "catalogue.parquet")
    pq.write_table(offers.select(["offer_id", "product_id"]), out / "truth.parquet")
    # Part by part: a log of any length fits into memory.
    parts = log_parts(offers, rows=rows, seed=seed)
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
