"""Seeks offers of an index: by words, a picture, both, or another offer, as each task can be asked.

    run, index = date_jax.open("runs/one"), open_index("vectors")
    (line,) = seek(run, index, "striped red mug", count=3, where="price < 20")
    for found in line.offers:
        print(found.id, found.score, found.box_xyxy_pixels, found.box_score)

A DATE run finds pictures and then the product in each. A same-style run finds offers of one style.
A CAPTURE run finds posts for each product of a picture. The command and the server add no logic.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from date_jax.api import Run
from date_jax.data.files.preprocess import UnreadablePictureError
from date_jax.data.files.user_pictures import Source, UserPicture
from date_jax.errors import UsageError, spelling_hint
from date_jax.index.exact import Hit, Index
from date_jax.pairs.vectors import host_unit_vectors
from date_jax.same_style.near_duplicates import groups

KINDS = ("joint", "image", "text")


class BoxedHit(NamedTuple):
    """An offer of the answer, with the box of the words in its picture.

    Attributes:
        id, score, fields: as of `Hit`.
        box_xyxy_pixels: where the words' product is in the offer's picture as a viewer shows it;
            None where nothing was looked for there.
        box_score: how likely that box is right; None where the run cannot tell.
    """

    id: str
    score: float
    fields: dict[str, Any]
    box_xyxy_pixels: tuple[float, float, float, float] | None = None
    box_score: float | None = None


class Line(NamedTuple):
    """The offers for one product that was asked for, the nearest first.

    Attributes:
        offers: of the answer.
        box_xyxy_pixels: of the product in the picture that was asked with; None for all of it.
        score: how sure the network is that a product is there; None without a box.
    """

    offers: list[BoxedHit]
    box_xyxy_pixels: tuple[float, float, float, float] | None = None
    score: float | None = None


def seek(
    run: Run,
    index: Index,
    words: str = "",
    picture: Source | None = None,
    *,
    offer_id: str = "",
    old: str = "",
    new: str = "",
    strength: float = 1.0,
    by: str = "joint",
    count: int = 8,
    where: str = "",
) -> list[Line]:
    """The offers that a question asks for.

    Args:
        run: the one that the index was embedded with.
        index: of `open_index`.
        words: to ask with; with an offer they stand in place of its text.
        picture: to ask with; a path, bytes, PIL image or array.
        offer_id: an offer of the index to ask with, which is not found itself.
        old, new: style transfer: `v - strength·old + strength·new` is searched for.
        strength: of the transfer.
        by: what of a question with picture and words counts, of KINDS.
        count: offers of a line, at most.
        where: a filter over the index's columns, such as "category = 'mug' and price < 20".

    Returns:
        One line; of a run that finds each product of a picture, one for each.

    Raises:
        UsageError: nothing is asked, the run does not answer it, or the filter is none.
        DataError: the picture cannot be read.
    """
    index.require(run)
    _check(index, words, picture, offer_id, old, new, by)
    _check_modality(run, words, picture)
    if picture is not None and "instances" in run.questions:
        return _lines_of_products(run, index, picture, words, count, where)

    # The question as one vector, and one answer more than asked for where it is an offer itself.
    vector = _vector(run, index, words, picture, offer_id, by)
    if old:
        minus, plus = _text_vectors(run, [old, new])
        vector = host_unit_vectors(vector + np.float32(strength) * (plus - minus)[None])
    (hits,) = index.search(vector, count + bool(offer_id), where)
    hits = [hit for hit in hits if hit.id != offer_id][:count]
    return [Line(_with_boxes(run, index, hits, words))]


def duplicate_groups(index: Index, threshold: float, where: str = "") -> list[list[Hit]]:
    """Groups of offers whose vectors are linked by cosines above a threshold, the largest first.

    The score of an offer is its cosine with the first of its group.

    Args:
        index: of `open_index`.
        threshold: a cosine between 0 and 1.
        where: a filter over the index's columns.

    Raises:
        UsageError: the threshold or the filter is none.
    """
    if not 0 < threshold < 1:
        raise UsageError(f"duplicates={threshold}: expected a cosine between 0 and 1")
    rows = index.rows(where)
    vectors = index.vectors[rows]
    group = groups(vectors, threshold, mesh=index.mesh) if len(rows) else np.zeros(0, np.int64)
    _, first, size = np.unique(group, return_index=True, return_counts=True)
    lists = []
    for place in np.argsort(-size, kind="stable"):
        members = np.flatnonzero(group == group[first[place]])
        if len(members) > 1:
            scores = vectors[members] @ vectors[members[0]]
            lists.append(
                [index.hit(int(rows[m]), float(s)) for m, s in zip(members, scores, strict=True)]
            )
    return lists


def _check(
    index: Index, words: str, picture: Source | None, offer_id: str, old: str, new: str, by: str
) -> None:
    """Raises UsageError where a question asks for nothing, or for two things at once."""
    if by not in KINDS:
        raise UsageError(f"by={by}: one of {', '.join(KINDS)}{spelling_hint(by, KINDS)}")
    if bool(old) != bool(new):
        raise UsageError("old and new belong together: the words to take away and to add")
    if offer_id and picture is not None:
        raise UsageError("an offer and a picture: ask with one or the other")
    if not (words or offer_id or picture is not None):
        raise UsageError("nothing is asked: give words, a picture or an offer of the index")
    if offer_id:
        index.row(offer_id)


def _check_modality(run: Run, words: str, picture: Source | None) -> None:
    """Raises UsageError where a run was trained without what it is asked with."""
    answer = run.task.answer
    for name, value, prediction, question in (
        ("words", words, answer.text, "embed_texts"),
        ("a picture", picture, answer.image, "embed_images"),
    ):
        is_asked = value is not None and not (isinstance(value, str) and not value)
        if is_asked and prediction and question not in run.questions:
            raise UsageError(
                f"{run.path}: this run was trained without {name} and cannot be asked with it; it "
                f"answers {', '.join(run.questions)}"
            )


def _lines_of_products(
    run: Run, index: Index, picture: Source, title: str, count: int, where: str
) -> list[Line]:
    """A line for each product of a picture."""
    (instances,) = run.instances([picture], [title])
    if not instances:
        return []
    hits = index.search(np.stack([instance.embedding for instance in instances]), count, where)
    return [
        Line([BoxedHit(*hit) for hit in line], instance.box_xyxy_pixels, instance.score)
        for instance, line in zip(instances, hits, strict=True)
    ]


def _vector(
    run: Run, index: Index, words: str, picture: Source | None, offer_id: str, by: str
) -> Float[np.ndarray, "1 E"]:
    """The vector of a question of one product."""
    # An offer as it is has its vector already.
    if offer_id and not words and by == "joint":
        return index.vectors[[index.row(offer_id)]]
    if offer_id:
        offer = index.hit(index.row(offer_id), 1.0)
        words, picture = words or offer.fields["text"], index.picture(offer)
    if by == "image" or not words:
        if picture is None:
            raise UsageError(f"by={by}: the question has no picture")
        return _picture_vector(run, picture)
    if by == "text" or picture is None:
        if not words:
            raise UsageError(f"by={by}: the question has no words")
        return _text_vectors(run, [words])
    if "embed_products" in run.questions:
        return run.embed_products([picture], [words])
    # Pictures and words of one space: the direction between both.
    return host_unit_vectors(_picture_vector(run, picture) + _text_vectors(run, [words]))


def _picture_vector(run: Run, picture: Source) -> Float[np.ndarray, "1 E"]:
    """The vector of a picture alone."""
    if "embed_images" in run.questions:
        return run.embed_images([picture])
    return run.embed_products([picture], [""])


def _text_vectors(run: Run, texts: Sequence[str]) -> Float[np.ndarray, "N E"]:
    """The vectors of words alone."""
    if "embed_texts" in run.questions:
        return run.embed_texts(texts)
    raise UsageError(
        f"{run.path}: this run cannot be asked with words alone; give a picture. It answers "
        f"{', '.join(run.questions)}"
    )


def _with_boxes(run: Run, index: Index, hits: Sequence[Hit], words: str) -> list[BoxedHit]:
    """The hits, each with the place of the words' product in its picture."""
    paths: list[Path | None] = [index.picture(hit) for hit in hits]
    if not words or "ground" not in run.questions:
        return [BoxedHit(*hit) for hit in hits]
    # A picture may have gone since it was embedded.
    pictures = iter(run.pictures([path for path in paths if path]))
    by_place: list[UserPicture | UnreadablePictureError | None] = [
        next(pictures) if path else None for path in paths
    ]
    places = [n for n, picture in enumerate(by_place) if isinstance(picture, UserPicture)]
    sources: list[Any] = [by_place[place] for place in places]
    groundings = run.ground(sources, [words] * len(places)) if places else []
    answers = dict(zip(places, groundings, strict=True))
    return [BoxedHit(*hit, *answers.get(place, (None, None))) for place, hit in enumerate(hits)]
