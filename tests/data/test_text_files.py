"""Texts that other programs cut, pack or write in other encodings: each is told with a way out."""

import bz2
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest

from date_jax.data.clicks import tables
from date_jax.data.files import annotations, catalogue, download, encodings, published_offers
from date_jax.errors import DataError

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 440449768\n"
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


def test_a_pictures_name_that_is_not_utf8_is_told_to_be_renamed(tmp_path: Path) -> None:
    content = json.dumps({**PICTURE, "image": "caf\udce9.jpg"}).encode()  # of os.listdir
    message = refusal(tmp_path / "rows.jsonl", content, annotations.annotations)
    assert "rows.jsonl:1: the picture's name 'caf\\udce9.jpg' is not UTF-8" in message
    assert "rename the file" in message


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
        (POINTER, "rows.csv is a Git LFS pointer"),
        (b"\xd0\xcf\x11\xe0" + bytes(500), "is no text file but an old Excel workbook"),
        (gzip.compress(LINES.encode())[:-9], "rows.csv: a gzip file that is damaged or cut off"),
        (LINES.replace("red", "r\0d", 1).encode(), "rows.csv:2: holds a zero byte"),
        (LINES.encode("utf-16"), "it looks like UTF-16\n"),
        (LINES.encode("utf-16-le"), "it looks like UTF-16LE\n"),
        (LINES.encode("utf-16-be"), "it looks like UTF-16BE\n"),
        (LINES.encode("utf-32"), "it looks like UTF-32\n"),
        (LINES.encode("utf-32-le"), "it looks like UTF-32LE\n"),
        (LINES.encode("utf-32-be"), "it looks like UTF-32BE\n"),
        ((LINES + "红" * 1400).encode("utf-16-le"), "it looks like UTF-16LE\n"),
        (b"%PDF-1.7\n", "is no text file but a PDF"),
    ],
)
def test_binary_files_and_zero_bytes_are_called_what_they_are(
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
    [
        *(("画像", "CP932"), ("紅色杯子", "BIG5"), ("красная кружка", "WINDOWS-1251")),
        *(("красная кружка", "KOI8-R"), ("كوب أحمر", "WINDOWS-1256"), ("แก้วสีแดง", "CP874")),
        # Each looked like Western letters, as which it would have become other words.
        *(("kubek w paski, żółty", "WINDOWS-1250"), ("kırmızı çizgili fincan", "WINDOWS-1254")),
    ],
)
def test_an_encoding_that_the_bytes_leave_open_is_among_several_named(
    tmp_path: Path, text: str, encoding: str
) -> None:
    message = refusal(tmp_path / "rows.csv", text.encode(encoding), annotations.annotations)
    assert encoding in message
    assert "looks like" not in message
    assert "CSV UTF-8" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("\ufeff<!DOCTYPE html>\n<html>sign in</html>", "is no table but a web page"),
        ("\n<HTML>", "is no table but a web page"),
        ("<?xml version='1.0'?>", "is no table but XML"),
        (LINES.replace("red mug", '"red mug', 1), "a quote may be opened here or in a line above"),
    ],
)
def test_what_lies_in_a_tables_place_is_called_what_it_is(
    tmp_path: Path, content: str, says: str
) -> None:
    assert says in refusal(tmp_path / "rows.csv", content.encode(), annotations.annotations)


