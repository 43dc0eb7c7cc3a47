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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from date_jax.data import command
from date_jax.data.files.annotations import Row, annotations
from date_jax.data.files.photos import Photos
from date_jax.data.files.preprocess import Header
from date_jax.data.survey import sheets
from date_jax.data.survey.finding import Data, Finding
from date_jax.data.survey.looks import MAX_PIXELS, Look, look
from date_jax.data.survey.picture_findings import picture_findings
from date_jax.data.survey.report import report_lines, summary
from date_jax.data.survey.row_findings import row_findings
from date_jax.data.tokenizer_files import tokenizer_of_file
from date_jax.errors import DataError, SetupError
from date_jax.run.countdown import Countdown

BUDGET = 0.01  # as `config.data.bad_image_budget`
UNUSABLE = 1  # the exit code
_TEXT_LENGTH = 64  # word pieces of a query; only those that are unknown are counted


def main(arguments: Sequence[str]) -> int:
    """Says what a file's data is like; returns the exit code."""
    parser = command.Parser("check", __doc__)
    parser.add_argument("--path", type=Path, required=True, help="the .jsonl or .csv file")
    parser.add_argument("--out", default="check", help="folder for the sheets; none without a name")
    parser.add_argument(
        "--vocab", default="", help="a vocab.txt or tokenizer.json, whose unknown words are counted"
    )
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
        print("\n".join(report_lines(report)))
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
        return summary(path, [], {}, [Finding("rows", True, text, examples=examples)], [])
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
    all_findings = sorted(
        [*picture_findings(data), *row_findings(data)], key=lambda finding: not finding.is_wrong
    )
    drawn = _draw(options.out, path.parent, rows, headers, all_findings) if options.out else []
    return summary(path, rows, headers, all_findings, drawn)


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
