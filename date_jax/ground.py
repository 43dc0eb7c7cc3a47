"""Finds what words ask for in pictures: a box and a score for each query of each picture.

    python -m date_jax.ground --workdir=runs/one --images="photos/*.jpg" --query="striped red mug" \
        --out=boxes.jsonl --draw=drawn

--images is a picture, a folder, a pattern, or a table (.jsonl, .csv) with the columns `image` and
`query`; without a column `query` every query is asked of every picture. --queries=FILE has one on
each line. A line of --out is

    {"image": "photos/1.jpg", "query": "striped red mug", "box": [12.0, 30.52, 200.1, 240.0],
     "score": 0.93, "network": "b1946ac92492d234"}

with the box's corners in pixels of the picture as a viewer shows it, and how likely the box is
right; or "error" where the picture cannot be read. A few lines are printed too. The same command
goes on after a stop. Small pictures are drawn larger.
For runs of configs/pgda.py and configs/date.py, and exports of them.
"""

import glob
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags, logging

from date_jax.errors import DataError, UsageError
from date_jax.run import commandline
from date_jax.run.countdown import Countdown
from date_jax.run.user_paths import user_path

_AT_ONCE = 256  # pairs between two writes: what a stop may lose
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
_PRINTED = 8  # pairs whose rows are printed, at most
_SIDE = 1280  # pixels of a drawn picture's longer side, at most
_READABLE = 320  # pixels of that side up to which a picture is drawn some whole times as large
_MAX_PIXELS = 2**28  # of a picture that is drawn
_TABLES = (".jsonl", ".csv")


class Pair(NamedTuple):
    """A picture and what is looked for in it.

    Attributes:
        image: path as the user wrote it, or as the table has it.
        query: words.
        path: where the picture lies.
    """

    image: str
    query: str
    path: Path


def define_flags(definitions: flags.FlagValues) -> None:
    """Defines the command's flags.

    They are not defined at import, so that a test can import two commands.
    """
    for name, default, text in (
        ("workdir", None, "folder of a run, or of an export"),
        ("images", None, "a picture, a folder, a pattern or a table with the column image"),
        ("query", "", "words to look for in every picture"),
        ("queries", "", "a file with a query on each line"),
        ("out", "boxes.jsonl", "the JSON Lines to write, or to go on with"),
        ("coco", "", "also write a COCO json of these boxes"),
        ("draw", "", "also draw the boxes into copies of the pictures in this folder"),
    ):
        flags.DEFINE_string(name, default, text, flag_values=definitions)
    flags.DEFINE_float("min_score", 0.0, "of a box that is drawn", flag_values=definitions)
    flags.DEFINE_bool("debug", False, "show tracebacks", flag_values=definitions)


def main(_: list[str]) -> None:
    """Grounds every pair of the flags, and says what could not be read."""
    logging.set_verbosity(logging.ERROR)
    values = flags.FLAGS
    if not values.workdir or not values.images:
        raise UsageError("--workdir and --images are required: a run, and pictures to look at")
    pairs = pairs_of_flags(values.images, values.query, values.queries)
    commandline.require_devices()
    from date_jax.opening import opened_run

    run = opened_run(values.workdir)
    out = user_path(values.out)
    for line in ground(run, pairs, out):
        print(line)
    # Everything else is made of the file, so that it also has what an earlier start found.
    # What other commands asked stays in the file alone.
    rows = rows_of_pairs(out, pairs)
    if len(rows) <= _PRINTED:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    if values.coco:
        user_path(values.coco).write_text(json.dumps(coco_json(rows, pairs)) + "\n")
        print(f"COCO json in {values.coco}")
    if values.draw:
        count = draw(rows, pairs, user_path(values.draw), values.min_score)
        print(f"{count:,} pictures drawn into {values.draw}")


def pairs_of_flags(images: str, query: str, queries: str) -> list[Pair]:
    """All pairs of pictures and queries that the flags name, in order and once each.

    Raises:
        UsageError: nothing is asked, or asked twice.
        DataError: there are no pictures or queries, or a table cannot be read.
    """
    from date_jax.data.files.text_rows import file_text

    # The queries: none where a table brings them along.
    if query and queries:
        raise UsageError("--query and --queries: one or the other")
    texts = [query] if query else []
    if queries:
        lines = file_text(user_path(queries), "--queries").split("\n")
        texts = [line.strip() for line in lines if line.strip()]
        if not texts:
            raise DataError(f"--queries={queries}: there is no query in it, one is read a line")
    path = user_path(images)
    if path.suffix.lower() in _TABLES and path.is_file():
        return [*dict.fromkeys(_pairs_of_table(path, texts))]
    if not texts:
        raise UsageError("nothing is asked: give --query, --queries, or a table with queries")
    files = picture_files(images)
    return [*dict.fromkeys(Pair(str(file), text, file) for file in files for text in texts)]


