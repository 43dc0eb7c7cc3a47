import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from date_jax.data import pipeline
from date_jax.data.cache import tensorflow
from date_jax.data.files.annotations import annotations
from date_jax.data.files.preprocess import header, prepared_file
from date_jax.data.files.splits import hashed_split, hashed_splits
from date_jax.data.prepared import Records
from date_jax.errors import DataError, UsageError

RED, BLUE = (230, 20, 20), (20, 20, 230)
BOX = [12, 30, 44, 50]
SIZE = (80, 60)
HERE = pipeline.Share(0, 1)


def painting(size: tuple[int, int] = SIZE, box: list[int] = BOX) -> Image.Image:
    """A blue picture in which the box is red."""
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, tuple(box))
    return image


def rows_of(folder: Path, count: int = 12) -> list[dict[str, Any]]:
    """Pictures and rows of two domains with all that a run needs, under `folder`."""
    (folder / "images").mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        name = f"images/{number}.png"
        painting().save(folder / name)
        rows.append(
            {
                "image": name,
                "query": f"red field {number % 3}, please",
                "box": BOX if number % 4 < 3 else None,
                "domain": ("mall", "live")[number % 2],
                "product_id": f"p{number % 5}",
                "category": "field",
                "split": ("train", "train", "test", "train", "train", "test")[number % 6],
            }
        )
    return rows


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    corners = ["x_min", "y_min", "x_max", "y_max"]
    names = [*(name for name in rows[0] if name != "box"), *corners]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        for row in rows:
            box = dict(zip(corners, row["box"] or [""] * 4, strict=True))
            writer.writerow({key: row[key] for key in names if key in row} | box)
    return path


def data_config(path: Path | str, cache: Path, **changes: Any) -> ConfigDict:
    config = ConfigDict(
        {
            "name": "files",
            "path": str(path),
            "cache_dir": str(cache),
            "source": "mall",
            "target": "live",
            "image_size": 32,
            "fit": "letterbox",
            "text_length": 8,
            "vocab": "",
            "vocab_size": 100,
            "max_pixels": 1_000_000,
            "bad_image_budget": 0.0,
        }
    )
    config.update(changes)
    return config


def load(config: ConfigDict) -> pipeline.Corpus:
    return pipeline.load(config, "grounding")


def examples(corpus: pipeline.Corpus, name: str) -> dict[str, np.ndarray]:
    """All rows of a split in order."""
    size = corpus.splits[name].size
    (batch,) = pipeline.eval_batches(corpus, [name], share=HERE, batch_size=size, boxes=True)
    return batch


def red_box(image: np.ndarray) -> list[int]:
    """Where the red pixels are: x_min, y_min, x_max, y_max, found by looking."""
    red = (image[..., 0] > 128) & (image[..., 2] < 100)
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def box_pixels(batch: dict[str, np.ndarray], row: int) -> np.ndarray:
    x, y, width, height = batch["box_cxcywh"][row] * batch["image"].shape[1]
    return np.array([x - width / 2, y - height / 2, x + width / 2, y + height / 2])


def load_one(folder: Path, name: str, box: Any = None, **changes: Any) -> dict[str, np.ndarray]:
    """The only live test row of a file, its picture `folder / name`."""
    rows = rows_of(folder, 2)
    last = rows[0] | {"image": name, "box": box, "domain": "live", "split": "test"}
    path = write_jsonl(folder / "shop.jsonl", [*rows, last])
    return examples(load(data_config(path, folder / "cache", **changes)), "live_test")


def test_without_splits_a_hash_of_the_product_decides(tmp_path: Path) -> None:
    rows = [row | {"product_id": f"p{n // 2}"} for n, row in enumerate(rows_of(tmp_path, 60))]
    for row in rows:
        del row["split"]
    rows[0]["product_id"] = None  # the picture is then the product
    path = write_jsonl(tmp_path / "shop.jsonl", rows)
    corpus = load(data_config(path, tmp_path / "cache"))
    placed = annotations(path)
    assert {row.split for row in placed} == {"train", "val", "test"}
    assert [row.split for row in placed] == [hashed_split(row.product_id) for row in placed]
    assert [row.product_id for row in placed[:2]] == ["images/0.png", "p0"]
    assert any("no row has a split" in note and "8:1:1" in note for note in corpus.notes)
    assert not any("in train and in val or test" in note for note in corpus.notes)
    rows[5]["split"] = "train"
    with pytest.raises(DataError, match="59 rows have an unknown split: ''"):
        annotations(write_jsonl(path, rows))


