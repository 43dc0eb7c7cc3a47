"""Fetching pictures by a list: from a server of this machine, which remembers who asked when."""

import csv
import io
import itertools
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from date_jax.data.conversion import main as conversion
from date_jax.data.files import download
from date_jax.data.files.annotations import annotations
from date_jax.errors import DataError

FAST = {"delay": 0.0, "timeout": 2.0, "tries": 3}


def picture(kind: str, colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, kind)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Answers by path; `asked` has each path with its time."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, float]] = []
        self.address = f"http://127.0.0.1:{self.server_port}"

    def count(self) -> Counter[str]:
        return Counter(path for path, _ in self.asked)


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        before = self.server.count()[self.path]
        self.server.asked.append((self.path, time.monotonic()))
        if self.path.startswith("/busy/") and not before:
            code = int(self.path.split("/")[2])
            self.answer(code, b"", {"Retry-After": "1"} if code == 429 else {})
        elif self.path == "/later":
            self.answer(503, b"", {"Retry-After": formatdate(time.time() + 4000, usegmt=True)})
        elif self.path == "/always":
            self.answer(503, b"")
        elif self.path == "/gone":
            self.answer(404, b"")
        elif self.path == "/page.jpg":
            self.answer(200, b"<html>not here</html>", {"Content-Type": "text/html"})
        elif self.path == "/cut":
            whole = picture("JPEG")
            self.answer(200, whole[:-20] if not before else whole, length=len(whole))
        elif self.path == "/stated":
            self.answer(200, picture("PNG"), length=10**9)
        elif self.path == "/unstated":
            self.answer(200, picture("PNG") + bytes(5000), length=None)
        elif self.path.startswith("/to/"):
            where = {"file": "file:///etc/hostname", "ftp": "ftp://127.0.0.1/a", "ok": "/a.png"}
            self.answer(302, b"", {"Location": where[self.path[4:]]})
        else:
            kind = "WEBP" if "webp" in self.path else "PNG" if "png" in self.path else "JPEG"
            self.answer(200, picture(kind))

    def answer(
        self, code: int, body: bytes, headers: dict[str, str] | None = None, length: int | None = -1
    ) -> None:
        self.send_response(code)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def url_list(folder: Path, server: Server, paths: list[str]) -> Path:
    rows = [f"p{n}\t{server.address}{path}\n" for n, path in enumerate(paths)]
    (folder / "urls.tsv").write_text("".join(rows))
    return folder / "urls.tsv"


def download_failures(folder: Path, list_file: Path, **options: float) -> dict[str, str]:
    """Downloads; returns the reason of each failure by id and path."""
    settings = download.Options(**{**FAST, **options})
    failed = download.download(download.listed_pictures(list_file), folder, settings)
    lines = (folder / "failures.tsv").read_text().splitlines()
    cells = [line.split("\t") for line in lines]
    assert len({cell[0] for cell in cells}) == failed
    assert not list(folder.glob("*.part"))
    return {f"{name} /{url.split('/', 3)[-1]}": reason for name, url, reason in cells}


