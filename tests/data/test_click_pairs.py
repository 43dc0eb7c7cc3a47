"""Mining pairs from a click log: against loops over the rows, in several engines' words."""

import gzip
import itertools
import random
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import sqlglot

from date_jax.data.clicks import mining as click_pairs
from date_jax.data.clicks import rules as click_rules
from date_jax.data.clicks import tables as click_tables
from date_jax.data.clicks import training_pairs
from date_jax.data.clicks.rules import CATALOGUE, LOG, RULES, STEPS, Settings
from date_jax.errors import DataError, SetupError

LOOSE = Settings(
    salt="pepper",
    min_support=1,
    max_clicks=100,
    min_relevance=0.0,
    min_coclicks=1,
    drop_duplicates_share=0.0,
    max_pairs=100,
)
STRICT = Settings(
    salt="pepper",
    min_support=5,
    max_clicks=6,
    min_relevance=0.5,
    min_coclicks=2,
    drop_duplicates_share=0.5,
    max_pairs=3,
)
Rows = list[dict[str, Any]]
Pair = tuple[str, str]


@pytest.fixture(scope="module")
def connection() -> Iterator[Any]:
    with click_tables.database(memory_gb=1.0) as connection:
        yield connection


def as_table(rows: Rows, columns: dict[str, str]) -> pa.Table:
    types = {"string": pa.string(), "boolean": pa.bool_(), "float64": pa.float64()}
    return pa.Table.from_pylist(rows, pa.schema({name: types[columns[name]] for name in columns}))


def log_columns(log: Rows) -> dict[str, str]:
    return LOG | ({"relevance": "float64"} if "relevance" in log[0] else {})


def mined_pairs(
    connection: Any, log: Rows, offers: Rows, settings: Settings, **options: Any
) -> dict[Pair, dict[str, Any]]:
    log_table = connection.create_table("log", as_table(log, log_columns(log)), overwrite=True)
    offer_table = connection.create_table("catalogue", as_table(offers, CATALOGUE), overwrite=True)
    pairs = click_rules.mined_pairs(log_table, offer_table, settings, **options).to_pyarrow()
    return by_ids(pairs)


def by_ids(pairs: pa.Table) -> dict[Pair, dict[str, Any]]:
    return {(row.pop("trigger_id"), row.pop("offer_id")): row for row in pairs.to_pylist()}


# The rules once more, as loops over rows.


def words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else " " for c in text.lower()).split()


def in_title(query: tuple[str, ...], title: str | None) -> float:
    return len({*query} & {*words(title or "")}) / len({*query})


def visits_by_loops(log: Rows, offers: dict[str, dict]) -> dict[tuple, dict[str, float]]:
    """{(user, session, query): {offer: relevance}}."""
    visits: dict[tuple, dict[str, float]] = defaultdict(dict)
    for row in log:
        query = tuple(words(row["query"] or ""))
        is_listed = None not in (row["user"], row["session"]) and row["offer_id"] in offers
        if not (row["clicked"] and query and is_listed):
            continue
        if "relevance" in row:
            rating = row["relevance"]
            relevance = 0.0 if rating is None or rating != rating else rating
        else:
            relevance = in_title(query, offers[row["offer_id"]]["title"])
        visit = visits[row["user"], row["session"], query]
        visit[row["offer_id"]] = max(relevance, visit.get(row["offer_id"], relevance))
    return visits


