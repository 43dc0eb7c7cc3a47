"""Trials of click_pairs on simulated logs: the worth of its rules and the cost of mining.

python -m date_jax.data.click_trials --table=rules --rows=1000000
python -m date_jax.data.click_trials --table=growth --rows=100000,1000000,10000000
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int

from date_jax.data import command
from date_jax.data.clicks import rules as click_rules
from date_jax.data.clicks.rules import RULES, Settings
from date_jax.data.clicks.simulated_catalogue import catalogue
from date_jax.data.clicks.simulated_log import codes, log
from date_jax.data.clicks.tables import database
from date_jax.errors import SetupError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa
else:  # a package of the extra "clicks"
    pa = Any


class Quality(NamedTuple):
    """The worth of mined pairs.

    Attributes:
        pairs: their number.
        precision: the share of them that shows one product.
        recall: the share that is mined of all pairs of one product's offers by two suppliers.
    """

    pairs: int
    precision: float
    recall: float


def quality(pairs: "pa.Table", offers: "pa.Table") -> Quality:
    """The worth of pairs (trigger_id, offer_id), by the products and suppliers of `offers`."""
    import pyarrow.compute as pc

    # Rows of the offers that each pair joins.
    ids = offers["offer_id"].combine_chunks()
    one, two = (
        pc.index_in(pairs[name], value_set=ids).to_numpy() for name in ("trigger_id", "offer_id")
    )
    product, supplier = codes(offers["product_id"]), codes(offers["supplier"])
    is_same = product[one] == product[two]
    is_hit = is_same & (supplier[one] != supplier[two])
    # All there are: pairs of one product, without those of one product and one supplier.
    total = equal_pairs(product) - equal_pairs(product * (supplier.max() + 1) + supplier)
    shares = is_same.sum() / max(1, len(is_same)), is_hit.sum() / max(1, total)
    return Quality(len(is_same), *map(float, shares))


def equal_pairs(code: Int[np.ndarray, " N"]) -> int:
    """The number of pairs of entries with equal codes."""
    count = np.unique(code, return_counts=True)[1]
    return int((count * (count - 1) // 2).sum())


def rule_qualities(rows: int, *, seed: int) -> Iterator[tuple[str, Quality]]:
    """The pairs of a simulated log by all rules, without each of them, and without any."""
    offers = catalogue(max(20, rows // 400), seed=seed)
    clicks = log(offers, rows=rows, seed=seed)
    # One log for all trials; the rules are told nothing of the products.
    trials = {"all rules": (), **{f"without {rule}": (rule,) for rule in RULES}, "none": RULES}
    with database(memory_gb=3.0) as connection:
        log_table = connection.create_table("log", clicks)
        offer_table = connection.create_table("catalogue", offers.drop_columns("product_id"))
        settings = Settings(salt="trial")
        for name, without in trials.items():
            pairs = click_rules.mined_pairs(log_table, offer_table, settings, without=without)
            yield name, quality(pairs.to_pyarrow(), offers)


class Cost(NamedTuple):
    """The cost of a command from start to exit.

    Attributes:
        seconds: by the clock.
        core_seconds: on all cores together.
        peak_gib: resident memory.
    """

    seconds: float
    core_seconds: float
    peak_gib: float


# Between us and the command stands a small process: the peak that Linux reports of a command is at
# least what the process that started it held at that moment.
MEASURING_PROGRAM = """
import json, resource, subprocess, sys, time
start = time.monotonic()
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
spent = time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
with open(sys.argv[1], "w") as report:
    json.dump(spent, report)
sys.exit(code)
"""


def command_cost(name: str, *arguments: str) -> Cost:
    """The cost of a command of `date_jax.data`, run now in a new process.

    Raises:
        SetupError: it failed; its own message is above.
    """
    # The report comes through a file: the command prints what it likes.
    words = [sys.executable, "-m", f"date_jax.data.{name}", *arguments]
    with tempfile.NamedTemporaryFile("r", prefix="cost_") as report:
        code = subprocess.call([sys.executable, "-c", MEASURING_PROGRAM, report.name, *words])
        if code:
            raise SetupError(f"{name} failed with exit code {code}")
        return Cost(*json.load(report))


def simulation_and_mining_costs(rows: int, folder: Path, *, seed: int) -> tuple[Cost, Cost]:
    """The costs of simulating a log of `rows` rows and of mining it."""
    # The same commands that a user runs.
    files = [f"--{name}={folder / name}.parquet" for name in ("log", "catalogue")]
    simulation = command_cost(
        "simulated_clicks", f"--rows={rows}", f"--seed={seed}", f"--out={folder}"
    )
    return simulation, command_cost("click_pairs", *files, f"--out={folder / 'pairs.parquet'}")


def rule_lines(rows: int, seed: int) -> Iterator[str]:
    """The table of what each rule is worth, each line when it is known."""
    yield "| rules | pairs | precision | recall |"
    yield "|---|---|---|---|"
    for name, worth in rule_qualities(rows, seed=seed):
        yield f"| {name} | {worth.pairs:,} | {worth.precision:.3f} | {worth.recall:.3f} |"


def growth_lines(rows: list[int], seed: int) -> Iterator[str]:
    """The table of how costs grow with the rows of the log."""
    with tempfile.TemporaryDirectory(prefix="click_trials_") as folder:
        costs = [simulation_and_mining_costs(count, Path(folder), seed=seed) for count in rows]
    yield "| rows | simulated, s | core-s | GiB | mined, s | core-s | GiB |"
    yield "|---|---|---|---|---|---|---|"
    for count, pair in zip(rows, costs, strict=True):
        cells = [f"{cost[0]:.1f} | {cost[1]:.1f} | {cost[2]:.2f}" for cost in pair]
        yield f"| {count:,} | {' | '.join(cells)} |"


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them."""
    return [int(number) for number in text.split(",")]


def main(arguments: Sequence[str]) -> int:
    """Prints one of the tables; returns the exit code."""
    parser = command.Parser("click_trials", __doc__)
    parser.add_argument("--table", choices=("rules", "growth"), default="rules")
    parser.add_argument("--rows", type=numbers, default=[1_000_000], help="growth takes several")
    parser.add_argument("--seed", type=int, default=0)
    return command.run(parser, arguments, print_table, interrupted="the table ends here")


def print_table(options: argparse.Namespace) -> None:
    """Prints the table that the command's flags name, each line when it is known.

    Raises:
        UsageError: a number is too small.
    """
    if min(options.rows) < 1 or options.seed < 0:
        raise UsageError("--rows must be 1 or more, --seed 0 or more")
    if options.table == "growth":
        lines = growth_lines(options.rows, options.seed)
    else:
        lines = rule_lines(options.rows[0], options.seed)
    for line in lines:
        print(line, flush=True)
