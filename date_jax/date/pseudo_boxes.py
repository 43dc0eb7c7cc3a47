"""Which of the teacher's boxes on the target to trust now (DATE's dynamic pseudo-box generator).

The targets are ranked, and the best share gets boxes. By `agreement`: how well the teacher's boxes
in two views of the picture lie on each other. By `count`, as DATE is recalled to do:
source and target are embedded as a whole, and a target pair that resembles many source pairs lies
where the network has learnt; but crowded, average-looking pictures resemble most.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Real

from date_jax import boxes
from date_jax.pairs import all_pairs
from date_jax.pairs.vectors import host_unit_vectors

RANKS = ("agreement", "count")
COMBINE = ("mean", "rank", "min")
THETA_KINDS = ("quantile", "absolute")
_QUANTILE_ROWS = 2048  # 2 million pairs pin a quantile to three digits


class Refreshed(NamedTuple):
    """Attributes:
    table: `box_cxcywh` float32 `[N 4]` and `weight` float32 `[N]`, by the target rows' `index`.
    metrics: scalars by name, see `refresh`.
    """

    table: dict[str, np.ndarray]
    metrics: dict[str, float]


class Features(NamedTuple):
    """Attributes:
    image: unit vectors `[N D]`.
    text: unit vectors `[N D]` of the same rows.
    """

    image: np.ndarray
    text: np.ndarray


class Counting(NamedTuple):
    """What `all_pairs.counts` is told beside the features.

    Attributes:
        folder: holds what is counted so far until all is, on process 0.
        after_block: told how many of how many source rows are done; may raise to stop.
    """

    folder: Path
    after_block: Callable[[int, int], None]


def refresh(
    embed: Callable[..., dict[str, np.ndarray]],
    teach: Callable[..., dict[str, np.ndarray]],
    params: Any,
    teacher_params: Any,
    source_batches: Callable[[], Iterable[dict[str, np.ndarray]]],
    target_batches: Callable[[], Iterable[dict[str, np.ndarray]]],
    config: Any,
    *,
    mesh: jax.sharding.Mesh,
    progress: float,
    rng: Array,
    truth: Mapping[str, np.ndarray] | None = None,
    should_stop: Callable[[], bool] | None = None,
    counting: Counting | None = None,
) -> Refreshed:
    """The teacher's boxes of all target rows and which of them to train on, from now on.

    Args:
        embed: a collector of `image_embedding` and `query_embedding`; asked to rank by `count`.
        teach: a collector of `pseudo_box_cxcywh` and `agreement`.
        params: what `embed` runs with: the current extractors.
        teacher_params: what `teach` runs with.
        source_batches: gives one pass over the whole source, unaugmented; likewise
            `target_batches`, which may be asked twice. Neither needs boxes.
        config: the `pseudo_boxes` section.
        mesh: the pairs are counted on all of it.
        progress: 0 at the start of the stage, 1 at its end.
        rng: picks the source rows that θ is estimated on.
        truth: true `box_cxcywh` `[N 4]` and `box_mask` `[N]` of the target rows by `index`. Only
            for `precision_…` and `recall_…` among the metrics; nothing in the table depends on it.
        should_stop: see `collector`.
        counting: see `Counting`; without it counting is neither saved nor told.

    Returns:
        The table, the same on every process, and as metrics: `selected` (rows that weigh 1),
        `mean_agreement`, `earned` (0 while that is below `min_agreement`, when no row weighs), with
        rank by `count` also `theta`; with `truth` the shares of boxes with IoU >= 0.5:
        `precision_all`, `precision_selected` (of the rows that rank best, earned or not), and of
        all rows with a true box the share that ranks best and is right, `recall_selected`.
    """
    taught = teach(teacher_params, target_batches(), should_stop=should_stop)
    counted: dict[str, float] = {}
    reliability = taught["agreement"].astype(np.float64)
    if config.rank == "count":
        source = embed(params, source_batches(), should_stop=should_stop)
        target = embed(params, target_batches(), should_stop=should_stop)
        reliability, counted["theta"] = _resemblance(
            source, target, config, mesh=mesh, rng=rng, counting=counting
        )
    share = keep_share(config, progress)
    is_steady = taught["agreement"] >= config.min_row_agreement
    chosen = selection(np.where(is_steady, reliability, -np.inf), share) & is_steady
    mean_agreement = float(np.mean(taught["agreement"]))
    earned = mean_agreement >= config.min_agreement
    metrics = {
        "selected": float(chosen.sum() * earned),
        "mean_agreement": mean_agreement,
        "earned": float(earned),
        **counted,
    }
    if truth is not None:
        true = {name: np.asarray(value)[taught["index"]] for name, value in truth.items()}
        right = np.asarray(_is_right(taught["pseudo_box_cxcywh"], true["box_cxcywh"]))
        metrics |= _quality(right, true["box_mask"], chosen)
    table = {
        "box_cxcywh": np.asarray(taught["pseudo_box_cxcywh"], np.float32),
        "weight": (chosen & earned).astype(np.float32),
    }
    # Collected in the split's order, which is that of `index`; the table is read by `index`.
    place = np.argsort(taught["index"], kind="stable")
    return Refreshed({name: rows[place] for name, rows in table.items()}, metrics)


def keep_share(config: Any, progress: float) -> float:
    """The share of the targets that gets boxes; it grows evenly over the stage, to `keep_end` at
    its end, which no refresh reaches."""
    progress = min(max(progress, 0.0), 1.0)
    return config.keep_start + (config.keep_end - config.keep_start) * progress


def percentile_rank(values: Real[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """Where each value stands among all, in (0, 1), the largest highest; equal values share."""
    _, place, number = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(number) - number
    return (below + number / 2)[place] / len(values)


def selection(reliability: Float[np.ndarray, " N"], keep_share: float) -> Bool[np.ndarray, " N"]:
    """True for the `round(keep_share * N)` largest; of equal ones the first."""
    chosen = np.zeros(len(reliability), bool)
    order = np.argsort(-reliability, kind="stable")
    chosen[order[: round(keep_share * len(reliability))]] = True
    return chosen


def similarity_counts(
    source: Features,
    target: Features,
    theta: tuple[float, ...],
    *,
    combine: str,
    mesh: jax.sharding.Mesh,
    tile: int = all_pairs.TILE,
    counting: Counting | None = None,
) -> Float[np.ndarray, " N"]:
    """For each target row the number of source rows whose combined cosine with it exceeds θ.

    Exact in float32. The targets are spread over the mesh, the source comes by in blocks, and there
    is no array of pairs larger than `tile x tile`.

    Args:
        source: embeddings of all source rows.
        target: embeddings of all target rows.
        theta: one number, for "rank" one per modality; as `thresholds` gives it.
        combine: "mean" or "min" of the two modalities' cosines; "rank" counts each modality by
            itself and returns the mean of the two counts' percentile ranks.
        mesh: of `sharding.device_mesh`.
        tile: rows of a tile on one device.
        counting: see `Counting`.
    """
    channels = zip(_channels(source, combine), _channels(target, combine), theta, strict=True)
    counted, files = [], []
    for number, (s, t, limit) in enumerate(channels):
        options: dict[str, Any] = {}
        if counting is not None:
            files.append(counting.folder / f"counts{number}.npz")
            options = {"saved": files[-1], "after_block": counting.after_block}
        counted.append(all_pairs.counts(s, t, limit, mesh=mesh, tile=tile, **options))
    if jax.process_index() == 0:
        for file in files:
            file.unlink(missing_ok=True)
    if combine == "rank":
        return np.mean([percentile_rank(count) for count in counted], axis=0)
    return counted[0].astype(np.float64)


def thresholds(
    source: Features, theta: float, *, kind: str, combine: str, rng: Array
) -> tuple[float, ...]:
    """The cosine above which two pairs are alike: one number, for "rank" one per modality.

    Args:
        source: embeddings of all source rows.
        theta: the cosine itself ("absolute"), or the quantile of the combined similarities of the
            source rows with each other ("quantile"), from at most 2,048 of them.
        kind: one of `THETA_KINDS`.
        combine: see `similarity_counts`.
        rng: picks the rows.
    """
    if kind == "absolute":
        return (float(theta),) * len(_channels(source, combine))
    some = np.asarray(jax.random.permutation(rng, len(source.image)))[:_QUANTILE_ROWS]
    sample = Features(*(np.asarray(modality)[some] for modality in source))
    others = ~np.eye(len(some), dtype=bool)
    return tuple(
        float(np.quantile(np.min([part @ part.T for part in channel], axis=0)[others], theta))
        for channel in _channels(sample, combine)
    )


def centred(source: Features, target: Features) -> tuple[Features, Features]:
    """Both without their joint mean, as unit vectors again.

    Embeddings of one network share a large common part, so that raw cosines lie close together and
    any fixed θ selects all pairs or none. One mean for both domains keeps what tells them apart:
    with a mean each, a target far from every source would look as near as any.
    """
    parts = []
    for s, t in zip(source, target, strict=True):
        mean = np.concatenate([s, t]).mean(axis=0, dtype=np.float64).astype(s.dtype)
        parts.append((host_unit_vectors(s - mean), host_unit_vectors(t - mean)))
    return Features(*(s for s, _ in parts)), Features(*(t for _, t in parts))


def _resemblance(
    source: dict[str, np.ndarray],
    target: dict[str, np.ndarray],
    config: Any,
    *,
    mesh: jax.sharding.Mesh,
    rng: Array,
    counting: Counting | None,
) -> tuple[Float[np.ndarray, " N"], float]:
    """The targets' counts, and θ (of "rank": the mean of both)."""
    pairs = [
        Features(rows["image_embedding"], rows["query_embedding"]) for rows in (source, target)
    ]
    if config.theta_kind == "quantile":
        pairs = [*centred(*pairs)]
    kind, combine = config.theta_kind, config.combine
    theta = thresholds(pairs[0], config.theta, kind=kind, combine=combine, rng=rng)
    options: dict[str, Any] = {"combine": combine, "mesh": mesh, "counting": counting}
    count = similarity_counts(pairs[0], pairs[1], theta, **options)
    return count, float(np.mean(theta))


