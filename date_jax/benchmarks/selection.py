"""Counting over all pairs, as the pseudo-box generator does it: its share of the matmul peak."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from date_jax import sharding
from date_jax.benchmarks import measure
from date_jax.date import pseudo_boxes
from date_jax.date.pseudo_boxes import Features
from date_jax.pairs import all_pairs
from date_jax.pairs.vectors import host_unit_vectors
from date_jax.run.countdown import Countdown

COMBINE = "mean"  # of both modalities' cosines, as configs/pgda.py has it
_PARTS = (16, 8, 4, 2, 1)  # of both sets, to see how the cost grows
ROUNDS, ENOUGH = 3, 60.0  # of each size, but no other one begins after so many seconds


def run(mesh: jax.sharding.Mesh, *, sources: int, targets: int, width: int) -> dict[str, Any]:
    """Random unit vectors of two modalities, from a sixteenth of both sets to the whole.

    Args:
        sources, targets: rows of the two sets.
        width: D.
    """
    rng = np.random.default_rng(0)

    def features(rows: int) -> Features:
        made = (rng.standard_normal((rows, width), np.float32) for _ in Features._fields)
        return Features(*map(host_unit_vectors, made))

    source, target = features(sources), features(targets)
    peak = measure.matmul_peak(jnp.float32, mesh, precision="highest")  # as the counts are

    def part(of: Features, number: int) -> Features:
        return _first(max(1, len(of.image) // number), of)

    grown = [measured(part(source, n), part(target, n), mesh, peak) for n in _PARTS]
    pairs, seconds = ([row[name] for row in grown] for name in ("pairs", "seconds"))
    slope = np.polyfit(np.log(pairs), np.log(seconds), 1)[0]
    return {
        "width": width,
        "modalities": len(Features._fields),
        "combine": COMBINE,
        "matmul_peak_flops_per_second": peak,
        "share_of_peak": grown[-1]["share_of_peak"],
        "seconds_grow_with_pairs_to_the": float(slope),
        "growth": grown,
    }


def _first(rows: int, features: Features) -> Features:
    return Features(*(x[:rows] for x in features))


def measured(
    source: Features, target: Features, mesh: jax.sharding.Mesh, peak: float
) -> dict[str, Any]:
    """One size, after a call on a block of the source that compiles; small ones count again.

    Args:
        peak: flop/s to take a share of.
    """
    width = 2 * source.image.shape[1]
    theta = 2.0 / width**0.5  # the mean of two random cosines has deviation width^-0.5
    found: list[np.ndarray] = []

    def count(source: Features) -> None:
        countdown = Countdown("source rows", len(source.image))
        with TemporaryDirectory() as folder:
            counting = pseudo_boxes.Counting(Path(folder), lambda done, _: countdown.at(done))
            options: dict[str, Any] = {"combine": COMBINE, "mesh": mesh, "counting": counting}
            found.append(pseudo_boxes.similarity_counts(source, target, (theta,), **options))

    count(_first(all_pairs.BLOCK * all_pairs.TILE, source))
    taken = measure.seconds(lambda: count(source), rounds=ROUNDS, warm_up=0, at_most=ENOUGH)
    rows = len(source.image), len(target.image)
    pairs = rows[0] * rows[1]
    flops = 2.0 * pairs * width
    return {
        "sources": rows[0],
        "targets": rows[1],
        "pairs": pairs,
        "seconds": taken.median,
        "least": taken.least,
        "most": taken.most,
        "flops_per_second": flops / taken.median,
        "share_of_peak": flops / taken.median / peak,
        "temporary_bytes": temporary_bytes(*rows, width, mesh),
        "mean_share_counted": float(found[-1].mean()) / rows[0],
    }


def temporary_bytes(sources: int, targets: int, width: int, mesh: jax.sharding.Mesh) -> int:
    """What a device needs beside the block of the source and its share of the targets."""
    cut = all_pairs.cuts(sources, targets, mesh.size)
    here, spread = sharding.replicated(mesh), sharding.rows(mesh)

    def shape(of: tuple[int, ...], where: Any, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(of, dtype, sharding=where)

    block, own = (cut.tiles, cut.source_tile), (cut.targets,)
    lowered = all_pairs.after_sources.lower(
        shape(own, spread, jnp.int32),
        {"part0": shape((*block, width), here), "number": shape(block, here, jnp.int32)},
        {"part0": shape((*own, width), spread), "theta": shape(own, spread)},
        mesh=mesh,
        visitor=all_pairs.Count(("part0",)),
        tile=cut.target_tile,
    )
    return measure.bytes_per_device(lowered.compile())["temporary"]
