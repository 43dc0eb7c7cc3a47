"""Embeds a catalogue into a folder of vectors, part after part, and follows its changes.

A vector depends on the network, on the bytes of the picture and, where products are embedded, on
the text. Rows for which these are as they were keep their vector; all others are embedded.
"""

import hashlib
import stat
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from date_jax.api import Run
from date_jax.data.files.user_pictures import UserPicture
from date_jax.errors import DataError, SetupError, UsageError
from date_jax.index import parts
from date_jax.index.catalogue import Catalogue
from date_jax.index.extra import extra_module
from date_jax.index.parts import LeftOut, Part
from date_jax.run.countdown import Countdown, duration

# What an offer is embedded with, the best first; of these a run answers some.
QUESTIONS = ("embed_products", "embed_images", "embed_texts")
_AT_ONCE = 256  # offers whose pictures lie in memory
_PATIENCE = 600.0  # seconds without a new part of another process
_NOTHING = "has neither a picture nor a text"


class Offer(NamedTuple):
    """An offer of a part, and what its vector depends on.

    Attributes:
        row: of the catalogue.
        id, text, path: as there.
        size: bytes of the picture; -1 where there is no such file.
        mtime: when the picture was changed, in ns; -1 where there is no such file.
        sha256: of the picture's bytes; "" where they cannot be read.
    """

    row: int
    id: str
    text: str
    path: str
    size: int
    mtime: int
    sha256: str


def question_of(run: Run) -> str:
    """The method of a run that embeds offers.

    Raises:
        UsageError: it has none.
    """
    for question in QUESTIONS:
        if question in run.questions:
            return question
    raise UsageError(
        f"{run.path}: this run embeds nothing, so no catalogue can be searched with it; it answers "
        f"{', '.join(run.questions) or 'nothing'}"
    )


def embed(
    run: Run,
    catalogue: Catalogue,
    folder: Path,
    *,
    process_index: int = 0,
    process_count: int = 1,
    patience: float = _PATIENCE,
) -> list[str]:
    """Brings a folder of vectors to the state of a catalogue; lines that say what was done.

    Each process does the parts whose number it has, modulo the count. The first one then waits for
    those of the others and writes the manifest.

    Args:
        run: of `date_jax.open`.
        catalogue: the same on every process.
        folder: one for all processes; made if absent.
        process_index: the number of this process.
        process_count: how many share the work.
        patience: seconds that the first process waits for the next part of others.

    Raises:
        UsageError: the folder holds vectors of another network, or the run embeds nothing.
        DataError: no offer has a vector.
        SetupError: parts of another process do not come.
    """
    work = _Work(run, catalogue, folder)
    work.require_same_network()
    folder.mkdir(parents=True, exist_ok=True)
    # Parts that are as they have to be are only looked at.
    mine = range(process_index, work.count, process_count)
    current = {number: path for number in mine if (path := work.current_file(number))}
    todo = [number for number in mine if number not in current]
    countdown = Countdown("offers", sum(len(work.rows[number]) for number in mine))
    done = sum(len(work.rows[number]) for number in current)
    for number in todo:
        current[number] = work.write(number, countdown, done)
        done += len(work.rows[number])
    countdown.at(done)
    if process_index:
        done_by = f"process {process_index} of {process_count}"
        return [f"{len(current):,} parts of {done_by} are there: {folder}", *work.report()]
    # The manifest comes last: with it the folder is whole.
    current |= work.files_of_others(process_count, patience)
    files = [current[number] for number in range(work.count)]
    rows = work.write_manifest(files)
    return [f"{rows:,} offers have a vector: {folder}", *work.report()]


