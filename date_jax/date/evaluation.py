"""The evaluation of DATE: retrieval and grounding on every domain, and the domains' distance."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, UInt8
from ml_collections import ConfigDict

from date_jax import boxes
from date_jax.data import pipeline
from date_jax.data.domains import domain_names, split_names
from date_jax.date import aligner, calibration, confidence
from date_jax.errors import DataError
from date_jax.evals import grounding, retrieval, sheets
from date_jax.evals.collect import Collect, Predict, collector, not_finite_notes
from date_jax.task import Evaluate, Evaluation, Learner, ShouldStop

COLUMNS = ("acc_at_0.5", "acc_at_0.75", "mean_iou", "recall_at_1", "recall_at_10")
EMBEDDINGS = ("image", "query")
_COMPARED = 2048  # rows of a split whose features are compared with another's
_FAILURES = 24  # pictures on the sheet of failures


class Measures(NamedTuple):
    """The measures of one split, and what they were made from.

    Attributes:
        metrics: by name, see `retrieval.metrics` and `grounding.metrics`; and `examples`.
        rows: what was collected of every row of the split, by name; see `collector`.
    """

    metrics: dict[str, float]
    rows: dict[str, np.ndarray]


def required_predictions(predict: Predict) -> Predict:
    """The predictions that `split_measures` reads, and `picture`, for its collector."""
    names = (*(f"{name}_embedding" for name in EMBEDDINGS), "box_cxcywh")
    return {name: predict[name] for name in names} | {"picture": picture_hash}


def picture_hash(params: Any, batch: dict[str, Any]) -> Integer[Array, "B 2"]:
    """A number of 64 bits, in two halves, that only rows with the same picture share.

    Random weights times the bytes, modulo 2³²: two pictures collide once in about 10¹⁵ pairs. A
    batch of features has the pictures' numbers instead.
    """
    if "picture" in batch:
        number = batch["picture"].astype(jnp.uint32)
        return jnp.stack([number, jnp.zeros_like(number)], axis=1)
    pixels = batch["image"].reshape(len(batch["image"]), 1, -1).astype(jnp.uint32)
    weights = jax.random.bits(jax.random.key(0), (1, 2, pixels.shape[-1]), jnp.uint32)
    return (pixels * weights).sum(axis=-1, dtype=jnp.uint32)


def split_measures(
    collect: Collect,
    params: Any,
    batches: Iterable[dict[str, np.ndarray]],
    *,
    mesh: jax.sharding.Mesh,
    should_stop: ShouldStop | None = None,
) -> Measures:
    """The measures of one split, exact for any number of rows and the same on every process.

    Args:
        collect: `collector(required_predictions(predict), mesh, ...)`, made once for all splits.
        params: the network's.
        batches: this process's evaluation batches of the split, with boxes.
        mesh: of `sharding.device_mesh`.
        should_stop: see `collector`.

    Raises:
        Preempted: `should_stop` said so.
    """
    rows = collect(params, batches, should_stop=should_stop)
    metrics = {"examples": float(len(rows["box_cxcywh"]))}
    # A picture of several products has a row for each, and stands in the gallery once.
    _, image_id = np.unique(rows["picture"], axis=0, return_inverse=True)
    pairs = rows["image_embedding"], rows["query_embedding"], rows["product_id"]
    metrics |= retrieval.metrics(*pairs, image_id=image_id, mesh=mesh)
    # Grounding, where the split has boxes.
    if "box_mask" in rows:
        pair = rows["box_cxcywh"], rows["true_box_cxcywh"]
        metrics |= grounding.metrics(*pair, rows["box_mask"])
    return Measures(metrics, rows)


def load(config: ConfigDict) -> pipeline.Corpus:
    """The corpus of `config.data`.

    Raises:
        DataError: see `pipeline.load`; or boxes shall be learnt and the source has none.
    """
    corpus = pipeline.load(config.data, "grounding")
    if config.object_seeker.weight and not has_boxes(corpus.splits, config.data.source):
        words = ":files" if config.data.name == "files" else ""
        raise DataError(
            f"config.data.source: not one training row of {config.data.source} has a box\n"
            f"  nothing can be grounded; for retrieval alone: --config=configs/date.py{words} "
            "--config.object_seeker.weight=0"
        )
    return corpus


def load_adaptive(config: ConfigDict) -> pipeline.Corpus:
    """The corpus of `config.data`, for PG-DA.

    Raises:
        DataError: see `load`; or the oracle shall learn the target's boxes and there are none.
    """
    corpus = load(config)
    oracle = config.method == "oracle" and config.object_seeker.weight
    if oracle and not has_boxes(corpus.splits, config.data.target):
        raise DataError(
            f"config.method=oracle: not one training row of {config.data.target} has a box\n"
            "  without the target's boxes there is no oracle; leave it out"
        )
    return corpus


def has_boxes(splits: Mapping[str, Any], domains: str) -> bool:
    """Whether a training row of these domains has a box."""
    names = split_names(domains, "train")
    return any(splits[name].records.has_box().any() for name in names)


def evaluator(
    config: ConfigDict, corpus: pipeline.Corpus, learner: Learner, mesh: jax.sharding.Mesh
) -> Evaluate:
    """The evaluation of retrieval, and of grounding where there are boxes, on every domain.

    On the target it also measures how far the features are from the source's, see
    `domain_distance`. The last evaluation, that of the tests, also calibrates the confidence of the
    boxes and measures it, see `calibration`.
    """
    predict = required_predictions(learner.predict)
    collect = collector(predict, mesh, rows_at_once=config.model.rows_at_once)
    with_picture = {**learner.predict, "picture": picture_hash}
    answers = calibration.answer_reader(config, corpus, with_picture, mesh)

    def evaluate_split(
        name: str,
        params: Any,
        features: dict[str, dict[str, np.ndarray]],
        should_stop: ShouldStop,
    ) -> Evaluation:
        # What the network says of every row, and how right it is.
        batches = pipeline.eval_batches(
            corpus,
            [name],
            batch_size=config.eval.batch_size,
            boxes=True,
            share=pipeline.Share.here(),
        )
        metrics, rows = split_measures(collect, params, batches, mesh=mesh, should_stop=should_stop)
        # How far the target is from the source, whose splits come first.
        sample = sheets.spread_rows(len(rows["index"]), _COMPARED)
        features[name] = {kind: rows[f"{kind}_embedding"][sample] for kind in EMBEDDINGS}
        kind = name.rpartition("_")[2]
        if name in split_names(config.data.target, kind):
            sources = split_names(config.data.source, kind)
            metrics |= domain_distance(sources, name, features)
        # What a person looks at.
        draw = partial(spread_sheet, corpus, name, rows["box_cxcywh"])
        files = failure_files(corpus, name, rows) if kind == "test" else {}
        return Evaluation(metrics, draw, files, not_finite_notes(rows))

    def evaluate(
        params: Any, kinds: Sequence[str], should_stop: ShouldStop
    ) -> Iterator[tuple[str, Evaluation]]:
        # The confidence is calibrated on the source's validation, before the tests measure it.
        is_last = "test" in kinds and config.eval.get("confidence", True)
        fitted = calibration.fitted_splits(config, corpus) if is_last else []
        fitted_answers = [answers(name, params, should_stop, is_strong=True) for name in fitted]
        calibrated = calibration.calibration_of(fitted_answers, fitted)
        features: dict[str, dict[str, np.ndarray]] = {}
        for name in splits_in_order(config.data.source, corpus.splits, kinds):
            evaluation = evaluate_split(name, params, features, should_stop)
            metrics, files = evaluation.metrics, evaluation.files
            if calibrated is not None and name == fitted[0]:
                files = {**files, confidence.FILE: partial(confidence.write, calibrated)}
            elif calibrated is not None and name.endswith("_test") and "boxes" in metrics:
                test_answers = answers(name, params, should_stop)
                metrics = metrics | calibration.metrics(calibrated, test_answers)
                files = {**files, **calibration.files(calibrated, name, test_answers)}
            yield name, evaluation._replace(metrics=metrics, files=files)

    return evaluate


def splits_in_order(source: str, names: Iterable[str], kinds: Sequence[str]) -> list[str]:
    """The splits of these kinds, those of the source's domains first."""
    domains = domain_names(source)
    splits = [name for name in names if name.rpartition("_")[2] in kinds]
    return sorted(splits, key=lambda name: name.rpartition("_")[0] not in domains)


