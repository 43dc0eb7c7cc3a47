"""The dynamic pseudo-box generator of DATE (2304.03669): which of the teacher's boxes to trust now.

The targets are ranked, and the best share gets boxes. By `agreement`: how well the teacher's boxes
in two views of the picture lie on each other. By `heat`: how much of what the words speak of lies
in the box, see `word_places`. By `count`, as DATE is recalled to do:
source and target are embedded as a whole, and a target pair that resembles many source pairs lies
where the network has learnt; but crowded, average-looking pictures resemble most.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Real
from ml_collections import ConfigDict

from date_jax import boxes
from date_jax.errors import DataError
from date_jax.pairs import all_pairs
from date_jax.pairs.vectors import host_unit_vectors

RANKS = ("agreement", "count", "heat")
COMBINE = ("mean", "rank", "min")
THETA_KINDS = ("quantile", "absolute")
_QUANTILE_ROWS = 2048  # 2 million pairs pin a quantile to three digits


class Refreshed(NamedTuple):
    """A new table of pseudo boxes.

    Attributes:
        table: `box_cxcywh` float32 `[N 4]` and `weight` float32 `[N]`, by the target rows' `index`.
        metrics: scalars by name, see `refresh`.
    """

    table: dict[str, np.ndarray]
    metrics: dict[str, float]


class Features(NamedTuple):
    """The embeddings of a data set's rows.

    Attributes:
        image: unit vectors `[N D]`.
        text: unit vectors `[N D]` of the same rows.
    """

    image: np.ndarray
    text: np.ndarray


class Counting(NamedTuple):
    """The surroundings of a count over all pairs, which may be stopped and gone on with.

    Attributes:
        folder: holds what is counted so far until all is, on process 0.
        after_block: is called with the number of source rows done and of all; may raise to stop.
    """

    folder: Path
    after_block: Callable[[int, int], None]


class Ranking(NamedTuple):
    """The resemblance of each target row to the source.

    Attributes:
        signal: `[N]`, source rows that resemble it, or of "rank" the mean of two percentile ranks.
        theta: the cosine above which two rows are alike; of "rank" the mean of both.
    """

    signal: np.ndarray
    theta: float


def refresh(
    rows: Mapping[str, np.ndarray],
    config: ConfigDict,
    *,
    progress: float,
    ranking: Ranking | None = None,
    expected_precision: float | None = None,
    truth: Mapping[str, np.ndarray] | None = None,
) -> Refreshed:
    """The teacher's boxes of all target rows and which of them to train on, from now on.

    Args:
        rows: `pseudo_box_cxcywh` `[N 4]`, `agreement` `[N]` and `index` `[N]` of all target rows,
            as collected from the teacher. `liking` `[N]`, where the rows have it, must be above 0
            for a row to be selected; `pseudo_deviation` `[N 4]` goes into the table as `deviation`,
            and the wider it is, the less the row weighs: exp(-mean).
        config: the `pseudo_boxes` section.
        progress: 0 at the start of the stage, 1 at its end.
        ranking: of the same rows, to rank by count; None ranks by agreement, or by `heat_inside`
            of the rows where the config says `heat`.
        expected_precision: of a self-check: below `self_check` no row weighs. None = unchecked.
        truth: true `box_cxcywh` `[N 4]` and `box_mask` `[N]` of the target rows by `index`. Only
            for `precision_…` and `recall_…` among the metrics; nothing in the table depends on it.

    Returns:
        The table, the same on every process, and as metrics: `selected` (rows that weigh),
        `mean_agreement`, `earned` (0 while that is below `min_agreement`, when no row weighs), with
        a ranking also `theta`, with a check `expected_precision` and `adapts`, with a liking
        `liked` (the share of rows); with `truth` the shares of boxes with IoU >= 0.5:
        `precision_all`, `precision_selected` (of the rows that rank best, earned or not), and of
        all rows with a true box the share that ranks best and is right, `recall_selected`.
    """
    # The best share of the rows on which the teacher is steady.
    agreement = rows["agreement"]
    reliability = rows["heat_inside" if config.rank == "heat" else "agreement"].astype(np.float64)
    if ranking is not None:
        reliability = ranking.signal
    is_steady = agreement >= config.min_row_agreement
    if "liking" in rows:
        is_steady &= rows["liking"] > 0
    share = keep_share(config, progress)
    chosen = selection(np.where(is_steady, reliability, -np.inf), share) & is_steady
    # A teacher whose views disagree teaches nothing yet.
    mean_agreement = float(np.mean(agreement))
    earned = mean_agreement >= config.min_agreement
    passes_check = expected_precision is None or expected_precision >= config.self_check
    metrics = {
        "selected": float(chosen.sum() * earned * passes_check),
        "mean_agreement": mean_agreement,
        "earned": float(earned),
    }
    if ranking is not None:
        metrics["theta"] = ranking.theta
    if "liking" in rows:
        metrics["liked"] = float(np.mean(rows["liking"] > 0))
    if expected_precision is not None:
        metrics |= {"expected_precision": expected_precision, "adapts": float(passes_check)}
    # How right the boxes are, where somebody knows.
    if truth is not None:
        true_box, box_mask = (truth[name][rows["index"]] for name in ("box_cxcywh", "box_mask"))
        hit = np.asarray(_is_hit(rows["pseudo_box_cxcywh"], true_box))
        metrics |= _quality(hit, box_mask, chosen)
    # Collected in the split's order, which is that of `index`; the table is read by `index`.
    order = np.argsort(rows["index"], kind="stable")
    weight = (chosen & earned & passes_check).astype(np.float32)
    table = {"box_cxcywh": np.asarray(rows["pseudo_box_cxcywh"], np.float32)[order]}
    if "pseudo_deviation" in rows:
        deviation = np.asarray(rows["pseudo_deviation"], np.float32)
        weight = weight * np.exp(-deviation.mean(axis=1))
        table["deviation"] = deviation[order]
    table["weight"] = weight[order]
    return Refreshed(table, metrics)


def keep_share(config: Any, progress: float) -> float:
    """The share of the targets that gets boxes.

    It grows evenly over the stage, from `keep_start` to `keep_end` at its end, which no refresh
    reaches.
    """
    progress = min(max(progress, 0.0), 1.0)
    return config.keep_start + (config.keep_end - config.keep_start) * progress


def resemblance(
    source: Mapping[str, np.ndarray],
    target: Mapping[str, np.ndarray],
    config: ConfigDict,
    *,
    mesh: jax.sharding.Mesh,
    rng: Array,
    counting: Counting | None = None,
) -> Ranking:
    """The targets' counts of source rows that resemble them.

    Args:
        source, target: `image_embedding` `[N D]` and `query_embedding` `[N D]` of all rows.
        config: the `pseudo_boxes` section.
        mesh: the pairs are counted on all of it.
        rng: picks the source rows that θ is estimated on.
        counting: see `Counting`; without it counts are not saved on the way.
    """
    source_features, target_features = (
        Features(rows["image_embedding"], rows["query_embedding"]) for rows in (source, target)
    )
    # An absolute θ is meant for the raw cosines.
    if config.theta_kind == "quantile":
        source_features, target_features = centred_features(source_features, target_features)
    kind, combine = config.theta_kind, config.combine
    theta = thresholds(source_features, config.theta, kind=kind, combine=combine, rng=rng)
    options: dict[str, Any] = {"combine": combine, "mesh": mesh, "counting": counting}
    signal = similarity_counts(source_features, target_features, theta, **options)
    return Ranking(signal, float(np.mean(theta)))


def percentile_rank(values: Real[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
    """The rank of each value among all, in (0, 1), the largest highest; equal values share one.

    >>> percentile_rank(np.array([3.0, 1.0, 3.0, 2.0])).tolist()
    [0.75, 0.125, 0.75, 0.375]
    """
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(count) - count
    return (below + count / 2)[place] / len(values)


def selection(reliability: Float[np.ndarray, " N"], keep_share: float) -> Bool[np.ndarray, " N"]:
    """The mask of the `round(keep_share * N)` largest values; of equal ones the first count.

    >>> selection(np.array([0.2, 0.9, 0.9]), 1 / 3).tolist()
    [False, True, False]
    """
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
    """The number of source rows whose combined cosine with a target row exceeds θ, for each target.

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
    # One count a channel; each is saved as it grows, until all are done.
    channels = zip(_channels(source, combine), _channels(target, combine), theta, strict=True)
    counts, files = [], []
    for number, (source_rows, target_rows, limit) in enumerate(channels):
        options: dict[str, Any] = {}
        if counting is not None:
            files.append(counting.folder / f"counts{number}.npz")
            options = {"saved": files[-1], "after_block": counting.after_block}
        options |= {"mesh": mesh, "tile": tile}
        counts.append(all_pairs.counts(source_rows, target_rows, limit, **options))
    if jax.process_index() == 0:
        for file in files:
            file.unlink(missing_ok=True)
    if combine == "rank":
        return np.mean([percentile_rank(count) for count in counts], axis=0)
    return counts[0].astype(np.float64)


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

    Raises:
        DataError: a quantile is asked for, and there are no two source rows to compare.
    """
    if kind == "absolute":
        return (float(theta),) * len(_channels(source, combine))
    if len(source.image) < 2:
        raise DataError(
            "pseudo_boxes.rank=count: theta_kind=quantile compares the source's training rows with "
            f"each other, and their number is {len(source.image)}; 2 are needed\n"
            "  add source rows, or set --config.pseudo_boxes.theta_kind=absolute or "
            "--config.pseudo_boxes.rank=agreement"
        )
    # A sample is enough, and a row's cosine with itself says nothing.
    rows = np.asarray(jax.random.permutation(rng, len(source.image)))[:_QUANTILE_ROWS]
    sample = Features(*(np.asarray(modality)[rows] for modality in source))
    off_diagonal = ~np.eye(len(rows), dtype=bool)
    cosines = [
        np.min([part @ part.T for part in channel], axis=0)[off_diagonal]
        for channel in _channels(sample, combine)
    ]
    return tuple(float(np.quantile(values, theta)) for values in cosines)


def centred_features(source: Features, target: Features) -> tuple[Features, Features]:
    """The features of both domains without their joint mean, as unit vectors again.

    Embeddings of one network share a large common part, so that raw cosines lie close together and
    any fixed θ selects all pairs or none. One mean for both domains keeps what tells them apart:
    with a mean each, a target far from every source would look as near as any.
    """
    parts = []
    for s, t in zip(source, target, strict=True):
        mean = np.concatenate([s, t]).mean(axis=0, dtype=np.float64).astype(s.dtype)
        parts.append((host_unit_vectors(s - mean), host_unit_vectors(t - mean)))
    return Features(*(s for s, _ in parts)), Features(*(t for _, t in parts))


def _channels(features: Features, combine: str) -> list[list[np.ndarray]]:
    """The groups of vectors that are compared with one θ each, as `all_pairs.counts` takes them."""
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
def _is_hit(a_cxcywh: Float[Array, "N 4"], b_cxcywh: Float[Array, "N 4"]) -> Bool[Array, " N"]:
    """Whether the IoU of two boxes is 0.5 or more."""
    return boxes.iou(boxes.xyxy(a_cxcywh), boxes.xyxy(b_cxcywh)) >= 0.5


def _quality(
    hit: Bool[np.ndarray, " N"],
    box_mask: Bool[np.ndarray, " N"],
    chosen: Bool[np.ndarray, " N"],
) -> dict[str, float]:
    """The precision of all boxes and of the chosen ones, and the recall of the latter.

    Only rows with a true box count; without any there is no entry.
    """
    masks = {"precision_all": box_mask, "precision_selected": box_mask & chosen}
    metrics = {name: float(hit[mask].mean()) for name, mask in masks.items() if mask.any()}
    if box_mask.any():
        metrics["recall_selected"] = float((hit & chosen)[box_mask].mean())
    return metrics