def test_pictures_are_named_by_what_they_are_and_not_asked_for_twice(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out"
    names = url_list(tmp_path, server, ["/a.jpg", "/b.png", "/c.webp", "/to/ok"])
    assert not download_failures(out, names)
    formats = {}
    for file in out.glob("p*"):
        with Image.open(file) as image:
            formats[file.name] = image.format
    assert formats == {"p0.jpg": "JPEG", "p1.png": "PNG", "p2.webp": "WEBP", "p3.png": "PNG"}
    (out / "p1.png").unlink()
    server.asked.clear()
    assert not download_failures(out, names)
    assert server.count() == {"/b.png": 1}
    printed = capsys.readouterr()
    assert "1 pictures fetched, 3 were there, 0 failed" in printed.out
    assert "fetching: 1 of 1" in printed.err
    assert "s left" in printed.err


def test_what_is_no_picture_is_listed_with_its_reason(server: Server, tmp_path: Path) -> None:
    paths = ["/gone", "/page.jpg", "/stated", "/unstated", "/to/file", "/to/ftp", "/a.jpg"]
    names = url_list(tmp_path, server, paths)
    with names.open("a") as file:
        file.write(f"local\tfile://{names}\nwrong\thttp://[bad/a.jpg\nnone\t\n")
    reasons = download_failures(tmp_path / "out", names, max_bytes=1000)
    assert reasons["p0 /gone"] == "HTTP 404"
    assert reasons["p1 /page.jpg"].startswith("text/html, no JPEG, PNG or WEBP: begins with")
    assert reasons["p2 /stated"] == "1,000,000,000 bytes, more than 1,000"
    assert reasons["p3 /unstated"] == "more than 1,000 bytes"
    assert reasons["p4 /to/file"] == "HTTP 302"
    assert reasons["p5 /to/ftp"] == "unknown url type: ftp"
    assert any(name.startswith("local ") for name in reasons)
    assert any(name.startswith("wrong ") for name in reasons)
    assert reasons["none /"] == "no address"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["failures.tsv", "p6.jpg"]
    assert all(server.count()[path] == 1 for path in paths)


def test_addresses_that_browsers_open_are_fetched_and_delay_nobody(
    server: Server, tmp_path: Path
) -> None:
    paths = ["/红杯.jpg", "/größe.jpg?name=ñ", "/red mug.jpg", "/a%20b.jpg?x=1&y=[2]#top"]
    names = url_list(tmp_path, server, paths)
    begun = time.monotonic()
    assert not download_failures(tmp_path / "out", names)
    assert time.monotonic() - begun < 2.0
    assert server.count() == {
        "/%E7%BA%A2%E6%9D%AF.jpg": 1,
        "/gr%C3%B6%C3%9Fe.jpg?name=%C3%B1": 1,
        "/red%20mug.jpg": 1,
        "/a%20b.jpg?x=1&y=[2]": 1,
    }
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 4


def test_an_address_is_written_as_a_browser_sends_it() -> None:
    def address(text: str) -> str:
        return download.web_address(text)

    assert address("//img.shop.example/i1/杯.jpg") == "https://img.shop.example/i1/%E6%9D%AF.jpg"
    assert address("http://größe.example:80/a") == "http://xn--grsse-kua.example:80/a"
    assert address("http://[::1]:8080/a b") == "http://[::1]:8080/a%20b"
    for text in ("a.jpg", "/a/b.jpg", "ftp://host/a.jpg", "http:///a.jpg", f"//{'é' * 64}.example"):
        with pytest.raises(download.RefusedError):
            address(text)


def test_an_address_that_is_none_is_refused_once_and_its_host_still_asked(
    server: Server, tmp_path: Path
) -> None:
    names = url_list(tmp_path, server, ["/a.jpg"])
    port = server.server_port
    with names.open("a") as file:
        file.write(
            f"port\thttp://127.0.0.1:{port}x/a.jpg\nsign\thttp://127.0.0.1\x7f:{port}/a.jpg\n"
        )
    begun = time.monotonic()
    reasons = download_failures(tmp_path / "out", names)
    assert time.monotonic() - begun < 2.0
    assert {name.split()[0] for name in reasons} == {"port", "sign"}
    assert server.count() == {"/a.jpg": 1}


def test_failures_of_another_list_stay_until_their_pictures_are_there(
    server: Server, tmp_path: Path
) -> None:
    out, settings = tmp_path / "out", download.Options(**{**FAST, "tries": 1})

    def failing_ids(*rows: str) -> list[str]:
        (tmp_path / "urls.tsv").write_text("".join(f"{row}\n" for row in rows))
        download.download(download.listed_pictures(tmp_path / "urls.tsv"), out, settings)
        lines = (out / "failures.tsv").read_text().splitlines()
        return sorted(line.split("\t")[0] for line in lines)

    assert failing_ids(f"a\t{server.address}/gone", f"b\t{server.address}/gone") == ["a", "b"]
    assert failing_ids(f"c\t{server.address}/gone") == ["a", "b", "c"]
    assert failing_ids(f"a\t{server.address}/a.jpg", f"c\t{server.address}/gone") == ["b", "c"]


def test_a_host_that_wants_more_quiet_than_a_run_has_is_not_asked_again(
    server: Server, tmp_path: Path
) -> None:
    names = url_list(tmp_path, server, ["/later", "/a.jpg", "/b.jpg"])
    reasons = download_failures(tmp_path / "out", names, connections=1)
    assert server.count() == {"/later": 1}
    assert reasons["p0 /later"] == "HTTP 503"
    for name in ("p1 /a.jpg", "p2 /b.jpg"):
        assert reasons[name].startswith("not asked: 127.0.0.1:")
        assert reasons[name].endswith(" s without questions")


def test_a_busy_host_is_asked_again_when_it_said(server: Server, tmp_path: Path) -> None:
    paths = ["/busy/429/a.jpg", "/busy/503/b.png", "/cut", "/always", "/later"]
    reasons = download_failures(tmp_path / "out", url_list(tmp_path, server, paths), connections=1)
    assert reasons == {"p3 /always": "HTTP 503", "p4 /later": "HTTP 503"}
    first, second = (at for path, at in server.asked if path == paths[0])
    assert second - first >= 1.0
    assert {path: server.count()[path] for path in paths} == dict(
        zip(paths, (2, 2, 2, FAST["tries"], 1), strict=True)
    )
    times = [at for path, at in server.asked if path == "/always"]
    assert times[2] - times[1] >= 1.5 * (times[1] - times[0])  # 0.2 s, then 0.4
    assert (tmp_path / "out/p2.jpg").read_bytes() == picture("JPEG")


def test_one_host_is_asked_with_a_delay_by_all_connections_together(
    server: Server, tmp_path: Path
) -> None:
    names = url_list(tmp_path, server, [f"/{n}.jpg" for n in range(6)])
    assert not download_failures(tmp_path / "out", names, delay=0.1, connections=4)
    times = sorted(at for _, at in server.asked)
    assert min(after - before for before, after in itertools.pairwise(times)) > 0.05
    assert times[-1] - times[0] > 0.45


def test_product1m_s_lists_are_read_and_the_mirror_is_asked_second(
    server: Server, tmp_path: Path
) -> None:
    a, b = f"{server.address}/a.jpg", f"{server.address}/gone"
    lines = [
        f"1#####cup#####{a}#####{b}",
        f"2#####pot#####{b}#####{a}#####L1#;#L2",
        "3#####x##########",
    ]
    (tmp_path / "list.txt").write_text("\n".join([*lines, lines[0]]) + "\n")
    reasons = download_failures(tmp_path / "out", tmp_path / "list.txt")
    assert reasons == {"3 /": "no address"}
    assert sorted(f.name for f in (tmp_path / "out").glob("*.jpg")) == ["1.jpg", "2.jpg"]
    assert server.count() == {"/a.jpg": 2, "/gone": 1}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "is empty"),
        ("a\thttp://x\nonly\n", r"urls\.tsv:2: expected id<TAB>URL, got 'only'"),
        ("../1\thttp://x\n", r"urls\.tsv:1: the id '\.\./1' cannot name a picture's file"),
    ],
)
def test_a_wrong_list_is_answered_with_its_line(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "urls.tsv").write_text(content)
    with pytest.raises(DataError, match=says):
        download.listed_pictures(tmp_path / "urls.tsv")


