"""Search a run's catalogue by picture, words or both: python -m date_jax.search --workdir=runs/…

    --row=12                            offers of the same style as offer 12, by picture and title
    --row=12 --by=image                 by its picture alone; or text
    --row=12 --words="blue mug"         its picture, with these words for its title
    --picture=mug.jpg --words="red"     a picture of your own with a phrase; or either alone
    --row=12 --old=red --new=blue       style transfer by arithmetic: v - a·old + a·new
    --duplicates=0.95                   groups of offers whose vectors have a cosine above that

For runs of configs/same_style.py. Prints what it finds, and draws it into --out.
"""

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import flags, logging
from jaxtyping import Float, Int, UInt8
from ml_collections import ConfigDict

from date_jax.errors import DataError, UsageError, spelling_hint
from date_jax.run import commandline

KINDS = ("joint", "image", "text")
SHOWN_GROUPS = 12


class Searched(NamedTuple):
    """A run that is done and the catalogue it was trained on.

    Attributes:
        config: the run's.
        corpus: of `pipeline.load`.
        predict: jitted, `(name, batch) -> [B E]`.
        split: name of the offers that are searched.
        vectors: of all of them, from picture and title.
        mesh: that search is spread over.
    """

    config: ConfigDict
    corpus: Any
    predict: Any
    split: str
    vectors: Float[np.ndarray, "N E"]
    mesh: Any


def define_flags(known: flags.FlagValues) -> None:
    """Not at import, so that a test can import this file beside another entry point."""
    for name, default, text in (
        ("workdir", None, "of the run"),
        ("split", "offer_test", "offers to search"),
        ("picture", "", "a JPEG, PNG or WEBP to ask with"),
        ("by", "joint", f"what of the query counts: {', '.join(KINDS)}"),
        ("out", "found.png", "the picture of results"),
    ):
        flags.DEFINE_string(name, default, text, flag_values=known)
    for name, text in (
        ("words", "to ask with, in place of the offer's title"),
        ("old", "words whose direction is taken away"),
        ("new", "words whose direction is added"),
    ):
        flags.DEFINE_string(name, "", text, flag_values=known)
    flags.DEFINE_integer("row", None, "an offer to ask with", flag_values=known)
    flags.DEFINE_integer("count", 8, "offers to find", flag_values=known)
    flags.DEFINE_float("strength", 1.0, "a of the arithmetic", flag_values=known)
    flags.DEFINE_float("duplicates", 0.0, "a cosine: find groups instead", flag_values=known)
    flags.DEFINE_bool("debug", False, "show tracebacks", flag_values=known)


def main(_: list[str]) -> None:
    """Answers one question."""
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    require_question(given)
    from date_jax.evals import sheets

    searched = opened(Path(given.workdir), given.split)
    if given.duplicates:
        lines, sheet = duplicates(searched, given.duplicates, given.count)
    else:
        lines, sheet = answered(searched, given)
    sheets.write(given.out, sheet)
    print("\n".join([*lines, f"drawn into {given.out}"]))


def require_question(given: flags.FlagValues) -> None:
    """Raises UsageError where the flags ask for nothing, or for two things at once."""
    if not given.workdir:
        raise UsageError("--workdir is required: the folder of a run of configs/same_style.py")
    if given.by not in KINDS:
        raise UsageError(
            f"--by={given.by}: one of {', '.join(KINDS)}{spelling_hint(given.by, KINDS)}"
        )
    if given.count < 1:
        raise UsageError(f"--count={given.count}: must be 1 or more")
    if bool(given.old) != bool(given.new):
        raise UsageError("--old and --new belong together: the words to take away and to add")
    asked = given.row is not None, bool(given.picture)
    if given.duplicates:
        if any(asked) or given.words or given.old:
            raise UsageError("--duplicates looks at all offers; leave out the other question")
        if not 0 < given.duplicates < 1:
            raise UsageError(f"--duplicates={given.duplicates}: a cosine between 0 and 1")
    elif all(asked):
        raise UsageError("--row and --picture: one or the other")
    elif not (any(asked) or given.words):
        raise UsageError("nothing is asked: give --row, --picture, --words or --duplicates")


