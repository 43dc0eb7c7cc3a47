"""The folder of vectors: Parquet files of some offers each, and a manifest that names them.

A file's name holds a digest of its bytes, so that a new version of a part lies next to the one that
the manifest still names. The folder is whole at any time.
"""

import contextlib
import hashlib
import json
import os
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from date_jax.errors import DataError
from date_jax.index.extra import extra_module
from date_jax.pairs.all_pairs import power_of_two

FORMAT = 1
MANIFEST = "manifest.json"
_PART_ROWS = 512  # of a part, at least, where a catalogue has as many
_METADATA = b"date_jax"
_STEM = "part-{number:05}-of-{count:05}-"
_DIGITS = 16  # of a digest in a file's name


class LeftOut(NamedTuple):
    """An offer without a vector.

    Attributes:
        id, text, path: as in the catalogue.
        sha256: of the picture's bytes; "" where they cannot be read.
        reason: why, for people.
    """

    id: str
    text: str
    path: str
    sha256: str
    reason: str


class Part(NamedTuple):
    """Some offers with their vectors.

    Attributes:
        table: a pyarrow table: id, text, path, vector, the catalogue's other columns, and of the
            picture its `picture_bytes`, `picture_mtime` in ns and `picture_sha256`.
        left_out: offers whose picture cannot be read.
        network: fingerprint of the network that the vectors are from.
        question: the method of `Run` that they are the answers of.
    """

    table: Any
    left_out: tuple[LeftOut, ...]
    network: str
    question: str


def part_count(offers: int) -> int:
    """The number of parts of a catalogue: a power of two.

    It grows with the root of the offers, so that neither the files of a large catalogue are too
    many nor its parts too large: 2 parts of 1,000 offers, 256 of a million.
    """
    return power_of_two(max(1, round(offers / max(_PART_ROWS, 4 * offers**0.5))))


def part_number(offer_id: str, count: int) -> int:
    """The part, of `count`, in which an offer lies: it depends on no other offer."""
    return int.from_bytes(hashlib.sha256(offer_id.encode()).digest()[:8], "big") % count


def vectors_of_table(table: Any) -> Float[np.ndarray, "N E"]:
    """The vectors of a part's table, or of some tables put together."""
    column = table.column("vector").combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), column.type.list_size)


def vector_column(vectors: Float[np.ndarray, "N E"]) -> Any:
    """The vectors as a column of a table."""
    pyarrow = extra_module("pyarrow")
    numbers = pyarrow.array(np.ascontiguousarray(vectors, np.float32).reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(numbers, vectors.shape[1])


def write_part(folder: Path, number: int, count: int, part: Part) -> Path:
    """Writes a part whole or not at all; its file.

    Args:
        folder: there is one.
        number: of the part, from 0.
        count: of all parts.
        part: its content.
    """
    pyarrow, parquet = extra_module("pyarrow"), extra_module("pyarrow.parquet")
    about = {
        "format": FORMAT,
        "network": part.network,
        "question": part.question,
        "left_out": [[*offer] for offer in part.left_out],
    }
    metadata = {_METADATA: json.dumps(about, ensure_ascii=False).encode()}
    buffer = pyarrow.BufferOutputStream()
    parquet.write_table(part.table.replace_schema_metadata(metadata), buffer, compression="zstd")
    content = buffer.getvalue().to_pybytes()
    stem = _STEM.format(number=number, count=count)
    path = folder / f"{stem}{hashlib.sha256(content).hexdigest()[:_DIGITS]}.parquet"
    write_whole(path, content)
    return path


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file that a crash leaves whole or absent."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:  # on a full disk the beginnings would fill the rest of it
        unfinished.unlink(missing_ok=True)


def read_part(path: Path) -> Part | None:
    """The part of a file; None where its bytes are not those that were written.

    Raises:
        DataError: the file cannot be read.
    """
    pyarrow, parquet = extra_module("pyarrow"), extra_module("pyarrow.parquet")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    if hashlib.sha256(content).hexdigest()[:_DIGITS] != path.stem.rpartition("-")[2]:
        return None
    table = parquet.read_table(pyarrow.BufferReader(content))
    about = json.loads(table.schema.metadata[_METADATA])
    left_out = tuple(LeftOut(*offer) for offer in about["left_out"])
    return Part(table.replace_schema_metadata(None), left_out, about["network"], about["question"])


def part_files(folder: Path) -> dict[tuple[int, int], list[Path]]:
    """The files of each part by its number and the count of parts; several versions may lie there.

    Args:
        folder: need not be there.
    """
    files: dict[tuple[int, int], list[Path]] = {}
    for path in sorted(folder.glob("part-*-of-*-*.parquet")):
        with contextlib.suppress(ValueError):
            _, number, _, count, _ = path.stem.split("-")
            files.setdefault((int(number), int(count)), []).append(path)
    return files


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of vectors.

    Raises:
        DataError: there is none, it is damaged, or of a later version of this package.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        is_ours = isinstance(manifest["format"], int) and manifest["parts"] is not None
    except FileNotFoundError:
        is_begun = bool(part_files(folder))
        raise DataError(
            f"{folder}: holds no {MANIFEST}"
            + (": it was begun and is not whole" if is_begun else "")
            + f"\n  python -m date_jax.embed --workdir=… --catalogue=… --out={folder} "
            + ("goes on with it" if is_begun else "makes it")
        ) from None
    except (OSError, ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise DataError(
            f"{path}: is no manifest of vectors; remove it and embed the catalogue again"
        )
    if manifest["format"] != FORMAT:
        raise DataError(
            f"{path}: is of format {manifest['format']}, and this version reads {FORMAT}\n"
            "  embed the catalogue again, or take the version that wrote it"
        )
    return manifest


def manifest_entry(path: Path, part: Part) -> dict[str, Any]:
    """What the manifest says of a part."""
    return {
        "file": path.name,
        "rows": len(part.table),
        "left_out": len(part.left_out),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest, unless the same is there."""
    content = (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()
    path = folder / MANIFEST
    if not path.is_file() or path.read_bytes() != content:
        write_whole(path, content)


def remove_other_files(folder: Path, names: Sequence[str]) -> None:
    """Removes the parts that are not among `names`, and unfinished files that a crash has left."""
    for path in (*folder.glob("part-*.parquet"), *folder.glob(".part-*.part")):
        if path.name not in names:
            path.unlink(missing_ok=True)