def test_mistakes_of_all_kinds_come_together_before_anything_heavy(
    tmp_path: Path, root: Path
) -> None:
    rows = rows_of(tmp_path)
    rows[1] |= {"domain": "a b"}
    rows[4] |= {"query": 7}
    rows[5] |= {"box": [1, 2]}
    write_jsonl(tmp_path / "rows.jsonl", rows)
    rows = rows_of(tmp_path)
    rows[0]["image"] = "images/gone.png"
    rows[2]["box"] = [70, 10, 140, 40]
    write_jsonl(tmp_path / "pictures.jsonl", rows)
    code = """
import sys, time
from date_jax.run import commandline
from date_jax import main
def late(name, *_):
    if name.split(".")[0] in ("jax", "tensorflow"):
        raise AssertionError(name)
sys.meta_path.insert(0, type("Finder", (), {"find_spec": staticmethod(late)}))
commandline.run(main.main)
"""
    texts = {
        "missing": ["no file", "missing.jsonl"],
        "rows": ["rows.jsonl:2: domain 'a b'", ":5: query is 7", ":6: box is [1, 2]"],
        "pictures": [
            "pictures of 1 of 12 rows cannot be read",
            "gone.png",
            "boxes are not x_min",
            ": line 3",
        ],
    }
    for name, wanted in texts.items():
        command = [sys.executable, "-c", code, "--config=configs/pgda.py:files"]
        command += [f"--config.data.path={tmp_path / name}.jsonl"]
        command += [f"--config.data.cache_dir={tmp_path / 'cache'}", f"--workdir={tmp_path}/run"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        assert done.returncode == 3, done.stderr
        for text in wanted:
            assert text in done.stderr
        assert len(done.stderr.splitlines()) <= 8
        assert not (tmp_path / "run").exists()


def test_products_that_share_a_picture_are_in_one_split() -> None:
    images = ["a", "a", "b", *(f"c{n}" for n in range(40))]
    products = ["p1", "p2", "p2", *(f"q{n}" for n in range(40))]
    splits = hashed_splits(images, products)
    assert {*splits[:3]} == {hashed_split("p1")}
    assert splits[3:] == [hashed_split(product) for product in products[3:]]


def test_what_is_trained_on_and_measured_too_is_told(tmp_path: Path) -> None:
    rows = [row | {"product_id": f"own {n}"} for n, row in enumerate(rows_of(tmp_path))]
    rows[2]["image"] = rows[0]["image"]  # of the test split and of train
    rows[5]["product_id"] = rows[1]["product_id"]
    notes = load(data_config(write_jsonl(tmp_path / "shop.jsonl", rows), tmp_path / "cache")).notes
    shared = [note for note in notes if "in train and in val or test" in note]
    assert len(shared) == 2
    assert shared[0].startswith("1 pictures are in train")
    assert shared[0].endswith("remembered: images/0.png (lines 1, 3)")
    assert shared[1].endswith("remembered: own 1 (lines 2, 6)")


def test_rows_become_splits_of_their_domains_in_order(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    rows[0]["query"] = "the first, a striped one"
    corpus = load(data_config(write_jsonl(tmp_path / "shop.jsonl", rows), tmp_path))
    sizes = {name: split.size for name, split in corpus.splits.items()}
    assert sizes == {"mall_train": 4, "live_train": 4, "mall_test": 2, "live_test": 2}
    assert corpus.splits["mall_train"].texts[0] == "the first, a striped one"
    of_mall_train = [row for row in rows if (row["domain"], row["split"]) == ("mall", "train")]
    has_box = corpus.splits["mall_train"].records.has_box()
    np.testing.assert_array_equal(has_box, [row["box"] is not None for row in of_mall_train])
    same = [row["product_id"] == of_mall_train[0]["product_id"] for row in of_mall_train]
    numbers = corpus.splits["mall_train"].numbers["product_id"]
    np.testing.assert_array_equal(numbers == numbers[0], same)


def test_a_folder_whose_name_is_not_utf8_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"  # as Python calls a name with the byte E9
    folder.mkdir()
    corpus = load(data_config(write_jsonl(folder / "shop.jsonl", rows_of(folder)), tmp_path))
    assert corpus.splits["mall_train"].size == 4


def test_a_word_of_letters_that_no_training_text_has_is_not_unknown(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    rows[2]["query"] = "jug 8 xl"  # of the test split
    path = write_jsonl(tmp_path / "shop.jsonl", rows)
    corpus = load(data_config(path, tmp_path, vocab_size=200))
    assert not any("not in the vocabulary" in note for note in corpus.notes)
    assert corpus.tokenizer.encode(["jug 8 xl"]).unknown == 0


def test_the_pictures_of_a_batch_are_to_the_bit_what_pillow_decodes(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    corpus = load(data_config(write_jsonl(tmp_path / "shop.jsonl", rows), tmp_path))
    records = Records([corpus.splits["mall_train"].records])[np.arange(4)]
    spec = {"image": tensorflow().io.FixedLenFeature([], "string")}
    files = tensorflow().io.parse_example(records, spec)["image"].numpy()
    by_pillow = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
    np.testing.assert_array_equal(examples(corpus, "mall_train")["image"], by_pillow)
    np.testing.assert_array_equal(pipeline.pictures(corpus, "mall_train", np.arange(4)), by_pillow)


def test_csv_and_jsonl_of_the_same_rows_give_the_same_batches(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    for number, row in enumerate(rows):
        row["product_id"] = number % 5  # a number, from 0, which CSV cannot tell from a text
    paths = [write_jsonl(tmp_path / "a.jsonl", rows), write_csv(tmp_path / "b.csv", rows)]
    one, other = (load(data_config(path, tmp_path)) for path in paths)
    for name in one.splits:
        a, b = examples(one, name), examples(other, name)
        assert a.keys() == b.keys()
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=f"{name} {key}")


def test_nan_is_an_empty_field_and_a_whole_float_is_the_id_without_its_point(
    tmp_path: Path,
) -> None:
    rows = rows_of(tmp_path)
    for number, row in enumerate(rows):
        row["product_id"], row["category"] = float("nan"), float("nan")
        row["box"] = row["box"] or float("nan")
        if number in (0, 2):  # both of mall's training rows
            row["product_id"] = (7, 7.0)[number // 2]
    corpus = load(data_config(write_jsonl(tmp_path / "shop.jsonl", rows), tmp_path))
    numbers = [corpus.splits[name].numbers["product_id"] for name in corpus.splits]
    assert len({int(number) for column in numbers for number in column}) == len(rows) - 1
    assert not any(" are product " in note for note in corpus.notes)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NULL", "N/A", "<NA>", "#N/A"])
def test_a_word_for_an_empty_cell_is_no_product(tmp_path: Path, word: str, kind: str) -> None:
    rows = rows_of(tmp_path)
    rows[0]["product_id"] = rows[1]["product_id"] = ""
    write = {"csv": write_csv, "jsonl": write_jsonl}[kind]
    empty = annotations(write(tmp_path / f"empty.{kind}", rows))
    rows[0]["product_id"] = rows[1]["product_id"] = word
    assert annotations(write(tmp_path / f"words.{kind}", rows)) == empty
    assert empty[0].product_id != empty[1].product_id


@pytest.mark.parametrize("word", ["unknown", "0"])
def test_a_product_of_most_rows_is_named_with_its_count(tmp_path: Path, word: str) -> None:
    rows = rows_of(tmp_path)
    for row in rows[:7]:
        row["product_id"] = word
    corpus = load(data_config(write_csv(tmp_path / "shop.csv", rows), tmp_path))
    (note,) = (note for note in corpus.notes if " are product " in note)
    assert note.startswith(f"7 of 12 rows are product '{word}'")


def test_a_product_of_half_the_rows_is_not_doubted(tmp_path: Path) -> None:
    rows = [row | {"product_id": f"p{number % 2}"} for number, row in enumerate(rows_of(tmp_path))]
    corpus = load(data_config(write_jsonl(tmp_path / "shop.jsonl", rows), tmp_path))
    assert not any(" are product " in note for note in corpus.notes)


@pytest.mark.parametrize(
    "box", [[79.5, 30, 81, 50], [-1, 30, 0.02, 50], [12, -1, 44, 0.5], [12.0, 59.98, 44.0, 61]]
)
def test_a_box_over_the_border_by_a_pixel_keeps_area(tmp_path: Path, box: list[float]) -> None:
    rows = rows_of(tmp_path)
    rows[0]["box"] = box
    corpus = load(data_config(write_jsonl(tmp_path / "shop.jsonl", rows), tmp_path))
    stored = corpus.splits["mall_train"].records.box_xyxy()[0]
    assert (stored[2:] > stored[:2]).all()
    assert stored.min() >= 0
    assert stored.max() <= 1


def test_a_csv_may_hold_the_box_in_one_column_and_start_with_a_byte_order_mark(
    tmp_path: Path,
) -> None:
    rows_of(tmp_path, 2)
    path = tmp_path / "shop.csv"
    path.write_text(
        "\ufeffimage,query,domain,split,box\n"
        'images/0.png,"red, please",mall,train,"[12, 30, 44, 50]"\n'
        "images/1.png,red,live,train,\n"
    )
    corpus = load(data_config(path, tmp_path))
    assert corpus.splits["mall_train"].texts == ["red, please"]
    np.testing.assert_array_equal(examples(corpus, "mall_train")["box_mask"], [True])
    np.testing.assert_array_equal(examples(corpus, "live_train")["box_mask"], [False])


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize("size", [(80, 60), (60, 80), (400, 300), (51, 53)])
def test_the_box_stays_on_its_object(tmp_path: Path, fit: str, size: tuple[int, int]) -> None:
    box = [size[0] // 4, size[1] // 5, size[0] // 2, size[1] * 4 // 5]
    painting(size, box).save(tmp_path / "one.png")
    batch = load_one(tmp_path, "one.png", box, fit=fit)
    np.testing.assert_allclose(box_pixels(batch, 0), red_box(batch["image"][0]), atol=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_rotation_is_applied_and_boxes_belong_to_the_upright_picture(
    tmp_path: Path, orientation: int
) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    painting().save(tmp_path / "one.jpg", exif=exif, quality=95, subsampling=0)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / "one.jpg"))
    box = [int(side) for side in red_box(np.asarray(upright))]
    batch = load_one(tmp_path, "one.jpg", box)
    np.testing.assert_allclose(box_pixels(batch, 0), red_box(batch["image"][0]), atol=1)
    notes = load(data_config(tmp_path / "shop.jsonl", tmp_path / "cache")).notes
    assert any("1 pictures were turned upright" in note for note in notes) == (orientation > 1)


def sixteen_bit(path: Path) -> None:
    grey = np.full((60, 80), 0x40 << 8, np.uint16)
    Image.fromarray(grey).save(path)


@pytest.mark.parametrize(
    ("name", "save", "expected"),
    [
        ("grey.png", lambda path: Image.new("L", SIZE, 64).save(path), (64, 64, 64)),
        ("grey16.png", sixteen_bit, (64, 64, 64)),
        ("bits.png", lambda path: Image.new("1", SIZE, 1).save(path), (255, 255, 255)),
        ("clear.png", lambda path: Image.new("RGBA", SIZE, (9, 9, 9, 0)).save(path), (255,) * 3),
        ("half.png", lambda path: Image.new("LA", SIZE, (0, 128)).save(path), (127,) * 3),
        ("palette.png", lambda path: Image.new("RGB", SIZE, RED).quantize(4).save(path), RED),
        (
            "hole.png",
            lambda path: Image.new("P", SIZE, 0).save(path, transparency=0),
            (255, 255, 255),
        ),
        ("print.jpg", lambda path: Image.new("CMYK", SIZE, (0, 0, 0, 0)).save(path), (255,) * 3),
        ("web.webp", lambda path: Image.new("RGB", SIZE, BLUE).save(path, lossless=True), BLUE),
        (
            "phone.jpg",  # two pictures in one JPEG, as phones write them
            lambda path: Image.new("RGB", SIZE, BLUE).save(
                path, "MPO", save_all=True, append_images=[Image.new("RGB", SIZE, RED)]
            ),
            BLUE,
        ),
        ("tiny.png", lambda path: Image.new("RGB", (1, 1), BLUE).save(path), BLUE),
        ("thin.png", lambda path: Image.new("RGB", (300, 1), BLUE).save(path), BLUE),
    ],
)
def test_any_mode_becomes_rgb_over_white(
    tmp_path: Path, name: str, save: Callable[[Path], None], expected: tuple[int, ...]
) -> None:
    save(tmp_path / name)
    file = prepared_file(tmp_path / name, image_size=16, fit="letterbox", max_pixels=10**6)
    (tmp_path / "prepared.jpg").write_bytes(file)
    image = np.asarray(Image.open(tmp_path / "prepared.jpg"))
    assert image.shape == (16, 16, 3)
    np.testing.assert_allclose(image[7, 8], expected, atol=3)


def test_a_large_jpeg_read_at_a_fraction_looks_like_the_whole(tmp_path: Path) -> None:
    x, y = np.meshgrid(np.linspace(0, 255, 800), np.linspace(0, 255, 600))
    whole = Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))
    whole.save(tmp_path / "large.jpg", quality=95)
    file = prepared_file(tmp_path / "large.jpg", image_size=32, fit="stretch", max_pixels=10**6)
    (tmp_path / "prepared.jpg").write_bytes(file)
    fraction = np.asarray(Image.open(tmp_path / "prepared.jpg")).astype(int)
    assert np.abs(fraction - np.asarray(whole.resize((32, 32)))).max() <= 6


def test_a_changed_picture_is_prepared_anew(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "shop.jsonl", rows_of(tmp_path))
    before = load(data_config(path, tmp_path)).fingerprint
    assert load(data_config(path, tmp_path)).fingerprint == before
    Image.new("RGB", (31, 17)).save(tmp_path / "images" / "3.png")
    assert load(data_config(path, tmp_path)).fingerprint != before


def pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4000\n")


def html(path: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html><html>not found</html>")


def truncate(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    os.truncate(path, path.stat().st_size // 2)


def bomb(path: Path) -> None:
    Image.new("1", (13_000, 13_000)).save(path, "PNG")


BAD_PICTURES = [
    (pointer, r"is a Git LFS pointer, not the picture: run `git lfs install`"),
    (html, r"is no JPEG, PNG or WEBP: it begins with b'<!DOCTYPE html>"),
    (lambda path: path.write_bytes(b""), r"is empty \(0 bytes\)"),
    (truncate, "cannot be decoded: .*truncated"),
    (bomb, "has 13000 x 13000 pixels, more than config.data.max_pixels=1,000,000"),
    (lambda path: path.unlink(), "cannot be opened: No such file"),
    (lambda path: (path.unlink(), path.mkdir()), "is not a file"),
    (
        lambda path: Image.new("RGB", SIZE).save(path, "GIF"),
        "is no JPEG, PNG or WEBP: it begins with b'GIF8",
    ),
]


@pytest.mark.parametrize(("spoil", "reason"), BAD_PICTURES)
def test_an_unreadable_picture_is_dropped_within_the_budget_and_refused_above(
    tmp_path: Path, spoil: Callable[[Path], Any], reason: str
) -> None:
    path = write_jsonl(tmp_path / "shop.jsonl", rows_of(tmp_path))
    spoil(tmp_path / "images" / "0.png")
    corpus = load(data_config(path, tmp_path, bad_image_budget=0.1))
    assert corpus.splits["mall_train"].size == 3
    (note,) = (note for note in corpus.notes if "left out" in note)
    assert "1 of 12 rows" in note
    with pytest.raises(DataError, match=rf"(?s)of 1 of 12 rows.*images/0\.png {reason}") as caught:
        load(data_config(path, tmp_path, bad_image_budget=0.05))
    assert len(str(caught.value).splitlines()) <= 8


def test_a_picture_s_name_that_no_path_may_have_counts_as_unreadable(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    rows[0]["image"] = "images/\0.png"
    path = write_jsonl(tmp_path / "shop.jsonl", rows)
    with pytest.raises(DataError, match=r"(?s)of 1 of 12 rows.*cannot be opened: .*null"):
        load(data_config(path, tmp_path))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        (r"images\0.png", r"images\\0\.png has Windows' backslashes: write /"),
        (
            "https://pictures.example/0.png",
            "0.png is an address: fetch it first with python -m date_jax.data.download",
        ),
        (
            "data:image/png;base64," + "A" * 3000,
            r"data:image/png;base64,A+… holds the picture itself: save it",
        ),
        (r"images\absent.png", "cannot be opened: No such file"),
    ],
)
def test_a_name_that_is_no_path_here_is_refused_with_what_to_do(
    tmp_path: Path, name: str, advice: str
) -> None:
    rows = rows_of(tmp_path)
    rows[0]["image"] = name
    path = write_jsonl(tmp_path / "shop.jsonl", rows)
    with pytest.raises(DataError, match=rf"(?s)of 1 of 12 rows.*{advice}") as caught:
        load(data_config(path, tmp_path))
    lines = str(caught.value).splitlines()
    assert len(lines) <= 8
    assert max(map(len, lines)) <= 250


def test_a_table_that_names_its_pictures_by_addresses_is_sent_to_the_downloader(
    tmp_path: Path,
) -> None:
    rows = rows_of(tmp_path)
    for number, row in enumerate(rows[:8]):
        row["image"] = f"{'https:' * (number % 2)}//pictures.example/{number}.jpg"
    path = write_jsonl(tmp_path / "shop.jsonl", rows)
    with pytest.raises(DataError, match=r"8 of 12 rows name their pictures by addresses") as caught:
        load(data_config(path, tmp_path))
    says = str(caught.value)
    assert f"python -m date_jax.data.download --list={path} --out=pictures" in says
    assert "pictures/rows.jsonl" in says
    # Under another name the column is missing, and the message names the one that there is.
    for row in rows:
        row["img_url"] = row.pop("image")
    write_jsonl(path, rows)
    with pytest.raises(DataError, match="no image") as caught:
        load(data_config(path, tmp_path))
    assert "date_jax.data.download --columns=image=img_url --list=FILE" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 8


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("https://a.example/shop.jsonl", "curl -LO https://a.example/shop.jsonl, and name"),
        ("s3://bucket/shop.csv", "copy it to this machine first"),
        ("file:///data/shop.csv", "write the path without file://"),
    ],
)
def test_an_address_as_a_table_is_sent_to_the_downloader(
    tmp_path: Path, text: str, way: str
) -> None:
    config = data_config(tmp_path / "shop.jsonl", tmp_path)
    config.path = text
    with pytest.raises(UsageError, match=r"is an address, and files are read") as caught:
        load(config)
    assert way in str(caught.value)
    assert "python -m date_jax.data.download --list=" in str(caught.value)


def test_corners_in_four_fields_of_json_are_a_box(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    plain = annotations(write_jsonl(tmp_path / "shop.jsonl", rows))
    for row in rows:
        box = row.pop("box") or [None] * 4
        row |= dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))
    assert annotations(write_jsonl(tmp_path / "corners.jsonl", rows)) == plain
    rows[2]["x_min"] = None
    with pytest.raises(DataError, match=r"corners\.jsonl:3: box is \[null, 30, 44, 50\]"):
        annotations(write_jsonl(tmp_path / "corners.jsonl", rows))


def test_a_header_is_read_without_decoding(tmp_path: Path) -> None:
    truncate(tmp_path / "one.jpg")
    assert header(tmp_path / "one.jpg", max_pixels=10_000)[:2] == (90, 90)


def test_a_split_that_loses_all_its_rows_is_named_with_the_reason(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "shop.jsonl", rows_of(tmp_path))
    for number in (5, 11):  # all of live_test
        html(tmp_path / "images" / f"{number}.png")
    with pytest.raises(DataError, match=r"(?s)live_test is empty.*pictures cannot be read"):
        load(data_config(path, tmp_path, bad_image_budget=0.5))


Rows = list[dict[str, Any]]


def with_boxes(*boxes: Any) -> Callable[[Rows], Rows]:
    """Gives the first rows these boxes."""

    def changed(rows: Rows) -> Rows:
        return [row | {"box": box} for row, box in zip(rows, boxes, strict=False)] + rows[
            len(boxes) :
        ]

    return changed


def every(**fields: Any) -> Callable[[Rows], Rows]:
    return lambda rows: [row | fields for row in rows]


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (
            with_boxes([44, 30, 12, 50]),
            "(?s)1 of 9 boxes.*1 reversed.*: line 1\n.*line 1: .*80 x 60",
        ),
        (with_boxes([12, 30, 90, 50]), "1 outside the picture: line 1"),
        (with_boxes([-5, 30, 9, 50]), "1 outside the picture: line 1"),
        (with_boxes([80, 30, 81, 50]), "1 without area in the picture: write null .*: line 1"),
        (with_boxes([-1, 30, 0, 50]), "1 without area in the picture: write null .*: line 1"),
        (with_boxes([12, 30, 44, 30.001]), "1 without area in the picture: write null"),
        (with_boxes(BOX, [0.1, 0.2, 0.5, 0.6]), "(?s)1 normalised.*line 2.*mixed"),
        (every(box=[0.1, 0.2, 0.5, 0.6]), "(?s)12 normalised.*lines 1, 2, 3, 4, 5, ….*multiply"),
        (every(box=[40, 30, 20, 10]), "(?s)12 of 12.*12 reversed.*look like x, y, width, height"),
        (with_boxes([1, 2, 3]), r"shop\.jsonl:1: box is \[1, 2, 3\]: expected four finite"),
        (with_boxes([1, 2, 3, "4"]), "expected four finite numbers"),
        (with_boxes([1, 2, 3, float("nan")]), "expected four finite numbers"),
        (with_boxes([1, 2, 3, 10**400]), "expected four finite numbers"),
        (with_boxes("10 20 30 40"), "expected four finite numbers"),
        (every(split="trian"), r"(?s)12 rows have an unknown split: 'trian'.*did you mean 'train'"),
        (
            every(domain="mall"),
            "(?s)data.target: no domain 'live'.*its domains: mall\n"
            "  for one domain alone: --config=configs/date.py:files --config.data.source=mall$",
        ),
        (every(domain="shop"), "(?s)data.source: no domain 'mall'.*set --config.data.source=shop$"),
        (every(domain="two words"), "may hold only letters"),
        (every(split="test"), "(?s)domain 'mall' has no training rows.*only mall_test"),
        (every(query=7), "query is 7: expected a text"),
        (every(image=""), 'image is "": expected a text'),
        (lambda rows: [], "holds no rows"),
        (
            lambda rows: [{"picture": 1, "query": "a", "domain": "b", "split": "c"}],
            r"(?s)shop\.jsonl:1: no image.*found: picture, query, domain, split",
        ),
    ],
)
def test_wrong_rows_are_answered_before_any_picture_is_made(
    tmp_path: Path, change: Callable[[Rows], Rows], pattern: str
) -> None:
    path = write_jsonl(tmp_path / "shop.jsonl", change(rows_of(tmp_path)))
    with pytest.raises(DataError, match=pattern) as caught:
        load(data_config(path, tmp_path / "cache"))
    assert len(str(caught.value).splitlines()) <= 8
    assert not list((tmp_path / "cache").rglob("*record*"))


