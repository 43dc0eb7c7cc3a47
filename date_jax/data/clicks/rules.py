"""Which offers show the same product, by what people clicked: rules, as a relational expression.

Shoppers who look for one thing under one query in one session click several suppliers' offers of
it: after same-style pairs from click logs (arXiv 2302.05093). Written in Ibis, so that DuckDB on
one machine and the engine of a cluster run the same steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ibis.expr.types import BooleanValue, StringValue, Table
else:  # imported where it is needed: a wrong command need not wait for Ibis
    BooleanValue = StringValue = Table = Any

LOG = dict.fromkeys(("user", "session", "query", "offer_id"), "string") | {"clicked": "boolean"}
CATALOGUE = dict.fromkeys(("offer_id", "title", "supplier", "category", "image_hash"), "string")


class Settings(NamedTuple):
    """What the rules ask for. The user ids are hashed together with `salt`."""

    salt: str
    min_support: int = 5
    max_clicks: int = 50
    min_relevance: float = 0.5
    min_coclicks: int = 2
    drop_duplicates_share: float = 0.9
    max_pairs: int = 20


class Step(NamedTuple):
    """Makes a table of that of the step before, the offers and the settings; `says`, with the
    settings filled in, what it keeps, and `rows` what its rows are."""

    make: Callable[[Table, Table, Settings], Table]
    says: str
    rows: str = "clicks"


def clicks(log: Table, offers: Table, settings: Settings) -> Table:
    """user, session, query, offer_id, relevance: one row an offer that a user clicked in a visit.

    A visit is one user's one query in one session. Of the user there is only a salted hash.
    """
    users = (settings.salt + log.user.cast("string")).hexdigest("sha256")
    scored = {"score": log.relevance.cast("float64")} if "relevance" in log.columns else {}
    of_somebody = log.user.notnull(), log.session.notnull()
    clicked = log.filter(log.clicked.cast("boolean"), *of_somebody).select(
        user=users,
        session=log.session.cast("string"),
        query=words(log.query.cast("string")),
        offer_id=log.offer_id.cast("string"),
        **scored,
    )
    asked = clicked.filter(clicked.query.length() > 0)
    known = asked.join(offers.select("offer_id", "words"), "offer_id")
    if scored:  # engines differ about what is larger than no number
        relevance = known.score.isnan().ifelse(0.0, known.score).fill_null(0.0)
    else:
        relevance = overlap(known.query, known.words)
    rated = known.mutate(relevance=relevance)
    return rated.group_by("user", "session", "query", "offer_id").agg(
        relevance=rated.relevance.max()
    )


def words(text: StringValue) -> StringValue:
    """`text` in small letters, its runs of other signs than letters and digits as one space."""
    spaced = text.lower().re_replace(r"[^\p{L}\p{N}]+", " ")
    # Not strip(): Ibis writes it with \v and \f, which to Spark are the letters v and f.
    return spaced.re_replace("^ | $", "")


def overlap(query: StringValue, title: Any) -> Any:
    """The share of the query's different words that are among the title's, an array.

    It knows neither synonyms nor texts without spaces: those need a column `relevance` in the log.
    """
    asked = query.split(" ").unique()
    return asked.intersect(title).length() / asked.length()


def no_robots(table: Table, offers: Table, settings: Settings) -> Table:
    """Visits with more clicks are no shopper's, and their pairs grow with the square."""
    visit = table.group_by("user", "session", "query")
    counted = visit.mutate(clicks=table.count())
    return counted.filter(counted.clicks <= settings.max_clicks).drop("clicks")


def supported(table: Table, offers: Table, settings: Settings) -> Table:
    """What few people ask for may tell who they are."""
    asked = table.group_by("query").agg(users=table.user.nunique())
    return table.semi_join(asked.filter(asked.users >= settings.min_support), "query")


def relevant(table: Table, offers: Table, settings: Settings) -> Table:
    return table.filter(table.relevance >= settings.min_relevance)