def opened(run: Path, split: str) -> Searched:
    """The moving average of a run's last checkpoint, and the vectors of the offers of `split`.

    Raises:
        CheckpointError: there is no checkpoint.
        UsageError: the run is of another task, or there is no such split.
        DataError: the data have changed since.
    """
    import jax

    from date_jax import sharding
    from date_jax.data.cache import compiled_folder
    from date_jax.evals.collect import collector
    from date_jax.run import checkpoint
    from date_jax.same_style import batches
    from date_jax.same_style.task import TASK

    found = checkpoint.latest_part(run)
    for warning in found.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    config = ConfigDict(found.meta["config"])
    if config.task != "same_style":
        raise UsageError(f"{run}: a run of task {config.task}; only same_style's can be searched")
    jax.config.update("jax_compilation_cache_dir", compiled_folder(config.data))
    corpus = TASK.load(config)
    if corpus.fingerprint != found.meta["data"]:
        raise DataError(f"{run}: its data have changed since it was trained")
    if split not in corpus.splits:
        there = ", ".join(corpus.splits)
        raise UsageError(
            f"--split={split}: no such offers{spelling_hint(split, corpus.splits)}: {there}"
        )
    learner, mesh = TASK.learner(config, corpus.tokenizer, {}), sharding.device_mesh()
    config.eval.batch_size = max(config.eval.batch_size // mesh.size, 1) * mesh.size
    joint = {"joint_embedding": learner.predict["joint_embedding"]}
    collect = collector(joint, mesh, rows_at_once=config.model.rows_at_once)
    rows = collect(found.params, batches.split_batches(config, corpus, split))
    compiled = {name: jax.jit(function) for name, function in learner.predict.items()}

    def predict(kind: str, batch: dict[str, np.ndarray]) -> Float[np.ndarray, "B E"]:
        name = f"{kind}_embedding"
        if name not in compiled:
            raise UsageError(f"{run}: was trained with modality={config.modality}: no {kind}")
        return np.asarray(compiled[name](found.params, batch))

    return Searched(config, corpus, predict, split, rows["joint_embedding"], mesh)


def answered(
    searched: Searched, given: flags.FlagValues
) -> tuple[list[str], UInt8[np.ndarray, "Y X 3"]]:
    """Lines and a picture of the offers that the flags ask for."""
    from date_jax.evals import findings
    from date_jax.pairs import neighbours

    modality = searched.config.modality
    unseen = {"image": ("words", given.words), "text": ("picture", given.picture)}
    flag, value = unseen.get(modality, ("", ""))
    if value:
        raise UsageError(
            f"--{flag}={value}: the run was trained with modality={modality} and does not see it; "
            "leave it out"
        )
    offers = searched.corpus.splits[searched.split]
    image, words = question(searched, given.row, given.picture, given.words)
    vector = asked(searched, image, words, given.by)
    if given.old:
        vector = moved(searched, vector, given.old, given.new, given.strength)
        words = f"{words}: {given.old} -> {given.new}"
    found = neighbours.nearest_rows(vector, searched.vectors, given.count + 1, mesh=searched.mesh)
    kept = (found.index[0] >= 0) & (found.index[0] != (-1 if given.row is None else given.row))
    index, score = (part[0][kept][: given.count] for part in (found.index, found.score))
    ids = offers.records.texts("offer_id")
    lines = [f"{s:.3f}  {ids[i]}  {offers.texts[i]}" for i, s in zip(index, score, strict=True)]
    right = None
    if given.row is not None and not (given.words or given.old):
        product = offers.products()
        right = (product[index] == product[given.row])[None]
    return lines, findings.sheet([_finding(searched, image, words, index, right)], title="found")


def question(
    searched: Searched, row: int | None, picture: str, words: str
) -> tuple[UInt8[np.ndarray, "S S 3"] | None, str]:
    """The picture and the words that are asked with; None and "" where there are none.

    Raises:
        UsageError: there is no such offer.
        DataError: the picture cannot be read.
    """
    from date_jax.data import pipeline

    offers = searched.corpus.splits[searched.split]
    if row is None:
        return (_read(picture, searched.config.data) if picture else None), words
    if not 0 <= row < offers.size:
        raise UsageError(f"--row={row}: must be from 0 to {offers.size - 1}")
    (image,) = pipeline.pictures(searched.corpus, searched.split, np.array([row]))
    return image, words or offers.texts[row]


def _read(picture: str, data: ConfigDict) -> UInt8[np.ndarray, "S S 3"]:
    from date_jax.data import decode
    from date_jax.data.files.preprocess import UnreadablePictureError, prepared_jpeg

    try:
        jpeg = prepared_jpeg(
            Path(picture), image_size=data.image_size, fit=data.fit, max_pixels=data.max_pixels
        )
    except UnreadablePictureError as error:
        raise DataError(f"--picture={picture}: {error}") from error
    return decode.pictures([jpeg], data.image_size)[0]


def asked(
    searched: Searched, image: UInt8[np.ndarray, "S S 3"] | None, words: str, by: str
) -> Float[np.ndarray, "1 E"]:
    """The vector of a picture, words or both.

    Raises:
        UsageError: what shall count is not there.
    """
    if by == "joint":
        by = "text" if image is None else "joint" if words else "image"
    if (by == "image" and image is None) or (by == "text" and not words):
        raise UsageError(f"--by={by}: the question has none; give --row, --picture or --words")
    size = searched.corpus.image_size
    shown = np.zeros((size, size, 3), np.uint8) if image is None else image
    encoded = searched.corpus.tokenizer.encode([words])
    batch = {"image": shown[None], "text": encoded.ids, "text_mask": encoded.mask}
    return searched.predict(by, batch)


def moved(
    searched: Searched, vector: Float[np.ndarray, "1 E"], old: str, new: str, strength: float
) -> Float[np.ndarray, "1 E"]:
    """`v - a·old + a·new` at length 1, both words as vectors of words alone."""
    from date_jax.pairs.vectors import host_unit_vectors

    there, wanted = (asked(searched, None, words, "text") for words in (old, new))
    found = vector + strength * (wanted - there)
    return host_unit_vectors(found)


def duplicates(
    searched: Searched, threshold: float, count: int
) -> tuple[list[str], UInt8[np.ndarray, "Y X 3"]]:
    """Lines for all groups of near-duplicates, the largest first, and a picture of some.

    Args:
        count: offers of a group that are drawn.
    """
    from date_jax.evals import findings
    from date_jax.same_style.near_duplicates import groups

    offers = searched.corpus.splits[searched.split]
    group = groups(searched.vectors, threshold, mesh=searched.mesh)
    _, first, size = np.unique(group, return_index=True, return_counts=True)
    together = [
        np.flatnonzero(group == group[first[place]])
        for place in np.argsort(-size, kind="stable")
        if size[place] > 1
    ]
    ids = offers.records.texts("offer_id")
    lines = [" ".join(ids[row] for row in rows) for rows in together]
    lines.append(f"{len(together):,} groups of {sum(map(len, together)):,} offers")
    product = offers.products()
    shown = []
    for rows in together[:SHOWN_GROUPS]:
        image, words = question(searched, int(rows[0]), "", "")
        right = (product[rows[1 : count + 1]] == product[rows[0]])[None]
        shown.append(_finding(searched, image, words, rows[1 : count + 1], right))
    if not shown:
        raise DataError(f"--duplicates={threshold}: no two offers are that near; lower it")
    return lines, findings.sheet(shown, title=f"cosine above {threshold}")


def _finding(
    searched: Searched,
    image: UInt8[np.ndarray, "S S 3"] | None,
    words: str,
    index: Int[np.ndarray, " K"],
    right: Any,
) -> Any:
    from date_jax.data import pipeline
    from date_jax.evals import findings

    size = searched.corpus.image_size
    shown = np.full((size, size, 3), 225, np.uint8) if image is None else image
    posts = pipeline.pictures(searched.corpus, searched.split, index)[None]
    return findings.Finding(shown, words, np.zeros((0, 4), np.float32), posts, right)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
