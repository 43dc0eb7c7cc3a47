"""Fetches pictures by a list, politely, and goes on where it was stopped.

    python -m date_jax.data.download --list=urls.tsv --out=pictures
    python -m date_jax.data.download --list=shop.csv --columns=image=img_url --out=pictures

A line of the list is `id<TAB>URL`, or a post of Product1M's lists, whose mirror address is tried
where the first one fails. Pictures become `<id>.jpg`, `.png` or `.webp`; those that are there are
not asked for again. What could not be fetched is in `failures.tsv` of the folder: id, URL, reason;
failures of pictures that are in other lists stay there.

A list may also be a table, `.csv` or `.jsonl`. `--columns=image=img_url,query=title` says which of
its columns are ours; `id=sku` names the pictures by that column, otherwise a hash of the address
does. `rows.csv` (or `.jsonl`) of the folder is the table with our columns and the pictures' files,
without the rows whose pictures are not there.
"""

import argparse
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPResponse, InvalidURL
from pathlib import Path
from typing import NamedTuple
from urllib import request
from urllib.error import HTTPError, URLError
from urllib.parse import SplitResult, quote, urlsplit

from date_jax.data import command
from date_jax.data.files import addressed_tables, product1m_lists
from date_jax.data.files.addressed_tables import AddressedTable, addressed_table, column_map
from date_jax.data.files.photos import PART, checked_id
from date_jax.data.files.text_rows import file_text, table_kind
from date_jax.errors import DataError, SetupError, UsageError
from date_jax.run.countdown import Countdown
from date_jax.run.user_paths import is_address

AGENT = "date_jax (research; one picture at a time)"
BUSY = (408, 429, 500, 502, 503, 504)  # answers after which asking again may help
LONGEST_WAIT = 300.0  # seconds; a host that asks for more is not asked again in this run
SLOWEST = 10  # timeouts that one picture may take
CHUNK = 1 << 16
WINDOW = 1024  # pictures handed to the threads at a time
RESERVED = "!#$%&'()*+,/:;=?@[]~"  # signs with a meaning in an address: they stay as they are


class Options(NamedTuple):
    """The manners of a download: how politely and how patiently it asks.

    Attributes:
        connections: at once, to all hosts together.
        delay: seconds between the beginnings of two questions to one host.
        tries: of one address.
        timeout: seconds without a byte.
        max_bytes: of a picture.
    """

    connections: int = 4
    delay: float = 0.5
    tries: int = 4
    timeout: float = 30.0
    max_bytes: int = 32 << 20


class ListedPicture(NamedTuple):
    """A picture of the list: its name and its addresses, of which the first that answers counts."""

    name: str
    urls: Sequence[str]


class RefusedError(Exception):
    """An address gives no picture, and asking again is in vain: why."""


class BusyError(Exception):
    """An address gives no picture now: why, and after how many seconds it may, if that is known."""

    def __init__(self, reason: str, after: float | None = None):
        super().__init__(reason)
        self.after = after


class Hosts:
    """The times at which each host may be asked next; shared by all threads.

    Args:
        delay: seconds between two questions to one host.
    """

    def __init__(self, delay: float):
        self._delay = delay
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}
        self._closed: dict[str, str] = {}

    def wait(self, host: str) -> None:
        """Waits until it is this thread's turn to ask `host`, and takes it.

        Raises:
            RefusedError: the host is closed.
        """
        while True:
            with self._lock:
                if host in self._closed:
                    raise RefusedError(self._closed[host])
                now = time.monotonic()
                at = self._next.get(host, now)
                if at <= now:
                    self._next[host] = now + self._delay
                    return
            time.sleep(at - now)

    def pause(self, host: str, seconds: float) -> None:
        """Lets nobody ask `host` for that long."""
        with self._lock:
            at = time.monotonic() + seconds
            self._next[host] = max(at, self._next.get(host, at))

    def close(self, host: str, reason: str) -> None:
        """Lets nobody ask `host` again."""
        with self._lock:
            self._closed[host] = reason


