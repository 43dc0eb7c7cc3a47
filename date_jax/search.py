"""Searches a catalogue with a finished run: by words, by a picture, or by both.

    python -m date_jax.search --workdir=runs/one --index=vectors "striped red mug"

The index is a folder that date_jax.embed has made with the same run. Other questions:

    --picture=mug.jpg                   offers like the product in a picture of your own
    --picture=mug.jpg "red"             a picture with a phrase
    --id=o12                            offers like one of the index, by all that it has
    --id=o12 --by=image                 by its picture alone; or text
    --id=o12 "blue mug"                 its picture, with these words for its text
    --id=o12 --old=red --new=blue       style transfer by arithmetic: v - a·old + a·new
    --duplicates=0.95                   groups of offers whose vectors have a cosine above that
    --where="category = 'mug' and price < 20"    of offers alone for which that is true

A DATE run finds pictures, and the box of the words' product in each. A same-style run finds offers
of one style. A CAPTURE run is asked with a picture, and finds posts for every product in it. The
answers are printed and drawn into --out; --json prints an object for each in place of that.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags, logging
from jaxtyping import Float, UInt8

from date_jax.errors import DataError, UsageError
from date_jax.run import commandline

if TYPE_CHECKING:
    from date_jax.index.exact import Index
    from date_jax.seek import BoxedHit, Line

GROUPS_ON_SHEET = 12
_SIDE = 224  # pixels of a picture on the sheet, before it is made smaller
_GREY = 225  # in place of a picture
_MAX_PIXELS = 2**28  # of a picture that is drawn


def define_flags(definitions: flags.FlagValues) -> None:
    """Defines the command's flags.

    They are not defined at import, so that a test can import two commands.
    """
    # The run and its offers, then the question.
    for name, default, text in (
        ("workdir", None, "folder of a run, or of an export"),
        ("index", "vectors", "folder of vectors that date_jax.embed has made with it"),
        ("pictures", "", "where the index's pictures lie now; default: as they were embedded"),
        ("picture", "", "a JPEG, PNG or WEBP to ask with"),
        ("id", "", "an offer of the index to ask with"),
        ("by", "joint", "what of the question counts: joint, image, text"),
        ("old", "", "words whose direction is taken away"),
        ("new", "", "words whose direction is added"),
        ("where", "", "offers that are searched, as \"category = 'mug' and price < 20\""),
        ("out", "", "the picture of results; default: found.png, and none with --json"),
    ):
        flags.DEFINE_string(name, default, text, flag_values=definitions)
    # Numbers and switches.
    flags.DEFINE_integer("count", 8, "offers to find", flag_values=definitions)
    flags.DEFINE_float("strength", 1.0, "a of the arithmetic", flag_values=definitions)
    flags.DEFINE_float("duplicates", 0.0, "a cosine: find groups instead", flag_values=definitions)
    flags.DEFINE_bool("json", False, "print a JSON object for each offer", flag_values=definitions)
    flags.DEFINE_bool("debug", False, "show tracebacks", flag_values=definitions)


def main(arguments: list[str]) -> None:
    """Reads the question from the flags, answers it, and draws the offers."""
    logging.set_verbosity(logging.ERROR)
    values, words = flags.FLAGS, " ".join(arguments[1:])
    require_question(values, words)
    commandline.require_devices()
    from date_jax.evals import findings, sheets
    from date_jax.index.exact import open_index
    from date_jax.seek import BoxedHit, Line, duplicate_groups

    index = open_index(values.index, values.pictures)
    if values.duplicates:
        groups = duplicate_groups(index, values.duplicates, values.where)
        if not groups:
            raise DataError(f"--duplicates={values.duplicates}: no two are that near; lower it")
        answer = [Line([BoxedHit(*hit) for hit in group]) for group in groups]
        lines = [" ".join(hit.id for hit in line.offers) for line in answer]
        lines.append(f"{len(groups):,} groups of {sum(map(len, groups)):,} offers")
        # The first of a group is the question, the others are its answers.
        examples = [
            _finding(
                index,
                _picture_of(index, first),
                first.fields["text"] or "",
                [Line(others[: values.count])],
                first.fields.get("product_id"),
            )
            for first, *others in (line.offers for line in answer[:GROUPS_ON_SHEET])
        ]
    else:
        answer, picture, product = answer_lines(values, words, index)
        lines = [text for line in answer for text in texts_of(line)]
        title = words or (index.hit(index.row(values.id), 1.0).fields["text"] if values.id else "")
        title += f": {values.old} -> {values.new}" if values.old else ""
        examples = [_finding(index, picture, title, answer, product)]

    # What is printed, and what is drawn.
    if values.json:
        lines = [json.dumps(row, ensure_ascii=False) for row in json_rows(answer)]
    out = values.out or ("" if values.json else "found.png")
    if out and any(line.offers for line in answer):
        sheets.write(out, findings.sheet(examples, title=values.where or "found"))
        lines += [] if values.json else [f"drawn into {out}"]
    print("\n".join(lines or ["nothing was found"]))


def require_question(values: flags.FlagValues, words: str) -> None:
    """Raises UsageError where the flags ask for nothing, or for two things at once."""
    if not values.workdir and not values.duplicates:
        raise UsageError("--workdir is required: the run that the index was embedded with")
    if values.count < 1:
        raise UsageError(f"--count={values.count}: must be 1 or more")
    has_question = bool(words or values.picture or values.id)
    if values.duplicates and (has_question or values.old):
        raise UsageError("--duplicates looks at all offers; leave out the other question")
    if not values.duplicates and not has_question:
        raise UsageError('nothing is asked: give "words", --picture, --id or --duplicates')
    if values.id and values.picture:
        raise UsageError("--id and --picture: one or the other")
    if bool(values.old) != bool(values.new):
        raise UsageError("--old and --new belong together: the words to take away and to add")


def answer_lines(
    values: flags.FlagValues, words: str, index: "Index"
) -> tuple[list["Line"], Path | None, Any]:
    """What the run answers, the picture that it was asked with, and the product if it is known."""
    from date_jax.opening import opened_run
    from date_jax.run.user_paths import user_path
    from date_jax.seek import seek

    run = opened_run(values.workdir)
    for warning in run.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    picture = user_path(values.picture) if values.picture else None
    lines = seek(
        run,
        index,
        words,
        picture,
        offer_id=values.id,
        old=values.old,
        new=values.new,
        strength=values.strength,
        by=values.by,
        count=values.count,
        where=values.where,
    )
    if not values.id:
        return lines, picture, None
    # Which answers are right is known where the question is an offer as it is.
    offer = index.hit(index.row(values.id), 1.0)
    product = None if words or values.old else offer.fields.get("product_id")
    return lines, index.picture(offer), product


def texts_of(line: "Line") -> list[str]:
    """What is printed of the offers for one product."""
    texts = []
    if line.box_xyxy_pixels is not None:
        texts.append(f"product at {_box_text(line.box_xyxy_pixels)}, score {line.score:.2f}")
    for hit in line.offers:
        text = f"{hit.score:.3f}  {hit.id}  {hit.fields['text'] or ''}"
        if hit.box_xyxy_pixels is not None:
            text += f"  at {_box_text(hit.box_xyxy_pixels)}"
            text += "" if hit.box_score is None else f", score {hit.box_score:.2f}"
        texts.append(text)
    return texts


def _box_text(box: Sequence[float]) -> str:
    return " ".join(f"{number:.0f}" for number in box)


def json_rows(lines: Sequence["Line"]) -> list[dict[str, Any]]:
    """An object for each offer; `product` numbers the lines, whose boxes are of the question."""
    return [
        {
            "product": number,
            "product_box": line.box_xyxy_pixels,
            "product_score": line.score,
            "id": hit.id,
            "score": hit.score,
            "box": hit.box_xyxy_pixels,
            "box_score": hit.box_score,
            "fields": hit.fields,
        }
        for number, line in enumerate(lines)
        for hit in line.offers
    ]


def _picture_of(index: "Index", hit: "BoxedHit") -> Path | None:
    """Where the picture of an offer lies."""
    return index.pictures / hit.fields["path"] if hit.fields["path"] else None


def _finding(
    index: "Index", picture: Path | None, words: str, lines: Sequence["Line"], product: Any
) -> Any:
    """A question and its answers, for the sheet; grey where there is no picture.

    Args:
        index: that the answers are from.
        picture, words: of the question.
        lines: the answers.
        product: `product_id` of the answers that are right; None where that is unknown.
    """
    from date_jax.evals import findings

    # As many places on each line as the longest one has.
    count = max((len(line.offers) for line in lines), default=0)
    right = None if product is None else np.zeros((len(lines), count), bool)
    posts = np.full((len(lines), count, _SIDE, _SIDE, 3), 255, np.uint8)
    for row, line in enumerate(lines):
        for place, hit in enumerate(line.offers):
            if right is not None:
                right[row, place] = hit.fields["product_id"] == product
            boxes = [] if hit.box_xyxy_pixels is None else [hit.box_xyxy_pixels]
            posts[row, place], shares = square_picture(_picture_of(index, hit), boxes)
            if len(shares):
                posts[row, place] = _with_box(posts[row, place], shares[0])
    boxes = [line.box_xyxy_pixels for line in lines if line.box_xyxy_pixels is not None]
    pixels, shares = square_picture(picture, boxes)
    return findings.Finding(pixels, words, shares, posts, right)


def _with_box(pixels: UInt8[np.ndarray, "S S 3"], box: Float[np.ndarray, "4"]) -> np.ndarray:
    """A square picture with a box on it."""
    from PIL import Image

    from date_jax.evals import sheets

    picture = Image.fromarray(pixels)
    sheets.draw_box(picture, box, sheets.PREDICTED)
    return np.asarray(picture)


def square_picture(
    path: Path | None, boxes: Sequence[Sequence[float]]
) -> tuple[UInt8[np.ndarray, "S S 3"], Float[np.ndarray, "K 4"]]:
    """A picture between two margins, and its boxes as shares of that square.

    Args:
        path: of the picture; grey for None, and where it cannot be read.
        boxes: corners in pixels of the picture as a viewer shows it.
    """
    from PIL import Image

    from date_jax.data.files import preprocess

    square = Image.new("RGB", (_SIDE, _SIDE), (_GREY, _GREY, _GREY))
    shares = np.array(boxes, np.float32).reshape(-1, 4)
    try:
        if path is None:
            raise preprocess.UnreadablePictureError("there is none")
        size = preprocess.header(path, max_pixels=_MAX_PIXELS)
        picture = preprocess.upright_image(path, longest=_SIDE, max_pixels=_MAX_PIXELS)
    except preprocess.UnreadablePictureError:
        return np.asarray(square), shares[:0]
    # Small pictures are made larger, so that boxes are drawn alike.
    scale = _SIDE / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    left, top = (_SIDE - width) // 2, (_SIDE - height) // 2
    square.paste(picture.resize((width, height), Image.Resampling.LANCZOS), (left, top))
    factors = np.array([width / size.width, height / size.height] * 2)
    shares = (shares * factors + np.array([left, top] * 2)) / _SIDE
    return np.asarray(square), shares.astype(np.float32)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main, words=1)