def _channels(features: Features, combine: str) -> list[list[np.ndarray]]:
    """What is counted against one θ each, as `all_pairs.counts` takes it."""
    image, text = (np.asarray(modality, np.float32) for modality in features)
    if combine == "mean":
        # (a·a' + b·b') / 2 is one product of the joined vectors: one matmul in place of two.
        return [[np.concatenate([image, text], axis=1) * np.float32(np.sqrt(0.5))]]
    if combine == "min":
        return [[image, text]]
    if combine == "rank":
        return [[image], [text]]
    raise ValueError(f"combine={combine!r} is none of {COMBINE}")


@jax.jit
def _is_right(a_cxcywh: Float[Array, "N 4"], b_cxcywh: Float[Array, "N 4"]) -> Bool[Array, " N"]:
    return boxes.iou(boxes.xyxy(a_cxcywh), boxes.xyxy(b_cxcywh)) >= 0.5


def _quality(
    right: Bool[np.ndarray, " N"],
    box_mask: Bool[np.ndarray, " N"],
    chosen: Bool[np.ndarray, " N"],
) -> dict[str, float]:
    """Shares of right boxes, among all targets and among the chosen ones; and found of all."""
    sets = {"precision_all": np.ones_like(chosen), "precision_selected": chosen}
    known = {name: rows & box_mask for name, rows in sets.items()}
    # Without a known row there is nothing to measure, and no entry.
    found = {name: float(right[rows].mean()) for name, rows in known.items() if rows.any()}
    if box_mask.any():
        found["recall_selected"] = float((right & chosen)[box_mask].mean())
    return found