def listed_pictures(path: Path) -> list[ListedPicture]:
    """The pictures of a list, each once, in its order.

    Args:
        path: of a list of id<TAB>URL, or of one of Product1M's.

    Raises:
        DataError: naming file and line.
    """
    if not path.is_file():
        raise DataError(f"--list={path}: no such file\n  looked from {Path.cwd()}")
    content = file_text(path, "--list")
    if product1m_lists.FIELD_SEPARATOR in content.split("\n", 1)[0]:
        pictures = [ListedPicture(*post) for post in product1m_lists.urls(path)]
    else:
        pictures = [*_tab_separated_pictures(path, content)]
    if not pictures:
        raise DataError(f"{path} is empty: expected id<TAB>URL a line")
    return _first_pictures(pictures)


def _first_pictures(pictures: Sequence[ListedPicture]) -> list[ListedPicture]:
    """The pictures, each id once: where one stands twice, the first line counts."""
    first = {picture.name: picture for picture in reversed(pictures)}
    return list(first.values())[::-1]


def _tab_separated_pictures(path: Path, content: str) -> Iterator[ListedPicture]:
    """The pictures of a text with id<TAB>URL a line, or with several addresses."""
    for line, text in enumerate(content.split("\n"), 1):
        if not text.strip():
            continue
        cells = [cell.strip() for cell in text.split("\t")]
        if len(cells) < 2:
            raise DataError(f"{path}:{line}: expected id<TAB>URL, got {text[:80]!r}")
        yield ListedPicture(checked_id(f"{path}:{line}", cells[0]), tuple(filter(None, cells[1:])))


def file_ending(start: bytes) -> str:
    """The ending of a picture's file, by its first bytes; "" where it is no JPEG, PNG or WEBP."""
    if start[:3] == b"\xff\xd8\xff":
        return ".jpg"
    if start[:8] == b"\x89PNG\r\n\x1a\n":
        return ".png"
    return ".webp" if start[:4] == b"RIFF" and start[8:12] == b"WEBP" else ""


def opener() -> request.OpenerDirector:
    """A director for HTTP and HTTPS alone: no list or redirect reaches a file of this machine."""
    # The default one would have handlers for file: and ftp: as well.
    director = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPRedirectHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
    ):
        director.add_handler(handler)
    director.addheaders = [("User-Agent", AGENT), ("Accept", "image/*")]
    return director


def web_address(text: str) -> str:
    """An address as a browser asks for it, of one as people and pages write it.

    Letters outside ASCII and blanks are quoted, those of a host by IDNA; `//host` is https.

    >>> web_address("//shop.example/red mug.jpg?size=größe")
    'https://shop.example/red%20mug.jpg?size=gr%C3%B6%C3%9Fe'

    Args:
        text: of the address; what is quoted in it already stays as it is.

    Raises:
        RefusedError: it is no address of HTTP or HTTPS, or names no host.
    """
    try:
        url = urlsplit(text, scheme="https")
        if url.scheme not in ("http", "https") or not url.hostname:
            raise RefusedError("not an http or https address")
        host = _ascii_host(url)
    except ValueError as error:  # brackets, a port of letters, or a host of 64 letters and more
        raise RefusedError(str(error)[:100]) from error
    # The part behind # is the page's own: no server is asked for it.
    path, query = (quote(part, safe=RESERVED) for part in (url.path, url.query))
    return url._replace(netloc=host, path=path, query=query, fragment="").geturl()


def _ascii_host(url: SplitResult) -> str:
    """The part of an address between // and the path, its host in ASCII."""
    user, at, _ = url.netloc.rpartition("@")
    host = url.hostname or ""
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    port = "" if url.port is None else f":{url.port}"
    return f"{quote(user, safe=RESERVED)}{at}{f'[{host}]' if ':' in host else host}{port}"


def response_body(director: request.OpenerDirector, url: str, options: Options) -> bytes:
    """The whole answer to one question, which is a picture.

    Args:
        director: asks it.
        url: to ask for.
        options: of the download.

    Raises:
        RefusedError: no picture, or too large.
        BusyError: not now.
    """
    try:
        with director.open(url, timeout=options.timeout) as answer:
            return _checked_body(answer, options)
    except HTTPError as error:
        with error:
            if error.code in BUSY:
                raise BusyError(f"HTTP {error.code}", _retry_after(error.headers)) from error
            raise RefusedError(f"HTTP {error.code}") from error
    except (ValueError, InvalidURL) as error:  # no address at all
        raise RefusedError(str(error)[:100]) from error
    except (OSError, HTTPException) as error:
        if isinstance(error, URLError) and isinstance(error.reason, str):  # no host, other scheme
            raise RefusedError(error.reason[:100]) from error
        raise BusyError(str(error)[:100] or type(error).__name__) from error


