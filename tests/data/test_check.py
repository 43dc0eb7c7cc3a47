"""The look at a user's data: each fault put into good data is told, and nothing else."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from date_jax.data.files.annotations import annotations
from date_jax.data.files.photo_table import checked_photos
from date_jax.data.files.photos import PhotoRow
from date_jax.data.survey.duplicates import near_pairs, same_files
from date_jax.data.survey.looks import Look, look, upright_pixels
from date_jax.data.survey.main import main
from date_jax.data.tokenizer import tokenizer_of_texts
from date_jax.errors import DataError

SIZE = (200, 150)
SPLITS = ("train", "train", "train", "val", "test")


def picture(seed: int) -> Image.Image:
    """A picture with many edges that no other seed gives: coarse noise, and bars on it."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 255, (6, 8, 3), np.uint8))
    image = noise.resize(SIZE, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.integers(0, 150, 2).tolist()
        draw.rectangle((x, y, x + 30, y + 8), fill=tuple(rng.integers(0, 255, 3).tolist()))
    return image


def shop(folder: Path, count: int = 20) -> list[dict[str, Any]]:
    """Rows of one domain with good pictures, and boxes that are right."""
    (folder / "images").mkdir()
    rows = []
    for number in range(count):
        name = f"images/{number}.png"
        picture(number).save(folder / name)
        rows.append(
            {
                "image": name,
                "query": f"mug number {number}",
                "box": [20, 30, 90 + number, 120],
                "domain": "mall",
                "split": SPLITS[number % 5],
            }
        )
    return rows


def write(folder: Path, rows: list[dict[str, Any]]) -> Path:
    path = folder / "shop.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def report(
    folder: Path, rows: list[dict[str, Any]], capsys: pytest.CaptureFixture, *flags: str
) -> dict[str, Any]:
    """The report of the command as JSON; it agrees with the exit code."""
    code = main([f"--path={write(folder, rows)}", "--json", "--out=", *flags])
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["usable"] else 1)
    return found


def kinds(found: dict[str, Any]) -> list[str]:
    return [finding["kind"] for finding in found["findings"]]


def test_good_data_are_usable_and_nothing_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = report(tmp_path, shop(tmp_path), capsys)
    assert found["findings"] == []
    assert found["usable"]
    assert (found["rows"], found["pictures"]) == (20, 20)
    assert [(s["split"], s["rows"], s["boxes"]) for s in found["splits"]] == [
        ("test", 4, 4),
        ("train", 12, 12),
        ("val", 4, 4),
    ]
    assert found["picture_sizes"] == {"width": [200] * 3, "height": [150] * 3}
    assert found["queries"]["words"] == [3, 3, 3]


def replaced(rows: list[dict], number: int, **fields: Any) -> list[dict]:
    return [row | fields if n == number else row for n, row in enumerate(rows)]


def _save(change: Callable[[Image.Image], Image.Image], **options: Any) -> Callable:
    """A fault that changes picture 0, and keeps the rows."""

    def fault(folder: Path, rows: list[dict]) -> list[dict]:
        change(picture(0)).save(folder / "images/0.png", **options)
        return rows

    return fault


def _copied(source: int, target: int) -> Callable:
    """A fault that makes one picture's file another's."""

    def fault(folder: Path, rows: list[dict]) -> list[dict]:
        content = (folder / f"images/{source}.png").read_bytes()
        (folder / f"images/{target}.png").write_bytes(content)
        return rows

    return fault


def _nearly(source: int, target: int) -> Callable:
    """A fault that makes one picture a scaled and darker copy of another."""

    def fault(folder: Path, rows: list[dict]) -> list[dict]:
        image = ImageEnhance.Brightness(picture(source)).enhance(0.8).resize((160, 120))
        image.save(folder / f"images/{target}.png")
        return replaced(rows, target, box=[10, 10, 90, 90])

    return fault


def _cut(folder: Path, rows: list[dict]) -> list[dict]:
    file = folder / "images/0.png"
    file.write_bytes(file.read_bytes()[:-2000])
    return rows


def _boxes_of_sizes(folder: Path, rows: list[dict]) -> list[dict]:
    return [row | {"box": [100, 80, 60, 50]} for row in rows]


