"""Pairs of offers mined from clicks, and a catalogue to search: what task same_style asks for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from date_jax.data import pipeline
from date_jax.data.sources import PAIRED
from date_jax.data.tokenizer import MIRRORED
from date_jax.evals import findings
from date_jax.evals import sheets as pictures
from date_jax.evals.collect import collector
from date_jax.pairs import neighbours
from date_jax.same_style import modes, rules
from date_jax.same_style import task as same_style
from date_jax.task import Batch, Evaluate, Evaluation, Learner, Task, record_shapes

SHOWN = 6  # offers found for one on a sheet


def load(config: ConfigDict) -> pipeline.Corpus:
    """The catalogue and the pairs of `config.data`; raises as `pipeline.load` does."""
    return pipeline.load(config.data, "offers")


def learner(config: ConfigDict, tokenizer: Any, sizes: Mapping[str, int]) -> Learner:
    """The learner for a vocabulary; it keeps nothing of rows, so `sizes` do not matter."""
    del sizes
    mirrored = jnp.asarray(tokenizer.swap_table(MIRRORED))
    return same_style.learner(config, len(tokenizer.vocab), mirrored)


def example(config: ConfigDict) -> Batch:
    """The shapes of a batch of pairs."""
    return {
        side: record_shapes(config, "image", "text", "text_mask") for side in ("trigger", "offer")
    }


def batches(
    config: ConfigDict, corpus: pipeline.Corpus, first_step: int
) -> Iterator[dict[str, Any]]:
    """This process's part `{trigger, offer}` of the batch of each step, without end.

    No product is in it: that two rows are a pair is all that training knows.
    """
    return pipeline.pair_batches(
        corpus,
        share=pipeline.Share.here(),
        batch_size=config.batch_size,
        seed=config.seed,
        start_step=first_step,
    )


def offers(config: ConfigDict, corpus: pipeline.Corpus, name: str) -> Iterator[dict[str, Any]]:
    """This process's rows of all offers of a split, in order."""
    return pipeline.eval_batches(
        corpus,
        [name],
        share=pipeline.Share.here(),
        batch_size=config.eval.batch_size,
        boxes=False,
    )


def evaluator(
    config: ConfigDict, corpus: pipeline.Corpus, learner: Learner, mesh: jax.sharding.Mesh
) -> Evaluate:
    """Searches all offers of a split for the other ones of each one's product, in seven modes;
    passes over splits in which no offer has another one."""
    collect = collector(learner.predict, mesh, rows_at_once=config.model.rows_at_once)
    trained = corpus.splits[PAIRED].products()[corpus.pairs]
    pairs = {"pairs": float(len(trained))}
    if corpus.has_true_products:
        pairs["pair_precision"] = float((trained[:, 0] == trained[:, 1]).mean())

    def evaluate(
        params: Any, kinds: Sequence[str], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[str, Evaluation]]:
        for name in (f"offer_{kind}" for kind in kinds if f"offer_{kind}" in corpus.splits):
            split = corpus.splits[name]
            product, category = split.products(), split.records.texts("category")
            asked = [category[row] for row in modes.query_rows(product)]
            if not asked:
                continue  # the corpus' notes say so
            rows = collect(params, offers(config, corpus, name), should_stop=should_stop)
            metrics = modes.metrics(modes.ranks(rows, product, mesh=mesh), asked)
            metrics |= {"offers": float(split.size), "queries": float(len(asked)), **pairs}
            nearest = neighbours.nearest_rows(
                rows["joint_embedding"], rows["joint_embedding"], SHOWN + 1, mesh=mesh
            )
            yield name, Evaluation(metrics, partial(sheet, corpus, name, nearest.index))

    return evaluate


def sheet(
    corpus: pipeline.Corpus,
    name: str,
    nearest: Int[np.ndarray, "N K"],
    count: int,
    title: str,
) -> UInt8[np.ndarray, "Y X 3"]:
    """`count` offers, each with those that picture and words together find, but itself.

    Args:
        nearest: the K nearest rows of each row of the split, itself among them.
    """
    split = corpus.splits[name]
    product = split.products()
    chosen = pictures.spread(split.size, count)
    shown = []
    for row, image in zip(chosen, pipeline.pictures(corpus, name, chosen), strict=True):
        found = nearest[row][nearest[row] != row][:SHOWN]
        found = found[found >= 0]
        posts = pipeline.pictures(corpus, name, found)[None]
        right = (product[found] == product[row])[None]
        none = np.zeros((0, 4), np.float32)
        shown.append(findings.Finding(image, split.texts[row], none, posts, right))
    return findings.sheet(shown, title=title)


def highlight(config: ConfigDict, names: Sequence[str], kind: str) -> str | None:
    """The offers of that kind."""
    del config
    name = f"offer_{kind}"
    return name if name in names else None


TASK = Task(
    contradictions=rules.contradictions,
    load=load,
    learner=learner,
    example=example,
    batches=batches,
    evaluator=evaluator,
    highlight=highlight,
    terms=("loss", "match_joint", "match_text", "match_image", "distinct_text", "distinct_image",
           "local_text", "local_image"),
    columns=("m-m/recall_at_1", "i-i/recall_at_1", "t-t/recall_at_1", "i-t/recall_at_1",
             "t-i/recall_at_1", "m-m/mrr"),
)  # fmt: skip