def _checked_body(answer: HTTPResponse, options: Options) -> bytes:
    """An answer's body, read only as long as it may be a picture of the allowed size."""
    stated = answer.headers.get("Content-Length", "")
    length = int(stated) if stated.isdecimal() else None
    if length is not None and length > options.max_bytes:
        raise RefusedError(f"{length:,} bytes, more than {options.max_bytes:,}")
    # The stated length may be absent or wrong, and a host may send a byte a second.
    body, begun = bytearray(), time.monotonic()
    while chunk := answer.read1(CHUNK):  # what has come: a slow host must not hold a thread
        body += chunk
        if len(body) > options.max_bytes:
            raise RefusedError(f"more than {options.max_bytes:,} bytes")
        if time.monotonic() - begun > SLOWEST * options.timeout:
            raise RefusedError(f"{len(body):,} bytes in {SLOWEST * options.timeout:.0f} s")
    # Cut off on the way, or whole but no picture.
    if length is not None and len(body) < length:
        raise BusyError(f"{len(body):,} of {length:,} bytes")
    if not file_ending(bytes(body[:16])):
        kind = answer.headers.get_content_type()
        raise RefusedError(f"{kind}, no JPEG, PNG or WEBP: begins with {bytes(body[:16])!r}")
    return bytes(body)


