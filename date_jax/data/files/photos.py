"""The pictures that rows name: their headers first, their pixels later, and what is unreadable."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import NamedTuple, TypeVar

from date_jax.data.files import preprocess
from date_jax.data.files.preprocess import Header, UnreadablePictureError
from date_jax.data.files.text_rows import EMPTY_WORDS
from date_jax.errors import DataError
from date_jax.run.countdown import Countdown
from date_jax.run.user_paths import is_address

WINDOW = 1024  # pictures made ahead of whoever takes them, at most
REASONS = 3  # unreadable pictures named in a message
PART = ".part"  # ending of a file that is being fetched
_NAME_LENGTH = 80  # letters of a picture's name in a message, at most
_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")

A = TypeVar("A")
B = TypeVar("B")


class PhotoRow(NamedTuple):
    """A picture in a file with all that becomes its record.

    Attributes:
        line: where the row stands in its source.
        image: name of the picture's file.
        text: a phrase or a title.
        box: x_min, y_min, x_max, y_max pixels of the upright picture.
        split: the name of its split, such as `mall_train`.
        product_id: what the picture shows.
        category: of the product.
        offer_id, supplier: only of offers and posts.
    """

    line: int
    image: str
    text: str
    box: tuple[float, float, float, float] | None
    split: str
    product_id: str
    category: str
    offer_id: str = ""
    supplier: str = ""


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
        unreadable: why each of the other pictures cannot be read, by name.
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
        self.unreadable: dict[str, str] = {}
        self.headers: dict[str, Header] = {}
        # Most faults show in a header: they are told before an hour of decoding.
        for name, header in results_in_order(self._header, list(self._rows_of)):
            if isinstance(header, Header):
                self.headers[name] = header
            else:
                self.unreadable[name] = str(header)

    def check_budget(self) -> None:
        """Refuses more rows without a picture than the user allows.

        Raises:
            DataError: with the first reasons.
        """
        # In rows, not pictures: a picture that many rows share costs them all.
        allowed = int(self._budget * self._rows_of.total())
        lost = self._lost_rows()
        if lost > allowed:
            raise DataError(
                "\n".join(
                    [
                        f"the pictures of {lost} of {self._rows_of.total()} rows cannot be read; "
                        f"config.data.bad_image_budget={self._budget:g} allows {allowed}",
                        *(f"  {reason}" for reason in self._reasons(REASONS)),
                        f"  they are looked for in {self._folder.resolve()}",
                        "  mend them or take their rows out, or allow a larger budget",
                    ]
                )
            )

    def prepared_files(
        self, names: Sequence[str], countdown: Countdown
    ) -> Iterator[tuple[str, bytes]]:
        """Name and prepared file of those of `names` that can be read, in their order.

        Args:
            names: of pictures.
            countdown: is advanced by one for each.

        Raises:
            DataError: see `check_budget`; some files show only now that they end too early.
        """
        readable = [name for name in names if name in self.headers]
        for name, file in results_in_order(self._prepared_file, readable):
            countdown.advance()
            # Headers may be whole where pixels are not: the budget is asked again.
            if isinstance(file, bytes):
                yield name, file
            else:
                self.unreadable[name] = str(file)
                self.check_budget()

    def results(self, function: Callable[[Path], A], countdown: Countdown) -> Iterator[A]:
        """What a function makes of the file of each picture whose header was read, in their order.

        Args:
            function: of a picture's path; it is called by several threads.
            countdown: is advanced by one for each.
        """
        for _, result in results_in_order(
            lambda name: function(self._folder / name), list(self.headers)
        ):
            countdown.advance()
            yield result

    def notes(self) -> list[str]:
        """The user's notes: which pictures were turned, and which were left out."""
        notes = []
        turned = sum(header.is_rotated for header in self.headers.values())
        if turned:
            notes.append(
                f"{turned} pictures were turned upright after their EXIF tag; "
                "their boxes are taken to belong to the upright picture"
            )
        if self.unreadable:
            notes.append(
                f"{self._lost_rows()} of {self._rows_of.total()} rows are left out, since their "
                f"pictures cannot be read: {'; '.join(self._reasons(10))}"
            )
        return notes

    def _header(self, name: str) -> Header | UnreadablePictureError:
        """A picture's header, or why there is none: threads return what they would raise."""
        try:
            return preprocess.header(self._folder / name, max_pixels=self._max_pixels)
        except UnreadablePictureError as error:
            advice = naming_advice(self._folder, name)
            return UnreadablePictureError(advice) if advice else error

    def _prepared_file(self, name: str) -> bytes | UnreadablePictureError:
        """A prepared picture, or why there is none."""
        try:
            return preprocess.prepared_file(
                self._folder / name,
                image_size=self._size,
                fit=self._fit,
                max_pixels=self._max_pixels,
            )
        except UnreadablePictureError as error:
            return error

    def _lost_rows(self) -> int:
        """The number of rows whose pictures cannot be read."""
        return sum(self._rows_of[name] for name in self.unreadable)

    def _reasons(self, count: int) -> list[str]:
        """The reasons why pictures cannot be read, of the first `count` of them."""
        reasons = [f"{short_name(name)} {reason}" for name, reason in self.unreadable.items()][
            :count
        ]
        return [*reasons, *(["…"] if len(self.unreadable) > count else [])]


