"""The data of same-style matching: pairs of offers mined from clicks, and a catalogue."""

from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from date_jax.data import pipeline
from date_jax.data.sources import PAIRED
from date_jax.task import Batch, KeptSplit, record_shapes


def load(config: ConfigDict) -> pipeline.Corpus:
    """The catalogue and the pairs of `config.data`; raises as `pipeline.load` does."""
    return pipeline.load(config.data, "offers")


def example(config: ConfigDict) -> Batch:
    """The shapes of a batch of pairs."""
    return {
        side: record_shapes(config, "image", "text", "text_mask") for side in ("trigger", "offer")
    }


def batches(config: ConfigDict, corpus: pipeline.Corpus, first_step: int) -> Iterator[Batch]:
    """Batches `{trigger, offer}` of the steps, without end: this process's part of each.

    No product is in it: that two rows are a pair is all that training knows.
    """
    return pipeline.pair_batches(
        corpus,
        share=pipeline.Share.here(),
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=first_step,
        views=config.data.get("views", 0),
    )


def kept(config: ConfigDict, corpus: pipeline.Corpus) -> list[KeptSplit]:
    """The splits whose features training, and its evaluation, read."""
    del config
    evaluated = [name for name in corpus.splits if name != PAIRED]
    return [KeptSplit(PAIRED, views=True), *(KeptSplit(name, plain=True) for name in evaluated)]


def split_batches(
    config: ConfigDict, corpus: pipeline.Corpus, name: str
) -> Iterator[dict[str, np.ndarray]]:
    """Padded batches of this process's rows of all offers of a split, in order."""
    return pipeline.eval_batches(
        corpus,
        [name],
        share=pipeline.Share.here(),
        batch_size=config.eval.batch_size,
        boxes=False,
    )
