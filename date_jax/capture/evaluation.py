"""Posts of several products, and a gallery to find each of them in: what task capture asks for."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from date_jax.capture import post_search as search
from date_jax.capture import proposal_recall as proposals
from date_jax.capture import ranked_lists, rules
from date_jax.capture import task as capture
from date_jax.data import pipeline
from date_jax.data.rendering.post_scenes import MOST
from date_jax.data.tokenizer import MIRRORED, SPECIAL
from date_jax.errors import DataError
from date_jax.evals import findings
from date_jax.evals import sheets as pictures
from date_jax.evals.collect import collector
from date_jax.task import Batch, Evaluate, Evaluation, Learner, Task, record_shapes

SHOWN = 5  # posts of an instance, or proposals of a picture, on a sheet
QUERY = ("vectors", "proposal_box", "instance_box", "instance_mask", "instance_vectors")


def load(config: ConfigDict) -> pipeline.Corpus:
    """The posts of `config.data`.

    Raises:
        DataError: regions found beforehand are not as many, or as wide, as the config says; and as
            `pipeline.load`.
    """
    corpus = pipeline.load(config.data, "posts")
    wanted = config.model.regions
    if corpus.regions and corpus.regions.shape != (wanted.count, wanted.width):
        count, width = corpus.regions.shape
        raise DataError(
            f"config.data.regions={config.data.regions} holds {count} regions of {width} numbers; "
            f"set --config.model.regions.count={count} --config.model.regions.width={width}"
        )
    return corpus


def learner(config: ConfigDict, tokenizer: Any, sizes: Mapping[str, int]) -> Learner:
    """The learner for a vocabulary; it keeps nothing of rows, so `sizes` do not matter.

    Raises:
        DataError: no word stands behind [MASK] in the vocabulary, or a special piece does.
    """
    del sizes
    mirrored = jnp.asarray(tokenizer.swap_table(MIRRORED))
    mask_id = tokenizer.vocab.index("[MASK]")
    if not max(map(tokenizer.vocab.index, SPECIAL)) == mask_id < len(tokenizer.vocab) - 1:
        raise DataError(
            f"config.data.vocab={config.data.vocab}: [MASK] is line {mask_id + 1}; {SPECIAL} must "
            "come first with [MASK] last of them, for what is behind it is taken for words"
        )
    return capture.learner(config, len(tokenizer.vocab), mask_id, mirrored)


def example(config: ConfigDict) -> Batch:
    """The shapes of a batch of posts and composites, or of posts with regions alone."""
    words = ("text", "text_mask")
    regions = config.model.regions
    if regions.kind != "precomputed":
        composites = ("image", "box_cxcywh", "box_mask")
        return {
            "posts": record_shapes(config, "image", *words),
            "composites": record_shapes(config, *composites, boxes=(MOST,)),
        }
    shape = (config.batch_size, regions.count)
    shapes = {
        "regions": jax.ShapeDtypeStruct((*shape, regions.width), np.float32),
        "region_box_xyxy": jax.ShapeDtypeStruct((*shape, 4), np.float32),
        "region_mask": jax.ShapeDtypeStruct(shape, np.bool_),
    }
    return {"posts": record_shapes(config, *words) | shapes}


def batches(
    config: ConfigDict, corpus: pipeline.Corpus, first_step: int
) -> Iterator[dict[str, Any]]:
    """This process's part of the batch of each step from `first_step`, without end.

    Posts have no box and no label, composites no title. Where regions were found beforehand, posts
    have these in place of their pictures, and there are no composites.
    """
    options = {
        "batch_size": config.batch_size,
        "start_step": first_step,
        "share": pipeline.Share.here(),
    }
    titled = pipeline.train_batches(
        corpus,
        ["post_train"],
        seed=config.seed,
        boxes=False,
        regions=corpus.regions is not None,
        **options,
    )
    if corpus.regions:
        yield from ({"posts": post} for post in titled)
        return
    pasted = pipeline.train_batches(
        corpus, ["composite_train"], seed=config.seed + 1, boxes=True, columns=(), **options
    )
    for post, composite in zip(titled, pasted, strict=True):
        yield {"posts": post, "composites": composite}


def evaluator(
    config: ConfigDict, corpus: pipeline.Corpus, learner: Learner, mesh: jax.sharding.Mesh
) -> Evaluate:
    """Searches the gallery of each kind for the products of its queries, instance by instance."""

    def made(*names: str) -> Any:
        predict = {name: learner.predict[name] for name in names}
        return collector(predict, mesh, rows_at_once=config.model.rows_at_once)

    collect_gallery, collect_queries, collect_boxes = (
        made("vectors"),
        made(*QUERY),
        made("proposal_box"),
    )

    def rows_of(name: str) -> Iterator[dict[str, np.ndarray]]:
        return pipeline.eval_batches(
            corpus,
            [name],
            share=pipeline.Share.here(),
            batch_size=config.eval.batch_size,
            boxes=bool(corpus.splits[name].records.has_box().any()),
            regions=corpus.splits[name].region_row is not None,
        )

    def evaluate(
        params: Any, kinds: Sequence[str], should_stop: Callable[[], bool]
    ) -> Iterator[tuple[str, Evaluation]]:
        galleries: dict[str, np.ndarray] = {}
        for kind in kinds:
            name = f"composite_{kind}"
            if name in corpus.splits and not corpus.regions:
                rows = collect_boxes(params, rows_of(name), should_stop=should_stop)
                shown = partial(proposals_sheet, corpus, name, rows["proposal_box"])
                yield name, Evaluation(of_boxes(rows), shown)

            among = gallery_name(corpus, kind)
            for name in (f"suite_{kind}", f"unseen_{kind}"):
                if name in corpus.splits:
                    if among not in galleries:
                        found = collect_gallery(params, rows_of(among), should_stop=should_stop)
                        galleries[among] = found["vectors"]
                    rows = collect_queries(params, rows_of(name), should_stop=should_stop)
                    yield name, found_in(config, corpus, name, rows, galleries[among], mesh)

    return evaluate


def gallery_name(corpus: pipeline.Corpus, kind: str) -> str:
    """The split that queries of this kind search: Product1M has one for val and test."""
    name = f"single_{kind}"
    return name if name in corpus.splits else "single_test"


def of_boxes(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """The measures of a split's proposals; none where its boxes are unknown."""
    if "true_box_cxcywh" not in rows:
        return {}
    return proposals.metrics(rows["proposal_box"], rows["true_box_cxcywh"], rows["box_mask"])