@pytest.mark.parametrize("value", [0, -1])
def test_a_box_without_area_is_told_to_be_null(tmp_path: Path, value: int) -> None:
    rows = with_boxes([value] * 4)(rows_of(tmp_path))
    path = write_jsonl(tmp_path / "shop.jsonl", rows)
    with pytest.raises(DataError, match=r"1 without area .*: write null.*: line 1") as refusal:
        load(data_config(path, tmp_path))
    assert "normalised" not in str(refusal.value)


def test_boxes_without_area_do_not_hide_that_all_others_are_normalised(tmp_path: Path) -> None:
    rows = with_boxes([0, 0, 0, 0])(every(box=[0.1, 0.2, 0.5, 0.6])(rows_of(tmp_path)))
    path = write_jsonl(tmp_path / "shop.jsonl", rows)
    with pytest.raises(DataError, match=r"(?s)1 without area.*11 normalised.*all look normalised"):
        load(data_config(path, tmp_path))


@pytest.mark.parametrize(
    "columns", ["bbox", "Bboxes", "x y w h", "x y width height", "left top width height"]
)
def test_a_box_under_a_name_that_is_not_read_is_named(tmp_path: Path, columns: str) -> None:
    rows = rows_of(tmp_path)
    names = columns.split()
    values = [BOX] if len(names) == 1 else BOX
    rows[3].pop("box")
    rows[3] |= dict(zip(names, values, strict=True))
    path = write_jsonl(tmp_path / "shop.jsonl", rows)
    answer = rf"shop\.jsonl:4: {', '.join(names)} (is|are) not read: call it box, x_min, y_min"
    with pytest.raises(DataError, match=answer):
        load(data_config(path, tmp_path))


