"""Filters of strangers: what they choose, and all that they must not do."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from date_jax.errors import UsageError
from date_jax.index.where import Filters

pyarrow = pytest.importorskip("pyarrow", reason="the extra index is not installed")
pytest.importorskip("duckdb", reason="the extra index is not installed")


@pytest.fixture(scope="module")
def filters() -> Filters:
    table = pyarrow.table(
        {
            "id": ["a", "b", "c", "d"],
            "category": ["mug", "bag", "mug", None],
            "price": [5.0, 8.0, 30.0, None],
            "the size": [1, 2, 3, 4],
        }
    )
    return Filters(table, {"sku": "id", "price": "id"})


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("category = 'mug' and price < 20", [0]),
        ("price < 20 or category is null", [0, 1, 3]),
        ("not category = 'mug'", [1]),
        ("category in ('mug', 'lamp')", [0, 2]),
        ("price between 5 and 8", [0, 1]),
        ("CATEGORY like 'm%' and lower(category) ilike '%U%'", [0, 2]),
        ('"the size" * 2 >= 6 -- a comment', [2, 3]),
        ("sku = 'b'", [1]),
        ("case when price > 6 then category = 'mug' else true end", [0, 2, 3]),
        ("coalesce(price, 0) = 0", [3]),
        ("price > 100", []),
    ],
)
def test_a_filter_chooses_the_rows_for_which_it_is_true(
    filters: Filters, where: str, rows: list[int]
) -> None:
    assert filters.rows(where).tolist() == rows


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("prise < 3", r"no column 'prise' .did you mean 'price'.*\n.*there are: id, category"),
        ('category = "mug"', r"no column 'mug'\n.*\n.*single quotes"),
        ("category < 3", "Cannot compare"),
        ("price < 'x'", "Could not convert string 'x'"),
        ("price <", "syntax error"),
        ("", "syntax error"),
        ("1=1; drop table offers", "syntax error"),
        ("true) union select (1", "more than an expression"),
        ("true) order by (price", "more than an expression"),
        ("true) limit (1", "more than an expression"),
        ("true) group by (price", "more than an expression"),
        ("true); drop table offers; select (1", "Only SELECT statements"),
        ("true); select 1; select (1", "more than an expression"),
        ("id in (select id from offers)", "may not hold a subquery"),
        ("exists(from read_csv('/etc/passwd'))", "may not hold a subquery"),
        ("row_number() over () = 1", "may not hold a window"),
        ("columns(*) is null", "may not hold a star"),
        ("price = ?", "may not hold a parameter"),
        ("#1 = 'a'", "may not hold a positional reference"),
        ("list_filter([1], x -> x > 0) is null", "no function"),
        ("read_text('/etc/passwd') = ''", "no function 'read_text'"),
        ("getenv('HOME') = ''", "no function 'getenv'"),
        ("length(repeat('x', 1000000000)) > 0", "no function 'repeat'"),
        ("current_setting('memory_limit') = ''", "no function 'current_setting'"),
        ("nextval('x') = 1", "no function 'nextval'"),
        ("price = 1 " + "or price = 1 " * 200, "characters, more than 2,000"),
    ],
)
def test_anything_but_an_expression_over_the_columns_is_refused(
    filters: Filters, where: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        filters.rows(where)
    assert len(str(error.value).splitlines()) <= 4


@pytest.mark.parametrize(
    "where",
    ["not " * 490 + "true", "(1 + " * 390 + "1" + ")" * 390 + " > 0", "(" * 990 + ")" * 990],
)
def test_expressions_within_expressions_break_nothing(filters: Filters, where: str) -> None:
    with contextlib.suppress(UsageError):
        filters.rows(where)
    assert filters.rows("price = 5").tolist() == [0]


def test_a_filter_that_takes_long_is_stopped() -> None:
    text = "a" * 2000
    filters = Filters(pyarrow.table({"text": [text] * 20_000}), seconds=0.05)
    slow = " or ".join(f"text like '%{'a%' * n}b%'" for n in range(30, 46))
    begun = time.monotonic()
    with pytest.raises(UsageError, match=r"took more than 0.05 s"):
        filters.rows(slow)
    assert time.monotonic() - begun < 10
    assert len(filters.rows("text like 'a%'")) == 20_000


def test_several_threads_may_ask_at_once(filters: Filters) -> None:
    wheres = [f"price > {number % 9}" for number in range(64)]
    with ThreadPoolExecutor(8) as threads:
        answers = [rows.tolist() for rows in threads.map(filters.rows, wheres)]
    assert answers == [filters.rows(where).tolist() for where in wheres]


def test_the_connection_of_a_filter_reads_no_file_and_keeps_its_settings(filters: Filters) -> None:
    import duckdb

    for query in (
        "select * from read_text('/etc/hostname')",
        "copy offers to '/tmp/offers.csv'",
        "attach '/tmp/other.db'",
        "install httpfs",
        "set enable_external_access = true",
        "set memory_limit = '100GB'",
    ):
        with pytest.raises(duckdb.Error):
            filters._connection.execute(query)