class _Work:
    """What `embed` knows of its catalogue and its folder.

    Args:
        run, catalogue, folder: as there.
    """

    def __init__(self, run: Run, catalogue: Catalogue, folder: Path):
        self._run, self._catalogue, self._folder = run, catalogue, folder
        self._question = question_of(run)
        self._width = 0
        self._embedded = self._rows = 0
        self._left_out: list[LeftOut] = []
        # The rows of each part, in the order of the catalogue.
        self.count = parts.part_count(len(catalogue.ids))
        self.rows: list[list[int]] = [[] for _ in range(self.count)]
        for row, offer_id in enumerate(catalogue.ids):
            self.rows[parts.part_number(offer_id, self.count)].append(row)

    def require_same_network(self) -> None:
        """Raises UsageError where the folder holds vectors of another network."""
        for files in parts.part_files(self._folder).values():
            part = parts.read_part(files[-1])
            if part is None:
                continue
            if (part.network, part.question) != (self._run.fingerprint, self._question):
                raise UsageError(
                    f"{self._folder}: holds vectors of another network, {part.network}; "
                    f"{self._run.path} is {self._run.fingerprint}\n"
                    "  name another --out, or remove the folder"
                )
            return

    def current_file(self, number: int, *, by_content: bool = False) -> Path | None:
        """The file of a part that is as the catalogue has it; None where there is none.

        Args:
            number: of the part.
            by_content: whether pictures may be of another time, as copies on other machines are.
        """
        for path in parts.part_files(self._folder).get((number, self.count), []):
            part = parts.read_part(path)
            if part is None:
                continue
            offers = self._offers(number, _stored_pictures([part]))
            if self._is_current(part, offers, by_content=by_content):
                self._note(part)
                return path
        return None

    def write(self, number: int, countdown: Countdown, done: int) -> Path:
        """Embeds what is new in a part and writes it; its file.

        Args:
            number: of the part.
            countdown: of all offers of this process.
            done: offers that were done before.
        """
        stored = self._stored_parts(number)
        offers = self._offers(number, _stored_pictures(stored))
        vectors, left_out = _stored_vectors(stored, self._reads_text)
        # An offer keeps its vector where all that this depends on is the same.
        new = [offer for offer in offers if self._content(offer) not in vectors]
        known_reasons = {(o.path, o.sha256, o.text): o for o in left_out if o.sha256}
        reasons = {
            offer.id: known_reasons[key].reason
            for offer in new
            if (key := (offer.path, offer.sha256, offer.text)) in known_reasons
        }
        new = [offer for offer in new if offer.id not in reasons]
        for place, (chunk, answers) in enumerate(self._answers(new)):
            countdown.at(done + place * _AT_ONCE)
            for offer, answer in zip(chunk, answers, strict=True):
                if isinstance(answer, str):
                    reasons[offer.id] = answer
                else:
                    vectors[self._content(offer)] = answer
                    self._embedded += 1

        part = self._part(offers, vectors, reasons)
        self._note(part)
        return parts.write_part(self._folder, number, self.count, part)

    def files_of_others(self, process_count: int, patience: float) -> dict[int, Path]:
        """The files of the other processes' parts, waited for."""
        missing = [number for number in range(self.count) if number % process_count]
        files: dict[int, Path] = {}
        last, has_spoken = time.monotonic(), False
        while missing:
            ready = {n: path for n in missing if (path := self.current_file(n, by_content=True))}
            files |= ready
            missing = [number for number in missing if number not in ready]
            now = time.monotonic()
            last = now if ready else last
            names = ", ".join(map(str, sorted({number % process_count for number in missing})))
            if missing and now - last > patience:
                raise SetupError(
                    f"{self._folder}: {len(missing):,} parts of process {names} have not come for "
                    f"{duration(patience)}\n  the same command goes on, on each of them"
                )
            if missing:
                if not has_spoken:
                    print(f"waiting for {len(missing):,} parts of process {names}", flush=True)
                has_spoken = True
                time.sleep(0.5)
        return files

    def write_manifest(self, files: Sequence[Path]) -> int:
        """Writes the manifest of all parts, removes other files; the number of vectors.

        Raises:
            DataError: there is no vector at all.
        """
        contents = [part for path in files if (part := parts.read_part(path))]
        rows = sum(len(part.table) for part in contents)
        if not rows:
            reasons = [
                f"  {offer.id}: {offer.reason}" for part in contents for offer in part.left_out
            ]
            raise DataError("\n".join(["no offer of the catalogue has a vector", *reasons[:5]]))
        width = contents[0].table.schema.field("vector").type.list_size
        entries = [parts.manifest_entry(*pair) for pair in zip(files, contents, strict=True)]
        manifest = {
            "format": parts.FORMAT,
            "network": self._run.fingerprint,
            "task": self._run.config.task,
            "question": self._question,
            "width": width,
            "count": rows,
            "columns": self._catalogue.columns,
            "pictures": str(self._catalogue.path.parent.resolve()),
            "parts": entries,
        }
        parts.write_manifest(self._folder, manifest)
        parts.remove_other_files(self._folder, [path.name for path in files])
        return rows

    def report(self) -> list[str]:
        """Lines that say what was embedded and what was left out."""
        before = self._rows - self._embedded
        lines = [f"  {self._embedded:,} embedded here, {before:,} as they were"]
        if self._left_out:
            lines[0] += f", {len(self._left_out):,} left out:"
        lines += [f"  {offer.id}: {offer.reason}" for offer in self._left_out[:5]]
        if len(self._left_out) > 5:
            lines.append(f"  and {len(self._left_out) - 5:,} more")
        return lines

    @property
    def _reads_text(self) -> bool:
        return self._question != "embed_images"

    def _content(self, offer: Offer | LeftOut) -> tuple[str, str]:
        """What the vector of an offer depends on."""
        return _content(offer.sha256, offer.path, offer.text if self._reads_text else "")

    def _note(self, part: Part) -> None:
        """Counts the offers of a part for the report."""
        self._left_out += part.left_out
        self._rows += len(part.table)

    def _offers(self, number: int, known: dict[tuple[str, int, int], str]) -> list[Offer]:
        """The offers of a part, with the digests of their pictures.

        Args:
            number: of the part.
            known: digests of pictures by path, size and time: these are not read again.
        """
        catalogue, root = self._catalogue, self._catalogue.path.parent

        def offer(row: int) -> Offer:
            path = catalogue.pictures[row]
            size, mtime, sha256 = -1, -1, ""
            if path and self._question != "embed_texts":
                size, mtime = _size_and_mtime(root / path)
                sha256 = known.get((path, size, mtime), "") or _sha256(root / path, size)
            return Offer(row, catalogue.ids[row], catalogue.texts[row], path, size, mtime, sha256)

        with ThreadPoolExecutor() as threads:
            return [*threads.map(offer, self.rows[number])]

    def _is_current(self, part: Part, offers: Sequence[Offer], *, by_content: bool) -> bool:
        """Whether a part holds these offers and nothing else."""
        if (part.network, part.question) != (self._run.fingerprint, self._question):
            return False
        left_out = {(o.id, o.text, o.path, o.sha256) for o in part.left_out}
        rows = [o for o in offers if (o.id, o.text, o.path, o.sha256) not in left_out]
        if len(offers) - len(rows) != len(left_out):
            return False
        # All columns but the vector, which follows from them.
        table = self._columns(rows)
        names = [
            name
            for name in table.column_names
            if not (by_content and name in ("picture_bytes", "picture_mtime"))
        ]
        if {*part.table.column_names} != {*table.column_names, "vector"}:
            return False
        return part.table.select(names).equals(table.select(names))

    def _stored_parts(self, number: int) -> list[Part]:
        """All parts in the folder that may hold an offer of this one, of this network."""
        stored = []
        for (other, count), files in parts.part_files(self._folder).items():
            # Both counts are powers of two: numbers agree modulo the smaller one.
            if (other - number) % min(count, self.count) == 0:
                stored += [part for path in files if (part := parts.read_part(path))]
        return [part for part in stored if part.network == self._run.fingerprint]

    def _answers(
        self, offers: Sequence[Offer]
    ) -> Iterator[tuple[Sequence[Offer], list[Float[np.ndarray, " E"] | str]]]:
        """Some offers at a time, with the vector of each or why it has none.

        The pictures of the next ones are read while the network looks at these.
        """
        chunks = [offers[start : start + _AT_ONCE] for start in range(0, len(offers), _AT_ONCE)]
        with ThreadPoolExecutor(1) as ahead:
            reading = [ahead.submit(self._pictures, chunk) for chunk in chunks[:1]]
            for place, chunk in enumerate(chunks):
                pictures = reading.pop().result()
                reading = [ahead.submit(self._pictures, c) for c in chunks[place + 1 : place + 2]]
                yield chunk, self._vectors(chunk, pictures)

    def _pictures(self, offers: Sequence[Offer]) -> list[UserPicture | str | None]:
        """The picture of each offer, why it cannot be read, or None for an offer without one."""
        root = self._catalogue.path.parent
        with_picture = [o for o in offers if o.path and self._question != "embed_texts"]
        pictures = self._run.pictures([root / offer.path for offer in with_picture])
        by_id = dict(zip((offer.id for offer in with_picture), pictures, strict=True))
        answers = [by_id.get(offer.id) for offer in offers]
        return [
            f"{offer.path}: {answer}" if isinstance(answer, Exception) else answer
            for offer, answer in zip(offers, answers, strict=True)
        ]

    def _vectors(
        self, offers: Sequence[Offer], pictures: Sequence[UserPicture | str | None]
    ) -> list[Float[np.ndarray, " E"] | str]:
        """The vector of each offer, or why it has none."""
        answers: list[Any] = [
            picture if isinstance(picture, str) else self._lack(offer, picture)
            for offer, picture in zip(offers, pictures, strict=True)
        ]
        rows = [row for row, answer in enumerate(answers) if not answer]
        if not rows:
            return answers
        images: list[Any] = [pictures[row] for row in rows]
        texts = [offers[row].text for row in rows]
        if self._question == "embed_products":
            vectors = self._run.embed_products(images, texts)
        elif self._question == "embed_images":
            vectors = self._run.embed_images(images)
        else:
            vectors = self._run.embed_texts(texts)
        for row, vector in zip(rows, vectors, strict=True):
            answers[row] = vector
        return answers

    def _lack(self, offer: Offer, picture: UserPicture | None) -> str:
        """What an offer lacks to be embedded; "" for nothing."""
        can = self._run.questions
        if self._question == "embed_texts":
            return "" if offer.text else "has no text"
        if self._question == "embed_images" or "embed_texts" not in can:
            return "" if picture else "has no picture"
        if picture and not offer.text:
            return "" if "embed_images" in can else "has no text"
        return "" if picture or offer.text else _NOTHING

    def _columns(self, offers: Sequence[Offer]) -> Any:
        """A part's table without its vectors."""
        pyarrow = extra_module("pyarrow")
        own = {
            "id": pyarrow.array([offer.id for offer in offers], "string"),
            "text": pyarrow.array([offer.text for offer in offers], "string"),
            "path": pyarrow.array([offer.path for offer in offers], "string"),
        }
        of_picture = {
            "picture_bytes": pyarrow.array([offer.size for offer in offers], "int64"),
            "picture_mtime": pyarrow.array([offer.mtime for offer in offers], "int64"),
            "picture_sha256": pyarrow.array([offer.sha256 for offer in offers], "string"),
        }
        fields = self._catalogue.fields.take(np.array([offer.row for offer in offers], np.int64))
        others = {name: fields.column(name) for name in fields.column_names}
        return pyarrow.table(own | others | of_picture)

    def _part(
        self,
        offers: Sequence[Offer],
        vectors: dict[tuple[str, str], Float[np.ndarray, " E"]],
        reasons: dict[str, str],
    ) -> Part:
        """A part of offers, of which some are left out."""
        left_out = [
            LeftOut(o.id, o.text, o.path, o.sha256, reasons[o.id])
            for o in offers
            if o.id in reasons
        ]
        rows = [offer for offer in offers if offer.id not in reasons]
        if not self._width:
            # Asked for without an offer, for a part may have none.
            empty: tuple[Any, ...] = ([], []) if self._question == "embed_products" else ([],)
            self._width = getattr(self._run, self._question)(*empty).shape[-1]
        matrix = np.zeros((len(rows), self._width), np.float32)
        for place, offer in enumerate(rows):
            matrix[place] = vectors[self._content(offer)]
        table = self._columns(rows)
        table = table.add_column(3, "vector", parts.vector_column(matrix))
        return Part(table, tuple(left_out), self._run.fingerprint, self._question)