@pytest.mark.parametrize(
    ("fault", "kind", "is_wrong"),
    [
        (lambda _, rows: replaced(rows, 0, box=[1, 2, 3]), "rows", True),
        (lambda _, rows: replaced(rows, 0, image="images/no.png"), "unreadable_pictures", True),
        (_cut, "unreadable_pictures", True),
        (_boxes_of_sizes, "box_format", True),
        (lambda _, rows: replaced(rows, 0, box=[20, 30, 900, 120]), "box_format", True),
        (_copied(0, 4), "same_picture_in_train_and_test", True),
        (
            lambda _, rows: [*rows, rows[0] | {"split": "test", "query": "again"}],
            "same_picture_in_train_and_test",
            True,
        ),
        (lambda _, rows: [r | {"split": "test"} for r in rows], "no_training_rows", True),
        (lambda _, rows: [r for r in rows if r["split"] != "test"], "no_test_rows", False),
        (lambda _, rows: [r | {"split": ""} for r in rows], "hashed_splits", False),
        (lambda _, rows: [r | {"box": None} for r in rows], "no_boxes", False),
        (_copied(0, 1), "same_picture_twice", False),
        (_nearly(0, 4), "near_duplicates_in_train_and_test", False),
        (_nearly(0, 1), "near_duplicates", False),
        (_save(lambda i: ImageEnhance.Brightness(i).enhance(0.15)), "dark_pictures", False),
        (_save(lambda i: i.filter(ImageFilter.GaussianBlur(3))), "blurred_pictures", False),
        (_save(lambda i: Image.new("RGB", SIZE, "white")), "blank_pictures", False),
        (lambda _, rows: replaced(rows, 0, box=[20, 30, 24, 34]), "tiny_boxes", False),
        (lambda _, rows: [r | {"box": [0, 0, 200, 150]} for r in rows], "whole_boxes", False),
        (lambda _, rows: replaced(rows, 0, query=" "), "empty_queries", False),
        (
            lambda _, rows: [*rows, rows[0] | {"box": [5, 5, 60, 60]}],
            "same_words_for_several_boxes",
            False,
        ),
        (lambda _, rows: [r | {"query": "mug"} for r in rows], "repeated_queries", False),
        (
            lambda _, rows: replaced(replaced(rows, 0, product_id="a"), 4, product_id="a"),
            "same_product_in_train_and_test",
            False,
        ),
        (
            lambda _, rows: [r | {"product_id": "unknown", "split": "train"} for r in rows],
            "one_product",
            False,
        ),
    ],
)
def test_a_fault_is_told_and_decides_whether_the_data_are_usable(
    tmp_path: Path,
    fault: Callable[[Path, list[dict]], list[dict]],
    kind: str,
    is_wrong: bool,
    capsys: pytest.CaptureFixture,
) -> None:
    found = report(tmp_path, fault(tmp_path, shop(tmp_path)), capsys)
    # Rows of one split alone lack the others too.
    assert [name for name in kinds(found) if name != "no_test_rows" or name == kind] == [kind]
    assert found["usable"] is not is_wrong
    # A run says the same of what it can see without decoding pictures or comparing them.
    is_refused = kind in ("rows", "unreadable_pictures", "box_format") and fault is not _cut
    assert is_refused_by_a_run(tmp_path / "shop.jsonl") is is_refused


def is_refused_by_a_run(path: Path) -> bool:
    options = {"image_size": 32, "fit": "letterbox", "max_pixels": 10**6}
    try:
        rows = [
            PhotoRow(row.line, row.image, row.text, row.box, row.split, "", "")
            for row in annotations(path)
        ]
        checked_photos(path, path.parent, rows, options | {"bad_image_budget": 0.01})
    except DataError:
        return True
    return False


def test_small_pictures_are_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = replaced(shop(tmp_path), 0, box=[2, 2, 30, 20])
    picture(0).resize((48, 36)).save(tmp_path / "images/0.png")
    assert kinds(report(tmp_path, rows, capsys)) == ["small_pictures"]


def test_words_that_a_vocabulary_lacks_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = shop(tmp_path)
    vocab = tmp_path / "vocab.txt"
    texts = [row["query"] for row in rows]
    tokenizer_of_texts(texts, size=200, length=16).save(tmp_path)
    flag = f"--vocab={vocab}"
    assert kinds(report(tmp_path, rows, capsys, flag)) == []
    some = report(tmp_path, replaced(rows, 0, query="mug 红"), capsys, flag)
    assert [(f["kind"], f["wrong"]) for f in some["findings"]] == [("unknown_words", False)]
    words = [row | {"query": "кружка красная"} for row in rows]
    most = report(tmp_path, words, capsys, flag)
    assert "unknown_words" in kinds(most)
    assert not most["usable"]


def test_the_budget_decides_how_many_pictures_may_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = shop(tmp_path)
    (tmp_path / "images/3.png").unlink()
    found = report(tmp_path, rows, capsys, "--bad_image_budget=0.05")
    assert [(f["kind"], f["wrong"]) for f in found["findings"]] == [("unreadable_pictures", False)]
    assert "images/3.png cannot be opened: No such file" in found["findings"][0]["examples"][0]


