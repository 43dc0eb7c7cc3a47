"""A user's own offers and pairs, and published ones: what is read, counted, joined and refused."""

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from ml_collections import ConfigDict
from PIL import Image

from configs import same_style as configs
from date_jax import config as rules
from date_jax import sharding
from date_jax.data import pipeline
from date_jax.data.files import catalogue, published_offers, text_rows
from date_jax.errors import DataError, UsageError
from date_jax.same_style.task import TASK as SAME_STYLE
from date_jax.task import Learner

Rows = list[dict[str, Any]]
SIZE = 16


def colour(number: int) -> tuple[int, int, int]:
    return (12 * number, 250 - 12 * number, 90)


def rows_of(folder: Path, count: int = 12) -> Rows:
    """Offers of products of three, the last two of them to evaluate with, and their pictures."""
    rows = []
    for number in range(count):
        Image.new("RGB", (20, 20), colour(number)).save(folder / f"o{number}.png")
        rows.append(
            {
                "offer_id": f"o{number}",
                "title": f"red mug, number {number}",
                "supplier": f"s{number % 3}",
                "category": "mug",
                "image": f"o{number}.png",
                "product_id": f"p{number // 3}",
                "split": ("train", "train", "val", "test")[number // 3 % 4],
            }
        )
    return rows


def write(path: Path, rows: Rows) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def pairs_file(folder: Path, pairs: list[tuple[str, str]]) -> Path:
    """As click_pairs writes it, but for the numbers of its other columns."""
    trigger, offer = zip(*pairs, strict=True)
    columns = {"trigger_id": trigger, "offer_id": offer, "coclicks": [2] * len(pairs)}
    parquet.write_table(pa.table(columns), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def data(name: str, cache: Path, **changes: Any) -> ConfigDict:
    config = configs.get_config(name).data
    config.update(image_size=SIZE, text_length=8, vocab_size=100, cache_dir=str(cache), **changes)
    return config


def own_corpus(
    folder: Path, rows: Rows, pairs: list[tuple[str, str]], **changes: Any
) -> pipeline.Corpus:
    path = write(folder / "offers.csv", rows)
    settings = {"path": str(path), "pairs": str(pairs_file(folder, pairs))}
    return pipeline.load(data("files", folder / "cache", **settings, **changes), "offers")


def without(*names: str) -> Callable[[Rows], Rows]:
    return lambda rows: [{k: v for k, v in row.items() if k not in names} for row in rows]


def by_product(corpus: pipeline.Corpus) -> dict[str, list[list[str]]]:
    """The ids of the offers of each product, by split."""
    products: dict[str, list[list[str]]] = {}
    for name, split in corpus.splits.items():
        ids, number = split.records.texts("offer_id"), split.products()
        products[name] = sorted(
            [offer for offer, of in zip(ids, number, strict=True) if of == product]
            for product in set(number.tolist())
        )
    return products


PAIRS = [("o0", "o1"), ("o1", "o2"), ("o4", "o3")]


def test_own_offers_become_splits_with_their_pictures_titles_and_pairs(tmp_path: Path) -> None:
    corpus = own_corpus(tmp_path, rows_of(tmp_path), PAIRS)
    assert {name: split.size for name, split in corpus.splits.items()} == {
        "offer_train": 6,
        "offer_val": 3,
        "offer_test": 3,
    }
    ids = corpus.splits["offer_train"].records.texts("offer_id")
    assert sorted(tuple(sorted(ids[row] for row in pair)) for pair in corpus.pairs) == [
        ("o0", "o1"),
        ("o1", "o2"),
        ("o3", "o4"),
    ]
    assert corpus.splits["offer_val"].texts == [f"red mug, number {n}" for n in (6, 7, 8)]
    images = pipeline.pictures(corpus, "offer_test", np.arange(3))
    for number, image in zip((9, 10, 11), images, strict=True):
        np.testing.assert_allclose(image[8, 8], colour(number), atol=4)
    assert by_product(corpus)["offer_test"] == [["o9", "o10", "o11"]]
    assert corpus.has_true_products


def test_csv_and_jsonl_give_the_same_offers_and_ids_may_be_numbers(tmp_path: Path) -> None:
    rows = [row | {"offer_id": 70 + number} for number, row in enumerate(rows_of(tmp_path))]
    one, other = (
        catalogue.offers(write(tmp_path / f"o.{kind}", rows)) for kind in ("jsonl", "csv")
    )
    assert [offer[1:] for offer in one] == [offer[1:] for offer in other]
    assert one[3].offer_id == "73"


def test_offers_with_nan_and_whole_floats_are_those_without_them(tmp_path: Path) -> None:
    plain = [row | {"offer_id": str(1001 + i)} for i, row in enumerate(rows_of(tmp_path))]
    plain[0]["product_id"] = ""
    floats = [row | {"offer_id": float(row["offer_id"])} for row in plain]
    floats[0]["product_id"] = float("nan")
    paths = [write(tmp_path / "a.jsonl", plain), write(tmp_path / "b.jsonl", floats)]
    one, other = map(catalogue.offers, paths)
    assert one == other
    assert (one[0].product_id, one[0].offer_id) == ("", "1001")


def test_offers_with_pictures_by_address_are_sent_to_the_downloader(tmp_path: Path) -> None:
    rows = [row | {"image": f"//img.example/{row['offer_id']}.jpg"} for row in rows_of(tmp_path)]
    with pytest.raises(DataError, match=r"12 of 12 rows name their pictures by addresses") as said:
        catalogue.offers(write(tmp_path / "shop.csv", rows))
    assert f"date_jax.data.download --list={tmp_path}/shop.csv --out=pictures" in str(said.value)
    assert "pictures/rows.csv" in str(said.value)


def test_a_product_of_most_offers_is_named_with_its_count(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    for row in rows[2:]:
        row["product_id"] = "unknown"
    offers = catalogue.offers(write(tmp_path / "shop.csv", rows))
    placed = catalogue.offers_with_products(offers, catalogue.IdPairs([], []))
    (note,) = (note for note in catalogue.notes(offers, placed) if " are product " in note)
    assert note.startswith("10 of 12 rows are product 'unknown'")


@pytest.mark.parametrize("word", text_rows.EMPTY_WORDS)
def test_a_word_for_an_empty_cell_is_no_product_and_no_offer(tmp_path: Path, word: str) -> None:
    rows = rows_of(tmp_path)
    rows[0]["product_id"] = rows[1]["product_id"] = word
    offers = catalogue.offers(write(tmp_path / "shop.csv", rows))
    assert [offer.product_id for offer in offers[:2]] == ["", ""]
    rows[3]["offer_id"] = word
    with pytest.raises(DataError, match=r"shop\.csv:5: offer_id is .*, a word for an empty cell"):
        catalogue.offers(write(tmp_path / "shop.csv", rows))


def test_pairs_that_do_not_join_two_training_offers_are_left_out_and_counted(
    tmp_path: Path,
) -> None:
    beside = [("o0", "gone"), ("o0", "o6"), ("o9", "o10"), ("o5", "o5")]
    corpus = own_corpus(tmp_path, rows_of(tmp_path), [*PAIRS, *beside, ("o1", "o0")])
    (note,) = (note for note in corpus.notes if "pairs of" in note)
    assert note.startswith("3 pairs of ")
    assert "; 4 left out" in note
    assert len(corpus.pairs) == 3


@pytest.mark.parametrize("pairs", [[("o6", "o7")], [("x", "y")], [("o0", "o0")]])
def test_no_pair_between_training_offers_is_refused_before_a_picture_is_made(
    tmp_path: Path, pairs: list[tuple[str, str]]
) -> None:
    with pytest.raises(DataError, match=r"none of its 1 pairs joins two .*\n.*'o0', 'o1', 'o2'"):
        own_corpus(tmp_path, rows_of(tmp_path), pairs)
    assert not list((tmp_path / "cache").rglob("*record*"))


def test_a_missing_picture_takes_its_offer_and_its_pairs_along_within_the_budget(
    tmp_path: Path,
) -> None:
    rows = rows_of(tmp_path)
    (tmp_path / "o1.png").unlink()
    with pytest.raises(DataError, match=r"(?s)1 of 12 rows cannot.*o1\.png cannot be opened"):
        own_corpus(tmp_path, rows, PAIRS)
    corpus = own_corpus(tmp_path, rows, PAIRS, bad_image_budget=0.1)
    assert corpus.splits["offer_train"].size == 5
    assert any("1 of 12 rows are left out" in note for note in corpus.notes)
    assert any(note.startswith("1 pairs") and "2 left out" in note for note in corpus.notes)


def components(ids: list[str], pairs: list[tuple[str, str]]) -> set[frozenset[str]]:
    """By a loop that merges sets until nothing changes."""
    sets = [{offer} for offer in ids]
    for one, other in pairs:
        first, second = (next(s for s in sets if offer in s) for offer in (one, other))
        if first is not second:
            sets.remove(second)
            first |= second
    return set(map(frozenset, sets))


def test_an_offer_without_a_product_is_one_of_its_own_whatever_its_id() -> None:
    product_of = {"17": "", "18": "17", "19": "17", "20": "offer 17"}
    rows = [
        catalogue.Offer(1, offer, "", "", "c", "", product) for offer, product in product_of.items()
    ]
    products = [
        offer.product_id
        for offer in catalogue.offers_with_products(rows, catalogue.IdPairs([], []))
    ]
    assert products == ["offer offer 17", "17", "17", "offer 17"]


def test_without_product_ids_chains_of_pairs_within_a_split_are_products() -> None:
    rng = np.random.default_rng(0)
    ids = [f"o{number}" for number in rng.permutation(60)]
    split = {offer: ("train", "val", "test")[number % 3] for number, offer in enumerate(ids)}
    rows = [catalogue.Offer(1, i, "", "", "c", "", split=split[i]) for i in ids]
    pairs = [tuple(rng.choice(ids, 2, replace=False).tolist()) for _ in range(80)]
    id_pairs = catalogue.IdPairs([*(a for a, _ in pairs), "gone"], [*(b for _, b in pairs), ids[0]])
    placed = catalogue.offers_with_products(rows, id_pairs)
    within = [(a, b) for a, b in pairs if split[a] == split[b]]
    together = {
        frozenset(offer.offer_id for offer in group)
        for _, group in itertools.groupby(
            sorted(placed, key=lambda o: o.product_id), key=lambda o: o.product_id
        )
    }
    assert together == components(ids, within)
    assert any(len(group) > 2 for group in together)


def test_without_splits_products_are_split_8_1_1_and_the_file_s_order_decides_nothing() -> None:
    rows = [catalogue.Offer(1, f"o{n}", "", "", "c", "") for n in range(4000)]
    even, odd = ([f"o{n}" for n in range(start, 4000, 2)] for start in (0, 1))
    pairs = catalogue.IdPairs(even, odd)
    one = {offer.offer_id: offer for offer in catalogue.offers_with_products(rows, pairs)}
    other = {offer.offer_id: offer for offer in catalogue.offers_with_products(rows[::-1], pairs)}
    assert one == other
    assert [one[offer].split for offer in even] == [one[offer].split for offer in odd]
    shares = [sum(offer.split == kind for offer in one.values()) / 4000 for kind in ("val", "test")]
    np.testing.assert_allclose(shares, 0.1, atol=0.025)


def test_a_split_of_which_nothing_is_known_is_named_and_passed_over(tmp_path: Path) -> None:
    rows = without("product_id")(rows_of(tmp_path))
    corpus = own_corpus(tmp_path, rows, [*PAIRS, ("o6", "o7")])
    assert not corpus.has_true_products
    (note,) = (note for note in corpus.notes if "not evaluated" in note)
    assert note.startswith("offer_test ")
    assert by_product(corpus)["offer_val"] == [["o6", "o7"], ["o8"]]
    del corpus.splits["offer_val"]
    config = configs.get_config("files")
    nothing = Learner(init=None, loss=None, predict={})
    evaluate = SAME_STYLE.evaluator(config, corpus, nothing, sharding.device_mesh())
    assert not list(evaluate({}, ["val", "test"], lambda: False))


def test_without_a_val_or_test_offer_the_run_says_that_nothing_is_evaluated(tmp_path: Path) -> None:
    rows = [row | {"split": "train"} for row in rows_of(tmp_path)]
    corpus = own_corpus(tmp_path, rows, PAIRS)
    assert list(corpus.splits) == ["offer_train"]
    assert "no offer is in split val or test: nothing is evaluated" in corpus.notes


@pytest.mark.parametrize(
    ("word", "changes", "says"),
    [
        ("files", {"pairs": "a.parquet"}, "config.data.path is empty"),
        ("files", {"path": "a.csv"}, "config.data.pairs is empty: name the Parquet or CSV file"),
        ("published", {"path": "a.json"}, "config.data.images is empty: name the folder"),
        (
            "files",
            {"path": "a.csv", "pairs": "a.csv", "clicks.without": "category"},
            "config.data.clicks.without=category: no clicks are simulated",
        ),
    ],
)
def test_what_a_config_lacks_or_cannot_mean_is_refused(
    word: str, changes: dict[str, str], says: str
) -> None:
    config = configs.get_config(word)
    config.update_from_flattened_dict({f"data.{key}": x for key, x in changes.items()})
    with pytest.raises(UsageError, match=says):
        rules.validate(config, device_count=8, process_count=1)


def row_with(**fields: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [rows[0], rows[1] | fields, *rows[2:]]


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (row_with(offer_id="o0"), r"1 rows have an offer_id .*\n  'o0': lines 1, 2"),
        (row_with(offer_id=""), r"o\.jsonl:2: offer_id is empty"),
        (row_with(image=None), r"o\.jsonl:2: image is empty"),
        (row_with(category=["mug"]), r'o\.jsonl:2: category is \["mug"\]: expected a text'),
        (row_with(title=1.5), r"o\.jsonl:2: title is 1\.5: expected a text"),
        (row_with(split="trian"), r"(?s)1 rows have an unknown split.*did you mean 'train'"),
        (row_with(split=""), "(?s)1 rows have an unknown split: ''.*line 2"),
        (
            lambda rows: [{"Split": rows[0].pop("split")} | rows[0]],
            r"o\.jsonl:1: Split is not read: call it split",
        ),
        (without("supplier"), r"o\.jsonl:1: no supplier .*\n  found: offer_id, title, category"),
        (lambda rows: [], "holds no rows"),
    ],
)
def test_wrong_offers_are_answered_with_their_lines(
    tmp_path: Path, change: Callable[[Rows], Rows], pattern: str
) -> None:
    path = write(tmp_path / "o.jsonl", change(rows_of(tmp_path)))
    with pytest.raises(DataError, match=pattern) as caught:
        catalogue.offers(path)
    assert len(str(caught.value).splitlines()) <= 8


def test_a_wrong_file_of_pairs_is_answered(tmp_path: Path) -> None:
    path = write(tmp_path / "o.jsonl", rows_of(tmp_path))
    (tmp_path / "pairs.csv").write_text("trigger,offer_id\no0,o1\n")
    for pairs, pattern in (
        ("pairs.csv", "(?s)no trigger_id .*found: trigger, offer_id"),
        ("pairs.parket", r"config\.data\.pairs: no file .*pairs\.parket \(did you mean"),
    ):
        config = data("files", tmp_path / "c", path=str(path), pairs=str(tmp_path / pairs))
        with pytest.raises(DataError, match=pattern):
            pipeline.load(config, "offers")


def published_rows(count: int = 40) -> Rows:
    """Pairs of random offers, every third of them a wrong one."""
    rng = np.random.default_rng(1)
    rows = []
    for number in range(count):
        one, other = map(int, rng.choice(60, 2, replace=False))
        rows.append(
            {
                "cate_lv1_name": "house",
                "cate_name": "mug",
                "trigger_id": one,
                "trigger_title": f"mug {one}",
                "trigger_img": f"https://example.com/{one}.jpg",
                "recall_id": other,
                "recall_title": f"mug {other}",
                "recall_img": f"https://example.com/{other}.jpg",
                "label": int(number % 3 > 0),
            }
        )
    return rows


def misspelled_rows(rows: Rows) -> Rows:
    return [{"tirgger_title" if k == "trigger_title" else k: v for k, v in r.items()} for r in rows]


def test_a_list_and_lines_and_both_spellings_say_the_same(tmp_path: Path) -> None:
    rows = published_rows()
    (tmp_path / "list.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "wrong.json").write_text(json.dumps(misspelled_rows(rows)))
    mixed = [*rows[:9], *misspelled_rows(rows[9:])]
    files = [
        published_offers.offers_and_pairs(tmp_path / name) for name in ("list.json", "wrong.json")
    ]
    files.append(published_offers.offers_and_pairs(write(tmp_path / "lines.jsonl", mixed)))
    assert files[0] == files[1] == files[2]
    positive = [(str(r["trigger_id"]), str(r["recall_id"])) for r in rows if r["label"]]
    assert list(zip(*files[0].pairs, strict=True)) == positive
    ids = {str(r[f"{end}_id"]) for r in rows for end in ("trigger", "recall")}
    assert {offer.offer_id for offer in files[0].offers} == ids
    assert len(files[0].offers) == len(ids)
    assert all(offer.title == f"mug {offer.offer_id}" for offer in files[0].offers)
    assert not files[0].notes


def test_published_pairs_become_products_each_in_one_split(tmp_path: Path) -> None:
    rows = published_rows()
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    ids = sorted({r[f"{end}_id"] for r in rows for end in ("trigger", "recall")})
    for number in ids:
        Image.new("RGB", (20, 20), colour(number % 20)).save(tmp_path / f"{number}.webp")
    missing = str(rows[0]["trigger_id"])  # whose pair is none
    (tmp_path / f"{missing}.webp").unlink()
    settings = {"path": str(tmp_path / "pairs.json"), "images": str(tmp_path)}
    with pytest.raises(DataError, match=rf"(?s)of 1 of {len(ids)} rows.*{missing}\.jpg cannot"):
        pipeline.load(data("published", tmp_path / "cache", **settings), "offers")
    config = data("published", tmp_path / "cache", bad_image_budget=0.05, **settings)
    corpus = pipeline.load(config, "offers")
    assert any(f"1 of {len(ids)} rows are left out" in note for note in corpus.notes)
    positive = [(str(r["trigger_id"]), str(r["recall_id"])) for r in rows if r["label"]]
    expected = {group - {missing} for group in components(list(map(str, ids)), positive)}
    products = [frozenset(group) for groups in by_product(corpus).values() for group in groups]
    assert len(products) == len(set(products))
    assert set(products) == expected - {frozenset()}
    assert len(corpus.splits) > 1
    ids = corpus.splits["offer_train"].records.texts("offer_id")
    trained = {frozenset(ids[row] for row in pair) for pair in corpus.pairs}
    assert trained == {frozenset(pair) for pair in positive if set(pair) <= set(ids)}
    assert pipeline.load(config, "offers").fingerprint == corpus.fingerprint


def test_an_offer_told_in_two_ways_counts_once_as_first_told(tmp_path: Path) -> None:
    rows = [published_rows(1)[0] | {"label": 1}] * 2
    rows[1] = rows[1] | {"trigger_title": "another mug"}
    published = published_offers.offers_and_pairs(write(tmp_path / "pairs.jsonl", rows))
    first = [rows[0]["trigger_title"], rows[0]["recall_title"]]
    assert [offer.title for offer in published.offers] == first
    assert published.notes == ["1 offers have several titles or pictures: the first one counts"]


@pytest.mark.parametrize(
    ("label", "is_pair"), [(1, 1), ("1", 1), (True, 1), (0, 0), ("0", 0), (0.0, 0)]
)
def test_labels_are_0_or_1_however_written(tmp_path: Path, label: Any, is_pair: int) -> None:
    row = published_rows(1)[0] | {"label": label}
    published = published_offers.offers_and_pairs(write(tmp_path / "pairs.jsonl", [row]))
    assert len(published.pairs.trigger_id) == is_pair


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"label": 2}, "label is 2: expected 0 or 1"),
        ({"label": "same"}, 'label is "same": expected 0 or 1'),
        ({"label": None}, "label is null: expected 0 or 1"),
        ({"recall_id": "../1"}, r"the id '\.\./1' cannot name a picture's file"),
        ({"recall_id": None}, "the id '' cannot name"),
        ({"recall_title": ["mug"]}, r'recall_title is \["mug"\]: expected a text'),
    ],
)
def test_a_wrong_published_row_is_answered_with_its_place(
    tmp_path: Path, fields: dict[str, Any], says: str
) -> None:
    rows = published_rows(3)
    rows[1] |= fields
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    with pytest.raises(DataError, match=rf"pairs\.json: object 2: {says}"):
        published_offers.offers_and_pairs(tmp_path / "pairs.json")
    with pytest.raises(DataError, match=rf"pairs\.jsonl:2: {says}"):
        published_offers.offers_and_pairs(write(tmp_path / "pairs.jsonl", rows))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('[{"label": 1},\n{"label" 1}]', r"pairs\.json:2: not JSON"),
        ("[1]", r"pairs\.json: object 1: expected an object, got 1"),
        ('{"label": 1}', r"pairs\.json:1: no trigger_id, trigger_img, .*trigger_title"),
        ("{1}", r"pairs\.json:1: not JSON"),
        ("[]", "holds no objects"),
        ("[" * 100_000, r"pairs\.json: not a list of objects"),
    ],
)
def test_a_wrong_published_file_is_answered(tmp_path: Path, content: str, says: str) -> None:
    (tmp_path / "pairs.json").write_text(content)
    with pytest.raises(DataError, match=says):
        published_offers.offers_and_pairs(tmp_path / "pairs.json")


def test_a_list_of_addresses_is_written_for_a_downloader(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = published_rows()
    rows[0]["trigger_img"] = ""
    path = write(tmp_path / "pairs.jsonl", rows)
    out = tmp_path / "urls.tsv"
    assert published_offers.main([f"--path={path}", f"--out={out}"]) == 0
    ids = {r[f"{end}_id"] for r in rows for end in ("trigger", "recall")}
    lines = [line.split("\t") for line in out.read_text().splitlines()]
    assert lines
    assert all(url == f"https://example.com/{offer}.jpg" for offer, url in lines)
    assert {int(offer) for offer, _ in lines} == ids - {rows[0]["trigger_id"]}
    assert f"{len(lines)} addresses of {len(ids)} offers" in capsys.readouterr().out
    assert published_offers.main([f"--path={tmp_path}/no.json", f"--out={out}"]) == 3
    assert "--path: no file" in capsys.readouterr().err