def _retry_after(headers: Message) -> float | None:
    """Seconds that an answer asks to wait, as a number or as a date; None where it does not."""
    stated = headers.get("Retry-After", "").strip()
    if stated.isdecimal():
        return float(stated)
    try:
        at = parsedate_to_datetime(stated)
    except ValueError:
        return None
    return max((at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def fetch(
    picture: ListedPicture, folder: Path, hosts: Hosts, options: Options
) -> list[tuple[str, str]]:
    """Fetches one picture into `folder`; returns address and reason of each failure, or nothing.

    Args:
        picture: to fetch.
        folder: of the pictures.
        hosts: when each may be asked.
        options: of the download.
    """
    director, reasons = opener(), []
    for url in picture.urls:
        try:
            body = _body_after_retries(director, web_address(url), hosts, options)
        except (RefusedError, BusyError, ValueError) as error:
            reasons.append((url, str(error)))
            continue
        # Whoever stops us here leaves no half picture under a picture's name.
        part = folder / f"{picture.name}{PART}"
        part.write_bytes(body)
        part.replace(folder / f"{picture.name}{file_ending(body[:16])}")
        return []
    return reasons or [("", "no address")]


def _body_after_retries(
    director: request.OpenerDirector, url: str, hosts: Hosts, options: Options
) -> bytes:
    """The answer, asked for again after ever longer pauses while the host is busy."""
    host = urlsplit(url).netloc
    for attempt in range(options.tries):
        hosts.wait(host)
        try:
            return response_body(director, url, options)
        except BusyError as error:
            # The host's own word counts, unless it asks for more than a run can wait.
            pause = error.after
            if pause is None:
                pause = max(options.delay, 0.1) * 2 ** (attempt + 1)
            if pause > LONGEST_WAIT:
                hosts.close(host, f"not asked: {host} wants {pause:,.0f} s without questions")
                raise
            hosts.pause(host, pause)
            if attempt + 1 == options.tries:
                raise
    raise AssertionError("tries is positive")


def picture_ids(folder: Path) -> set[str]:
    """The ids of the pictures in a folder."""
    return {file.stem for file in folder.iterdir() if file.suffix in (".jpg", ".png", ".webp")}


def download(pictures: Sequence[ListedPicture], folder: Path, options: Options) -> int:
    """Fetches what is not in `folder` yet; returns how many failed, which `failures.tsv` lists.

    Args:
        pictures: of the list.
        folder: of the pictures, made if absent.
        options: of the download.

    Raises:
        SetupError: the folder cannot be written, or the disk is full.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = picture_ids(folder)
        lacking = [picture for picture in pictures if picture.name not in present]
        # Failures of pictures of other lists stay; those of this list are asked for again.
        file = folder / "failures.tsv"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        settled = {picture.name for picture in pictures} | present
        with file.open("w", encoding="utf-8") as failures:
            others = (line for line in lines if line.partition("\t")[0] not in settled)
            failures.writelines(f"{line}\n" for line in others)
            failures.flush()

            # Written at once: a run that is stopped leaves what it knows.
            def note_failure(picture: ListedPicture, reasons: list[tuple[str, str]]) -> None:
                for url, reason in reasons:
                    cells = picture.name, url, " ".join(reason.split())
                    failures.write("\t".join(cells) + "\n")
                failures.flush()

            count = _fetch_all(lacking, folder, options, note_failure)
    except OSError as error:
        raise SetupError(f"cannot write to {folder}: {error.strerror or error}") from error
    print(
        f"{len(lacking) - count:,} pictures fetched, {len(pictures) - len(lacking):,} were there, "
        f"{count:,} failed" + (f": {file}" if count else "")
    )
    return count


def _fetch_all(
    lacking: Sequence[ListedPicture],
    folder: Path,
    options: Options,
    note_failure: Callable[[ListedPicture, list[tuple[str, str]]], None],
) -> int:
    """Fetches all pictures by several threads; returns how many failed."""
    hosts, countdown, count = Hosts(options.delay), Countdown("fetching", len(lacking)), 0
    if lacking:
        countdown.at(0)  # its clock starts before the first picture, which may take long
    with ThreadPoolExecutor(options.connections) as pool:
        try:
            for start in range(0, len(lacking), WINDOW):
                # A window at a time: a list may have millions of lines.
                picture_of = {
                    pool.submit(fetch, picture, folder, hosts, options): picture
                    for picture in lacking[start : start + WINDOW]
                }
                for task in as_completed(picture_of):
                    if reasons := task.result():
                        note_failure(picture_of[task], reasons)
                        count += 1
                    countdown.advance()
        except BaseException:  # also Ctrl-C: what has not begun never does
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return count


def main(arguments: Sequence[str]) -> int:
    """Fetches a list; returns the exit code, 1 where some pictures failed."""
    parser = command.Parser("download", __doc__)
    parser.add_argument(
        "--list",
        type=Path,
        required=True,
        help="id<TAB>URL, Product1M's, or a .csv or .jsonl table",
    )
    parser.add_argument(
        "--columns", default="", help="of a table: ours=theirs, as in image=img_url,query=title"
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder of pictures")
    meanings = {
        "connections": "at once",
        "delay": "seconds between two questions to a host",
        "tries": "of an address that is busy",
        "timeout": "seconds without an answer",
        "max_bytes": "of a picture",
    }
    for name, default in Options._field_defaults.items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=meanings[name])
    return command.run(parser, arguments, fetch_list, interrupted="the same command goes on")


def fetch_list(flags: argparse.Namespace) -> int:
    """Fetches the pictures of a list, as the command's flags say; returns 1 where some failed.

    Raises:
        UsageError: an option is not above 0, or columns are named of what is no table.
        DataError: the list is malformed.
        SetupError: the folder cannot be written, or the disk is full.
    """
    options = Options(*(getattr(flags, name) for name in Options._fields))
    for name, value in options._asdict().items():
        if not (value > 0 or (name == "delay" and value == 0)):
            raise UsageError(f"--{name}={value}: must be above 0")
    # A table's pictures become its column of files; other lists name pictures alone.
    columns = column_map(flags.columns)
    is_table = table_kind(flags.list) in addressed_tables.KINDS
    if is_table and (columns or not _is_tab_separated(flags.list)):
        table = addressed_table(flags.list, columns, "--list")
        pictures = [ListedPicture(*picture) for picture in table.pictures()]
        failures = download(_first_pictures(pictures), flags.out, options)
        _write_rows(table, flags.out)
    elif columns:
        kinds = " or ".join(addressed_tables.KINDS)
        raise UsageError(f"--columns={flags.columns}: --list={flags.list} is no {kinds} table")
    else:
        failures = download(listed_pictures(flags.list), flags.out, options)
    return 1 if failures else 0


def _is_tab_separated(path: Path) -> bool:
    """Whether a file's first line is id<TAB>URL, whatever the file's name says."""
    first = file_text(path, "--list").partition("\n")[0]
    return is_address(first.partition("\t")[2].strip())


def _write_rows(table: AddressedTable, folder: Path) -> None:
    """Writes a table beside its pictures, and says where.

    Raises:
        SetupError: the folder cannot be written, or the disk is full.
    """
    try:
        path, count = table.write(folder)
    except OSError as error:
        raise SetupError(f"cannot write to {folder}: {error.strerror or error}") from error
    print(f"{count:,} of {len(table.rows):,} rows with their pictures are in {path}")
