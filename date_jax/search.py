"""Searches a run's catalogue by picture, words or both.

    python -m date_jax.search --workdir=runs/… QUESTION

    --row=12                            offers of the same style as offer 12, by picture and title
    --row=12 --by=image                 by its picture alone; or text
    --row=12 --words="blue mug"         its picture, with these words for its title
    --picture=mug.jpg --words="red"     a picture of your own with a phrase; or either alone
    --row=12 --old=red --new=blue       style transfer by arithmetic: v - a·old + a·new
    --duplicates=0.95                   groups of offers whose vectors have a cosine above that

For runs of configs/same_style.py. Prints the offers, and draws them into --out.
"""

import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import flags, logging
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from date_jax.errors import DataError, UsageError, spelling_hint
from date_jax.run import commandline

KINDS = ("joint", "image", "text")
GROUPS_ON_SHEET = 12
GREY = 225  # in place of a picture, on the sheet


class Catalogue(NamedTuple):
    """The offers of a finished run, with their vectors.

    Attributes:
        config: the run's.
        corpus: of `task.load`.
        predict: jitted, `(name, batch) -> [B E]`.
        split: name of the offers that are searched.
        vectors: of all of them, from picture and title.
        mesh: the devices that a search is spread over.
    """

    config: ConfigDict
    corpus: Any
    predict: Any
    split: str
    vectors: Float[np.ndarray, "N E"]
    mesh: Any


def define_flags(definitions: flags.FlagValues) -> None:
    """Defines the command's flags.

    They are not defined at import, so that a test can import two commands.
    """
    # The run and its offers, then the words to ask with.
    for name, default, text in (
        ("workdir", None, "of the run"),
        ("split", "offer_test", "offers to search"),
        ("picture", "", "a JPEG, PNG or WEBP to ask with"),
        ("by", "joint", f"what of the query counts: {', '.join(KINDS)}"),
        ("out", "found.png", "the picture of results"),
    ):
        flags.DEFINE_string(name, default, text, flag_values=definitions)
    for name, text in (
        ("words", "to ask with, in place of the offer's title"),
        ("old", "words whose direction is taken away"),
        ("new", "words whose direction is added"),
    ):
        flags.DEFINE_string(name, "", text, flag_values=definitions)
    # Numbers and switches.
    flags.DEFINE_integer("row", None, "an offer to ask with", flag_values=definitions)
    flags.DEFINE_integer("count", 8, "offers to find", flag_values=definitions)
    flags.DEFINE_float("strength", 1.0, "a of the arithmetic", flag_values=definitions)
    flags.DEFINE_float("duplicates", 0.0, "a cosine: find groups instead", flag_values=definitions)
    flags.DEFINE_bool("debug", False, "show tracebacks", flag_values=definitions)


def main(_: list[str]) -> None:
    """Reads the question from the flags, answers it, and draws the offers."""
    logging.set_verbosity(logging.ERROR)
    values = flags.FLAGS
    require_question(values)
    commandline.require_devices()
    from date_jax.evals import sheets

    catalogue = load_catalogue(Path(values.workdir), values.split)
    if values.duplicates:
        lines, sheet = near_duplicates(catalogue, values.duplicates, values.count)
    else:
        lines, sheet = answer(catalogue, values)
    sheets.write(values.out, sheet)
    print("\n".join([*lines, f"drawn into {values.out}"]))


def require_question(values: flags.FlagValues) -> None:
    """Raises UsageError where the flags ask for nothing, or for two things at once."""
    # Each flag alone.
    if not values.workdir:
        raise UsageError("--workdir is required: the folder of a run of configs/same_style.py")
    if values.by not in KINDS:
        hint = spelling_hint(values.by, KINDS)
        raise UsageError(f"--by={values.by}: one of {', '.join(KINDS)}{hint}")
    if values.count < 1:
        raise UsageError(f"--count={values.count}: must be 1 or more")

    # Then what they make together.
    if bool(values.old) != bool(values.new):
        raise UsageError("--old and --new belong together: the words to take away and to add")
    has_row, has_picture = values.row is not None, bool(values.picture)
    if values.duplicates:
        if has_row or has_picture or values.words or values.old:
            raise UsageError("--duplicates looks at all offers; leave out the other question")
        if not 0 < values.duplicates < 1:
            raise UsageError(f"--duplicates={values.duplicates}: a cosine between 0 and 1")
    elif has_row and has_picture:
        raise UsageError("--row and --picture: one or the other")
    elif not (has_row or has_picture or values.words):
        raise UsageError("nothing is asked: give --row, --picture, --words or --duplicates")