def _pairs_of_table(table: Path, texts: Sequence[str]) -> Iterator[Pair]:
    """The pairs of a table; its pictures with every text where it has no queries."""
    from date_jax.data.files.text_rows import text_rows

    for line, fields in text_rows(table, lambda where, names: None, "--images"):
        image, query = fields.get("image"), fields.get("query")
        if not isinstance(image, str) or not image:
            raise DataError(
                f"{table}:{line}: has no image; a row is {{'image': ..., 'query': ...}}\n"
                f"  found: {', '.join(map(str, fields))[:200]}"
            )
        if not query and not texts:
            raise DataError(f"{table}:{line}: has no query; give the row one, or --query")
        for text in [str(query)] if query else texts:
            yield Pair(image, text, table.parent / image)


def picture_files(images: str) -> list[Path]:
    """The picture files that a path, a folder or a pattern means, in the order of their names.

    Raises:
        DataError: there are none.
    """
    path = user_path(images)
    if path.is_dir():
        files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in _ENDINGS]
    elif path.exists():
        files = [path]
    else:
        files = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        files = [file for file in files if file.is_file()]
    if not files:
        raise DataError(
            f"--images={images}: no picture there (looked from {Path.cwd()})\n"
            "  name a file, a folder, a pattern in quotes such as 'photos/*.jpg', or a table"
        )
    return files


def rows_of_file(out: Path) -> Iterator[dict[str, Any]]:
    """The rows that were written; a last line that a stop has cut is left out.

    Raises:
        DataError: a line is none of ours.
    """
    if not out.exists():
        return
    lines = out.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if number == len(lines):
            return
        try:
            row = json.loads(line)
            _ = row["image"], row["query"], row["network"]
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f"{out}:{number}: is no line of this command\n  name another --out"
            ) from None
        yield row


