"""How many boxes are right without a look at the picture, or without a look at the words.

    python -m date_jax.data.baselines --path=shop.jsonl
    python -m date_jax.data.baselines --path=shop.jsonl --split=val --train=live --json

For each domain it says which share of the rows with a box has an IoU of 0.5 or more with

    whole picture       the picture itself
    median box          the median of all training boxes of the domain
    median of the word  the median of those with the same query; where there is none, with the same
                        category; where there is none, of all
    best box            of each picture the one among its true boxes that is right for most of its
                        rows: nobody does better who looks at the picture and not at the words

A network that finds what the words ask for is above all four. The medians know the domain's boxes,
which training in a target does not. Domains without training rows take the boxes of --train.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from date_jax.data import command
from date_jax.data.domains import SPLITS
from date_jax.data.files.annotations import Row, annotations
from date_jax.data.files.photos import Photos
from date_jax.data.survey.looks import MAX_PIXELS
from date_jax.errors import DataError, UsageError, spelling_hint

RIGHT = 0.5  # IoU
NAMES = ("whole picture", "median box", "median of the word", "best box")


def main(arguments: Sequence[str]) -> int:
    """Prints the table; returns the exit code."""
    parser = command.Parser("baselines", __doc__)
    parser.add_argument("--path", type=Path, required=True, help="the .jsonl or .csv file")
    parser.add_argument("--split", default="test", choices=SPLITS, help="whose boxes are guessed")
    parser.add_argument("--train", default="", help="domain for those without training boxes")
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    return command.run(parser, arguments, show, interrupted="the same command starts again")


def show(options: argparse.Namespace) -> None:
    """Prints the baselines of each domain, as the command's flags say.

    Raises:
        DataError: there is no such file, or not one box in the split.
        UsageError: `--train` names no domain with training boxes.
    """
    if not options.path.is_file():
        raise DataError(f"--path={options.path}: no such file\n  looked from {Path.cwd()}")
    table = baselines(options.path, split=options.split, train=options.train)
    if options.json:
        print(json.dumps(table, indent=2))
        return
    width = max(len(domain) for domain in table)
    print("  ".join([" " * width, "rows".rjust(6), *NAMES]))
    for domain, shares in table.items():
        cells = [f"{shares[name]:.3f}" if name in shares else "-" for name in NAMES]
        aligned = [cell.rjust(len(name)) for cell, name in zip(cells, NAMES, strict=True)]
        print("  ".join([domain.ljust(width), f"{shares['rows']:6,.0f}", *aligned]))


def baselines(path: Path, *, split: str, train: str) -> dict[str, dict[str, float]]:
    """The baselines of each domain that has boxes in a split: `rows`, and a share for each name.

    Args:
        path: of the user's file.
        split: whose boxes are guessed.
        train: the domain whose training boxes others take that have none; "" for no domain.

    Raises:
        DataError: the file is malformed, or has not one box in the split.
        UsageError: `train` names no domain with training boxes.
    """
    normalised = _normalised_rows(path)
    by_split: Mapping[tuple[str, str], list[tuple[Row, np.ndarray]]] = defaultdict(list)
    for row, box in normalised:
        by_split[row.domain, row.split].append((row, box))
    trained = sorted(domain for domain, kind in by_split if kind == "train")
    if train and train not in trained:
        raise UsageError(
            f"--train={train}: no domain with training boxes{spelling_hint(train, trained)}"
        )
    table = {}
    for domain, kind in sorted(by_split):
        if kind == split:
            own = domain if domain in trained else train
            examples = by_split[own, "train"] if own else []
            table[domain] = _shares(by_split[domain, kind], examples)
    if not table:
        raise DataError(f"{path}: no row of the split {split} has a box")
    return table


def _normalised_rows(path: Path) -> list[tuple[Row, Float[np.ndarray, " 4"]]]:
    """The rows with a box, and their boxes as shares of the picture's sides."""
    rows = [row for row in annotations(path) if row.box]
    names = [row.image for row in rows]
    photos = Photos(
        path.parent, names, image_size=1, fit="stretch", max_pixels=MAX_PIXELS, budget=0.0
    )
    photos.check_budget()
    return [
        (row, np.array(row.box) / np.array([*photos.headers[row.image][:2]] * 2)) for row in rows
    ]


def _shares(
    tests: Sequence[tuple[Row, np.ndarray]], examples: Sequence[tuple[Row, np.ndarray]]
) -> dict[str, float]:
    """The share of `tests` that each baseline is right for; without examples there is no median."""
    true = np.stack([box for _, box in tests])
    guesses = {"whole picture": np.broadcast_to([0.0, 0.0, 1.0, 1.0], true.shape)}
    if examples:
        median_of = _medians(examples)
        keys = [(("query", row.text), ("category", row.category), ("all", "")) for row, _ in tests]
        guesses["median box"] = np.broadcast_to(median_of["all", ""], true.shape)
        guesses["median of the word"] = np.stack(
            [
                next(median_of[key] for key in keys_of_row if key in median_of)
                for keys_of_row in keys
            ]
        )
    shares = {name: float(is_right(guess, true).mean()) for name, guess in guesses.items()}
    return {"rows": float(len(tests)), **shares, "best box": _best_box(tests)}


def _medians(
    examples: Sequence[tuple[Row, np.ndarray]],
) -> dict[tuple[str, str], Float[np.ndarray, " 4"]]:
    """The median box of each query, of each known category and of all."""
    boxes_of = defaultdict(list)
    for row, box in examples:
        for key in (("query", row.text), ("category", row.category), ("all", "")):
            if key != ("category", ""):
                boxes_of[key].append(box)
    return {key: np.median(boxes_of_key, axis=0) for key, boxes_of_key in boxes_of.items()}


def _best_box(tests: Sequence[tuple[Row, np.ndarray]]) -> float:
    """The share of rows that the best box of each picture is right for."""
    boxes_of = defaultdict(list)
    for row, box in tests:
        boxes_of[row.image].append(box)
    right = 0
    for boxes_of_picture in boxes_of.values():
        true = np.stack(boxes_of_picture)
        pairs = np.broadcast_arrays(true[:, None], true[None])
        right += int(is_right(*pairs).sum(axis=1).max())
    return right / len(tests)


def is_right(
    guess: Float[np.ndarray, "*N 4"], true: Float[np.ndarray, "*N 4"]
) -> Bool[np.ndarray, "*N"]:
    """Whether each guess has an IoU of RIGHT or more with the true box, both as corners."""
    low = np.maximum(guess[..., :2], true[..., :2])
    high = np.minimum(guess[..., 2:], true[..., 2:])
    overlap = np.prod(np.maximum(high - low, 0.0), axis=-1)
    areas = [np.prod(box[..., 2:] - box[..., :2], axis=-1) for box in (guess, true)]
    # IoU >= RIGHT without a division; on the host alone, for no program is worth compiling.
    is_enough: Bool[np.ndarray, "*N"] = overlap >= RIGHT * (areas[0] + areas[1] - overlap)
    return is_enough
