"""Rules that pair offers of one product by what people clicked, as a relational expression.

Shoppers who look for one thing under one query in one session click several suppliers' offers of
it: after same-style pairs from click logs (arXiv 2302.05093). Written in Ibis, so that DuckDB on
one machine and the engine of a cluster run the same steps.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from date_jax.errors import UsageError, spelling_hint

if TYPE_CHECKING:
    from ibis.expr.types import BooleanValue, StringValue, Table
else:  # imported where it is needed: a wrong command need not wait for Ibis
    BooleanValue = StringValue = Table = Any

LOG = dict.fromkeys(("user", "session", "query", "offer_id"), "string") | {"clicked": "boolean"}
CATALOGUE = dict.fromkeys(("offer_id", "title", "supplier", "category", "image_hash"), "string")


class Settings(NamedTuple):
    """The settings of the rules; the user ids are hashed together with `salt`."""

    salt: str
    min_support: int = 5
    max_clicks: int = 50
    min_relevance: float = 0.5
    min_coclicks: int = 2
    drop_duplicates_share: float = 0.9
    max_pairs: int = 20


class Step(NamedTuple):
    """One step from the log to the pairs.

    Attributes:
        make: the step's table, of that of the step before, the offers and the settings.
        keeps: what it keeps, in words, with the settings to be filled in.
        unit: what it counts, in the plural.
    """

    make: Callable[[Table, Table, Settings], Table]
    keeps: str
    unit: str = "clicks"


def clicks(log: Table, offers: Table, settings: Settings) -> Table:
    """One row an offer that a user clicked in a visit: user, session, query, offer_id, relevance.

    A visit is one user's one query in one session. Of the user there is only a salted hash.
    """
    # From here on nobody can tell who clicked.
    users = (settings.salt + log.user.cast("string")).hexdigest("sha256")
    scored = {"score": log.relevance.cast("float64")} if "relevance" in log.columns else {}
    has_user = log.user.notnull(), log.session.notnull()
    clicked = log.filter(is_clicked(log.clicked), *has_user).select(
        user=users,
        session=log.session.cast("string"),
        query=words(log.query.cast("string")),
        offer_id=log.offer_id.cast("string"),
        **scored,
    )
    searched = clicked.filter(clicked.query.length() > 0)
    listed = searched.join(offers.select("offer_id", "words"), "offer_id")
    # The log's own relevance where it has one, or else the words that query and title share.
    if scored:  # engines differ about what is larger than no number
        relevance = listed.score.isnan().ifelse(0.0, listed.score).fill_null(0.0)
    else:
        relevance = word_overlap(listed.query, listed.words)
    rated = listed.mutate(relevance=relevance)
    # An offer that is clicked twice in a visit counts once.
    return rated.group_by("user", "session", "query", "offer_id").agg(
        relevance=rated.relevance.max()
    )


def is_clicked(column: Any) -> BooleanValue:
    """Whether a row of the log is a click, of its column `clicked`.

    Table programs write a column of truth values as 1.0 and 0.0 where one of them is missing.
    """
    kind = column.type()
    if kind.is_floating():  # NaN is a missing one
        return column.isnan().ifelse(False, column != 0)
    if kind.is_string():
        column = column.re_replace(r"\.0+$", "")
    return column.cast("boolean")


def words(text: StringValue) -> StringValue:
    """`text` in small letters, its runs of other signs than letters and digits as one space."""
    spaced = text.lower().re_replace(r"[^\p{L}\p{N}]+", " ")
    # Not strip(): Ibis writes it with \v and \f, which to Spark are the letters v and f.
    return spaced.re_replace("^ | $", "")


def word_overlap(query: StringValue, title: Any) -> Any:
    """The share of the query's different words that are among the title's, an array.

    It knows neither synonyms nor texts without spaces: those need a column `relevance` in the log.
    """
    query_words = query.split(" ").unique()
    return query_words.intersect(title).length() / query_words.length()


def clicks_of_shoppers(table: Table, offers: Table, settings: Settings) -> Table:
    """The clicks of visits with few of them.

    Visits with more clicks are no shopper's, and their pairs grow with the square.
    """
    visit = table.group_by("user", "session", "query")
    counted = visit.mutate(clicks=table.count())
    return counted.filter(counted.clicks <= settings.max_clicks).drop("clicks")


def clicks_of_common_queries(table: Table, offers: Table, settings: Settings) -> Table:
    """The clicks of queries of several users: what few people ask for may tell who they are."""
    queries = table.group_by("query").agg(users=table.user.nunique())
    return table.semi_join(queries.filter(queries.users >= settings.min_support), "query")


def relevant_clicks(table: Table, offers: Table, settings: Settings) -> Table:
    """The clicks of offers that fit the query well enough."""
    return table.filter(table.relevance >= settings.min_relevance)


def clicked_pairs(table: Table, offers: Table, settings: Settings) -> Table:
    """One row a pair of offers that were clicked in one visit, with what the rules want to know.

    coclicks counts the visits; relevance is that of the less relevant offer, in the best visit.
    """
    import ibis

    # Each two clicks of a visit, once and not again the other way round; then one row a pair.
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
    # What is known of either offer.
    one, two = offers.view(), offers.view()
    joined = counted.join(one, counted.trigger_id == one.offer_id)
    return joined.join(two, counted.offer_id == two.offer_id).select(
        counted.trigger_id,
        counted.offer_id,
        one.category,
        counted.coclicks,
        counted.relevance,
        same_category=one.category == two.category,
        other_supplier=one.supplier != two.supplier,
        same_image=(one.image_hash == two.image_hash).fill_null(False),
    )


def pairs_of_one_category(table: Table, offers: Table, settings: Settings) -> Table:
    """The pairs whose offers are of the same leaf category."""
    return table.filter(table.same_category)


def pairs_of_two_suppliers(table: Table, offers: Table, settings: Settings) -> Table:
    """The pairs whose offers are of different suppliers."""
    return table.filter(table.other_supplier)


def frequent_pairs(table: Table, offers: Table, settings: Settings) -> Table:
    """The pairs that were clicked together often enough."""
    return table.filter(table.coclicks >= settings.min_coclicks)


def pairs_with_few_duplicates(table: Table, offers: Table, settings: Settings) -> Table:
    """The pairs without most of those whose offers have one and the same picture.

    From these nothing is learned about pictures.
    """
    return table.filter(~(table.same_image & is_in_share(table, settings.drop_duplicates_share)))


def is_in_share(table: Table, share: float) -> BooleanValue:
    """True for a `share` of the pairs, the same ones on every engine."""
    # Hexadecimal digits sort as their numbers do, and "g" comes after all of them.
    below = f"{int(share * 16**8):08x}" if share < 1 else "g"
    return (table.trigger_id + "|" + table.offer_id).hexdigest("sha256") < below


def best_pairs(table: Table, offers: Table, settings: Settings) -> Table:
    """The pairs that are among the best of both their offers, so that no offer has many."""
    import ibis

    # Each pair twice, once with either offer as `one`, to be ranked among the pairs of both.
    first = table.select("trigger_id", "offer_id", "coclicks", "relevance", one=table.trigger_id)
    second = table.select("trigger_id", "offer_id", "coclicks", "relevance", one=table.offer_id)
    ends = first.union(second)
    best = [ends.coclicks.desc(), ends.relevance.desc(), ends.trigger_id, ends.offer_id]
    ranked = ends.mutate(rank=ibis.row_number().over(group_by=ends.one, order_by=best))
    # A pair stays if it is within the limit at both ends.
    within = ranked.filter(ranked["rank"] < settings.max_pairs)
    ends_within = within.group_by("trigger_id", "offer_id").agg(ends=within.count())
    return table.semi_join(ends_within.filter(ends_within.ends == 2), ["trigger_id", "offer_id"])


NO_RULES = ("clicks", "pairs")  # the steps that cannot be left out, as they are no rules
STEPS: Mapping[str, Step] = {
    "clicks": Step(clicks, "clicked, known user, session, query and offer; once a visit"),
    "robots": Step(clicks_of_shoppers, "at most {max_clicks} clicks a visit"),
    "support": Step(clicks_of_common_queries, "queries of {min_support} users or more"),
    "relevance": Step(relevant_clicks, "relevance {min_relevance} or more"),
    "pairs": Step(clicked_pairs, "two offers clicked in one visit", "pairs"),
    "category": Step(pairs_of_one_category, "same leaf category", "pairs"),
    "supplier": Step(pairs_of_two_suppliers, "different suppliers", "pairs"),
    "coclicks": Step(frequent_pairs, "clicked together {min_coclicks} times or more", "pairs"),
    "duplicates": Step(
        pairs_with_few_duplicates, "all but {drop_duplicates_share} of pairs of one image", "pairs"
    ),
    "quota": Step(best_pairs, "at most {max_pairs} pairs an offer", "pairs"),
}
DIALECTS = {"duckdb": "duckdb", "spark": "pyspark", "bigquery": "bigquery"}
RULES = tuple(name for name in STEPS if name not in NO_RULES)


def rules_in(text: str, option: str) -> tuple[str, ...]:
    """The rules that a user names, with commas between them.

    Args:
        text: "category,relevance", or "" for none.
        option: by which the user names them, for the message.

    Raises:
        UsageError: one is no rule.
    """
    names = tuple(filter(None, text.split(",")))
    for name in names:
        if name not in RULES:
            raise UsageError(
                f"{option}: no rule {name!r}{spelling_hint(name, RULES)}\n"
                f"  choices: {', '.join(RULES)}"
            )
    return names


def same_table(name: str, table: Table) -> Table:
    """The table itself, for a caller that only wants the end."""
    return table


def mined_pairs(
    log: Table,
    catalogue: Table,
    settings: Settings,
    *,
    without: tuple[str, ...] = (),
    after: Callable[[str, Table], Table] = same_table,
) -> Table:
    """The pairs of offers: trigger_id, offer_id, category, coclicks, relevance, in order of ids.

    Args:
        log: columns LOG, and relevance if the log has one; other columns are not read.
        catalogue: columns CATALOGUE, one row an offer.
        settings: of the rules.
        without: those of RULES that are left out.
        after: is handed "offers" and the catalogue with titles as words, then each step's name
            and table, and returns the table to go on with.
    """
    # "" is unknown, as it is in a .csv.
    names = (name for name in CATALOGUE if name != "title")
    texts = {name: catalogue[name].cast("string").nullif("") for name in names}
    title = words(catalogue.title.cast("string").fill_null(""))
    # Split here, once an offer, and not once a click.
    offers, table = after("offers", catalogue.select(**texts, words=title.split(" "))), log
    for name, step in STEPS.items():
        if name not in without:
            table = after(name, step.make(table, offers, settings))
    columns = ("trigger_id", "offer_id", "category", "coclicks", "relevance")
    return table.select(*columns).order_by("trigger_id", "offer_id")


def sql(columns: Mapping[str, str], settings: Settings, dialect: str, **options: Any) -> str:
    """One query for the engine of `dialect`, with a common table for every step.

    It reads the tables `log` and `catalogue`, and gives what `mined_pairs` does.

    Args:
        columns: of the log, with their types as Ibis names them.
        settings: of the rules.
        dialect: of DIALECTS.
        options: those of `mined_pairs`.
    """
    import ibis

    # Each step's expression is put aside, and the next one reads a table of that step's name.
    steps = []

    def after(name: str, table: Table) -> Table:
        # The next step reads what this one will be called in the query.
        steps.append((name, table))
        return ibis.table(table.schema(), name=name)

    last = mined_pairs(
        ibis.table(columns, name="log"),
        ibis.table(CATALOGUE, name="catalogue"),
        settings,
        after=after,
        **options,
    )
    parts = [f"{name} AS (\n{table_sql(table, dialect)}\n)" for name, table in steps]
    text = f"WITH {', '.join(parts)}\n{table_sql(last, dialect)}\n"
    # Ibis draws names for BigQuery's arrays: numbered, the same settings give the same text.
    random_names = dict.fromkeys(re.findall(r"\bibis_bq_arr_\w+", text))
    for number, name in enumerate(random_names):
        text = text.replace(name, f"word{number}")
    return text


def table_sql(table: Table, dialect: str) -> str:
    """The SQL of one expression, where needed with what Ibis lacks for its engine."""
    import ibis

    if dialect == "spark":
        _provide_pyspark_options()
    if dialect == "bigquery":
        table = _table_with_digests_as_digits(table)
    return str(ibis.to_sql(table, dialect=DIALECTS[dialect]))


def _provide_pyspark_options() -> None:
    """Sets the options that Ibis looks for, and that only an installed PySpark would bring."""
    import ibis
    from ibis.config import Config

    class PySpark(Config):
        treat_nan_as_null: bool = False

    if ibis.options.pyspark is None:
        ibis.options.pyspark = PySpark()


def _table_with_digests_as_digits(table: Table) -> Table:
    """The table with each digest in two steps: BigQuery's are bytes, to be written as digits.

    Ibis knows no expression for a digest's hexadecimal digits there.
    """
    import ibis
    from ibis.expr import operations

    @ibis.udf.scalar.builtin
    def to_hex(digest: bytes) -> str:  # type: ignore[empty-body]
        """The hexadecimal digits of a digest, a function of BigQuery."""

    def with_digits(node: Any, arguments: Mapping[Any, Any] | None) -> Any:
        node = node.__recreate__(arguments) if arguments else node
        if isinstance(node, operations.HexDigest):
            return to_hex(node.arg.to_expr().hashbytes(node.how)).op()
        return node

    return table.op().replace(with_digits).to_expr()
