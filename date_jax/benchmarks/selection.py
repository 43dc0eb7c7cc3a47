"""Counting over all pairs, as the pseudo-box generator does, but saving nothing on the way: its
share of the matmul peak."""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from date_jax import all_pairs, progress, sharding
from date_jax.benchmarks import measure

MODALITIES = 2  # matrices of features a row has, with a product each
_PARTS = (16, 8, 4, 2, 1)  # of both sets, to see how the cost grows
ROUNDS, ENOUGH = 3, 60.0  # of each size, but no other one begins after so many seconds


def run(mesh: jax.sharding.Mesh, *, sources: int, targets: int, width: int) -> dict[str, Any]:
    """Random unit vectors, from a sixteenth of both sets to the whole.

    Args:
        sources, targets: rows of the two sets.
        width: D.
    """
    rng = np.random.default_rng(0)

    def features(rows: int) -> list[np.ndarray]:
        size = (rows, width)
        made = (rng.standard_normal(size, np.float32) for _ in range(MODALITIES))
        return [measure.unit_rows(x) for x in made]

    source, target = features(sources), features(targets)
    theta = 2.0 / width**0.5
    peak = measure.matmul_peak(jnp.float32, mesh, precision="highest")  # as the counts are
    grown = []
    for part in _PARTS:
        s, t = ([x[: max(1, len(x) // part)] for x in side] for side in (source, target))
        grown.append(measured(s, t, theta, mesh, peak))
    pairs, seconds = ([row[name] for row in grown] for name in ("pairs", "seconds"))
    slope = np.polyfit(np.log(pairs), np.log(seconds), 1)[0]
    return {
        "width": width,
        "modalities": MODALITIES,
        "matmul_peak_flops_per_second": peak,
        "share_of_peak": grown[-1]["share_of_peak"],
        "seconds_grow_with_pairs_to_the": float(slope),
        "growth": grown,
    }


def measured(
    source: list[np.ndarray],
    target: list[np.ndarray],
    theta: float,
    mesh: jax.sharding.Mesh,
    peak: float,
) -> dict[str, Any]:
    """One size, after a call on a block of the source that compiles; small ones count again.

    Args:
        source, target: features, a matrix for each modality.
        theta: products above it count.
        peak: flop/s to take a share of.
    """
    block = all_pairs.BLOCK * all_pairs.TILE
    all_pairs.counts([x[:block] for x in source], target, theta, mesh=mesh)
    found = np.zeros(0)

    def count() -> np.ndarray:
        nonlocal found
        countdown = progress.Countdown(lambda line: print(line, file=sys.stderr), "source rows")
        found = all_pairs.counts(source, target, theta, mesh=mesh, after_block=countdown.at)
        return found

    taken = measure.seconds(count, rounds=ROUNDS, warm_up=0, at_most=ENOUGH)
    pairs = len(source[0]) * len(target[0])
    flops = 2.0 * pairs * sum(x.shape[1] for x in source)
    return {
        "sources": len(source[0]),
        "targets": len(target[0]),
        "pairs": pairs,
        "seconds": taken.median,
        "least": taken.least,
        "most": taken.most,
        "flops_per_second": flops / taken.median,
        "share_of_peak": flops / taken.median / peak,
        "temporary_bytes": temporary_bytes(source, target, mesh),
        "mean_share_counted": float(found.mean()) / len(source[0]),
    }


def temporary_bytes(
    source: list[np.ndarray], target: list[np.ndarray], mesh: jax.sharding.Mesh
) -> int:
    """What a device needs beside the block of the source and its share of the targets."""
    names = tuple(f"part{number}" for number in range(len(source)))
    cut = all_pairs.cuts(len(source[0]), len(target[0]), mesh.size)
    here, spread = sharding.replicated(mesh), sharding.rows(mesh)

    def shape(of: tuple[int, ...], where: Any, dtype: Any = jnp.float32) -> Any:
        return jax.ShapeDtypeStruct(of, dtype, sharding=where)

    widths = {name: x.shape[1] for name, x in zip(names, source, strict=True)}
    block = (cut.tiles, cut.source_tile)
    sources = {name: shape((*block, width), here) for name, width in widths.items()}
    targets = {name: shape((cut.targets, width), spread) for name, width in widths.items()}
    lowered = all_pairs.after_sources.lower(
        shape((cut.targets,), spread, jnp.int32),
        {**sources, "number": shape(block, here, jnp.int32)},
        {**targets, "theta": shape((cut.targets,), spread)},
        mesh=mesh,
        visitor=all_pairs.Count(names),
        tile=cut.target_tile,
    )
    return measure.bytes_per_device(lowered.compile())["temporary"]
