"""The pictures that rows name: headers first, pixels later, and which of them are unreadable."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TypeVar

from date_jax.data.files import preprocess
from date_jax.data.files.preprocess import Header, UnreadablePictureError
from date_jax.errors import DataError
from date_jax.run.countdown import Countdown

WINDOW = 1024  # pictures made ahead of whoever takes them, at most
SHOWN = 3  # unreadable pictures named in a message
UNFINISHED = ".part"  # ending of a file that is being fetched
_PICTURES = (".jpg", ".jpeg", ".png", ".webp")

A = TypeVar("A")
B = TypeVar("B")


class Photos:
    """Picture files, by the name their rows give them.

    Reads all headers at once. Pictures that cannot be read are left out, up to a budget.

    Args:
        folder: that names are relative to.
        names: of the picture of every row.
        image_size: S.
        fit: "letterbox" or "stretch".
        max_pixels: from which on a picture is unreadable.
        budget: the share of rows whose pictures may be unreadable.

    Attributes:
        headers: of the readable pictures, by name.

    Raises:
        DataError: more rows than the budget allows have no readable picture.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        *,
        image_size: int,
        fit: str,
        max_pixels: int,
        budget: float,
    ):
        self._folder = folder
        self._rows_of = Counter(names)
        self._size, self._fit, self._max_pixels = image_size, fit, max_pixels
        self._budget = budget
        self._unreadable: dict[str, str] = {}
        self.headers: dict[str, Header] = {}
        for name, found in _in_threads(self._header, list(self._rows_of)):
            if isinstance(found, Header):
                self.headers[name] = found
            else:
                self._unreadable[name] = str(found)
        self._check_budget()

    def jpegs(self, names: Sequence[str], countdown: Countdown) -> Iterator[tuple[str, bytes]]:
        """Name and prepared picture of those of `names` that can be read, in their order.

        Raises:
            DataError: as on construction; some files show only now that they end too early.
        """
        readable = [name for name in names if name in self.headers]
        for name, jpeg in _in_threads(self._jpeg, readable):
            countdown.advance()
            if isinstance(jpeg, bytes):
                yield name, jpeg
            else:
                self._unreadable[name] = str(jpeg)
                self._check_budget()

    def notes(self) -> list[str]:
        """What the user should know: which pictures were turned, which were left out."""
        notes = []
        turned = sum(header.is_rotated for header in self.headers.values())
        if turned:
            notes.append(
                f"{turned} pictures were turned upright after their EXIF tag; "
                "their boxes are taken to belong to the upright picture"
            )
        if self._unreadable:
            notes.append(
                f"{self._lost()} of {self._rows_of.total()} rows are left out, since their "
                f"pictures cannot be read: {'; '.join(self._reasons(10))}"
            )
        return notes

    def _header(self, name: str) -> Header | UnreadablePictureError:
        try:
            return preprocess.header(self._folder / name, max_pixels=self._max_pixels)
        except UnreadablePictureError as error:
            return error

    def _jpeg(self, name: str) -> bytes | UnreadablePictureError:
        try:
            return preprocess.prepared_jpeg(
                self._folder / name,
                image_size=self._size,
                fit=self._fit,
                max_pixels=self._max_pixels,
            )
        except UnreadablePictureError as error:
            return error

    def _lost(self) -> int:
        return sum(self._rows_of[name] for name in self._unreadable)

    def _reasons(self, count: int) -> list[str]:
        shown = [f"{name} {reason}" for name, reason in self._unreadable.items()][:count]
        return [*shown, *(["…"] if len(self._unreadable) > count else [])]

    def _check_budget(self) -> None:
        allowed = int(self._budget * self._rows_of.total())
        if self._lost() > allowed:
            raise DataError(
                "\n".join(
                    [
                        f"the pictures of {self._lost()} of {self._rows_of.total()} rows cannot "
                        f"be read; config.data.bad_image_budget={self._budget:g} allows {allowed}",
                        *(f"  {reason}" for reason in self._reasons(SHOWN)),
                        f"  they are looked for in {self._folder.resolve()}",
                        "  mend them or take their rows out, or allow a larger budget",
                    ]
                )
            )


def checked_id(where: str, found: str) -> str:
    """An id that can be a file's name, and nothing else.

    Args:
        where: it stands, for the message.

    Raises:
        DataError: it is something else.
    """
    if not re.fullmatch(r"\w[\w.-]{0,199}", found):
        raise DataError(
            f"{where}: the id {found[:60]!r} cannot name a picture's file: expected letters, "
            "digits, _, - and ."
        )
    return found


def files_by_id(folder: Path, ids: Sequence[str]) -> list[str]:
    """For each id the name `<id>.<ending>` of a file of `folder`, a picture's ending before others,
    for a detector's files may lie beside; `<id>.jpg` if there is none.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        names = sorted(file.name for file in folder.iterdir() if file.suffix != UNFINISHED)
    except OSError as error:
        raise DataError(
            f"config.data.images={folder}: {error.strerror}\n  looked from {Path.cwd()}\n"
            "  expected a folder with the pictures, each named <id>.<ending>"
        ) from None
    names.sort(key=lambda name: Path(name).suffix.lower() not in _PICTURES)
    file_of = {Path(name).stem: name for name in reversed(names)}
    return [file_of.get(each, f"{each}.jpg") for each in ids]


def _in_threads(function: Callable[[A], B], items: Sequence[A]) -> Iterator[tuple[A, B]]:
    """Each item with what `function` makes of it, in order, by as many threads as cores.

    Threads are enough: Pillow lets go of the interpreter while it decodes, resizes and encodes
    (2 threads took 0.71 of the time of one at 384 px on two busy cores, 2 processes 0.74).
    """
    with ThreadPool(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, len(items), WINDOW):
            window = items[start : start + WINDOW]
            yield from zip(window, pool.imap(function, window, chunksize=4), strict=True)