def naming_advice(folder: Path, name: str) -> str:
    """The advice about a name under which no picture can be read, if the name itself tells; or "".

    Args:
        folder: where pictures are looked for.
        name: of the picture, as a row or a flag has it.
    """
    if name.lower().startswith("data:"):
        return "holds the picture itself: save it as a file and name that"
    if is_address(name):
        return "is an address: fetch it first with python -m date_jax.data.download, name the file"
    if "\\" in name and (folder / name.replace("\\", "/")).is_file():
        return "has Windows' backslashes: write /, for that file is there"
    return ""


def short_name(name: str) -> str:
    """A picture's name for a message: of a long one, as data: addresses are, the beginning."""
    return name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…"


def checked_id(where: str, text: str) -> str:
    """The text, which can be a file's name and nothing else, as an id.

    Args:
        where: it stands, for the message.
        text: the id.

    Raises:
        DataError: it is something else.
    """
    # No slash and no leading dot: nothing outside the folder can be named.
    if not re.fullmatch(r"\w[\w.-]{0,199}", text):
        raise DataError(
            f"{where}: the id {text[:60]!r} cannot name a picture's file: expected letters, "
            "digits, _, - and ."
        )
    if text in EMPTY_WORDS:
        raise DataError(f"{where}: the id {text!r} is a word for an empty cell: every row has one")
    return text


def files_by_id(folder: Path, ids: Sequence[str]) -> list[str]:
    """The file name `<id>.<ending>` of each id's picture; `<id>.jpg` if there is none.

    Args:
        folder: of the pictures, where a detector's files may lie too.
        ids: of the pictures.

    Raises:
        DataError: the folder cannot be read.
    """
    try:
        names = sorted(file.name for file in folder.iterdir() if file.suffix != PART)
    except OSError as error:
        raise DataError(
            f"config.data.images={folder}: {error.strerror}\n  looked from {Path.cwd()}\n"
            "  expected a folder with the pictures, each named <id>.<ending>"
        ) from None
    # A picture's ending counts before others, and the first name in order before later ones.
    names.sort(key=lambda name: Path(name).suffix.lower() not in _ENDINGS)
    file_of = {Path(name).stem: name for name in reversed(names)}
    return [file_of.get(picture_id, f"{picture_id}.jpg") for picture_id in ids]


def results_in_order(function: Callable[[A], B], items: Sequence[A]) -> Iterator[tuple[A, B]]:
    """Pairs of an item and the function's result, in order, by as many threads as cores.

    Threads are enough: Pillow lets go of the interpreter while it decodes, resizes and encodes
    (2 threads took 0.71 of the time of one at 384 px on two busy cores, 2 processes 0.74).
    """
    # A window at a time: otherwise the pool would make all before the first is taken.
    with ThreadPool(len(os.sched_getaffinity(0))) as pool:
        for start in range(0, len(items), WINDOW):
            window = items[start : start + WINDOW]
            yield from zip(window, pool.imap(function, window, chunksize=4), strict=True)