def domain_distance(
    sources: Sequence[str], target: str, features: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, float]:
    """The distance of the domains, as `distance_image` and `distance_query`.

    It is the squared MMD (see `aligner.mmd`) between the embeddings of all the source's splits and
    those of the target's.

    Args:
        sources: splits; those without features have no say, and without any there is no distance.
        target: a split.
        features: `[N D]` by split and kind.
    """
    source_features = [features[name] for name in sources if name in features]
    if not source_features:
        return {}
    return {
        f"distance_{kind}": float(
            _mmd(np.concatenate([split[kind] for split in source_features]), rows)
        )
        for kind, rows in features[target].items()
    }


_mmd = jax.jit(aligner.mmd)


def failures(rows: dict[str, np.ndarray]) -> Int[np.ndarray, " F"]:
    """The rows whose box has an IoU below 0.5 with the true one, the worst first."""
    if "box_mask" not in rows:
        return np.zeros(0, np.int64)
    iou = grounding.clamped_iou(rows["box_cxcywh"], rows["true_box_cxcywh"])
    wrong = np.flatnonzero(rows["box_mask"] & (iou < 0.5))
    return wrong[np.argsort(iou[wrong], kind="stable")]


def failure_files(
    corpus: pipeline.Corpus, name: str, rows: dict[str, np.ndarray]
) -> dict[str, Callable[[Path], None]]:
    """`failures_<name>.png`: a sheet of `failures`, evenly from the worst to the nearly right.

    Without failures there is no file.
    """
    wrong = failures(rows)
    if not len(wrong):
        return {}
    sample, box = wrong[sheets.spread_rows(len(wrong), _FAILURES)], rows["box_cxcywh"]
    title = f"{name}: {len(sample)} of {len(wrong):,} below IoU 0.5, in {rows['box_mask'].sum():,}"

    def write(path: Path) -> None:
        sheets.write(path, sheet(corpus, name, box, sample, title))

    return {f"failures_{name}.png": write}