def _size_and_mtime(path: Path) -> tuple[int, int]:
    """Bytes and time of change, in ns, of a regular file; -1 and -1 where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return -1, -1
    return (status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else (-1, -1)


def _sha256(path: Path, size: int) -> str:
    """The digest of a file's bytes; "" where it is none or cannot be read."""
    if size < 0:
        return ""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""


def _content(sha256: str, path: str, text: str) -> tuple[str, str]:
    """What a vector depends on; an unreadable picture has its path in place of its digest."""
    return sha256 or path, text


def _stored_pictures(stored: Sequence[Part]) -> dict[tuple[str, int, int], str]:
    """The digests of pictures that were read before, by path, size and time of change."""
    names = ("path", "picture_bytes", "picture_mtime", "picture_sha256")
    digests = {}
    for part in stored:
        columns = (part.table.column(name).to_pylist() for name in names)
        for path, size, mtime, sha256 in zip(*columns, strict=True):
            digests[path, size, mtime] = sha256
    return digests


def _stored_vectors(
    stored: Sequence[Part], reads_text: bool
) -> tuple[dict[tuple[str, str], Float[np.ndarray, " E"]], list[LeftOut]]:
    """The vectors of parts by what they depend on, and the offers without one."""
    vectors: dict[tuple[str, str], np.ndarray] = {}
    for part in stored:
        names = ("picture_sha256", "path", "text")
        columns = (part.table.column(name).to_pylist() for name in names)
        for sha256, path, text, vector in zip(
            *columns, parts.vectors_of_table(part.table), strict=True
        ):
            vectors[_content(sha256, path, text if reads_text else "")] = vector
    return vectors, [offer for part in stored for offer in part.left_out]