def test_the_command_says_what_is_wrong(
    tmp_path: Path, server: Server, capsys: pytest.CaptureFixture
) -> None:
    out = f"--out={tmp_path / 'out'}"
    assert download.main([f"--list={tmp_path / 'none'}", out]) == 3
    assert "no such file" in capsys.readouterr().err
    names = url_list(tmp_path, server, ["/a.jpg", "/gone"])
    assert download.main([f"--list={names}", out, "--tries=0"]) == 2
    assert "--tries=0: must be above 0" in capsys.readouterr().err
    assert download.main([f"--list={names}", out, "--delay=0"]) == 1
    (tmp_path / "file").write_text("")
    assert download.main([f"--list={names}", f"--out={tmp_path / 'file'}"]) == 5


def test_a_table_of_addresses_becomes_one_of_files(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    table, out = tmp_path / "shop.csv", tmp_path / "pictures"
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["sku", "title", "img_url", "domain", "split", "product_id"])
        for number, name in enumerate(["a.jpg", "红杯.png", "gone", "a.jpg"]):
            url = f"{server.address}/{name}"
            rows.writerow([f"s{number}", "mug, striped", url, "mall", "train", "007"])
    command = [f"--list={table}", f"--out={out}", "--delay=0", "--tries=1"]
    assert download.main([*command, "--columns=image=img_url,query=title"]) == 1
    assert "3 of 4 rows with their pictures are in" in capsys.readouterr().out
    assert server.count()["/a.jpg"] == 1  # two rows share it
    rows = annotations(out / "rows.csv")
    assert [(row.text, row.product_id) for row in rows] == [("mug, striped", "007")] * 3
    assert [(out / row.image).suffix for row in rows] == [".jpg", ".png", ".jpg"]
    assert rows[0].image == rows[2].image
    assert all((out / row.image).is_file() for row in rows)
    # Again with a column of names: other files, and the same rows.
    columns = "--columns=image=img_url,query=title,id=sku"
    assert download.main([*command, columns]) == 1
    assert [row.image for row in annotations(out / "rows.csv")] == ["s0.jpg", "s1.png", "s3.jpg"]