def pairs(table: Table, offers: Table, settings: Settings) -> Table:
    """One row a pair of offers that were clicked in one visit, with what the rules want to know.

    coclicks counts the visits; relevance is that of the less relevant offer, in the best visit.
    """
    import ibis

    other = table.view()
    visit = [table[name] == other[name] for name in ("user", "session", "query")]
    together = table.join(other, [*visit, table.offer_id < other.offer_id]).select(
        trigger_id=table.offer_id,
        offer_id=other.offer_id,
        relevance=ibis.least(table.relevance, other.relevance),
    )
    counted = together.group_by("trigger_id", "offer_id").agg(
        coclicks=together.count(), relevance=together.relevance.max()
    )
    one, two = offers.view(), offers.view()
    known = counted.join(one, counted.trigger_id == one.offer_id)
    return known.join(two, counted.offer_id == two.offer_id).select(
        counted.trigger_id,
        counted.offer_id,
        one.category,
        counted.coclicks,
        counted.relevance,
        same_category=one.category == two.category,
        other_supplier=one.supplier != two.supplier,
        same_image=(one.image_hash == two.image_hash).fill_null(False),
    )


def same_category(table: Table, offers: Table, settings: Settings) -> Table:
    return table.filter(table.same_category)


def other_supplier(table: Table, offers: Table, settings: Settings) -> Table:
    return table.filter(table.other_supplier)


def repeated(table: Table, offers: Table, settings: Settings) -> Table:
    return table.filter(table.coclicks >= settings.min_coclicks)


def few_duplicates(table: Table, offers: Table, settings: Settings) -> Table:
    """Of pairs with one and the same picture, from which nothing is learned about pictures."""
    return table.filter(~(table.same_image & drawn(table, settings.drop_duplicates_share)))


def drawn(table: Table, share: float) -> BooleanValue:
    """True for a `share` of the pairs, the same ones on every engine."""
    # Hexadecimal digits sort as their numbers do, and "g" comes after all of them.
    below = f"{int(share * 16**8):08x}" if share < 1 else "g"
    return (table.trigger_id + "|" + table.offer_id).hexdigest("sha256") < below


def few_pairs(table: Table, offers: Table, settings: Settings) -> Table:
    """A pair stays if it is among the best of both its offers: none has more, in any order."""
    import ibis

    there = table.select("trigger_id", "offer_id", "coclicks", "relevance", one=table.trigger_id)
    back = table.select("trigger_id", "offer_id", "coclicks", "relevance", one=table.offer_id)
    ends = there.union(back)
    best = [ends.coclicks.desc(), ends.relevance.desc(), ends.trigger_id, ends.offer_id]
    ranked = ends.mutate(rank=ibis.row_number().over(group_by=ends.one, order_by=best))
    within = ranked.filter(ranked["rank"] < settings.max_pairs)
    ends_within = within.group_by("trigger_id", "offer_id").agg(ends=within.count())
    return table.semi_join(ends_within.filter(ends_within.ends == 2), ["trigger_id", "offer_id"])


MADE = ("clicks", "pairs")  # the steps that are no rules: they cannot be left out
STEPS: Mapping[str, Step] = {
    "clicks": Step(clicks, "clicked, known user, session, query and offer; once a visit"),
    "robots": Step(no_robots, "at most {max_clicks} clicks a visit"),
    "support": Step(supported, "queries of {min_support} users or more"),
    "relevance": Step(relevant, "relevance {min_relevance} or more"),
    "pairs": Step(pairs, "two offers clicked in one visit", "pairs"),
    "category": Step(same_category, "same leaf category", "pairs"),
    "supplier": Step(other_supplier, "different suppliers", "pairs"),
    "coclicks": Step(repeated, "clicked together {min_coclicks} times or more", "pairs"),
    "duplicates": Step(
        few_duplicates, "all but {drop_duplicates_share} of pairs of one image", "pairs"
    ),
    "quota": Step(few_pairs, "at most {max_pairs} pairs an offer", "pairs"),
}
DIALECTS = {"duckdb": "duckdb", "spark": "pyspark", "bigquery": "bigquery"}
RULES = tuple(name for name in STEPS if name not in MADE)