def mined_by_loops(
    log: Rows, catalogue: Rows, settings: Settings, without: tuple[str, ...] = ()
) -> dict[Pair, dict[str, Any]]:
    offers = {row["offer_id"]: row for row in catalogue}
    visits = visits_by_loops(log, offers)
    if "robots" not in without:
        visits = {key: seen for key, seen in visits.items() if len(seen) <= settings.max_clicks}
    if "support" not in without:
        users = defaultdict(set)
        for user, _, query in visits:
            users[query].add(user)
        visits = {
            key: seen for key, seen in visits.items() if len(users[key[2]]) >= settings.min_support
        }
    pairs: dict[Pair, dict[str, Any]] = {}
    for seen in visits.values():
        if "relevance" not in without:
            seen = {key: value for key, value in seen.items() if value >= settings.min_relevance}
        for pair in itertools.combinations(sorted(seen), 2):
            facts = pairs.setdefault(pair, {"coclicks": 0, "relevance": 0.0})
            facts["coclicks"] += 1
            facts["relevance"] = max(facts["relevance"], min(seen[name] for name in pair))
    for (one, two), facts in list(pairs.items()):
        first, second = offers[one], offers[two]
        facts["category"] = first["category"]
        holds = {
            "category": None not in (first["category"], second["category"])
            and first["category"] == second["category"],
            "supplier": None not in (first["supplier"], second["supplier"])
            and first["supplier"] != second["supplier"],
            "coclicks": facts["coclicks"] >= settings.min_coclicks,
            "duplicates": first["image_hash"] is None
            or first["image_hash"] != second["image_hash"]
            or int(sha256(f"{one}|{two}".encode()).hexdigest()[:8], 16)
            >= int(settings.drop_duplicates_share * 16**8),
        }
        if not all(holds[rule] or rule in without for rule in holds):
            del pairs[one, two]
    return pairs if "quota" in without else best_of_both(pairs, settings.max_pairs)


def best_of_both(pairs: dict[Pair, dict[str, Any]], most: int) -> dict[Pair, dict[str, Any]]:
    order = sorted(
        pairs, key=lambda pair: (-pairs[pair]["coclicks"], -pairs[pair]["relevance"], pair)
    )
    of_offer: dict[str, list[Pair]] = defaultdict(list)
    for pair in order:
        for name in pair:
            of_offer[name].append(pair)
    return {
        pair: found
        for pair, found in pairs.items()
        if all(pair in of_offer[name][:most] for name in pair)
    }


def random_shop(seed: int, *, relevance: bool) -> tuple[Rows, Rows]:
    """A log with everything that goes wrong in logs, and its catalogue."""
    draw = random.Random(seed)
    words = ["Red", "vase", "floral", "Größe", "12cm", "红色", "new"]
    offers = [
        {
            "offer_id": f"o{number}",
            "title": draw.choice([None, *[" - ".join(draw.sample(words, 4))] * 9]),
            "supplier": draw.choice([None, "s1", "s2", "s3", "s4"]),
            "category": draw.choice([None, *["c1"] * 9, "c2"]),
            "image_hash": draw.choice([None, "i1", "i2"]),
        }
        for number in range(20)
    ]
    often = [" ".join(draw.sample(words, 2)) for _ in range(4)]
    seldom = [" ".join(draw.sample(words, 3)), "?!", "", None]
    queries = [*often * 6, f"  {often[0].upper()}!", *seldom * 2]
    log = []
    for _ in range(1000):
        query = draw.choice(queries)
        asking = [None, *"abcdefgh"] if query in often else [None, *"ab"]
        offer = draw.choice([None, "unknown", *(f"o{number}" for number in range(20))])
        row = {"user": draw.choice(asking), "session": draw.choice([None, "1", "2", "3"])}
        clicked = draw.choice([None, False, True, True, True])
        log.append(row | {"query": query, "offer_id": offer, "clicked": clicked})
    if relevance:
        scores = [None, float("nan"), 0.25, 0.5, 0.75, 1.0]
        log = [row | {"relevance": draw.choice(scores)} for row in log]
    return log, offers


@pytest.mark.parametrize("relevance", [False, True], ids=["by_words", "by_the_log"])
@pytest.mark.parametrize("seed", range(3))
def test_the_rules_do_what_loops_over_the_rows_do(
    connection: Any, seed: int, relevance: bool
) -> None:
    log, offers = random_shop(seed, relevance=relevance)
    expected = mined_by_loops(log, offers, STRICT)
    assert len(expected) > 2
    assert mined_pairs(connection, log, offers, STRICT) == expected


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_alone_does_what_loops_do(connection: Any, rule: str) -> None:
    log, offers = random_shop(7, relevance=False)
    others = tuple(name for name in RULES if name != rule)
    expected = mined_by_loops(log, offers, STRICT, without=others)
    assert 2 < len(expected) < len(mined_by_loops(log, offers, STRICT, without=RULES))
    assert mined_pairs(connection, log, offers, STRICT, without=others) == expected


