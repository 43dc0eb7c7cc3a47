"""The pairs that the authors of arXiv 2302.05093 publish, as offers and pairs of them.

    python -m date_jax.data.published_offers --path=pairs.json --out=urls.tsv

writes the addresses of their pictures, `id<TAB>URL` a line, for a downloader; nothing is fetched.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from date_jax.data import command
from date_jax.data.files.catalogue import IdPairs, Offer
from date_jax.data.files.photos import checked_id, files_by_id
from date_jax.data.files.text_rows import check_columns, field_text, file_text, json_rows
from date_jax.errors import DataError

REQUIRED = ("trigger_id", "trigger_img", "recall_id", "recall_title", "recall_img", "label")
TITLES = ("trigger_title", "tirgger_title")  # both spellings are in use
LABELS = {"0": False, "1": True}


class PublishedOffers(NamedTuple):
    """The contents of the authors' file.

    Attributes:
        offers: each once, as it comes first; `image` is the picture's address.
        pairs: those with a positive label.
        notes: what the file says in two ways.
    """

    offers: list[Offer]
    pairs: IdPairs
    notes: list[str]


def offers_and_pairs(path: Path, option: str = "config.data.path") -> PublishedOffers:
    """The offers and pairs of a JSON file: one list of objects, or one object a line.

    Args:
        path: of the file.
        option: by which the user named it, for the messages.

    Raises:
        DataError: naming the file, the line or the object, and what is wrong with it.
    """
    first: dict[str, Offer] = {}
    pairs = IdPairs([], [])
    ambiguous: set[str] = set()
    for where, line, fields in _objects(path, option):
        # Either offer of the object; the file repeats an offer in each of its pairs.
        ends = _offers(where, line, fields)
        for offer in ends:
            earlier = first.setdefault(offer.offer_id, offer)
            if (earlier.title, earlier.image) != (offer.title, offer.image):
                ambiguous.add(offer.offer_id)
        if _is_pair(where, fields["label"]):
            for ids, offer in zip(pairs, ends, strict=True):
                ids.append(offer.offer_id)
    if not first:
        raise DataError(f"{path} holds no objects: expected one a pair")
    # Which title is right only the user can tell; the run goes on with the first.
    notes = []
    if ambiguous:
        notes = [f"{len(ambiguous):,} offers have several titles or pictures: the first one counts"]
    return PublishedOffers(list(first.values()), pairs, notes)


def _objects(path: Path, option: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Place, line or number from 1, and fields of each object."""
    content = file_text(path, option)
    if not content.lstrip().startswith("["):
        for line, fields in json_rows(path, content, _check_fields):
            yield f"{path}:{line}", line, fields
        return
    # One list, in which there are numbers in place of lines.
    try:
        objects = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON: {error}") from None
    except RecursionError:
        raise DataError(f"{path}: not a list of objects: it is nested too deep") from None
    for number, fields in enumerate(objects, 1):
        where = f"{path}: object {number:,}"
        if not isinstance(fields, dict):
            raise DataError(f"{where}: expected an object, got {json.dumps(fields)[:80]}")
        _check_fields(where, list(fields))
        yield where, number, fields


def _check_fields(where: str, names: list[str]) -> None:
    """Refuses an object without the fields that it needs, under either spelling of one."""
    title = TITLES[1] if TITLES[1] in names else TITLES[0]
    check_columns(where, names, (*REQUIRED, title), ("cate_name", "cate_lv1_name"))


def _offers(where: str, line: int, fields: dict[str, Any]) -> tuple[Offer, Offer]:
    """The two offers of one object."""
    text = partial(_field, where, fields)
    # Both pictures are of the object's category, the leaf where it has one.
    title = TITLES[0] if TITLES[0] in fields else TITLES[1]
    category = text("cate_name") or text("cate_lv1_name") or "unknown"
    trigger_id, recall_id = (checked_id(where, text(name)) for name in ("trigger_id", "recall_id"))
    return (
        Offer(line, trigger_id, text(title), "", category, text("trigger_img")),
        Offer(line, recall_id, text("recall_title"), "", category, text("recall_img")),
    )


def _field(where: str, fields: dict[str, Any], name: str) -> str:
    return field_text(where, name, fields.get(name))


def _is_pair(where: str, label: Any) -> bool:
    """Whether a label, a number or a text or true, says that both offers show one product."""
    is_number = isinstance(label, bool | float) and label in (0, 1)
    text = str(int(label)) if is_number else str(label)
    if text not in LABELS:
        raise DataError(f"{where}: label is {json.dumps(label)[:60]}: expected 0 or 1")
    return LABELS[text]


def offers_with_files(offers: list[Offer], folder: Path) -> list[Offer]:
    """The offers with `<id>.<ending>` of `folder` as their pictures; `<id>.jpg` if there is none.

    Raises:
        DataError: the folder cannot be read.
    """
    # Without a file the name leads nowhere, and the picture counts as unreadable.
    names = files_by_id(folder, [offer.offer_id for offer in offers])
    return [offer._replace(image=name) for offer, name in zip(offers, names, strict=True)]


def main(arguments: Sequence[str]) -> int:
    """Writes the list of addresses; returns the exit code."""
    parser = command.Parser("published_offers", __doc__)
    parser.add_argument("--path", type=Path, required=True, help="the authors' JSON file")
    parser.add_argument("--out", type=Path, required=True, help="the list to write")
    interrupted = "the list may be cut off; start again"
    return command.run(parser, arguments, write_addresses, interrupted=interrupted)


def write_addresses(options: argparse.Namespace) -> None:
    """Writes id and address of every offer's picture, as the command's flags say.

    Raises:
        DataError: the file at `options.path` is malformed.
    """
    offers = offers_and_pairs(options.path, "--path").offers
    # An address with a tab or a line break in it would make two columns or lines of one.
    addressed = [offer for offer in offers if re.fullmatch(r"[^\t\r\n]+", offer.image)]
    lines = (f"{offer.offer_id}\t{offer.image}\n" for offer in addressed)
    options.out.write_text("".join(lines), encoding="utf-8")
    print(f"{len(addressed):,} addresses of {len(offers):,} offers in {options.out}")