def rows_of_pairs(out: Path, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The written rows of these pairs, in the order of the file."""
    names = {(pair.image, pair.query) for pair in pairs}
    return [row for row in rows_of_file(out) if (row["image"], row["query"]) in names]


def ground(run: Any, pairs: Sequence[Pair], out: Path) -> list[str]:
    """Writes a row for each pair that `out` has none of yet; lines that say what was done.

    Args:
        run: of `date_jax.open`.
        pairs: of `pairs_of_flags`.
        out: JSON Lines; each is written once it is known, so that a stop loses little.

    Raises:
        UsageError: `out` has rows of another network, or the run cannot ground.
    """
    if "ground" not in run.questions:
        run.ground([], [])  # says what the run answers
    # What was done before, by this network alone.
    done = set()
    for row in rows_of_file(out):
        if row["network"] != run.fingerprint:
            raise UsageError(
                f"{out}: holds boxes of another network, {row['network']}; this one is "
                f"{run.fingerprint}\n  name another --out, or remove the file"
            )
        done.add((row["image"], row["query"]))
    todo = [pair for pair in pairs if (pair.image, pair.query) not in done]
    _drop_cut_line(out)

    # Some pairs at a time; a picture of several queries is decoded once for those.
    unreadable: dict[str, str] = {}
    countdown = Countdown("pairs", len(pairs))
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a", encoding="utf-8") as file:
        for start in range(0, len(todo), _AT_ONCE):
            countdown.at(len(pairs) - len(todo) + start)
            for row in _answers(run, todo[start : start + _AT_ONCE], unreadable):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.flush()
    countdown.at(len(pairs))

    before = len(pairs) - len(todo)
    lines = [f"{len(todo):,} pairs grounded, {before:,} were there before: {out}"]
    if run.scores is None:
        lines.append("  without scores: the run is not calibrated, as it is once it has finished")
    for image, reason in [*unreadable.items()][:5]:
        lines.append(f"  {image}: {reason}")
    if len(unreadable) > 5:
        lines.append(f"  and {len(unreadable) - 5:,} more: grep '\"error\"' {out}")
    return lines


def _drop_cut_line(out: Path) -> None:
    """Cuts a file behind its last whole line."""
    if out.exists():
        content = out.read_bytes()
        os.truncate(out, content.rfind(b"\n") + 1)


def _answers(
    run: Any, pairs: Sequence[Pair], unreadable: dict[str, str]
) -> Iterator[dict[str, Any]]:
    """The rows of some pairs; the names of unreadable pictures go into `unreadable`, with why."""
    from date_jax.data.files.user_pictures import UserPicture

    # Each picture once.
    names = [*dict.fromkeys(pair.image for pair in pairs)]
    paths = {pair.image: pair.path for pair in pairs}
    pictures = dict(zip(names, run.pictures([str(paths[name]) for name in names]), strict=True))
    readable = [pair for pair in pairs if isinstance(pictures[pair.image], UserPicture)]
    groundings = run.ground([pictures[p.image] for p in readable], [p.query for p in readable])
    answers = dict(zip(readable, groundings, strict=True))
    # The rows in the order of the pairs.
    for pair in pairs:
        row: dict[str, Any] = {"image": pair.image, "query": pair.query}
        if pair in answers:
            box, score = answers[pair]
            row["box"] = [round(x, 4) for x in box]
            row["score"] = None if score is None else round(score, 4)
        else:
            row["error"] = unreadable[pair.image] = str(pictures[pair.image])
        yield row | {"network": run.fingerprint}


def coco_json(rows: Sequence[dict[str, Any]], pairs: Sequence[Pair]) -> dict[str, Any]:
    """The boxes in COCO's form: a category for each query, boxes as (x, y, width, height).

    Args:
        rows: of `rows_of_file`.
        pairs: for where the pictures lie.
    """
    from date_jax.data.files import preprocess

    rows = [row for row in rows if row.get("box")]
    paths = {pair.image: pair.path for pair in pairs}
    image_ids = {name: number for number, name in enumerate({r["image"]: 0 for r in rows}, 1)}
    category_ids = {text: number for number, text in enumerate({r["query"]: 0 for r in rows}, 1)}
    images = []
    for name, number in image_ids.items():
        size = preprocess.header(paths.get(name, Path(name)), max_pixels=_MAX_PIXELS)
        images.append({"id": number, "file_name": name, "width": size.width, "height": size.height})
    annotations = []
    for number, row in enumerate(rows, 1):
        left, top, right, bottom = row["box"]
        width, height = right - left, bottom - top
        annotations.append(
            {
                "id": number,
                "image_id": image_ids[row["image"]],
                "category_id": category_ids[row["query"]],
                "bbox": [left, top, round(width, 2), round(height, 2)],
                "area": round(width * height, 2),
                "iscrowd": 0,
                "score": row["score"],
            }
        )
    categories = [{"id": number, "name": text} for text, number in category_ids.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def draw(
    rows: Sequence[dict[str, Any]], pairs: Sequence[Pair], folder: Path, min_score: float
) -> int:
    """Draws the boxes of each picture into a copy of it, a small one enlarged; how many pictures.

    Args:
        rows: of `rows_of_file`.
        pairs: for where the pictures lie.
        folder: made if absent.
        min_score: boxes with a lower score are left out, and pictures without any.
    """
    import numpy as np

    from date_jax.data.files import preprocess
    from date_jax.evals import sheets

    folder.mkdir(parents=True, exist_ok=True)
    paths = {pair.image: pair.path for pair in pairs}
    answers: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        is_drawn = row.get("score") is None or row["score"] >= min_score
        if row["image"] in paths and row.get("box") and is_drawn:
            answers.setdefault(row["image"], []).append(row)
    countdown = Countdown("drawing", len(answers))
    for number, (name, picture_rows) in enumerate(answers.items()):
        # Smaller than the original where that is large, so boxes are brought to shares of it.
        size = preprocess.header(paths[name], max_pixels=_MAX_PIXELS)
        picture = preprocess.upright_image(paths[name], longest=_SIDE, max_pixels=_MAX_PIXELS)
        if (times := _READABLE // max(picture.size)) > 1:
            picture = picture.resize((picture.width * times, picture.height * times))
        boxes = np.array([row["box"] for row in picture_rows]) / ([size.width, size.height] * 2)
        labels = [
            row["query"] if row["score"] is None else f"{row['query']}  {row['score']:.2f}"
            for row in picture_rows
        ]
        sheets.draw_labelled_boxes(picture, boxes, labels)
        # Two pictures of one name may lie in two folders.
        picture.save(folder / f"{number:05}_{Path(name).stem}.jpg", quality=90)
        countdown.advance()
    return len(answers)


if __name__ == "__main__":
    define_flags(flags.FLAGS)
    commandline.run(main)