@pytest.mark.parametrize("read", READERS[:2], ids=("annotations", "catalogue"))
def test_a_folder_in_a_tables_place_is_told_how_to_become_one(
    tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    (tmp_path / "rows.csv").mkdir()
    with pytest.raises(DataError, match=r"(?s)rows\.csv: is a folder, expected one file.*awk"):
        read(tmp_path / "rows.csv")


def test_empty_rows_and_columns_of_a_spreadsheet_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = ["image,query,,domain,split,", "a.jpg,red mug,,mall,train,", ",,,,,", " ,,,,, "]
    path.write_text("\r\n".join([*lines, "b.jpg,lamp,,mall,test,", ",,,,,", ""]))
    rows = annotations.annotations(path)
    assert [(row.line, row.text) for row in rows] == [(2, "red mug"), (5, "lamp")]


def test_the_index_of_a_table_program_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text(",image,query,domain,split\n0,a.jpg,mug,mall,train\n")
    assert annotations.annotations(tmp_path / "rows.csv")[0].text == "mug"


@pytest.mark.parametrize("value", [True, ["p1"], {"id": 1}, 1.5])
@pytest.mark.parametrize("field", ["product_id", "category"])
def test_an_id_that_is_no_text_and_no_whole_number_is_refused(
    tmp_path: Path, field: str, value: Any
) -> None:
    content = json.dumps({**PICTURE, field: value}).encode()
    message = refusal(tmp_path / "rows.jsonl", content, annotations.annotations)
    assert f"rows.jsonl:1: {field} is {json.dumps(value)}: expected a text" in message


def test_one_bad_line_among_utf8_ones_is_named_and_no_conversion_advised(tmp_path: Path) -> None:
    content = f"{LINES}a.jpg,größer,mall,train\n".encode() * 3 + b"a.jpg,gr\xf6,mall,train\n"
    message = refusal(tmp_path / "rows.csv", content, annotations.annotations)
    assert "rows.csv:58: is not UTF-8 text, as other lines of the file are" in message
    assert "iconv" not in message


PACKED = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".zst": lambda content: pyarrow.Codec("zstd").compress(content, asbytes=True),
}


@pytest.mark.parametrize("ending", PACKED)
def test_packed_tables_are_read_under_any_name(tmp_path: Path, ending: str) -> None:
    rows = f"{json.dumps(PICTURE | {'query': 'größer'})}\n"
    offers = "offer_id,title,supplier,category,image\na,größer,s,c,a.jpg\n"
    for name in (f"rows.jsonl{ending}", "rows.jsonl"):
        (tmp_path / name).write_bytes(PACKED[ending](rows.encode()))
        (read,) = annotations.annotations(tmp_path / name)
        assert read.text == "größer"
    (tmp_path / f"rows.csv{ending}").write_bytes(PACKED[ending](LINES[: len(LINES) // 9].encode()))
    assert annotations.annotations(tmp_path / f"rows.csv{ending}")[0].text == "red mug"
    (tmp_path / f"offers.CSV{ending}").write_bytes(PACKED[ending](offers.encode()))
    assert catalogue.offers(tmp_path / f"offers.CSV{ending}")[0].title == "größer"
    (tmp_path / f"urls.tsv{ending}").write_bytes(PACKED[ending](b"a\thttps://a.example/a.jpg\n"))
    assert download.listed_pictures(tmp_path / f"urls.tsv{ending}")[0].name == "a"
    (tmp_path / f"pairs.json{ending}").write_bytes(PACKED[ending](json.dumps([PAIR]).encode()))
    pairs = published_offers.offers_and_pairs(tmp_path / f"pairs.json{ending}").pairs
    assert pairs.offer_id == ["b"]


def test_advice_about_a_packed_file_unpacks_it(tmp_path: Path) -> None:
    content = gzip.compress(LINES.replace("red", "赤いマグ").encode("cp932"))
    message = refusal(tmp_path / "rows.csv.gz", content, annotations.annotations)
    assert "gunzip -c rows.csv.gz | iconv -f CP932 -t UTF-8 > utf8.csv" in message
    (tmp_path / "rows.txt.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"expected a \.jsonl .* which may be packed \(\.gz, \.bz2"):
        annotations.annotations(tmp_path / "rows.txt.gz")


def test_a_large_file_is_looked_at_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encodings, "CHUNK", 100)
    path = tmp_path / "rows.csv"
    path.write_bytes((LINES * 9).encode())
    encodings.check_utf8(path)
    path.write_bytes((LINES * 9).encode() + "a.jpg,gelbe Töpfe,mall,train\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"rows\.csv is not UTF-8 text \(line 163\)"):
        encodings.check_utf8(path)


def test_a_pointer_in_place_of_a_parquet_log_is_named(tmp_path: Path) -> None:
    message = refusal(
        tmp_path / "log.parquet", POINTER, lambda path: tables._check_kind("--log", path)
    )
    assert "log.parquet is a Git LFS pointer" in message
    assert "git lfs pull" in message