def test_a_box_that_is_read_may_stand_among_others_and_a_picture_have_a_size(
    tmp_path: Path,
) -> None:
    rows = every(bbox=BOX, width=80, height=60)(rows_of(tmp_path))
    del rows[1]["bbox"], rows[1]["box"]
    path = write_jsonl(tmp_path / "shop.jsonl", rows)
    corpus = load(data_config(path, tmp_path))
    assert corpus.splits["mall_train"].records.has_box().sum() > 0


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        ("image,query,domain,split,xmin,ymin,xmax,ymax", "xmin, .* are not .* x_min, y_min, x_max"),
        ("image,query,domain,split,Box", "Box is not read: call it box"),
        ("image,query,domain,split,productId", "productId is not read: call it product_id"),
        ("image,query,DOMAIN,split", "DOMAIN is not read: call it domain"),
    ],
)
def test_a_column_that_is_nearly_one_that_is_read_is_named(
    tmp_path: Path, header: str, answer: str
) -> None:
    path = tmp_path / "shop.csv"
    path.write_text(header + "\n")
    with pytest.raises(DataError, match=answer):
        load(data_config(path, tmp_path))


def scaled_rows(folder: Path, size: tuple[int, int], scale: int, *, sized: bool = False) -> Rows:
    """Rows with a box each, all over pictures of one size, in shares of `scale`."""
    rows = []
    for number, row in enumerate(rows_of(folder)):
        Image.new("RGB", size).save(folder / row["image"])
        x, y = number % 4 / 4, number % 3 / 3
        box = (x, y, 0.2, 0.3) if sized else (x, y, x + 0.2, y + 0.3)
        rows.append(row | {"box": [round(share * scale, 2) for share in box]})
    return rows


