"""The command `ground`: pairs from files, folders and tables; rows that a stop does not lose."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import date_jax
from date_jax import api, ground
from date_jax.errors import DataError, UsageError


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pictures, of which one is broken, and one in a folder."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    (folder / "more").mkdir()
    for name, size in (("a.jpg", (40, 30)), ("more/b.png", (30, 50))):
        pixels = generator.integers(0, 256, (*size[::-1], 3), np.uint8)
        Image.fromarray(pixels).save(folder / name)
    (folder / "broken.jpg").write_bytes(b"not a picture")
    return folder


@pytest.fixture
def run(
    tiny_config: ConfigDict,
    tmp_path: Path,
    untrained_run: Callable[[ConfigDict, Path], Path],
) -> api.Run:
    return date_jax.open(untrained_run(tiny_config, tmp_path / "run"))


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_query_is_asked_of_every_picture_of_a_folder(photos: Path, tmp_path: Path) -> None:
    queries = tmp_path / "queries.txt"
    queries.write_text("red mug\n\nblue bag\n")
    pairs = ground.pairs_of_flags(str(photos), "", str(queries))
    names = [(Path(pair.image).name, pair.query) for pair in pairs]
    assert names == [
        (name, query)
        for name in ("a.jpg", "broken.jpg", "b.png")
        for query in ("red mug", "blue bag")
    ]
    pattern = ground.pairs_of_flags(str(photos / "*.jpg"), "red mug", "")
    assert [Path(pair.image).name for pair in pattern] == ["a.jpg", "broken.jpg"]


def test_a_table_brings_its_own_queries(photos: Path) -> None:
    table = photos / "pairs.jsonl"
    table.write_text('{"image": "a.jpg", "query": "mug"}\n{"image": "more/b.png"}\n')
    pairs = ground.pairs_of_flags(str(table), "blue bag", "")
    assert [(pair.image, pair.query) for pair in pairs] == [
        ("a.jpg", "mug"),
        ("more/b.png", "blue bag"),
    ]
    assert pairs[1].path == photos / "more/b.png"
    with pytest.raises(DataError, match=r"pairs.jsonl:2: has no query"):
        ground.pairs_of_flags(str(table), "", "")


def test_nothing_to_ask_or_to_look_at_is_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match="nothing is asked"):
        ground.pairs_of_flags(str(photos), "", "")
    with pytest.raises(UsageError, match="one or the other"):
        ground.pairs_of_flags(str(photos), "mug", "queries.txt")
    with pytest.raises(DataError, match="no picture there"):
        ground.pairs_of_flags(str(photos / "*.webp"), "mug", "")


def test_rows_hold_the_runs_boxes_and_an_unreadable_picture_stops_nobody(
    run: api.Run, photos: Path, tmp_path: Path
) -> None:
    pairs = ground.pairs_of_flags(str(photos), "red mug", "")
    lines = ground.ground(run, pairs, tmp_path / "boxes.jsonl")
    assert any("broken.jpg: is no JPEG" in line for line in lines)
    first, broken, last = rows(tmp_path / "boxes.jsonl")
    assert "box" not in broken
    assert "is no JPEG" in broken["error"]
    for row, name in ((first, "a.jpg"), (last, "more/b.png")):
        (answer,) = run.ground(photos / name, "red mug")
        np.testing.assert_allclose(row["box"], answer.box_xyxy_pixels, atol=1e-3)
        assert row["network"] == run.fingerprint


def test_a_stopped_command_goes_on_and_ends_with_the_same_rows(
    run: api.Run, photos: Path, tmp_path: Path
) -> None:
    pairs = ground.pairs_of_flags(str(photos), "red mug", "")
    ground.ground(run, pairs, tmp_path / "whole.jsonl")
    whole = (tmp_path / "whole.jsonl").read_text()
    # Stopped in the middle of the last line.
    (tmp_path / "stopped.jsonl").write_text(whole[:-20])
    lines = ground.ground(run, pairs, tmp_path / "stopped.jsonl")
    assert lines[0].startswith("1 pairs grounded, 2 were there before")
    whole_rows, rows_after = rows(tmp_path / "whole.jsonl"), rows(tmp_path / "stopped.jsonl")
    assert [row["image"] for row in rows_after] == [row["image"] for row in whole_rows]
    np.testing.assert_allclose(rows_after[-1]["box"], whole_rows[-1]["box"], atol=1e-3)


def test_what_another_command_asked_is_not_answered_again(
    run: api.Run, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "boxes.jsonl"
    ground.ground(run, ground.pairs_of_flags(str(photos / "a.jpg"), "red mug", ""), out)
    pairs = ground.pairs_of_flags(str(photos / "a.jpg"), "blue bag", "")
    lines = ground.ground(run, pairs, out)
    assert lines[0].startswith("1 pairs grounded, 0 were there before")
    (row,) = ground.rows_of_pairs(out, pairs)
    assert row["query"] == "blue bag"
    assert len(rows(out)) == 2


def test_a_small_picture_is_drawn_some_times_as_large(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "small.png")
    pairs = ground.pairs_of_flags(str(tmp_path / "small.png"), "mug", "")
    row = {"image": pairs[0].image, "query": "mug", "box": [2.0, 6.0, 18.0, 14.0], "score": 0.5}
    ground.draw([row], pairs, tmp_path / "drawn", 0.0)
    (file,) = (tmp_path / "drawn").iterdir()
    with Image.open(file) as drawn:
        assert drawn.size == (320, 240)


def test_rows_of_another_network_are_not_gone_on_with(
    run: api.Run, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "boxes.jsonl"
    out.write_text('{"image": "a.jpg", "query": "mug", "box": [0, 0, 1, 1], "network": "other"}\n')
    with pytest.raises(UsageError, match=f"other; this one is {run.fingerprint}"):
        ground.ground(run, ground.pairs_of_flags(str(photos), "mug", ""), out)
    out.write_text("something else\n")
    with pytest.raises(DataError, match=r"boxes.jsonl:1: is no line of this command"):
        ground.ground(run, ground.pairs_of_flags(str(photos), "mug", ""), out)


def test_the_coco_json_has_the_boxes_as_corner_and_sides(photos: Path) -> None:
    pairs = ground.pairs_of_flags(str(photos / "a.jpg"), "mug", "")
    row = {"image": pairs[0].image, "query": "mug", "box": [1.0, 2.0, 11.0, 22.0], "score": 0.5}
    coco = ground.coco_json([row, {"image": "x", "query": "mug", "error": "gone"}], pairs)
    assert coco["images"] == [{"id": 1, "file_name": pairs[0].image, "width": 40, "height": 30}]
    assert coco["categories"] == [{"id": 1, "name": "mug"}]
    (annotation,) = coco["annotations"]
    assert annotation["bbox"] == [1.0, 2.0, 10.0, 20.0]
    assert annotation["area"] == 200.0
    assert annotation["score"] == 0.5


def test_drawn_pictures_show_the_boxes_of_a_score_that_is_high_enough(tmp_path: Path) -> None:
    Image.new("RGB", (200, 160), (90, 90, 90)).save(tmp_path / "grey.png")
    pairs = ground.pairs_of_flags(str(tmp_path / "grey.png"), "mug", "")
    box = [20.0, 60.0, 180.0, 140.0]
    row = {"image": pairs[0].image, "query": "mug", "box": box, "score": 0.5}
    assert ground.draw([row], pairs, tmp_path / "drawn", 0.0) == 1
    (file,) = (tmp_path / "drawn").iterdir()
    difference = np.abs(np.asarray(Image.open(file).convert("RGB"), int) - 90).max(axis=-1)
    # The box's edges and the label above it, and nothing inside or outside.
    assert difference[60, 30:170].min() > 40
    assert difference[70:130, 20].min() > 40
    assert difference[40:58, 20:50].max() > 100
    assert difference[80:130, 40:160].max() < 12
    assert difference[:30].max() < 12
    assert ground.draw([row], pairs, tmp_path / "drawn", 0.6) == 0
