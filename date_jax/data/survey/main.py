"""A look at your own pictures before anything trains on them.

    python -m date_jax.data.check --path=shop.jsonl
    python -m date_jax.data.check --path=shop.jsonl --vocab=vocab.txt --out=check --json

Says what is there: rows, domains, splits, boxes, sizes of pictures. Then what is wrong: pictures
that cannot be read, boxes of another format, the same picture in train and in test. Then what is
worth a look: near-duplicates, dark, blurred and blank pictures, words for several things. It draws
--out/samples.png, rows with their boxes, and --out/doubtful.png, pictures worth a look.
The exit code is 0 where the data can be trained on, else 1.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from date_jax.data import command
from date_jax.data.files.annotations import Row, annotations
from date_jax.data.files.photos import Photos
from date_jax.data.files.preprocess import Header
from date_jax.data.survey import sheets
from date_jax.data.survey.findings import Data, Finding, box_share, findings
from date_jax.data.survey.looks import MAX_PIXELS, Look, look
from date_jax.data.tokenizer import tokenizer_of_file
from date_jax.errors import DataError, SetupError
from date_jax.run.countdown import Countdown

BUDGET = 0.01  # as `config.data.bad_image_budget`
UNUSABLE = 1  # the exit code
_EXAMPLES = 3
_TEXT_LENGTH = 64  # word pieces of a query; only those that are unknown are counted


def main(arguments: Sequence[str]) -> int:
    """Says what a file's data is like; returns the exit code."""
    parser = command.Parser("check", __doc__)
    parser.add_argument("--path", type=Path, required=True, help="the .jsonl or .csv file")
    parser.add_argument("--out", default="check", help="folder for the sheets; none without a name")
    parser.add_argument("--vocab", default="", help="a vocab.txt, whose unknown words are counted")
    parser.add_argument(
        "--bad_image_budget", type=float, default=BUDGET, help="share of unreadable pictures"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, for programs")
    return command.run(parser, arguments, check, interrupted="the same command starts again")


def check(options: argparse.Namespace) -> int:
    """Prints the report and draws the sheets, as the command's flags say; returns the exit code.

    Raises:
        DataError: there is no such file.
        SetupError: the sheets cannot be written.
    """
    if not options.path.is_file():
        raise DataError(f"--path={options.path}: no such file\n  looked from {Path.cwd()}")
    report = _report(options)
    if options.json:
        print(json.dumps(report, ensure_ascii=False, indent=2))
    else:
        print("\n".join(_lines(report)))
    return 0 if report["usable"] else UNUSABLE


def _report(options: argparse.Namespace) -> dict[str, Any]:
    """All that is found, as a JSON object; the sheets are drawn on the way."""
    path = options.path
    vocab = tokenizer_of_file(options.vocab, length=_TEXT_LENGTH) if options.vocab else None
    try:
        rows = annotations(path)
    except DataError as error:
        text, *lines = str(error).split("\n")
        examples = tuple(line.strip() for line in lines)
        return _summary(path, [], {}, [Finding("rows", True, text, examples=examples)], [])
    # Headers first, then every pixel: some files end too early.
    photos = Photos(
        path.parent,
        [row.image for row in rows],
        image_size=1,
        fit="stretch",
        max_pixels=MAX_PIXELS,
        budget=1.0,
    )
    looks: dict[str, Look] = {}
    unreadable = dict(photos.unreadable)
    countdown = Countdown("looking at pictures", len(photos.headers))
    names = list(photos.headers)
    for name, result in zip(names, photos.results(look, countdown), strict=True):
        if isinstance(result, Look):
            looks[name] = result
        else:
            unreadable[name] = str(result)
    headers = {name: photos.headers[name] for name in looks}
    data = Data(
        path, rows, headers, unreadable, looks, options.bad_image_budget, vocab, options.vocab
    )
    all_findings = findings(data)
    drawn = _draw(options.out, path.parent, rows, headers, all_findings) if options.out else []
    return _summary(path, rows, headers, all_findings, drawn)


def _draw(
    out: str,
    folder: Path,
    rows: Sequence[Row],
    headers: dict[str, Header],
    all_findings: Sequence[Finding],
) -> list[str]:
    """Draws the sheets into a folder; returns their paths."""
    samples = sheets.sample_sheet(folder, sheets.spread_rows(rows), headers)
    doubtful = sheets.doubtful_sheet(folder, rows, headers, all_findings)
    paths = []
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        for name, sheet in (("samples.png", samples), ("doubtful.png", doubtful)):
            path = Path(out) / name
            path.unlink(missing_ok=True)  # that of an earlier check would be believed
            if sheet is not None:
                sheet.save(path)
                paths.append(str(path))
    except OSError as error:
        raise SetupError(f"--out={out}: cannot be written: {error.strerror}") from None
    return paths


def _summary(
    path: Path,
    rows: Sequence[Row],
    headers: dict[str, Header],
    all_findings: Sequence[Finding],
    drawn: Sequence[str],
) -> dict[str, Any]:
    """The report as a JSON object."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.domain, row.split), []).append(row)
    sizes = np.array([header[:2] for header in headers.values()], np.int64).reshape(-1, 2)
    words = [len(row.text.split()) for row in rows]
    return {
        "path": str(path),
        "usable": not any(finding.is_wrong for finding in all_findings),
        "rows": len(rows),
        "pictures": len({row.image for row in rows}),
        "splits": [_split_numbers(*key, group, headers) for key, group in sorted(groups.items())],
        "picture_sizes": {
            side: [int(size) for size in np.percentile(sizes[:, axis], [0, 50, 100])]
            for axis, side in enumerate(("width", "height"))
            if len(sizes)
        },
        "turned_by_exif": sum(header.is_rotated for header in headers.values()),
        "queries": {
            "different": len({row.text for row in rows}),
            "words": [int(count) for count in np.percentile(words, [0, 50, 100])] if words else [],
            "most_repeated": Counter(row.text for row in rows).most_common(_EXAMPLES),
        },
        "findings": [
            {
                "kind": finding.kind,
                "wrong": finding.is_wrong,
                "count": finding.size,
                "text": finding.text,
                "examples": list(finding.examples),
            }
            for finding in all_findings
        ],
        "sheets": list(drawn),
    }


def _split_numbers(
    domain: str, split: str, rows: Sequence[Row], headers: dict[str, Header]
) -> dict[str, Any]:
    """What one split of one domain holds."""
    boxed = [row for row in rows if row.box]
    shares = [box_share(row, headers[row.image]) for row in boxed if row.image in headers]
    return {
        "domain": domain,
        "split": split,
        "rows": len(rows),
        "pictures": len({row.image for row in rows}),
        "products": len({row.product_id for row in rows}),
        "boxes": len(boxed),
        "median_box": round(float(np.median(shares)), 4) if shares else None,
    }


def _lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    lines = [f"{report['path']}: {report['rows']:,} rows of {report['pictures']:,} pictures"]
    if report["rows"]:
        lines += _table(report["splits"])
    if report["picture_sizes"]:
        low, middle, high = zip(*report["picture_sizes"].values(), strict=True)
        sizes = [f"{width} x {height}" for width, height in (low, middle, high)]
        turned = report["turned_by_exif"]
        lines.append(
            f"pictures: sides from {sizes[0]} to {sizes[2]}, median {sizes[1]}"
            + (f"; {turned:,} turned by EXIF" if turned else "")
        )
    if report["rows"]:
        low_words, middle_words, high_words = report["queries"]["words"]
        lines.append(
            f"queries: {report['queries']['different']:,} different, {low_words} to {high_words} "
            f"words, median {middle_words}"
        )
    for is_wrong, title in (
        (True, "WRONG: a run would stop, or its measures would mean nothing"),
        (False, "worth a look:"),
    ):
        some = [finding for finding in report["findings"] if finding["wrong"] == is_wrong]
        lines += [title] * bool(some)
        for finding in some:
            first, *rest = finding["text"].split("\n")
            lines += [f"- {first}", *rest]
            lines += [f"    {example}" for example in finding["examples"]]
    if report["sheets"]:
        lines.append(f"look at {' and '.join(report['sheets'])}")
    wrong = sum(finding["wrong"] for finding in report["findings"])
    things = "1 thing is" if wrong == 1 else f"{wrong} things are"
    lines.append("usable" if report["usable"] else f"not usable yet: {things} wrong")
    return lines


def _table(splits: Sequence[dict[str, Any]]) -> list[str]:
    """The numbers of all splits in columns."""
    header = ["domain", "split", "rows", "pictures", "products", "boxes", "median box"]
    cells = [
        [
            *(split["domain"], split["split"]),
            *(f"{split[key]:,}" for key in ("rows", "pictures", "products", "boxes")),
            "" if split["median_box"] is None else f"{split['median_box']:.1%}",
        ]
        for split in splits
    ]
    widths = [max(len(row[column]) for row in [header, *cells]) for column in range(len(header))]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [header, *cells]
    ]