@pytest.mark.parametrize(
    ("size", "scale", "sized", "answer"),
    [
        ((640, 480), 100, False, "like percent: multiply by width / 100 and height / 100"),
        ((640, 480), 100, True, "like percent as x, y, width, height.*x_max is x.*width / 100"),
        ((80, 60), 100, False, "like percent: multiply by width / 100"),
        ((2400, 2000), 1000, False, "like thousandths: multiply by width / 1000"),
        ((640, 480), 1000, False, "like thousandths: multiply by width / 1000"),
        ((640, 480), 1000, True, "like thousandths as x, y, width, height.*width / 1000"),
        ((640, 480), 1, True, "all look normalised, as x, y, width, height.*multiply by"),
    ],
)
def test_boxes_in_another_unit_than_pixels_are_told_which(
    tmp_path: Path, size: tuple[int, int], scale: int, sized: bool, answer: str
) -> None:
    path = write_jsonl(tmp_path / "s.jsonl", scaled_rows(tmp_path, size, scale, sized=sized))
    with pytest.raises(DataError, match=f"(?s){answer}") as refusal:
        load(data_config(path, tmp_path, max_pixels=10**7))
    assert len(str(refusal.value).splitlines()) <= 8


def test_pixels_that_reach_over_a_hundred_or_lie_in_small_pictures_are_pixels(
    tmp_path: Path,
) -> None:
    rows = scaled_rows(tmp_path, (640, 480), 100)
    rows[0]["box"] = [300, 200, 400, 300]
    load(data_config(write_jsonl(tmp_path / "far.jsonl", rows), tmp_path))
    small = scaled_rows(tmp_path, (120, 100), 100)
    load(data_config(write_jsonl(tmp_path / "small.jsonl", small), tmp_path))


