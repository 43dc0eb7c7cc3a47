"""Offers and pairs from a table of photos."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from date_jax.data.clicks import training_pairs
from date_jax.data.conversion.photo_offers import main, words
from date_jax.data.files import catalogue

TITLES = {  # by picture: category, split, title
    "a": ("shirt", "train", "Acme Men Red Polo T-shirt"),
    "b": ("shirt", "train", "Acme Men's Blue Polo T-Shirts"),  # a, but for the colour
    "c": ("shirt", "train", "Acme Men Polo Stripe T-shirt"),  # 4 of 5 words are a's
    "d": ("shirt", "train", "Acme Kids Stripe T-shirt"),  # 3 of 5 are c's, 2 of 6 are a's
    "e": ("bag", "train", "Acme Men Red Polo T-shirt"),
    "f": ("shirt", "test", "Acme Men Red Polo T-shirt 2"),
    "g": ("shirt", "test", "Acme Men Polo T-shirt"),
    "h": ("shirt", "val", "Acme Men Polo T-shirt"),
}


def table(folder: Path, rows: dict[str, tuple[str, str, str]], **fields: Any) -> Path:
    """A table of photos with the given rows, its pictures next to it."""
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    lines = []
    for name, (category, split, title) in rows.items():
        Image.fromarray(np.full((8, 6, 3), ord(name), np.uint8)).save(
            folder / "photos" / f"{name}.png"
        )
        line = {"image": f"photos/{name}.png", "query": title, "domain": "mall"}
        lines.append(line | {"category": category, "split": split} | fields)
    path = folder / "shop.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(folder: Path, path: Path, *flags: str) -> tuple[dict[str, Any], set[tuple[str, str]]]:
    """The offers by the letter of their picture, and the pairs of such letters."""
    out, pairs = folder / "offers.jsonl", folder / "pairs.csv"
    assert main([f"--path={path}", f"--out={out}", f"--pairs={pairs}", *flags]) == 0
    offers = {Path(row["image"]).stem: row for row in lines_of(out)}
    letter = {row["offer_id"]: name for name, row in offers.items()}
    with pairs.open() as file:
        ends = [(row["trigger_id"], row["offer_id"]) for row in csv.DictReader(file)]
    return offers, {(letter[one], letter[other]) for one, other in ends}


def test_titles_of_one_category_and_split_that_differ_in_a_colour_are_pairs(tmp_path: Path) -> None:
    offers, pairs = written(tmp_path, table(tmp_path, TITLES), "--share=0.8")
    # c is like a and b; d is like c alone, which is nobody's first row.
    assert pairs == {("a", "b"), ("a", "c"), ("b", "c"), ("f", "g")}
    assert offers["a"]["product_id"] == offers["c"]["product_id"] != offers["d"]["product_id"]
    assert offers["f"]["product_id"] != offers["a"]["product_id"]
    _, pairs = written(tmp_path, table(tmp_path, TITLES), "--share=1")
    assert pairs == {("a", "b"), ("f", "g")}


def test_products_with_several_pictures_are_pairs_whatever_their_titles(tmp_path: Path) -> None:
    rows = {
        "a": ("shirt", "train", "Acme Men Polo"),
        "b": ("shirt", "train", "another title"),
        "c": ("shirt", "train", "Acme Men Polo"),  # of no product: it is not taken for one
    }
    path = table(tmp_path, rows)
    lines = lines_of(path)
    for line, product in zip(lines, ("p", "p", ""), strict=True):
        line["product_id"] = product
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert written(tmp_path, path)[1] == {("a", "b")}


def test_words_leave_out_numbers_and_the_genitive() -> None:
    assert words("Nike Men’s T-Shirts, 3 Stripes") == {"nike", "men", "tshirt", "stripe"}


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--share=0", "expected a number above 0"),
        ("--domain=shop", "no row of"),
        ("--out=offers.csv", "ends in .jsonl"),
        ("--without=acme,men,polo,tshirt,stripe,kid", "no two training rows are alike"),
    ],
)
def test_what_gives_no_pairs_is_refused(
    tmp_path: Path, flag: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = table(tmp_path, TITLES)
    flags = [f"--path={path}", f"--out={tmp_path}/o.jsonl", f"--pairs={tmp_path}/p.csv", flag]
    assert main(flags) != 0
    assert message in capsys.readouterr().err


def test_the_readers_of_a_run_take_both_files(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    fields, pairs = written(tmp_path / "out", table(tmp_path, TITLES), "--share=0.8")
    offers = catalogue.offers(tmp_path / "out" / "offers.jsonl")
    ids = training_pairs.id_pairs(str(tmp_path / "out" / "pairs.csv"))
    train = [offer.offer_id for offer in offers if offer.split == "train"]
    assert len(training_pairs.row_pairs(ids, train, "pairs.csv").rows) == len(pairs) - 1
    assert Path(fields["h"]["image"]).parts == ("..", "photos", "h.png")
    assert all((tmp_path / "out" / offer.image).is_file() for offer in offers)
