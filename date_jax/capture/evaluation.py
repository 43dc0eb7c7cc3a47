"""Evaluation of CAPTURE: every product of a post is looked for in a gallery of posts."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from date_jax.capture import post_search, proposal_recall, ranked_lists
from date_jax.capture.batches import split_batches
from date_jax.data import pipeline
from date_jax.evals import findings, sheets
from date_jax.evals.collect import Collect, collector, not_finite_notes
from date_jax.task import Evaluate, Evaluation, Learner, Params, ShouldStop

SHEET_POSTS = 5  # posts of an instance, or proposals of a picture, on a sheet
QUERY = ("vectors", "proposal_box", "instance_box", "instance_mask", "instance_vectors")


def evaluator(
    config: ConfigDict, corpus: pipeline.Corpus, learner: Learner, mesh: jax.sharding.Mesh
) -> Evaluate:
    """The evaluation of each kind: the recall of proposals, and the search of the kind's gallery.

    Products are searched instance by instance, see `evaluate_split`.
    """

    # One program for each set of predictions: a gallery needs no instances, composites no vectors.
    def row_collector(*names: str) -> Collect:
        predict = {name: learner.predict[name] for name in names}
        return collector(predict, mesh, rows_at_once=config.model.rows_at_once)

    collect_boxes = row_collector("proposal_box")
    collect_gallery = row_collector("vectors")
    collect_queries = row_collector(*QUERY)

    def evaluate(
        params: Params, kinds: Sequence[str], should_stop: ShouldStop
    ) -> Iterator[tuple[str, Evaluation]]:
        def split_rows(collect: Collect, name: str) -> dict[str, np.ndarray]:
            return collect(params, split_batches(config, corpus, name), should_stop=should_stop)

        galleries: dict[str, np.ndarray] = {}
        for kind in kinds:
            # Proposals of composites, whose boxes are known.
            name = f"composite_{kind}"
            if name in corpus.splits and not corpus.regions:
                rows = split_rows(collect_boxes, name)
                sheet = partial(proposal_sheet, corpus, name, rows["proposal_box"])
                notes = not_finite_notes(rows)
                yield name, Evaluation(proposal_metrics(rows), sheet, notes=notes)
            # Queries, among the posts of the kind's gallery, which is embedded once.
            gallery = gallery_name(corpus, kind)
            for name in (f"suite_{kind}", f"unseen_{kind}"):
                if name in corpus.splits:
                    if gallery not in galleries:
                        galleries[gallery] = split_rows(collect_gallery, gallery)["vectors"]
                    rows = split_rows(collect_queries, name)
                    vectors = galleries[gallery]
                    yield name, evaluate_split(config, corpus, name, rows, vectors, mesh)

    return evaluate


def highlight(config: ConfigDict, names: Sequence[str], kind: str) -> str | None:
    """The suites of that kind."""
    del config
    name = f"suite_{kind}"
    return name if name in names else None


def gallery_name(corpus: pipeline.Corpus, kind: str) -> str:
    """The split that queries of this kind search: Product1M has one for val and test."""
    name = f"single_{kind}"
    return name if name in corpus.splits else "single_test"


def proposal_metrics(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """The measures of a split's proposals; none where its boxes are unknown."""
    if "true_box_cxcywh" not in rows:
        return {}
    return proposal_recall.metrics(rows["proposal_box"], rows["true_box_cxcywh"], rows["box_mask"])


