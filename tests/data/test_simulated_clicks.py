"""The simulated click log, and what is measured on it."""

import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from date_jax.data.clicks import simulated_log
from date_jax.data.clicks import trials as click_trials
from date_jax.data.clicks.rules import LOG, RULES
from date_jax.data.clicks.simulated_catalogue import catalogue


@pytest.fixture(scope="module")
def shop() -> tuple[pa.Table, pa.Table]:
    offers = catalogue(150, seed=0)
    return offers, simulated_log.log(offers, rows=60_000, seed=0)


def test_the_simulated_log_has_the_columns_of_one_and_not_the_truth(shop: tuple) -> None:
    offers, log = shop
    assert log.num_rows == 60_000
    assert {*LOG, "supplier", "category", "time", "position"} == set(log.column_names)
    assert log.equals(simulated_log.log(offers, rows=60_000, seed=0))
    assert not log.equals(simulated_log.log(offers, rows=60_000, seed=1))


def test_no_page_shows_an_offer_twice(shop: tuple) -> None:
    _, log = shop
    impressions = zip(
        *(log[name].to_pylist() for name in ("session", "query", "offer_id")), strict=True
    )
    pages = Counter(impressions)
    # The two queries of a session are now and then the same one: two visits.
    assert max(pages.values()) <= 2
    assert sum(count > 1 for count in pages.values()) < len(pages) / 100


def test_clicks_grow_fewer_down_the_page_and_stray_into_other_categories(shop: tuple) -> None:
    _, log = shop
    rows = log.to_pylist()
    clicks = Counter(row["position"] for row in rows if row["clicked"])
    assert clicks[1] > 1.5 * clicks[5] > 2 * clicks[10] > 0
    counts: dict[str, Counter] = defaultdict(Counter)
    for row in rows:
        if row["clicked"]:
            counts[row["query"]][row["category"]] += 1
    strays = sum(sum(seen.values()) - max(seen.values()) for seen in counts.values())
    assert 0.05 < strays / sum(clicks.values()) < 0.5


def test_a_log_made_in_parts_has_all_its_rows_and_visits_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(simulated_log, "VISITS_AT_ONCE", 64)
    parts = list(simulated_log.log_parts(catalogue(30, seed=0), rows=1500, seed=0))
    assert len(parts) == 3
    assert sum(part.num_rows for part in parts) == 1500
    sessions = [set(part["session"].to_pylist()) for part in parts]
    assert not sessions[0] & sessions[1]


def test_a_catalogue_may_be_a_dict_of_columns() -> None:
    offers = catalogue(30, seed=0)
    columns = {name: offers[name].to_numpy() for name in offers.column_names}
    assert simulated_log.log(columns, rows=100, seed=0).equals(
        simulated_log.log(offers, rows=100, seed=0)
    )


def test_precision_and_recall_by_hand() -> None:
    offers = pa.table(
        {
            "offer_id": ["a", "b", "c", "d", "e"],
            "product_id": ["1", "1", "1", "2", "2"],
            "supplier": ["x", "y", "y", "x", "z"],
        }
    )
    # To be found: ab, ac, de; bc has one supplier.
    pairs = pa.table({"trigger_id": ["a", "b", "a", "c"], "offer_id": ["b", "c", "d", "e"]})
    assert click_trials.quality(pairs, offers) == (4, 2 / 4, 1 / 3)


def test_the_category_and_relevance_rules_make_the_pairs_of_a_simulated_log_more_precise() -> None:
    table = dict(click_trials.rule_qualities(100_000, seed=0))
    assert set(table) == {"all rules", "none", *(f"without {rule}" for rule in RULES)}
    best = table["all rules"]
    assert best.precision > table["without category"].precision + 0.01
    assert best.precision > table["without relevance"].precision + 0.1
    assert best.precision > 3 * table["none"].precision
    assert best.recall < table["none"].recall


def test_the_cost_is_that_of_the_real_commands(capfd: pytest.CaptureFixture) -> None:
    assert click_trials.main(["--table=growth", "--rows=30000"]) == 0
    printed = capfd.readouterr().out
    assert "pairs in" in printed
    row = re.search(r"^\| 30,000 \| (.*) \|$", printed, re.MULTILINE)[1]
    numbers = [float(cell) for cell in row.split(" | ")]
    assert len(numbers) == 6
    assert min(numbers) > 0.02
    assert max(numbers[2], numbers[5]) < 2


def test_the_memory_of_a_command_is_its_own_and_not_that_of_who_asks(tmp_path: Path) -> None:
    ballast = np.ones(2**28)  # 2 GiB
    spent = click_trials.command_cost("simulated_clicks", "--rows=1000", f"--out={tmp_path}")
    assert spent.peak_gib < ballast.nbytes / 2**30