TITLES = {"a": "red mug", "b": "Red mug, striped", "c": "green plate"}
OFFERS = [
    {
        "offer_id": name,
        "title": title,
        "supplier": f"s{name}",
        "category": "mugs",
        "image_hash": f"i{name}",
    }
    for name, title in TITLES.items()
]
CLICKED = [
    {"user": user, "session": "1", "query": "red mug", "offer_id": offer, "clicked": True}
    for user in "uvw"
    for offer in "ab"
]
ONE_PAIR = Settings("pepper", min_support=3, max_clicks=2, drop_duplicates_share=1.0, max_pairs=1)


def rows_with(rows: Rows, change: dict[str, Any], **where: str) -> Rows:
    """`rows` with `change` in those that `where` fits."""
    return [row | change if where.items() <= row.items() else row for row in rows]


def test_what_three_shoppers_click_together_is_a_pair(connection: Any) -> None:
    facts = {"category": "mugs", "coclicks": 3, "relevance": 1.0}
    assert mined_pairs(connection, CLICKED, OFFERS, ONE_PAIR) == {("a", "b"): facts}


@pytest.mark.parametrize(
    ("rule", "log", "offers"),
    [
        ("robots", [*CLICKED, *rows_with(CLICKED, {"offer_id": "c"})], OFFERS),
        ("support", rows_with(CLICKED, {"user": "u", "session": "2"}, user="v"), OFFERS),
        ("relevance", CLICKED, rows_with(OFFERS, {"title": "plate"}, offer_id="b")),
        ("category", CLICKED, rows_with(OFFERS, {"category": "plates"}, offer_id="b")),
        ("supplier", CLICKED, rows_with(OFFERS, {"supplier": "sa"}, offer_id="b")),
        (
            "coclicks",
            [row for row in CLICKED if row["user"] == "u" or row["offer_id"] == "a"],
            OFFERS,
        ),
        ("duplicates", CLICKED, rows_with(OFFERS, {"image_hash": "ia"}, offer_id="b")),
    ],
)
def test_each_rule_alone_removes_the_pair_that_it_is_about(
    connection: Any, rule: str, log: Rows, offers: Rows
) -> None:
    assert ("a", "b") not in mined_pairs(connection, log, offers, ONE_PAIR)
    assert ("a", "b") in mined_pairs(connection, log, offers, ONE_PAIR, without=(rule,))


@pytest.mark.parametrize(
    "change",
    [{"session": "2"}, {"query": "mug"}, {"user": "x"}, {"clicked": False}, {"clicked": None}],
    ids=str,
)
def test_clicks_of_different_visits_are_no_pair(connection: Any, change: dict) -> None:
    log = rows_with(CLICKED, change, offer_id="b")
    assert mined_pairs(connection, log, OFFERS, LOOSE) == {}


def test_no_offer_has_more_pairs_than_the_quota_and_the_best_are_kept(connection: Any) -> None:
    third = [row | {"offer_id": "c"} for row in CLICKED if row["user"] != "w"]
    all_three = mined_pairs(connection, [*CLICKED, *third], OFFERS, LOOSE)
    assert {pair: found["coclicks"] for pair, found in all_three.items()} == {
        ("a", "b"): 3,
        ("a", "c"): 2,
        ("b", "c"): 2,
    }
    best = mined_pairs(connection, [*CLICKED, *third], OFFERS, LOOSE._replace(max_pairs=1))
    assert set(best) == {("a", "b")}


def test_a_share_of_the_duplicates_is_dropped_and_always_the_same(connection: Any) -> None:
    names = [f"o{number}" for number in range(40)]
    log = [CLICKED[0] | {"offer_id": name} for name in names]
    offers = [OFFERS[0] | {"offer_id": name, "supplier": name} for name in names]
    share = [
        set(mined_pairs(connection, log, offers, LOOSE._replace(drop_duplicates_share=share)))
        for share in (0.0, 0.75, 0.75, 1.0)
    ]
    assert len(share[0]) == 40 * 39 / 2
    assert share[1] == share[2] < share[0]
    assert 0.2 < len(share[1]) / len(share[0]) < 0.3
    assert share[3] == set()


# The same expression in the words of larger engines.