def evaluate_split(
    config: ConfigDict,
    corpus: pipeline.Corpus,
    name: str,
    rows: dict[str, np.ndarray],
    gallery: Float[np.ndarray, "G 4 E"],
    mesh: jax.sharding.Mesh,
) -> Evaluation:
    """The measures of one split of queries, in the config's way of searching and in all others.

    The lists in the config's way are kept as `ranked_<name>.csv`.

    Args:
        name: of the split.
        rows: QUERY, collected of the queries.
        gallery: `vectors` of the posts that are searched.
        mesh: of `sharding.device_mesh`.
    """
    queries = corpus.splits[name]
    posts = corpus.splits[gallery_name(corpus, name.rpartition("_")[2])]
    # What each query shows, and what each post of the gallery is.
    query_labels, post_labels = ranked_lists.label_numbers(
        queries.labels(), [labels[0] for labels in posts.labels()]
    )
    # The config's way without a prefix, and every way under its name.
    lists, instances = post_search.search_results(rows, gallery, mesh=mesh)
    chosen_lists = lists[f"{config.retrieval.embedding}_{config.retrieval.merge}"]
    metrics = ranked_lists.metrics(chosen_lists, query_labels, post_labels)
    for way, way_lists in lists.items():
        measures = ranked_lists.metrics(way_lists, query_labels, post_labels)
        metrics |= {f"{way}/{measure}": value for measure, value in measures.items()}
    metrics |= proposal_metrics(rows)
    metrics |= {"instances": float(rows["instance_mask"].sum(axis=1).mean())}

    def write_lists(path: Path) -> None:
        ranked_lists.write(path, chosen_lists, queries.ids(), posts.ids())

    # What a person is shown: the best posts of every instance, and whether they are right.
    nearest = instances[config.retrieval.embedding][:, :, :SHEET_POSTS]
    right = (post_labels[nearest][..., None] == query_labels[:, None, None]).any(axis=-1)
    sheet = partial(finding_sheet, corpus, (name, posts.name), rows, nearest, right)
    notes = not_finite_notes(rows)
    return Evaluation(metrics, sheet, {f"ranked_{name}.csv": write_lists}, notes)


def finding_sheet(
    corpus: pipeline.Corpus,
    names: tuple[str, str],
    rows: dict[str, np.ndarray],
    nearest: Int[np.ndarray, "Q K L"],
    right: Bool[np.ndarray, "Q K L"],
    count: int,
    title: str,
) -> UInt8[np.ndarray, "Y X 3"]:
    """A sheet of `count` queries with their instances and the best posts of each.

    Args:
        names: of the splits of queries and of the gallery.
        rows: QUERY, collected of the queries.
        nearest: the best posts of every instance.
        right: posts that show a product of the query.
        title: above the sheet.
    """
    queries, gallery = names
    texts = corpus.splits[queries].texts
    query_rows = sheets.spread_rows(len(texts), count)
    images = pipeline.pictures(corpus, queries, query_rows)
    examples = []
    for row, image in zip(query_rows, images, strict=True):
        # Only the instances that there are, each with its line of posts.
        mask = rows["instance_mask"][row]
        index = nearest[row][mask]
        posts = pipeline.pictures(corpus, gallery, index.ravel())
        posts = posts.reshape(*index.shape, *posts.shape[1:])
        box = rows["instance_box"][row][mask]
        examples.append(findings.Finding(image, texts[row], box, posts, right[row][mask]))
    return findings.sheet(examples, title=title)


def proposal_sheet(
    corpus: pipeline.Corpus,
    name: str,
    proposal_xyxy: Float[np.ndarray, "N R 4"],
    count: int,
    title: str,
) -> UInt8[np.ndarray, "Y X 3"]:
    """A sheet of `count` pictures of a split with their best proposals.

    Args:
        name: of the split.
        proposal_xyxy: of all its pictures, best first.
        title: above the sheet.
    """
    # A finding without posts is drawn as a picture with its boxes.
    rows = sheets.spread_rows(len(proposal_xyxy), count)
    images = pipeline.pictures(corpus, name, rows)
    no_posts = np.zeros((0, 0, *images.shape[1:]), np.uint8), np.zeros((0, 0), bool)
    examples = [
        findings.Finding(image, "", proposal_xyxy[row][:SHEET_POSTS], *no_posts)
        for row, image in zip(rows, images, strict=True)
    ]
    return findings.sheet(examples, title=title, columns=4)
