"""What the rules of click_rules are worth and what mining costs, on simulated logs.

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
from date_jax.data.clicks.simulated import codes, log
from date_jax.data.clicks.simulated_catalogue import catalogue
from date_jax.data.clicks.tables import database
from date_jax.errors import SetupError

if TYPE_CHECKING:
    import pyarrow as pa
else:  # a package of the extra "clicks"
    pa = Any


class Quality(NamedTuple):
    """Of mined pairs: their number, the share that shows one product, and the share that was found
    of all pairs of one product's offers by two suppliers."""

    pairs: int
    precision: float
    recall: float


def quality(pairs: "pa.Table", offers: "pa.Table") -> Quality:
    """Of pairs (trigger_id, offer_id), by the truth in offers (offer_id, product_id, supplier)."""
    import pyarrow.compute as pc

    known = offers["offer_id"].combine_chunks()
    one, two = (
        pc.index_in(pairs[name], value_set=known).to_numpy() for name in ("trigger_id", "offer_id")
    )
    product, supplier = codes(offers["product_id"]), codes(offers["supplier"])
    same = product[one] == product[two]
    found = same & (supplier[one] != supplier[two])
    there = twos(product) - twos(product * (supplier.max() + 1) + supplier)
    shares = same.sum() / max(1, len(same)), found.sum() / max(1, there)
    return Quality(len(same), *map(float, shares))


def twos(code: Int[np.ndarray, " N"]) -> int:
    """How many pairs of entries have equal codes."""
    count = np.unique(code, return_counts=True)[1]
    return int((count * (count - 1) // 2).sum())


def rules_table(rows: int, *, seed: int) -> Iterator[tuple[str, Quality]]:
    """The pairs of a simulated log by all rules, without each of them, and without any."""
    offers = catalogue(max(20, rows // 400), seed=seed)
    shown = log(offers, rows=rows, seed=seed)
    trials = {"all rules": (), **{f"without {rule}": (rule,) for rule in RULES}, "none": RULES}
    with database(memory_gb=3.0) as connection:
        clicked = connection.create_table("log", shown)
        known = connection.create_table("catalogue", offers.drop_columns("product_id"))
        for name, without in trials.items():
            pairs = click_rules.mined(clicked, known, Settings(salt="trial"), without=without)
            yield name, quality(pairs.to_pyarrow(), offers)


class Cost(NamedTuple):
    """Of a command, from start to exit: by the clock, on all cores together, resident memory."""

    seconds: float
    core_seconds: float
    peak_gib: float


# Between us and the command stands a small process: the peak that Linux reports of a command is at
# least what the process that started it held at that moment.
MEASURED = """
import json, resource, subprocess, sys, time
start = time.monotonic()
code = subprocess.call(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
spent = time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 2**20
with open(sys.argv[1], "w") as report:
    json.dump(spent, report)
sys.exit(code)
"""


def cost(module: str, *arguments: str) -> Cost:
    """Runs a command of this package in a process of its own.

    Raises:
        SetupError: it failed; its own message is above.
    """
    command = [sys.executable, "-m", f"date_jax.data.{module}", *arguments]
    with tempfile.NamedTemporaryFile("r", prefix="cost_") as report:
        code = subprocess.call([sys.executable, "-c", MEASURED, report.name, *command])
        if code:
            raise SetupError(f"{module} failed with exit code {code}")
        return Cost(*json.load(report))


def simulated_and_mined(rows: int, folder: Path, *, seed: int) -> tuple[Cost, Cost]:
    """The costs of making a log of `rows` rows and of mining it."""
    files = [f"--{name}={folder / name}.parquet" for name in ("log", "catalogue")]
    simulated = cost("simulated_clicks", f"--rows={rows}", f"--seed={seed}", f"--out={folder}")
    return simulated, cost("click_pairs", *files, f"--out={folder / 'pairs.parquet'}")


def rules_lines(rows: int, seed: int) -> Iterator[str]:
    yield "| rules | pairs | precision | recall |"
    yield "|---|---|---|---|"
    for name, made in rules_table(rows, seed=seed):
        yield f"| {name} | {made.pairs:,} | {made.precision:.3f} | {made.recall:.3f} |"


def growth_lines(rows: list[int], seed: int) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="click_trials_") as folder:
        costs = [simulated_and_mined(number, Path(folder), seed=seed) for number in rows]
    yield "| rows | simulated, s | core-s | GiB | mined, s | core-s | GiB |"
    yield "|---|---|---|---|---|---|---|"
    for number, both in zip(rows, costs, strict=True):
        cells = [f"{made[0]:.1f} | {made[1]:.1f} | {made[2]:.2f}" for made in both]
        yield f"| {number:,} | {' | '.join(cells)} |"


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main(arguments: Sequence[str]) -> int:
    """Prints one of the tables; returns the exit code."""
    parser = command.Parser("click_trials", __doc__)
    parser.add_argument("--table", choices=("rules", "growth"), default="rules")
    parser.add_argument("--rows", type=numbers, default=[1_000_000], help="growth takes several")
    parser.add_argument("--seed", type=int, default=0)
    return command.run(parser, arguments, print_table, interrupted="the table ends here")


def print_table(options: argparse.Namespace) -> None:
    """Prints the table that the command's flags name, each line when it is known."""
    if options.table == "growth":
        lines = growth_lines(options.rows, options.seed)
    else:
        lines = rules_lines(options.rows[0], options.seed)
    for line in lines:
        print(line, flush=True)