def test_a_table_in_json_lines_keeps_its_boxes(server: Server, tmp_path: Path) -> None:
    table, out = tmp_path / "shop.jsonl", tmp_path / "out"
    row = {"image": f"{server.address}/a.jpg", "query": "mug", "domain": "mall", "split": "train"}
    table.write_text(json.dumps(row | {"box": [1, 2, 3, 4.5]}) + "\n")
    assert download.main([f"--list={table}", f"--out={out}"]) == 0
    (read,) = annotations(out / "rows.jsonl")
    assert read.box == (1, 2, 3, 4.5)
    assert (out / read.image).is_file()


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ("image=url", r"shop\.csv: no url \(did you mean 'img_url'\?\)"),
        (
            "",
            r"no image .*\n  found: sku, img_url\n  name the column of addresses: --columns=image=",
        ),
        ("image", "expected ours=theirs with commas"),
        ("image=img_url,query=img_url", "each column once"),
        ("image=img_url,id=sku", r"shop\.csv:3: the id 's' has two addresses"),
        ("image=img_url,sku=img_url", "each column once"),
    ],
)
def test_a_wrong_map_of_columns_is_answered(
    tmp_path: Path, capsys: pytest.CaptureFixture, flags: str, says: str
) -> None:
    (tmp_path / "shop.csv").write_text("sku,img_url\ns,//a.example/1.jpg\ns,//a.example/2.jpg\n")
    command = [f"--list={tmp_path / 'shop.csv'}", f"--out={tmp_path}", f"--columns={flags}"]
    assert download.main(command) in (2, 3)
    assert re.search(says, capsys.readouterr().err)


def test_columns_of_what_is_no_table_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "urls.tsv").write_text("a\thttp://127.0.0.1/a.jpg\n")
    command = [f"--list={tmp_path / 'urls.tsv'}", f"--out={tmp_path / 'out'}"]
    assert download.main([*command, "--columns=image=url"]) == 2
    assert "is no .csv or .jsonl table" in capsys.readouterr().err
    assert download.main(["--list=https://a.example/shop.csv", f"--out={tmp_path / 'out'}"]) == 3
    assert "is an address: fetch it first" in capsys.readouterr().err


def test_a_list_of_tabs_is_one_under_the_name_of_a_table_too(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "urls.csv").write_text(f"a\t{server.address}/a.jpg\n")
    assert download.main([f"--list={tmp_path}/urls.csv", f"--out={tmp_path}/out"]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.jpg", "failures.tsv"}


def test_a_conversion_of_a_table_of_addresses_names_the_downloader(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "shop.csv").write_text("sku,title,url\n1,mug,https://a.example/1.jpg\n")
    flags = ["--from=csv", f"--path={tmp_path}/shop.csv", f"--out={tmp_path}/shop.jsonl"]
    assert conversion.main([*flags, "--columns=image=url,query=title"]) == 3
    assert "addresses are fetched with date_jax.data.download" in capsys.readouterr().err
