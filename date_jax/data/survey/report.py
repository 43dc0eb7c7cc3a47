"""The report about a user's data: as a JSON object for programs, as lines for people."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from date_jax.data.files.annotations import Row
from date_jax.data.files.preprocess import Header
from date_jax.data.survey.finding import EXAMPLES, Finding
from date_jax.data.survey.row_findings import box_share


def summary(
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
            "most_repeated": Counter(row.text for row in rows).most_common(EXAMPLES),
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


def report_lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    # What is there: the splits, the sizes of pictures, the words.
    texts = [f"{report['path']}: {report['rows']:,} rows of {report['pictures']:,} pictures"]
    if report["rows"]:
        texts += _table(report["splits"])
    if report["picture_sizes"]:
        low, middle, high = zip(*report["picture_sizes"].values(), strict=True)
        sizes = [f"{width} x {height}" for width, height in (low, middle, high)]
        turned = report["turned_by_exif"]
        texts.append(
            f"pictures: sides from {sizes[0]} to {sizes[2]}, median {sizes[1]}"
            + (f"; {turned:,} turned by EXIF" if turned else "")
        )
    if report["rows"]:
        low_words, middle_words, high_words = report["queries"]["words"]
        texts.append(
            f"queries: {report['queries']['different']:,} different, {low_words} to {high_words} "
            f"words, median {middle_words}"
        )
    # What is wrong comes before what is worth a look; the verdict is the last line.
    for is_wrong, title in (
        (True, "WRONG: a run would stop, or its measures would mean nothing"),
        (False, "worth a look:"),
    ):
        members = [finding for finding in report["findings"] if finding["wrong"] == is_wrong]
        texts += [title] * bool(members)
        for finding in members:
            first, *rest = finding["text"].split("\n")
            texts += [f"- {first}", *rest]
            texts += [f"    {example}" for example in finding["examples"]]
    if report["sheets"]:
        texts.append(f"look at {' and '.join(report['sheets'])}")
    wrong = sum(finding["wrong"] for finding in report["findings"])
    things = "1 thing is" if wrong == 1 else f"{wrong} things are"
    texts.append("usable" if report["usable"] else f"not usable yet: {things} wrong")
    return texts


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
