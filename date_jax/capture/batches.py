"""CAPTURE's data: posts and composites, and the batches made of them."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from date_jax.data import pipeline
from date_jax.data.rendering.post_scenes import MOST
from date_jax.errors import DataError
from date_jax.task import Batch, record_shapes

TEXT = ("text", "text_mask")


def load(config: ConfigDict) -> pipeline.Corpus:
    """The posts of `config.data`.

    Raises:
        DataError: regions found beforehand are not as many, or as wide, as the config says; and as
            `pipeline.load`.
    """
    corpus = pipeline.load(config.data, "posts")
    # A wrong width would fail in the network, where nothing says which file is wrong.
    regions = config.model.regions
    if corpus.regions and corpus.regions.shape != (regions.count, regions.width):
        count, width = corpus.regions.shape
        raise DataError(
            f"config.data.regions={config.data.regions} holds {count} regions of {width} numbers; "
            f"set --config.model.regions.count={count} --config.model.regions.width={width}"
        )
    return corpus


def example(config: ConfigDict) -> Batch:
    """The shapes of a batch of posts and composites, or of posts with regions alone."""
    regions = config.model.regions
    # Pictures come with composites, which alone teach the proposal head.
    if regions.kind != "precomputed":
        composites = ("image", "box_cxcywh", "box_mask")
        return {
            "posts": record_shapes(config, "image", *TEXT),
            "composites": record_shapes(config, *composites, boxes=(MOST,)),
        }
    # Regions found beforehand stand for the pictures.
    shape = (config.batch_size, regions.count)
    region_shapes = {
        "regions": jax.ShapeDtypeStruct((*shape, regions.width), np.float32),
        "region_box_xyxy": jax.ShapeDtypeStruct((*shape, 4), np.float32),
        "region_mask": jax.ShapeDtypeStruct(shape, np.bool_),
    }
    return {"posts": record_shapes(config, *TEXT) | region_shapes}


def batches(config: ConfigDict, corpus: pipeline.Corpus, first_step: int) -> Iterator[Batch]:
    """Batches of the steps from `first_step` on, without end: this process's part of each.

    Posts have no box and no label, composites no title. Where regions were found beforehand, posts
    have these in place of their pictures, and there are no composites.
    """
    options: dict[str, Any] = {
        "share": pipeline.Share.here(),
        "batch_size": config.batch_size,
        "start_step": first_step,
    }
    posts = pipeline.train_batches(
        corpus,
        ["post_train"],
        seed=config.seed,
        boxes=False,
        regions=corpus.regions is not None,
        **options,
    )
    # Regions found beforehand leave nothing for composites to teach.
    if corpus.regions:
        yield from ({"posts": post} for post in posts)
        return
    # In an order that is not the posts'.
    composites = pipeline.train_batches(
        corpus, ["composite_train"], seed=config.seed + 1, boxes=True, columns=(), **options
    )
    for post, composite in zip(posts, composites, strict=True):
        yield {"posts": post, "composites": composite}


def split_batches(
    config: ConfigDict, corpus: pipeline.Corpus, name: str
) -> Iterator[dict[str, np.ndarray]]:
    """Padded batches of this process's rows of a split in order, with boxes where it has any."""
    split = corpus.splits[name]
    return pipeline.eval_batches(
        corpus,
        [name],
        share=pipeline.Share.here(),
        batch_size=config.eval.batch_size,
        boxes=bool(split.records.has_box().any()),
        regions=split.region_row is not None,
    )