@pytest.mark.parametrize("dialect", ["spark", "bigquery"])
def test_the_query_for_another_engine_is_the_golden_one(dialect: str, root: Path) -> None:
    path = root / f"tests/golden/click_pairs.{dialect}.sql"
    query = click_rules.sql(LOG, Settings("pepper"), dialect)
    assert query == path.read_text(), (
        f"if that was meant: python -m date_jax.data.click_pairs --sql={dialect} --salt=pepper "
        f"> {path.relative_to(root)}"
    )


@pytest.mark.parametrize("relevance", [False, True], ids=["by_words", "by_the_log"])
@pytest.mark.parametrize("dialect", ["duckdb", "spark", "bigquery"])
def test_the_query_for_another_engine_finds_the_same_pairs(
    connection: Any, dialect: str, relevance: bool
) -> None:
    """Said back in DuckDB's words by sqlglot, as those engines are not here."""
    log, offers = random_shop(3, relevance=relevance)
    expected = mined_pairs(connection, log, offers, STRICT)
    query = click_rules.sql(log_columns(log), STRICT, dialect)
    connection.raw_sql("CREATE OR REPLACE TEMP MACRO ieee_divide(a, b) AS a / b")  # BigQuery's
    # sqlglot's versions differ about digests that are bytes; DuckDB's are hexadecimal.
    connection.raw_sql("CREATE OR REPLACE TEMP MACRO hexdigest(text) AS sha256(text)")
    query = query.replace("TO_HEX(SHA256(", "hexdigest((")
    (translated,) = sqlglot.transpile(query, read=dialect, write="duckdb")
    assert by_ids(connection.raw_sql(translated).to_arrow_table()) == expected


def test_no_engine_is_asked_to_trim(root: Path) -> None:
    """Ibis's TRIM for Spark takes the letters v and f off: "floral" became "loral"."""
    for path in (root / "tests/golden").glob("*.sql"):
        assert "TRIM" not in path.read_text()


# Privacy.


def test_users_are_known_by_a_salted_hash_from_the_first_step_on(connection: Any) -> None:
    seen: dict[str, pa.Table] = {}

    def after(name: str, table: Any) -> Any:
        seen[name] = table.to_pyarrow()
        return table

    mined_pairs(connection, CLICKED, OFFERS, ONE_PAIR, after=after)
    assert list(seen) == ["offers", *STEPS]
    hashed = {sha256(f"pepper{user}".encode()).hexdigest() for user in "uvw"}
    assert set(seen["clicks"]["user"].to_pylist()) == hashed
    after_pairing = list(STEPS)[list(STEPS).index("pairs") :]
    for name in after_pairing:
        assert not {"user", "session", "query"} & set(seen[name].column_names)


@pytest.mark.parametrize("dialect", ["spark", "bigquery"])
def test_a_query_reads_user_ids_only_to_hash_them(dialect: str, root: Path) -> None:
    text = (root / f"tests/golden/click_pairs.{dialect}.sql").read_text()
    (read,) = re.findall(r"^.*CONCAT\('pepper'.*$", text, re.MULTILINE)
    assert re.search(r"(SHA2\(|TO_HEX\(SHA256\()CONCAT\('pepper', `t\d`\.`user`\)", read)
    alias = re.search(r"`(t\d)`\.`user`", read)[1]
    inside = text[text.index("clicks AS") : text.index("robots AS")]
    assert len(re.findall(rf"`{alias}`\.`user`(?! IS NOT NULL)", inside)) == 1


# The command.


def write(path: Path, rows: Rows, columns: dict[str, str]) -> Path:
    kind = pyarrow.csv.write_csv if path.suffix == ".csv" else pyarrow.parquet.write_table
    kind(as_table(rows, columns), path)
    return path


def command(folder: Path, *arguments: str, kind: str = "csv") -> list[str]:
    """The arguments for CLICKED and OFFERS; those of `arguments` come after and so count."""
    log = write(folder / f"log.{kind}", rows_with(CLICKED, {"user": "eve@home"}, user="u"), LOG)
    offers = write(folder / f"catalogue.{kind}", OFFERS, CATALOGUE)
    flags = [f"--log={log}", f"--catalogue={offers}", f"--out={folder / f'pairs.{kind}'}"]
    return [*flags, "--min_support=3", *arguments]


