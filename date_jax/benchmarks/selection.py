"""Counting over all pairs, as the choice of pseudo boxes does it: its share of the matmul peak."""

import sys
from functools import partial
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
    """Seconds on random unit vectors of two modalities, from a sixteenth of both sets to the whole.

    Args:
        sources, targets: rows of the two sets.
        width: D.
    """
    rng = np.random.default_rng(0)
    source, target = (_random_features(rng, rows, width) for rows in (sources, targets))
    peak = measure.matmul_peak(jnp.float32, mesh, precision="highest")  # as the counts are
    growth = []
    for parts in _PARTS:
        part_of_source = _first(max(1, sources // parts), source)
        part_of_target = _first(max(1, targets // parts), target)
        growth.append(row(part_of_source, part_of_target, mesh, peak))

    # On logarithmic axes the slope is the exponent: 1 where twice the pairs take twice the time.
    pairs, seconds = ([size[name] for size in growth] for name in ("pairs", "seconds"))
    slope = np.polyfit(np.log(pairs), np.log(seconds), 1)[0]
    return {
        "width": width,
        "modalities": len(Features._fields),
        "combine": COMBINE,
        "matmul_peak_flops_per_second": peak,
        "share_of_peak": growth[-1]["share_of_peak"],
        "seconds_grow_with_pairs_to_the": float(slope),
        "growth": growth,
    }


def _random_features(rng: np.random.Generator, rows: int, width: int) -> Features:
    """Unit vectors of both modalities."""
    vectors = (rng.standard_normal((rows, width), np.float32) for _ in Features._fields)
    return Features(*map(host_unit_vectors, vectors))


def _first(rows: int, features: Features) -> Features:
    """The first rows of each modality."""
    return Features(*(x[:rows] for x in features))


def row(source: Features, target: Features, mesh: jax.sharding.Mesh, peak: float) -> dict[str, Any]:
    """The measures of one size, after a call on a block of the source, which compiles.

    Args:
        source, target: the rows that are compared, all with all.
        mesh: of `sharding.device_mesh`.
        peak: flop/s to take a share of.
    """
    # A limit of two deviations, which few pairs of random rows exceed.
    width = 2 * source.image.shape[1]
    theta = 2.0 / width**0.5  # the mean of two random cosines has deviation width^-0.5
    counts: list[np.ndarray] = []

    def count(source: Features) -> None:
        """One counting, as a refresh of pseudo boxes does it."""
        say = partial(print, file=sys.stderr, flush=True)
        countdown = Countdown("source rows", len(source.image), say)
        with TemporaryDirectory() as folder:
            counting = pseudo_boxes.Counting(Path(folder), lambda done, _: countdown.at(done))
            options: dict[str, Any] = {"combine": COMBINE, "mesh": mesh, "counting": counting}
            counts.append(pseudo_boxes.similarity_counts(source, target, (theta,), **options))

    # One block compiles the program that all blocks run, so the measured calls do not.
    count(_first(all_pairs.BLOCK * all_pairs.TILE, source))
    seconds = measure.seconds(lambda: count(source), rounds=ROUNDS, warm_up=0, at_most=ENOUGH)
    # A pair costs one product and one sum for each number of a row.
    sources, targets = len(source.image), len(target.image)
    pairs = sources * targets
    flops = 2.0 * pairs * width
    return {
        "sources": sources,
        "targets": targets,
        "pairs": pairs,
        "seconds": seconds.median,
        "least": seconds.least,
        "most": seconds.most,
        "flops_per_second": flops / seconds.median,
        "share_of_peak": flops / seconds.median / peak,
        "temporary_bytes": temporary_bytes(sources, targets, width, mesh),
        "mean_share_counted": float(counts[-1].mean()) / sources,
    }


def temporary_bytes(sources: int, targets: int, width: int, mesh: jax.sharding.Mesh) -> int:
    """Bytes a device needs besides the block of the source and its share of the targets."""
    cut = all_pairs.tiling(sources, targets, mesh.size)

    def sources_of(*shape: int, dtype: Any = jnp.float32) -> Any:
        """An array of a block of the source, whole on every device."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.replicated_sharding(mesh))

    def targets_of(*shape: int, dtype: Any = jnp.float32) -> Any:
        """An array of the targets, cut over the devices."""
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.row_sharding(mesh))

    # The program that counts one block is compiled for shapes alone; no array is made.
    block = cut.tiles, cut.source_tile
    lowered = all_pairs.add_block.lower(
        targets_of(cut.targets, dtype=jnp.int32),
        {"part0": sources_of(*block, width), "number": sources_of(*block, dtype=jnp.int32)},
        {"part0": targets_of(cut.targets, width), "theta": targets_of(cut.targets)},
        mesh=mesh,
        visitor=all_pairs.Count(("part0",)),
        tile=cut.target_tile,
    )
    return measure.bytes_per_device(lowered.compile())["temporary"]