def highlight(config: ConfigDict, names: Sequence[str], kind: str) -> str | None:
    """The target's first split of that kind, else the last of all."""
    targets = [name for name in split_names(config.data.target, kind) if name in names]
    return next(iter(targets or names[::-1]), None)


def spread_sheet(
    corpus: pipeline.Corpus, name: str, box_cxcywh: np.ndarray, count: int, title: str
) -> UInt8[np.ndarray, "Y X 3"]:
    """`sheet` of `count` pictures from all over the split."""
    return sheet(corpus, name, box_cxcywh, sheets.spread_rows(len(box_cxcywh), count), title)


def sheet(
    corpus: pipeline.Corpus,
    name: str,
    box_cxcywh: Float[np.ndarray, "N 4"],
    rows: Int[np.ndarray, " M"],
    title: str,
    *,
    chosen: Bool[np.ndarray, " N"] | None = None,
) -> UInt8[np.ndarray, "Y X 3"]:
    """Pictures of a split with query, true and predicted box; one host can make it.

    Args:
        corpus: of `pipeline.load`.
        name: of the split.
        box_cxcywh: predicted boxes of its rows.
        rows: to show.
        title: above them.
        chosen: rows whose box is trained on, as a pseudo box.
    """
    split = corpus.splits[name]
    true = np.asarray(boxes.cxcywh(jnp.asarray(split.records.box_xyxy()[rows])))
    return sheets.box_sheet(
        pipeline.pictures(corpus, name, rows),
        [split.texts[row] for row in rows],
        true,
        box_cxcywh[rows],
        true_mask=split.records.has_box()[rows],
        pseudo_cxcywh=None if chosen is None else box_cxcywh[rows],
        pseudo_mask=None if chosen is None else chosen[rows],
        title=title,
    )