def test_a_log_that_is_cut_off_or_turns_binary_later_is_told_as_such(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = command(tmp_path)
    draw = random.Random(0)
    rows = "".join(f"u{draw.random()},1,red mug {draw.random()},a,1\n" for _ in range(9000))
    packed = gzip.compress(HEADER + rows.encode())
    (tmp_path / "log.csv").write_bytes(packed[: len(packed) // 2])
    assert click_pairs.main(arguments) == 3
    assert_readable(capsys.readouterr().err, "log.csv: a gzip file that is damaged or cut off")
    (tmp_path / "log.csv").write_bytes(HEADER + rows.encode() + b"u,1\0,mug,1\n")
    assert click_pairs.main(arguments) == 3
    assert_readable(capsys.readouterr().err, "log.csv:9002: holds a zero byte")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("column", ["user", "session", "offer_id"])
def test_words_for_empty_cells_are_no_ids_of_a_log(
    tmp_path: Path, capsys: pytest.CaptureFixture, kind: str, column: str
) -> None:
    arguments = command(tmp_path, kind=kind)
    clean = [*rows_with(CLICKED, {"user": "eve@home"}, user="u")]
    words = ("nan", "None", "NULL", "<NA>", "N/A")
    extra = [row | {column: word} for row, word in zip(clean * 5, words * 9, strict=False)]
    write(tmp_path / f"log.{kind}", [*clean, *extra], LOG)
    assert click_pairs.main(arguments) == 0
    lines = dict(line.split(maxsplit=2)[:2] for line in capsys.readouterr().out.splitlines()[1:3])
    assert lines == {"(log)": str(len(clean) + len(extra)), "clicks": str(len(clean))}


def test_a_catalogue_without_some_ids_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = command(tmp_path)
    write(tmp_path / "catalogue.csv", [*OFFERS, *[OFFERS[0] | {"offer_id": "nan"}] * 2], CATALOGUE)
    assert click_pairs.main(arguments) == 3
    assert_readable(capsys.readouterr().err, "2 rows have no offer_id", "such as nan, NaN, None")


def test_nan_and_words_are_no_pairs(tmp_path: Path) -> None:
    ids = {"trigger_id": [1.0, float("nan")], "offer_id": ["b", "c"]}
    pa.parquet.write_table(pa.table(ids), tmp_path / "pairs.parquet")
    assert training_pairs.id_pairs(str(tmp_path / "pairs.parquet")).offer_id == ["b"]
    (tmp_path / "pairs.csv").write_text("trigger_id,offer_id\na,b\nnan,c\na,NULL\n")
    assert training_pairs.id_pairs(str(tmp_path / "pairs.csv")) == (["a"], ["b"])


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_packed_logs_are_read_one_by_one_and_as_a_folder(
    tmp_path: Path, packing: str, capsys: pytest.CaptureFixture
) -> None:
    arguments = command(tmp_path)
    assert click_pairs.main(arguments) == 0
    pairs = (tmp_path / "pairs.csv").read_bytes()
    codec = pa.Codec({"gz": "gzip", "zst": "zstd"}[packing])
    folder = tmp_path / "log"
    folder.mkdir()
    for name in ("log", "catalogue"):
        content = (tmp_path / f"{name}.csv").read_bytes()
        packed = codec.compress(content, asbytes=True)
        (tmp_path / f"{name}.csv").write_bytes(packed)  # under a name that does not tell
        (folder / f"{name}.csv.{packing}").write_bytes(packed)
    assert click_pairs.main(arguments) == 0
    assert (tmp_path / "pairs.csv").read_bytes() == pairs
    shutil.move(folder / f"catalogue.csv.{packing}", tmp_path)
    flags = [f"--log={folder}", f"--catalogue={tmp_path}/catalogue.csv.{packing}"]
    assert click_pairs.main([*arguments, *flags]) == 0
    assert (tmp_path / "pairs.csv").read_bytes() == pairs
    # One part that is not packed as the others are cannot be read with them.
    shutil.copy(tmp_path / "catalogue.csv", folder / "z.csv")
    (folder / "z.csv").write_text(HEADER.decode())
    capsys.readouterr()
    assert click_pairs.main([*arguments, *flags]) == 3
    assert_readable(capsys.readouterr().err, "z.csv: is not packed as", "or none")


@pytest.mark.parametrize(
    ("text", "encoding", "says"),
    [
        ("größer", "latin-1", "(line 6002): it looks like LATIN1"),
        ("赤いマグカップ", "cp932", "(line 6002): it looks like CP932"),
        ("红色的杯子", "gbk", "(line 6002): it looks like GBK"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_another_encoding_behind_the_first_lines_is_told_with_its_line(
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    text: str,
    encoding: str,
    says: str,
    packed: bool,
) -> None:
    arguments = command(tmp_path)
    lines = HEADER + b"u,1,red mug of a name,a,1\n" * 6000
    assert len(lines) > 2 * click_tables.HEAD
    content = lines + f"u,1,{text},a,1\n".encode(encoding) + b"u,1,mug,a,1\n" * 9
    (tmp_path / "log.csv").write_bytes(gzip.compress(content) if packed else content)
    assert click_pairs.main(arguments) == 3
    assert_readable(capsys.readouterr().err, says, "iconv -f")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_the_command_writes_pairs_and_tells_what_each_rule_removed(
    tmp_path: Path, capsys: pytest.CaptureFixture, kind: str
) -> None:
    assert click_pairs.main(command(tmp_path, "--without=quota", kind=kind)) == 0
    printed = capsys.readouterr().out
    read = pyarrow.csv.read_csv if kind == "csv" else pyarrow.parquet.read_table
    assert read(tmp_path / f"pairs.{kind}").to_pylist() == [
        {"trigger_id": "a", "offer_id": "b", "category": "mugs", "coclicks": 3, "relevance": 1}
    ]
    lines = [line.split()[:3] for line in printed.splitlines()]
    assert lines[1:4] == [["(log)", "6"], ["clicks", "6", "0"], ["robots", "6", "0"]]
    assert [line[0] for line in lines[2:-1]] == [name for name in STEPS if name != "quota"]
    assert re.search(r"^1 pairs in .*, \d+\.\d s, at most \d\.\d\d GiB$", printed, re.MULTILINE)
    assert "eve" not in printed + (tmp_path / f"pairs.{kind}").read_bytes().decode("latin1")
    assert not list(tmp_path.glob(".*"))


def test_several_files_are_one_log(tmp_path: Path) -> None:
    arguments = command(tmp_path, "--log=" + str(tmp_path / "part*.csv"))
    for number, user in enumerate("uvw"):
        rows = [row for row in CLICKED if row["user"] == user]
        write(tmp_path / f"part{number}.csv", rows, LOG)
    assert click_pairs.main(arguments) == 0


@pytest.mark.parametrize("pattern", ["", "/*", "/**", "/**/*.parquet"])
def test_a_folder_as_clusters_write_it_is_one_log(tmp_path: Path, pattern: str) -> None:
    folder = tmp_path / "clicks.parquet"
    for user in "uvw":  # only all three together support the pair
        (folder / f"day={user}").mkdir(parents=True)
        rows = [row for row in CLICKED if row["user"] == user]
        write(folder / f"day={user}" / "part-0.parquet", rows, LOG)
    (folder / "_SUCCESS").touch()
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "part-0.parquet").write_bytes(b"unfinished")
    (folder / ".part-0.parquet.crc").write_bytes(b"crc")
    assert click_pairs.main(command(tmp_path, f"--log={folder}{pattern}")) == 0
    assert pyarrow.csv.read_csv(tmp_path / "pairs.csv").num_rows == 1


def test_a_name_that_begins_as_a_mark_s_is_read_when_it_is_typed(tmp_path: Path) -> None:
    (tmp_path / "_logs").mkdir()
    write(tmp_path / "_logs" / "_one.csv", CLICKED, LOG)
    for pattern in ("_logs", "_logs/_one.csv", "_logs/_o*.csv"):
        code = click_pairs.main(command(tmp_path, f"--log={tmp_path / pattern}"))
        assert code == (0 if "/" in pattern else DataError.exit_code)


def test_a_folder_without_tables_and_one_of_two_kinds_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / "_SUCCESS").touch()
    assert click_pairs.main(command(tmp_path, f"--log={folder}")) != 0
    assert f"the folder {folder} holds no .parquet or .csv files" in capsys.readouterr().err
    write(folder / "a.csv", CLICKED, LOG)
    write(folder / "b.parquet", CLICKED, LOG)
    assert click_pairs.main(command(tmp_path, f"--log={folder}")) != 0
    assert "both .parquet and .csv files" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_clicked_may_be_one_and_zero_as_floats(tmp_path: Path, kind: str) -> None:
    shown = [row | {"clicked": 0.0, "offer_id": "c"} for row in CLICKED]
    unknown = [row | {"clicked": None, "offer_id": "c"} for row in CLICKED]
    rows = [*(row | {"clicked": 1.0} for row in CLICKED), *shown, *unknown]
    if kind == "csv":
        lines = [
            ",".join("" if row[name] is None else str(row[name]) for name in LOG) for row in rows
        ]
        (tmp_path / "floats.csv").write_text("\n".join([",".join(LOG), *lines]) + "\n")
        assert ",1.0\n" in (tmp_path / "floats.csv").read_text()
    else:
        rows += [row | {"clicked": float("nan")} for row in shown]
        write(tmp_path / "floats.parquet", rows, LOG | {"clicked": "float64"})
    arguments = command(tmp_path, f"--log={tmp_path}/floats.{kind}")
    assert click_pairs.main(arguments) == 0
    (pair,) = pyarrow.csv.read_csv(tmp_path / "pairs.csv").to_pylist()
    assert (pair["trigger_id"], pair["offer_id"], pair["coclicks"]) == ("a", "b", 3)


def test_ids_that_never_meet_are_shown_from_both_files(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    number = {"a": 1001.0, "b": 1002.0}
    log = [row | {"offer_id": number[row["offer_id"]]} for row in CLICKED]
    write(tmp_path / "floats.parquet", log, LOG | {"offer_id": "float64"})
    offers = [row | {"offer_id": str(1001 + place)} for place, row in enumerate(OFFERS)]
    write(tmp_path / "numbers.csv", offers, CATALOGUE)
    flags = [f"--log={tmp_path}/floats.parquet", f"--catalogue={tmp_path}/numbers.csv"]
    assert click_pairs.main(command(tmp_path, *flags)) == DataError.exit_code
    message = capsys.readouterr().err
    assert "6 with words in the query, 0 of an offer in the catalogue" in message
    assert "such as '1001.0', '1002.0'; the catalogue's '1001', '1002', '1003'" in message
    assert len(message.splitlines()) <= 8


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"clicked": False}, "6 rows, 0 clicked"),
        ({"session": None}, "6 clicked, 0 with user and session"),
        ({"query": "?!"}, "6 with user and session, 0 with words in the query"),
    ],
)
def test_the_condition_that_leaves_no_click_is_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture, change: dict[str, Any], says: str
) -> None:
    log = write(tmp_path / "none.csv", [row | change for row in CLICKED], LOG)
    assert click_pairs.main(command(tmp_path, f"--log={log}")) == DataError.exit_code
    message = capsys.readouterr().err
    assert says in message
    assert "such as" not in message


