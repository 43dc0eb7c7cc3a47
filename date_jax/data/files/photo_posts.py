"""Posts from a user's table of photos: pages of several products, and pictures of single ones.

A page's title is that of all its products, joined. Which products they are, and where, is kept from
training: the boxes of training pages are those of composites alone, see `capture`.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from date_jax.data.domains import domain_names
from date_jax.data.files.annotations import Row, annotations
from date_jax.data.files.photos import PhotoRow
from date_jax.data.files.splits import shared_notes
from date_jax.data.files.text_rows import table_path
from date_jax.errors import DataError, spelling_hint

KINDS = {"post": "train", "suite": "val test", "composite": "train val test"}  # made of a page
TITLES = ", "  # between the titles of a page's products


def photo_posts(config: Any, *, most: int) -> tuple[Path, list[PhotoRow], list[str]]:
    """The table's path, a row for each product of each post, and notes for the user.

    The rows of one picture and split belong to one post, and share its title.

    Args:
        config: `config.data`.
        most: boxes of a page, at most.

    Raises:
        DataError: the table is malformed, lacks the domains, or its pages have no boxes to train
            on.
    """
    path = table_path(config.path)
    lines = annotations(path)
    domains = {key: domain_names(config[key]) for key in ("pages", "singles")}
    present = {row.domain for row in lines}
    for key, names in domains.items():
        for name in names:
            if name not in present:
                raise DataError(
                    f"config.data.{key}: no domain {name!r} in {path}"
                    f"{spelling_hint(name, present)}\n  its domains: {', '.join(sorted(present))}"
                )
    # Pages picture by picture, single products row by row.
    rows, notes = [], []
    of_page = defaultdict[tuple[str, str], list[Row]](list)
    for line in lines:
        if line.domain in domains["pages"]:
            of_page[line.split, line.image].append(line)
        elif line.domain in domains["singles"]:
            kind, product = ("post", "") if line.split == "train" else ("single", line.product_id)
            rows.append(_row(line, kind, line.text, product))
    crowded = 0
    for page in of_page.values():
        products = _products(page)
        crowded += len(products) > most
        rows += _page_rows(products[:most])
    if crowded:
        notes.append(f"{crowded:,} pages show more than {most} products: the first {most} count")
    for name in ("composite_train", "suite_test", "single_test"):
        if all(row.split != name for row in rows):
            raise DataError(f"{path}: {_LACKS[name]}")
    return path, rows, [*notes, *shared_notes(lines)]


_LACKS = {
    "composite_train": "no training picture of config.data.pages has a box, to learn proposals",
    "suite_test": "config.data.pages has no rows of split test, which are searched for",
    "single_test": "config.data.singles has no rows of split test, which are searched",
}


def _products(page: Sequence[Row]) -> list[Row]:
    """The row of each product of a page: that with the longest text, which is its title."""
    longest: dict[str, Row] = {}
    for row in page:
        if len(row.text) > len(longest.get(row.product_id, row._replace(text="")).text):
            longest[row.product_id] = row
    return list(longest.values())


def _page_rows(products: Sequence[Row]) -> list[PhotoRow]:
    """The rows of a page's products, in every split that the page belongs to."""
    title = TITLES.join(row.text for row in products)
    rows = []
    for kind, splits in KINDS.items():
        for product in products:
            if product.split not in splits.split():
                continue
            if kind == "composite" and product.box is None:
                continue
            # A training post says neither where nor which its products are.
            is_post = kind == "post"
            row = _row(product, kind, title, "" if is_post else product.product_id)
            rows.append(row._replace(box=None if is_post else product.box))
            if is_post:
                break
    return rows


def _row(line: Row, kind: str, title: str, product: str) -> PhotoRow:
    return PhotoRow(
        line=line.line,
        image=line.image,
        text=title,
        box=None,
        split=f"{kind}_{line.split}",
        product_id=product,
        category="" if not product else line.category,
    )