def found_in(
    config: ConfigDict,
    corpus: pipeline.Corpus,
    name: str,
    rows: dict[str, np.ndarray],
    gallery: np.ndarray,
    mesh: jax.sharding.Mesh,
) -> Evaluation:
    """The measures of one split of queries, in the config's form and in all others beside it, and
    the lists in the config's form, to be kept as `ranked_<name>.csv`.

    Args:
        rows: what was collected of the queries.
        gallery: `vectors` of the posts among which products are searched.
    """
    single = gallery_name(corpus, name.rpartition("_")[2])
    split, among = corpus.splits[name], corpus.splits[single]
    labels = [some[0] for some in among.labels()]
    wanted, first = ranked_lists.label_numbers(split.labels(), labels)
    lists, instances = search.search_results(rows, gallery, mesh=mesh)
    chosen = f"{config.retrieval.embedding}_{config.retrieval.merge}"
    metrics = ranked_lists.metrics(lists[chosen], wanted, first)
    for how, found in lists.items():
        each = ranked_lists.metrics(found, wanted, first)
        metrics |= {f"{how}/{measure}": value for measure, value in each.items()}
    metrics |= of_boxes(rows)
    metrics |= {"instances": float(rows["instance_mask"].sum(axis=1).mean())}

    def written(path: Path) -> None:
        ranked_lists.write(path, lists[chosen], split.ids(), among.ids())

    nearest = instances[config.retrieval.embedding][:, :, :SHOWN]
    right = (first[nearest][..., None] == wanted[:, None, None]).any(axis=-1)
    shown = partial(findings_sheet, corpus, (name, single), rows, nearest, right)
    return Evaluation(metrics, shown, {f"ranked_{name}.csv": written})


def findings_sheet(
    corpus: pipeline.Corpus,
    names: tuple[str, str],
    rows: dict[str, np.ndarray],
    nearest: Int[np.ndarray, "Q K L"],
    right: Bool[np.ndarray, "Q K L"],
    count: int,
    title: str,
) -> UInt8[np.ndarray, "Y X 3"]:
    """`count` queries with their instances and the best posts of each.

    Args:
        names: of the splits of queries and of the gallery.
        rows: what was collected of the queries.
        nearest: the best posts of every instance.
        right: whether they show a product of the query.
    """
    queries, gallery = names
    titles = corpus.splits[queries].texts
    chosen = pictures.spread(len(titles), count)
    shown = []
    for query, image in zip(chosen, pipeline.pictures(corpus, queries, chosen), strict=True):
        real = rows["instance_mask"][query]
        index = nearest[query][real]
        found = pipeline.pictures(corpus, gallery, index.ravel())
        shown.append(
            findings.Finding(
                image,
                titles[query],
                rows["instance_box"][query][real],
                found.reshape(*index.shape, *found.shape[1:]),
                right[query][real],
            )
        )
    return findings.sheet(shown, title=title)


def proposals_sheet(
    corpus: pipeline.Corpus,
    name: str,
    proposal_xyxy: Float[np.ndarray, "N R 4"],
    count: int,
    title: str,
) -> UInt8[np.ndarray, "Y X 3"]:
    """`count` pictures with their best proposals."""
    chosen = pictures.spread(len(proposal_xyxy), count)
    images = pipeline.pictures(corpus, name, chosen)
    none = np.zeros((0, 0, *images.shape[1:]), np.uint8), np.zeros((0, 0), bool)
    shown = [
        findings.Finding(image, "", proposal_xyxy[row][:SHOWN], *none)
        for row, image in zip(chosen, images, strict=True)
    ]
    return findings.sheet(shown, title=title, columns=4)


def highlight(config: ConfigDict, names: Sequence[str], kind: str) -> str | None:
    """The suites of that kind."""
    del config
    name = f"suite_{kind}"
    return name if name in names else None


TASK = Task(
    contradictions=rules.contradictions,
    load=load,
    learner=learner,
    example=example,
    batches=batches,
    evaluator=evaluator,
    highlight=highlight,
    terms=("loss", "contrast", "joined", "words", "regions", "objectness", "box"),
    columns=("map_at_10", "mar_at_10", "precision_at_10", "proposal_recall_at_10", "instances"),
)