def test_the_query_is_over_the_columns_of_the_given_log(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    columns = LOG | {"relevance": "float64"}
    log = write(tmp_path / "rated.parquet", [row | {"relevance": 0.5} for row in CLICKED], columns)
    assert click_pairs.main(["--sql=spark", f"--log={log}", "--salt=pepper"]) == 0
    assert capsys.readouterr().out == click_rules.sql(columns, Settings("pepper"), "spark")


USAGE = [
    ([], "--log, --catalogue, --out is required"),
    (["--log=a.csv", "--out=b.csv"], "--catalogue is required"),
    (["--lgo=a.csv"], "--lgo=a.csv: unknown flag (did you mean '--log'?)"),
    (["--sql=spark", "--without=catgory"], "(did you mean 'category'?)"),
    (["--sql=spark", "--max_pairs=0"], "--max_pairs=0: must be 1 or more"),
    (["--sql=spark", "--min_relevance=nan"], "--min_relevance=nan: must be a number"),
    (["--sql=spark", "--drop_duplicates_share=90"], "must be from 0 to 1"),
    (["--sql=spark", "--memory_gb=0"], "--memory_gb=0.0: must be above 0"),
    (["--log=a.csv", "--catalogue=b.csv", "--out=c.json"], "ends in .parquet or .csv"),
]


@pytest.mark.parametrize(("arguments", "says"), USAGE, ids=lambda x: str(x)[:40])
def test_a_wrong_command_is_answered(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture
) -> None:
    assert click_pairs.main(arguments) == 2
    assert_readable(capsys.readouterr().err, says)


def assert_readable(text: str, *says: str) -> None:
    assert text.startswith("error: ")
    assert all(part in text for part in says), text
    assert len(text.splitlines()) <= 8, text
    assert "Traceback" not in text


HEADER = b"user,session,query,offer_id,clicked\n"
FILES = [
    (HEADER.replace(b"clicked", b"click") + b"u,1,q,a,1\n", ["no clicked", "found: user, session"]),
    (HEADER.replace(b",", b";") + b"u;1;q;a;1\n", ["separated by semicolons: expected commas"]),
    (HEADER.replace(b",", b"\t") + b"u\t1\tq\ta\t1\n", ["separated by tabs"]),
    (HEADER.decode().encode("utf-16"), ["looks like UTF-16", "iconv"]),
    (
        HEADER + "u,1,\u7ea2\u8272,a,1\n".encode("gbk"),
        ["(line 2): it looks like GBK", "iconv -f GBK"],
    ),
    (b"PAR1\0\0", ["log.csv is no csv file: it begins with b'PAR1"]),
    (HEADER + b"u,1,q,a,maybe\n", ["cannot be read", "maybe"]),
    (HEADER + b"u,1,q,a\n", ["cannot be read", "Line: 2", "Expected Number of Columns: 5"]),
    (HEADER, ["no clicks are left by 'clicks'"]),
    (b"", ["log.csv is no csv file"]),
]


@pytest.mark.parametrize(("content", "says"), FILES, ids=lambda x: str(x)[:40])
def test_a_log_that_cannot_be_used_is_refused(
    tmp_path: Path, content: bytes, says: list[str], capsys: pytest.CaptureFixture
) -> None:
    arguments = command(tmp_path)
    (tmp_path / "log.csv").write_bytes(content)
    assert click_pairs.main(arguments) == 3
    assert_readable(capsys.readouterr().err, *says)
    assert not list(tmp_path.glob("*pairs.csv"))


@pytest.mark.parametrize(
    ("argument", "code", "says"),
    [
        (
            "--log={}/lgo.csv",
            3,
            ["--log: no file", "(did you mean", "looked"],
        ),
        ("--log={}/log.jsonl", 3, ["expected .parquet or .csv files"]),
        ("--catalogue={}/false.parquet", 3, ["false.parquet is no parquet file"]),
        ("--catalogue={}/twice.csv", 3, ["1 of offer_id are there twice", "'a'"]),
        ("--min_support=4", 3, ["no clicks are left by 'support' (queries of 4 users or more)"]),
        ("--min_coclicks=4", 3, ["no pairs are left by 'coclicks'", "--without=coclicks"]),
        ("--out={}/nowhere/pairs.csv", 5, ["nowhere is no folder"]),
    ],
)
def test_what_is_wrong_with_the_data_is_told(
    tmp_path: Path, argument: str, code: int, says: list[str], capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "log.jsonl").write_text("{}")
    (tmp_path / "false.parquet").write_text("a,b\n")
    write(tmp_path / "twice.csv", [*OFFERS, OFFERS[0]], CATALOGUE)
    assert click_pairs.main(command(tmp_path, argument.format(tmp_path))) == code
    assert_readable(capsys.readouterr().err, *says)


def test_too_little_memory_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert click_pairs.main(command(tmp_path, "--memory_gb=0.001")) == SetupError.exit_code
    assert_readable(capsys.readouterr().err, "--memory_gb=0.001")


def test_ctrl_c_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(click_rules, "mined_pairs", interrupt)
    assert click_pairs.main(command(tmp_path)) == 130
    assert "nothing was written" in capsys.readouterr().err
    assert not list(tmp_path.glob("*pairs.csv"))


def test_a_wrong_command_need_not_wait_for_large_packages() -> None:
    large = "{'tensorflow', 'jax', 'ibis', 'duckdb', 'pandas', 'pyarrow'}"
    code = f"import sys, date_jax.data.clicks.trials; print({large} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