def test_the_report_for_people_says_what_is_wrong_first(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = _nearly(2, 4)(tmp_path, _copied(0, 9)(tmp_path, shop(tmp_path)))
    assert main([f"--path={write(tmp_path, rows)}", f"--out={tmp_path}/look"]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{tmp_path}/shop.jsonl: 20 rows of 20 pictures"
    wrong, doubt = (
        next(number for number, line in enumerate(said) if line.startswith(start))
        for start in ("WRONG", "worth a look")
    )
    assert wrong < doubt
    assert "THE SAME PICTURE IN TRAIN AND IN VAL OR TEST: 1" in said[wrong + 1]
    assert "PAIRS OF NEARLY EQUAL PICTURES ACROSS TRAIN AND VAL OR TEST: 1" in said[doubt + 1]
    assert said[-1] == "not usable yet: 1 thing is wrong"
    assert said[-2] == f"look at {tmp_path}/look/samples.png and {tmp_path}/look/doubtful.png"


def test_the_sheet_shows_each_box_where_the_picture_is_red(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    image = Image.new("RGB", (80, 60), "blue")
    image.paste((0, 250, 0), (12, 30, 44, 50))
    image.save(tmp_path / "images/0.png")
    row = {"image": "images/0.png", "query": "红 mug", "box": [12, 30, 44, 50]}
    path = write(tmp_path, [row | {"domain": "mall", "split": "train"}])
    assert main([f"--path={path}", f"--out={tmp_path}/look"]) == 0
    sheet = np.asarray(Image.open(tmp_path / "look/samples.png").convert("RGB")).astype(int)
    frame = (abs(sheet - [228, 30, 90]).sum(-1) < 60).nonzero()
    green = ((sheet[..., 1] > 200) & (sheet[..., 0] < 90) & (sheet[..., 2] < 90)).nonzero()
    for inner, outer in zip(green, frame, strict=True):
        assert abs(inner.min() - outer.min()) <= 4
        assert abs(inner.max() - outer.max()) <= 4
    # Nothing was in doubt, so that an earlier sheet would be wrong.
    assert [file.name for file in (tmp_path / "look").iterdir()] == ["samples.png"]


def test_a_file_that_is_not_there_is_an_error_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main([f"--path={tmp_path}/shop.jsonl"]) == 3
    assert "no such file" in capsys.readouterr().err


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def marked(image: Image.Image) -> Image.Image:
    image = image.copy()
    ImageDraw.Draw(image).text((150, 135), "my shop", (120, 120, 120))
    return image


@pytest.mark.parametrize(
    "change",
    [
        lambda image: jpeg(image, 30),
        lambda image: image.resize((100, 75)),
        lambda image: ImageEnhance.Brightness(image).enhance(0.8),
        lambda image: ImageEnhance.Contrast(image).enhance(0.8),
        marked,
    ],
)
def test_a_changed_copy_is_near_its_original_and_no_other(
    tmp_path: Path, change: Callable[[Image.Image], Image.Image]
) -> None:
    looks = {}
    for number in range(12):
        picture(number).save(tmp_path / f"{number}.png")
        change(picture(number)).save(tmp_path / f"{number}b.png")
        for name in (f"{number}", f"{number}b"):
            looks[name] = look(tmp_path / f"{name}.png")
    assert {*near_pairs(looks)} == {(f"{number}", f"{number}b") for number in range(12)}


def test_near_pairs_are_those_of_a_comparison_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and the hash's filter lose no pair of small copies whose hashes are near."""
    from date_jax.data.survey import duplicates

    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    rng = np.random.default_rng(0)
    base = rng.normal(size=(10, 768)).astype(np.float32)
    small = np.concatenate([base, base + 0.04 * rng.normal(size=base.shape)]).astype(np.float32)
    small /= np.linalg.norm(small, axis=1, keepdims=True)
    bits = np.zeros((20, 2), np.uint64)
    bits[3, 1] = (1 << 15) - 1  # one bit more than may differ
    looks = {
        f"{n}": Look(n.to_bytes(4, "big"), bits[n], small[n], "blank" if n == 5 else "")
        for n in range(20)
    }
    assert {*near_pairs(looks)} == {
        (f"{i}", f"{j}")
        for i in range(20)
        for j in range(i + 1, 20)
        if 1 - small[i] @ small[j] <= duplicates.MAX_DISTANCE and not {3, 5} & {i, j}
    }
    assert len(near_pairs(looks)) == 8


def test_equal_files_are_one_group_and_no_near_pair(tmp_path: Path) -> None:
    for name in "abc":
        picture(1).save(tmp_path / f"{name}.png")
    looks = {name: look(tmp_path / f"{name}.png") for name in "abc"}
    assert same_files(looks) == [["a", "b", "c"]]
    assert near_pairs(looks) == []


def test_a_look_is_at_the_upright_picture_without_margins(tmp_path: Path) -> None:
    image = picture(3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees for a viewer
    image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    image.save(tmp_path / "plain.png")
    turned, plain = (
        upright_pixels((tmp_path / f"{name}.png").read_bytes()) for name in ("turned", "plain")
    )
    assert turned.shape == plain.shape == (150, 200, 3)
    looks = {name: look(tmp_path / f"{name}.png") for name in ("turned", "plain")}
    assert near_pairs(looks) == [("turned", "plain")]
