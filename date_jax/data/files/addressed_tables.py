"""Tables whose pictures are named by addresses, for the downloader, under columns of any name."""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from date_jax.data.files.photos import checked_id
from date_jax.data.files.text_rows import id_text, table_kind, text_rows
from date_jax.errors import DataError, UsageError, spelling_hint

KINDS = (".csv", ".jsonl")
IMAGE = "image"  # the column of addresses
ID = "id"  # the column that names pictures; the written table keeps it under its own name
DIGITS = 20  # of an address's hash, which names a picture without an id


class AddressedTable(NamedTuple):
    """A table whose column `image` holds addresses.

    Attributes:
        kind: of the file, one of KINDS.
        rows: their fields, columns renamed.
        names: of each row's picture, without the ending that its file will have.
    """

    kind: str
    rows: list[dict[str, Any]]
    names: list[str]

    def pictures(self) -> list[tuple[str, Sequence[str]]]:
        """The name of each row's picture with its address, if the row has one."""
        addresses = (id_text(row.get(IMAGE)).strip() for row in self.rows)
        return [
            (name, (address,) if address else ())
            for name, address in zip(self.names, addresses, strict=True)
        ]

    def write(self, folder: Path) -> tuple[Path, int]:
        """Writes `rows.csv` or `rows.jsonl` into the folder of pictures, whole or not at all.

        Args:
            folder: of the pictures; a row whose picture is not there is left out.

        Returns:
            the table's path and its number of rows.
        """
        file_of = {path.stem: path.name for path in folder.iterdir() if path.suffix not in KINDS}
        rows = [
            row | {IMAGE: file_of[name]}
            for row, name in zip(self.rows, self.names, strict=True)
            if name in file_of
        ]
        path = folder / f"rows{self.kind}"
        part = folder / f".rows{self.kind}"
        with part.open("w", encoding="utf-8", newline="") as file:
            if self.kind == ".csv":
                writer = csv.DictWriter(file, list(self.rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            else:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        part.replace(path)
        return path, len(rows)


def column_map(text: str, flag: str = "--columns") -> dict[str, str]:
    """The file's name of each column, by ours.

    >>> column_map("image=img_url,query=title")
    {'image': 'img_url', 'query': 'title'}

    Args:
        text: `ours=theirs` with commas between them; "" is no column.
        flag: that it is the value of, for the message.

    Raises:
        UsageError: it is something else, or names a column twice.
    """
    pairs = [part.partition("=") for part in text.split(",") if part.strip()]
    columns = {ours.strip(): theirs.strip() for ours, _, theirs in pairs}
    is_whole = all(ours and theirs for ours, theirs in columns.items())
    # A picture may be named by a column that is another one of ours too.
    sources = [theirs for ours, theirs in columns.items() if ours != ID]
    if not is_whole or len(columns) < len(pairs) or len(set(sources)) < len(sources):
        raise UsageError(
            f"{flag}={text}: expected ours=theirs with commas, each column once, "
            f"as in {flag}=image=img_url,query=title"
        )
    return columns


def addressed_table(path: Path, columns: Mapping[str, str], option: str) -> AddressedTable:
    """The rows of a `.csv` or `.jsonl` file, with a name for each one's picture.

    A picture is named by the column that ID is mapped to, or else by a hash of its address: rows
    with one address share one picture.

    Args:
        path: of the file.
        columns: of `column_map`; others keep their names.
        option: by which the user named the file, for the messages.

    Raises:
        DataError: naming the file, the line, what is wrong with it and what to do.
    """
    theirs = {IMAGE: IMAGE} | {ours: name for ours, name in columns.items() if ours != ID}

    def check(where: str, names: list[str]) -> None:
        for name in (*theirs.values(), *filter(None, [columns.get(ID)])):
            if name not in names:
                raise DataError(
                    f"{where}: no {name}{spelling_hint(name, names)}\n"
                    f"  found: {', '.join(names)[:200]}\n"
                    "  name the column of addresses: --columns=image=img_url"
                )
        taken = [ours for ours, name in theirs.items() if ours != name and ours in names]
        if taken and taken[0] not in theirs.values():
            raise DataError(
                f"{where}: there is a column {taken[0]} besides {theirs[taken[0]]}: "
                "rename it or take it out"
            )

    # Each row gets our names, in the order of its columns; its picture gets a name.
    ours_of = {name: ours for ours, name in theirs.items()}
    rows, names = [], []
    address_of: dict[str, str] = {}
    for line, fields in text_rows(path, check, option):
        row = {ours_of.get(name, name): field for name, field in fields.items()}
        address = id_text(row[IMAGE]).strip()
        name = hashlib.sha256(address.encode(errors="replace")).hexdigest()[:DIGITS]
        if ID in columns:
            name = checked_id(f"{path}:{line}", id_text(fields[columns[ID]]).strip())
        if address_of.setdefault(name, address) != address:
            raise DataError(
                f"{path}:{line}: the id {name!r} has two addresses\n"
                f"  take {ID}={columns[ID]} out of --columns: pictures are then named by a hash"
            )
        rows.append(row)
        names.append(name)
    if not rows:
        raise DataError(f"{path} holds no rows: expected one a picture")
    return AddressedTable(table_kind(path), rows, names)