def unchanged(name: str, table: Table) -> Table:
    return table


def mined(
    log: Table,
    catalogue: Table,
    settings: Settings,
    *,
    without: tuple[str, ...] = (),
    after: Callable[[str, Table], Table] = unchanged,
) -> Table:
    """The pairs of offers: trigger_id, offer_id, category, coclicks, relevance, in order of ids.

    Args:
        log: columns LOG, and relevance if the log has one of its own; others are not looked at.
        catalogue: columns CATALOGUE, one row an offer.
        without: those of RULES that are left out.
        after: is handed "offers" and the catalogue with titles as words, then each step's name
            and table, and returns the table to go on with.
    """
    # "" is unknown, as it is in a .csv.
    known = (name for name in CATALOGUE if name != "title")
    texts = {name: catalogue[name].cast("string").nullif("") for name in known}
    title = words(catalogue.title.cast("string").fill_null(""))
    # Split here, once an offer, and not once a click.
    offers, table = after("offers", catalogue.select(**texts, words=title.split(" "))), log
    for name, step in STEPS.items():
        if name not in without:
            table = after(name, step.make(table, offers, settings))
    columns = ("trigger_id", "offer_id", "category", "coclicks", "relevance")
    return table.select(*columns).order_by("trigger_id", "offer_id")


def sql(columns: Mapping[str, str], settings: Settings, dialect: str, **options: Any) -> str:
    """The expression for the engine of `dialect`, over the tables `log` and `catalogue`: one
    query, with a common table for every step.

    Args:
        columns: of the log, with their types as Ibis names them.
        options: those of `mined`.
    """
    import ibis

    steps = []

    def after(name: str, table: Table) -> Table:
        steps.append((name, table))
        return ibis.table(table.schema(), name=name)

    last = mined(
        ibis.table(columns, name="log"),
        ibis.table(CATALOGUE, name="catalogue"),
        settings,
        after=after,
        **options,
    )
    parts = [f"{name} AS (\n{compiled(table, dialect)}\n)" for name, table in steps]
    text = f"WITH {', '.join(parts)}\n{compiled(last, dialect)}\n"
    # Ibis draws names for BigQuery's arrays: numbered, the same settings give the same text.
    drawn = dict.fromkeys(re.findall(r"\bibis_bq_arr_\w+", text))
    for number, name in enumerate(drawn):
        text = text.replace(name, f"word{number}")
    return text


def compiled(table: Table, dialect: str) -> str:
    import ibis

    if dialect == "spark":
        _stand_in_for_pyspark()
    if dialect == "bigquery":
        table = _with_digests_in_two_steps(table)
    return str(ibis.to_sql(table, dialect=DIALECTS[dialect]))


def _stand_in_for_pyspark() -> None:
    """Ibis looks for its options of PySpark, which are there only where PySpark is installed."""
    import ibis
    from ibis.config import Config

    class PySpark(Config):
        treat_nan_as_null: bool = False

    if ibis.options.pyspark is None:
        ibis.options.pyspark = PySpark()


def _with_digests_in_two_steps(table: Table) -> Table:
    """BigQuery's digests are bytes, and Ibis has no word for their hexadecimal digits there."""
    import ibis
    from ibis.expr import operations

    @ibis.udf.scalar.builtin
    def to_hex(digest: bytes) -> str:  # type: ignore[empty-body]
        """Of BigQuery."""

    def replaced(node: Any, made: Mapping[Any, Any] | None) -> Any:
        node = node.__recreate__(made) if made else node
        if isinstance(node, operations.HexDigest):
            return to_hex(node.arg.to_expr().hashbytes(node.how)).op()
        return node

    return table.op().replace(replaced).to_expr()