def load_catalogue(run: Path, split: str) -> Catalogue:
    """The offers of `split`, as the moving average of a run's last checkpoint sees them.

    Raises:
        CheckpointError: there is no checkpoint, or one of another layout.
        UsageError: the run is of another task, or there is no such split.
        DataError: the data have changed since.
    """
    import jax

    from date_jax import sharding
    from date_jax.data.cache import compiled_folder
    from date_jax.evals.collect import collector
    from date_jax.job import require_same_layout
    from date_jax.run import checkpoint
    from date_jax.tasks import TASKS

    # The network, and the task that knows how to read its data.
    part = checkpoint.latest_part(run)
    for warning in part.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    config = ConfigDict(part.meta["config"])
    task = TASKS[config.task]
    if task.gallery is None:
        names = " and ".join(f"{name}'s" for name, other in TASKS.items() if other.gallery)
        raise UsageError(f"{run}: a run of task {config.task}; only {names} can be searched")
    jax.config.update("jax_compilation_cache_dir", compiled_folder(config.data))

    # The offers: those that the run was trained with, in the form that this code prepares.
    require_same_layout(run, part.meta)
    corpus = task.load(config)
    if corpus.fingerprint != part.meta["data"]:
        raise DataError(f"{run}: its data have changed since it was trained")
    if split not in corpus.splits:
        hint = spelling_hint(split, corpus.splits)
        raise UsageError(f"--split={split}: no such offers{hint}: {', '.join(corpus.splits)}")

    # Their vectors, in batches that this machine's devices can share.
    learner, mesh = task.learner(config, corpus.tokenizer, {}), sharding.device_mesh()
    config.eval.batch_size = max(config.eval.batch_size // mesh.size, 1) * mesh.size
    joint = {"joint_embedding": learner.predict["joint_embedding"]}
    collect = collector(joint, mesh, rows_at_once=config.model.rows_at_once)
    vectors = collect(part.params, task.gallery(config, corpus, split))["joint_embedding"]

    # What a question is embedded with: the same network, compiled at the first question of a kind.
    compiled = {name: jax.jit(function) for name, function in learner.predict.items()}

    def predict(kind: str, batch: dict[str, np.ndarray]) -> Float[np.ndarray, "B E"]:
        """The vectors of a batch, from the picture, the text or both."""
        name = f"{kind}_embedding"
        if name not in compiled:
            raise UsageError(f"{run}: was trained with modality={config.modality}: no {kind}")
        return np.asarray(compiled[name](part.params, batch))

    return Catalogue(config, corpus, predict, split, vectors, mesh)


def answer(
    catalogue: Catalogue, values: flags.FlagValues
) -> tuple[list[str], UInt8[np.ndarray, "Y X 3"]]:
    """Lines and a picture of the offers that the flags ask for.

    Raises:
        UsageError: the run cannot answer that question.
    """
    from date_jax.evals import findings
    from date_jax.pairs import neighbours

    # A run that saw one modality alone cannot be asked with the other.
    modality = catalogue.config.modality
    invisible = {"image": ("words", values.words), "text": ("picture", values.picture)}
    flag, value = invisible.get(modality, ("", ""))
    if value:
        raise UsageError(
            f"--{flag}={value}: the run was trained with modality={modality} and does not see it; "
            "leave it out"
        )

    # The question as one vector.
    offers = catalogue.corpus.splits[catalogue.split]
    image, words = question(catalogue, values.row, values.picture, values.words)
    vector = query_vector(catalogue, image, words, values.by)
    if values.old:
        vector = vector_in_style(catalogue, vector, values.old, values.new, values.strength)
        words = f"{words}: {values.old} -> {values.new}"

    # Its neighbours, one more than asked for: an offer is the nearest to itself.
    nearest = neighbours.nearest_rows(
        vector, catalogue.vectors, values.count + 1, mesh=catalogue.mesh
    )
    asked_row = -1 if values.row is None else values.row
    is_answer = (nearest.index[0] >= 0) & (nearest.index[0] != asked_row)
    index, score = (x[0][is_answer][: values.count] for x in (nearest.index, nearest.score))
    ids = offers.records.texts("offer_id")
    lines = [f"{s:.3f}  {ids[i]}  {offers.texts[i]}" for i, s in zip(index, score, strict=True)]

    # Which of them are right is known where the question is an offer as it is.
    right = None
    if values.row is not None and not (values.words or values.old):
        product = offers.products()
        right = (product[index] == product[values.row])[None]
    return lines, findings.sheet([_finding(catalogue, image, words, index, right)], title="found")


def question(
    catalogue: Catalogue, row: int | None, picture: str, words: str
) -> tuple[UInt8[np.ndarray, "S S 3"] | None, str]:
    """The picture and the words that are asked with; None and "" where there are none.

    Raises:
        UsageError: there is no such offer.
        DataError: the picture cannot be read.
    """
    from date_jax.data import pipeline

    offers = catalogue.corpus.splits[catalogue.split]
    if row is None:
        return (_prepared_picture(picture, catalogue.config.data) if picture else None), words
    if not 0 <= row < offers.size:
        raise UsageError(f"--row={row}: must be from 0 to {offers.size - 1}")
    (image,) = pipeline.pictures(catalogue.corpus, catalogue.split, np.array([row]))
    return image, words or offers.texts[row]


def _prepared_picture(picture: str, data: ConfigDict) -> UInt8[np.ndarray, "S S 3"]:
    """A picture of the user's, in the size and the fit of the run's pictures."""
    from date_jax.data import decode
    from date_jax.data.files import photos
    from date_jax.data.files.preprocess import UnreadablePictureError, prepared_file

    try:
        file = prepared_file(
            Path(picture), image_size=data.image_size, fit=data.fit, max_pixels=data.max_pixels
        )
    except UnreadablePictureError as error:
        reason = photos.naming_advice(Path(), picture) or str(error)
        raise DataError(f"--picture={photos.short_name(picture)}: {reason}") from error
    return decode.pictures([file], data.image_size)[0]


def query_vector(
    catalogue: Catalogue, image: UInt8[np.ndarray, "S S 3"] | None, words: str, kind: str
) -> Float[np.ndarray, "1 E"]:
    """The vector of a picture, words or both.

    Args:
        image: the picture; None for none.
        words: the words; "" for none.
        kind: which of them count, of KINDS.

    Raises:
        UsageError: what shall count is not there.
    """
    if kind == "joint":
        kind = "text" if image is None else "joint" if words else "image"
    if (kind == "image" and image is None) or (kind == "text" and not words):
        raise UsageError(f"--by={kind}: the question has none; give --row, --picture or --words")
    # Black where there is no picture: it does not count then.
    side = catalogue.corpus.image_size
    pixels = np.zeros((side, side, 3), np.uint8) if image is None else image
    encoded = catalogue.corpus.tokenizer.encode([words])
    batch = {"image": pixels[None], "text": encoded.ids, "text_mask": encoded.mask}
    return catalogue.predict(kind, batch)


def vector_in_style(
    catalogue: Catalogue, vector: Float[np.ndarray, "1 E"], old: str, new: str, strength: float
) -> Float[np.ndarray, "1 E"]:
    """`v - a·old + a·new` at length 1, both words as vectors of words alone."""
    from date_jax.pairs.vectors import host_unit_vectors

    old_vector, new_vector = (query_vector(catalogue, None, words, "text") for words in (old, new))
    return host_unit_vectors(vector + strength * (new_vector - old_vector))


def near_duplicates(
    catalogue: Catalogue, threshold: float, count: int
) -> tuple[list[str], UInt8[np.ndarray, "Y X 3"]]:
    """Lines for all groups of near-duplicates, the largest first, and a picture of some.

    Args:
        threshold: cosine above which two offers are linked.
        count: offers of a group that are drawn.

    Raises:
        DataError: no two offers are that near.
    """
    from date_jax.evals import findings
    from date_jax.same_style.near_duplicates import groups

    # The rows of each group that has more than one.
    offers = catalogue.corpus.splits[catalogue.split]
    group = groups(catalogue.vectors, threshold, mesh=catalogue.mesh)
    _, first, size = np.unique(group, return_index=True, return_counts=True)
    rows_of_groups = [
        np.flatnonzero(group == group[first[place]])
        for place in np.argsort(-size, kind="stable")
        if size[place] > 1
    ]
    if not rows_of_groups:
        raise DataError(f"--duplicates={threshold}: no two offers are that near; lower it")
    ids = offers.records.texts("offer_id")
    lines = [" ".join(ids[row] for row in rows) for rows in rows_of_groups]
    lines.append(f"{len(rows_of_groups):,} groups of {sum(map(len, rows_of_groups)):,} offers")

    # The sheet: the first of a group is the question, the others are its answers.
    product = offers.products()
    examples = []
    for first_row, *others in rows_of_groups[:GROUPS_ON_SHEET]:
        image, words = question(catalogue, int(first_row), "", "")
        index = np.array(others[:count])
        right = (product[index] == product[first_row])[None]
        examples.append(_finding(catalogue, image, words, index, right))
    return lines, findings.sheet(examples, title=f"cosine above {threshold}")


def _finding(
    catalogue: Catalogue,
    image: UInt8[np.ndarray, "S S 3"] | None,
    words: str,
    index: Int[np.ndarray, " K"],
    right: Bool[np.ndarray, "1 K"] | None,
) -> Any:
    """A question and its answers, for the sheet; grey where the question has no picture."""
    from date_jax.data import pipeline
    from date_jax.evals import findings

    side = catalogue.corpus.image_size
    pixels = np.full((side, side, 3), GREY, np.uint8) if image is None else image
    posts = pipeline.pictures(catalogue.corpus, catalogue.split, index)[None]
    return findings.Finding(pixels, words, np.zeros((0, 4), np.float32), posts, right)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