@pytest.mark.parametrize(("size", "scale"), [((1600, 1200), 1000), ((150, 120), 100)])
def test_boxes_that_may_be_thousandths_as_well_as_pixels_are_a_note(
    tmp_path: Path, size: tuple[int, int], scale: int
) -> None:
    rows = scaled_rows(tmp_path, size, scale)
    rows[3]["box"] = [10, 10, 0.97 * scale, 0.98 * scale]
    path = write_jsonl(tmp_path / "s.jsonl", rows)
    notes = load(data_config(path, tmp_path, max_pixels=10**7)).notes
    assert any(f"multiply by width / {scale}" in note for note in notes)
    # Pixels in the middle of such pictures fill no range.
    rows = [row | {"box": [10, 10, 0.7 * scale, 0.7 * scale]} for row in rows]
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    notes = load(data_config(path, tmp_path, max_pixels=10**7)).notes
    assert not any("multiply" in note for note in notes)


def test_one_box_outside_its_picture_is_no_sign_of_thousandths(tmp_path: Path) -> None:
    rows = scaled_rows(tmp_path, (640, 480), 640)
    rows = [row | {"box": [10, 10, 600, 470]} for row in rows]
    rows[0]["box"] = [10, 10, 700, 510]
    with pytest.raises(DataError, match="1 outside the picture") as refusal:
        load(data_config(write_jsonl(tmp_path / "s.jsonl", rows), tmp_path))
    assert "thousandths" not in str(refusal.value)


