"""Texts that other programs cut, pack or write in other encodings: each is told with a way out."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from date_jax.data.files import annotations, catalogue, published_offers
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
