"""Evaluation of same-style matching: offers are looked for in a catalogue, in seven modes."""

from collections.abc import Iterator, Sequence
from functools import partial

import jax
import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from date_jax.data import pipeline
from date_jax.data.sources import PAIRED
from date_jax.evals import findings, sheets
from date_jax.evals.collect import collector, not_finite_notes
from date_jax.pairs import neighbours
from date_jax.same_style import modes
from date_jax.same_style.batches import split_batches
from date_jax.task import Evaluate, Evaluation, Learner, Params, ShouldStop

SHEET_OFFERS = 6  # offers found for one on a sheet


def evaluator(
    config: ConfigDict, corpus: pipeline.Corpus, learner: Learner, mesh: jax.sharding.Mesh
) -> Evaluate:
    """The evaluation of each split: a search of all its offers for the other ones of a product.

    Splits in which no offer has another one are passed over.
    """
    collect = collector(learner.predict, mesh, rows_at_once=config.model.rows_at_once)
    # The pairs of training, and how many of them really show one product.
    pair_products = corpus.splits[PAIRED].products()[corpus.pairs]
    pair_metrics = {"pairs": float(len(pair_products))}
    if corpus.has_true_products:
        is_right = pair_products[:, 0] == pair_products[:, 1]
        pair_metrics["pair_precision"] = float(is_right.mean())

    def evaluate(
        params: Params, kinds: Sequence[str], should_stop: ShouldStop
    ) -> Iterator[tuple[str, Evaluation]]:
        for name in (f"offer_{kind}" for kind in kinds if f"offer_{kind}" in corpus.splits):
            split = corpus.splits[name]
            product, category = split.products(), split.records.texts("category")
            query_category = [category[row] for row in modes.query_rows(product)]
            if not query_category:
                continue  # the corpus' notes say so
            rows = collect(params, split_batches(config, corpus, name), should_stop=should_stop)
            metrics = modes.metrics(modes.ranks(rows, product, mesh=mesh), query_category)
            metrics |= {"offers": float(split.size), "queries": float(len(query_category))}
            # What a person is shown: the nearest by picture and words, the offer itself among them.
            joint = rows["joint_embedding"]
            nearest = neighbours.nearest_rows(joint, joint, SHEET_OFFERS + 1, mesh=mesh).index
            sheet = partial(offer_sheet, corpus, name, nearest)
            notes = not_finite_notes(rows)
            yield name, Evaluation(metrics | pair_metrics, sheet, notes=notes)

    return evaluate


def highlight(config: ConfigDict, names: Sequence[str], kind: str) -> str | None:
    """The offers of that kind."""
    del config
    name = f"offer_{kind}"
    return name if name in names else None


def offer_sheet(
    corpus: pipeline.Corpus,
    name: str,
    nearest: Int[np.ndarray, "N K"],
    count: int,
    title: str,
) -> UInt8[np.ndarray, "Y X 3"]:
    """A sheet of `count` offers, each with those that picture and words together find.

    Args:
        name: of the split.
        nearest: the K nearest rows of each row of the split, itself among them; -1 for none.
        title: above the sheet.
    """
    split = corpus.splits[name]
    product = split.products()
    rows = sheets.spread_rows(split.size, count)
    examples = []
    for row, image in zip(rows, pipeline.pictures(corpus, name, rows), strict=True):
        # Not the offer itself, which is the nearest to itself.
        index = nearest[row][nearest[row] != row][:SHEET_OFFERS]
        index = index[index >= 0]
        posts = pipeline.pictures(corpus, name, index)[None]
        right = (product[index] == product[row])[None]
        no_box = np.zeros((0, 4), np.float32)
        examples.append(findings.Finding(image, split.texts[row], no_box, posts, right))
    return findings.sheet(examples, title=title)