def test_boxes_for_the_unrotated_picture_are_recognised(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    painting().save(tmp_path / "one.jpg", exif=exif)
    with pytest.raises(DataError, match=r"(?s)outside the picture.*60 x 80.*EXIF rotation"):
        load_one(tmp_path, "one.jpg", [60, 10, 78, 50])


GOOD = '{"image": "a", "query": "b", "domain": "mall", "split": "train"}'


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("shop.jsonl", None, r"(?s)no file .*shop\.jsonl.*looked from /"),
        ("shop.json", b"[]", r"expected a \.jsonl .* or \.csv file \(did you mean '\.jsonl'"),
        ("shop.jsonl", f"{GOOD}\n\n{{'a': 1}}\n".encode(), r"shop\.jsonl:3: not JSON"),
        ("shop.jsonl", b"[1, 2]\n", r"shop\.jsonl:1: expected one JSON object a line"),
        ("shop.jsonl", b"", "holds no rows"),
        ("shop.csv", b"", "no image, query, domain"),
        ("shop.csv", b"image;query;domain;split\n", "separated by semicolons: expected commas"),
        ("shop.csv", b"image\tquery\tdomain\tsplit\n", "separated by tabs"),
        ("shop.csv", b"image,text,domain,split\n", "(?s)no query.*found: image, text"),
        ("shop.csv", b"image,query,domain,split,split\n", "column 'split' is there twice"),
        ("shop.csv", b"image,query,domain,split,x_min\n", "no y_min, x_max, y_max"),
        ("shop.csv", b"image,query,domain,split\na,b,c,d,e\n", r"shop\.csv:2: 5 cells under 4"),
        ("shop.csv", b'image,query,domain,split\na,"b,c\n', r"shop\.csv:\d: not CSV"),
        (
            "shop.csv",
            b"image,query,domain,split,box\na,b,mall,train,1 2 3 4\n",
            r"shop\.csv:2: box 1 2 3 4 is not four numbers",
        ),
        ("shop.csv", "image,query\na,红色的杯子\n".encode("gbk"), r"\(line 2\): it looks like GBK"),
        ("shop.csv", "image,query\n".encode("utf-16"), "looks like UTF-16"),
        ("shop.csv", "image,query\n".encode("utf-16-le"), "looks like UTF-16"),
    ],
)
def test_a_wrong_file_is_answered(
    tmp_path: Path, name: str, content: bytes | None, pattern: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=pattern) as caught:
        load(data_config(tmp_path / name, tmp_path / "cache"))
    assert len(str(caught.value).splitlines()) <= 8


def test_a_forgotten_path_is_answered(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"config\.data\.path is empty"):
        load(data_config("", tmp_path))


@pytest.mark.skipif(
    "DATE_JAX_REAL_DATA" not in os.environ, reason="DATE_JAX_REAL_DATA names no annotations file"
)
def test_a_real_file_loads_and_its_boxes_lie_inside(tmp_path: Path) -> None:
    path = os.environ["DATE_JAX_REAL_DATA"]
    config = data_config(path, tmp_path, source="mall+mall_collage", text_length=20, image_size=64)
    corpus = load(config)
    assert sum(split.size for split in corpus.splits.values()) == len(
        Path(path).read_text().splitlines()
    )
    stream = pipeline.train_batches(
        corpus,
        ["mall_train", "mall_collage_train"],
        share=HERE,
        batch_size=32,
        seed=0,
        start_step=0,
        boxes=True,
    )
    for batch in islice(stream, 4):
        boxes = batch["box_cxcywh"][batch["box_mask"]]
        assert (boxes[:, 2:] > 0).all()
        assert (np.abs(boxes[:, :2] - 0.5) + boxes[:, 2:] / 2 <= 0.5 + 1e-6).all()
