"""Texts that other programs cut, pack or write in other encodings: each is told with a way out."""

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from date_jax.data.clicks import tables
from date_jax.data.files import annotations, catalogue, download, published_offers
from date_jax.errors import DataError

CUT = "red mug \ud83d"  # as programs cut an emoji that count a text in units of UTF-16
PICTURE = {"image": "a.jpg", "query": "mug", "domain": "mall", "split": "train"}
OFFER = {"offer_id": "a", "title": "mug", "supplier": "s", "category": "c", "image": "a.jpg"}
PAIR = {
    "trigger_id": "a",
    "trigger_title": "mug",
    "trigger_img": "a.jpg",
    "recall_id": "b",
    "recall_title": "mug",
    "recall_img": "b.jpg",
    "label": 1,
}


@pytest.mark.parametrize(
    ("rows", "row", "field"),
    [
        (annotations.annotations, PICTURE, "query"),
        (annotations.annotations, PICTURE, "product_id"),
        (catalogue.offers, OFFER, "title"),
        (published_offers.offers_and_pairs, PAIR, "recall_title"),
    ],
)
def test_half_a_character_is_refused_with_its_line_before_pictures_are_read(
    tmp_path: Path, rows: Callable[[Path], Any], row: dict[str, Any], field: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(row)}\n{json.dumps({**row, 'offer_id': 'z', field: CUT})}\n")
    with pytest.raises(DataError) as caught:
        rows(path)
    assert f"rows.jsonl:2: {field} holds half a character (\\ud83d)" in str(caught.value)
    assert str(caught.value).isascii()
    assert len(str(caught.value).splitlines()) <= 8


def test_a_whole_emoji_that_json_spells_in_two_halves_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**PICTURE, "query": "mug \U0001f600"}))
    assert "\\ud83d\\ude00" in path.read_text()
    assert annotations.annotations(path)[0].text == "mug \U0001f600"


def workbook() -> bytes:
    """A zip file, as Excel's workbooks are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", "<row/>" * 900)
    return file.getvalue()


def refusal(path: Path, content: bytes, read: Callable[[Path], Any]) -> str:
    """The message with which `read` refuses a file of this content."""
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path)
    assert len(str(caught.value).splitlines()) <= 8
    return str(caught.value)


LINES = "image,query,domain,split\na.jpg,red mug,mall,train\n" * 9
READERS = (
    annotations.annotations,
    catalogue.offers,
    download.listed_pictures,
    lambda path: tables._check_kind("--log", path),
)


@pytest.mark.parametrize("read", READERS, ids=("annotations", "catalogue", "download", "clicks"))
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (workbook(), "is no text file but an Excel workbook or a zip file"),
        (b"\xd0\xcf\x11\xe0" + bytes(500), "is no text file but an old Excel workbook"),
        (gzip.compress(LINES.encode()), "is no text file but a gzip file: unpack it with gunzip"),
        (LINES.replace("red", "r\0d", 1).encode(), "rows.csv:2: holds a zero byte"),
        (LINES.encode("utf-16"), "it looks like UTF-16\n"),
        (LINES.encode("utf-16-le"), "it looks like UTF-16LE\n"),
        (LINES.encode("utf-16-be"), "it looks like UTF-16BE\n"),
        (LINES.encode("utf-32"), "it looks like UTF-32\n"),
    ],
    ids=("zip", "xls", "gzip", "zero", "utf-16", "utf-16-le", "utf-16-be", "utf-32"),
)
def test_packed_files_and_zero_bytes_are_called_what_they_are(
    tmp_path: Path, content: bytes, says: str, read: Callable[[Path], Any]
) -> None:
    message = refusal(tmp_path / "rows.csv", content, read)
    assert says in message
    assert ("UTF-16" in message) == ("UTF-16" in says)


@pytest.mark.parametrize("read", READERS, ids=("annotations", "catalogue", "download", "clicks"))
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("5 € – “größer”", "WINDOWS-1252"),
        ("crème brûlée, façade élégante", "LATIN1"),
        ("größer", "LATIN1"),
        ("赤いマグカップ 処理", "CP932"),
        ("红色的杯子", "GBK"),
        ("不锈钢保温杯 大容量 便携", "GBK"),
        ("빨간 머그컵", "CP949"),
        ("스테인리스 보온병 대용량", "CP949"),
    ],
)
def test_the_advised_conversion_keeps_the_text(
    tmp_path: Path, text: str, encoding: str, read: Callable[[Path], Any]
) -> None:
    content = f'{LINES}a.jpg,"{text}",mall,train\n'.encode(encoding)
    message = refusal(tmp_path / "rows.csv", content, read)
    assert f"(line 19): it looks like {encoding}\n" in message
    assert f"iconv -f {encoding} -t UTF-8 rows.csv" in message
    assert content.decode(encoding) == f'{LINES}a.jpg,"{text}",mall,train\n'


@pytest.mark.parametrize(
    ("text", "encoding"),
    [("画像", "CP932"), ("紅色杯子", "BIG5"), ("красная кружка", "WINDOWS-1251")],
)
def test_an_encoding_that_the_bytes_leave_open_is_among_several_named(
    tmp_path: Path, text: str, encoding: str
) -> None:
    message = refusal(tmp_path / "rows.csv", text.encode(encoding), annotations.annotations)
    assert encoding in message
    assert "looks like" not in message
    assert "CSV UTF-8" in message


def test_one_bad_line_among_utf8_ones_is_named_and_no_conversion_advised(tmp_path: Path) -> None:
    content = f"{LINES}a.jpg,größer,mall,train\n".encode() * 3 + b"a.jpg,gr\xf6,mall,train\n"
    message = refusal(tmp_path / "rows.csv", content, annotations.annotations)
    assert "rows.csv:58: is not UTF-8 text, as other lines of the file are" in message
    assert "iconv" not in message
