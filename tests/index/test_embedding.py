"""A folder of vectors follows its catalogue, and nothing is embedded twice."""

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import date_jax
from date_jax import api
from date_jax.errors import DataError, SetupError, UsageError
from date_jax.index import embedding, parts
from date_jax.index.catalogue import catalogue_of_file
from date_jax.index.exact import Index, open_index

pytest.importorskip("pyarrow", reason="the extra index is not installed")


@pytest.fixture(scope="module")
def runs() -> dict[str, api.Run]:
    """The runs that are open, by name."""
    return {}


@pytest.fixture
def run(
    tiny_same_style: ConfigDict,
    runs: dict[str, api.Run],
    untrained_run: Callable[[ConfigDict, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> api.Run:
    if "same_style" not in runs:
        folder = tmp_path_factory.mktemp("same_style")
        runs["same_style"] = date_jax.open(untrained_run(tiny_same_style, folder))
    return runs["same_style"]


@pytest.fixture
def date_run(
    tiny_config: ConfigDict,
    runs: dict[str, api.Run],
    untrained_run: Callable[[ConfigDict, Path], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> api.Run:
    if "date" not in runs:
        folder = tmp_path_factory.mktemp("date")
        runs["date"] = date_jax.open(untrained_run(tiny_config, folder))
    return runs["date"]


@pytest.fixture
def offers(tmp_path: Path) -> list[dict]:
    """Nine offers: with picture and title, two without a picture, one that is broken."""
    generator = np.random.default_rng(0)
    rows = []
    for number in range(9):
        pixels = generator.integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        row = {"id": f"o{number}", "image": f"{number}.png", "text": f"red mug {number}"}
        rows.append(row | {"price": number})
    rows[3]["image"] = rows[4]["image"] = ""
    rows[5]["text"] = ""
    (tmp_path / "6.png").write_bytes(b"no picture")
    return rows


def embedded(
    run: api.Run, folder: Path, rows: list[dict], **options: int
) -> tuple[list[str], Index]:
    table = folder / "offers.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = embedding.embed(run, catalogue_of_file(table), folder / "vectors", **options)
    return lines, open_index(folder / "vectors")


def rows_by_id(index: Index) -> dict[str, np.ndarray]:
    return dict(zip(index.table.column("id").to_pylist(), index.vectors, strict=True))


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four parts, so that nine offers lie in several."""
    monkeypatch.setattr(parts, "part_count", lambda offers: 4)


@pytest.mark.usefixtures("small_parts")
def test_the_vectors_are_the_runs_and_an_unreadable_picture_is_named(
    run: api.Run, offers: list[dict], tmp_path: Path
) -> None:
    lines, index = embedded(run, tmp_path, offers)
    assert lines[0].startswith("8 offers have a vector")
    assert lines[1] == "  8 embedded here, 0 as they were, 1 left out:"
    assert lines[2].startswith("  o6: 6.png: is no JPEG")
    for row in (offers[0], offers[3], offers[5]):
        picture = tmp_path / row["image"] if row["image"] else None
        expected = run.embed_products([picture], [row["text"]])[0]
        np.testing.assert_allclose(rows_by_id(index)[row["id"]], expected, atol=1e-6)
    manifest = json.loads((tmp_path / "vectors/manifest.json").read_text())
    assert manifest["network"] == run.fingerprint
    assert (manifest["count"], manifest["width"], len(manifest["parts"])) == (8, 16, 4)
    assert index.table.column("price").to_pylist() != []


@pytest.mark.usefixtures("small_parts")
def test_a_second_start_embeds_nothing_and_leaves_every_byte(
    run: api.Run, offers: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded(run, tmp_path, offers)
    files = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "vectors").iterdir()}
    monkeypatch.setattr(api.Run, "_vectors", lambda *_: pytest.fail("embeds again"))
    lines, _ = embedded(run, tmp_path, offers)
    assert lines[1].startswith("  0 embedded here, 8 as they were")
    assert files == {
        path.name: path.stat().st_mtime_ns for path in (tmp_path / "vectors").iterdir()
    }


@pytest.mark.usefixtures("small_parts")
def test_new_changed_and_removed_offers_are_followed_alone(
    run: api.Run, offers: list[dict], tmp_path: Path
) -> None:
    _, before = embedded(run, tmp_path, offers)
    # Another text, other pixels under the same name, a picture moved, one offer less, one more.
    offers[0]["text"] = "blue bag"
    shutil.copy(tmp_path / "2.png", tmp_path / "1.png")
    (tmp_path / "7.png").rename(tmp_path / "seven.png")
    offers[7]["image"] = "seven.png"
    offers[8]["price"] = 100
    del offers[2]
    offers.append({"id": "new", "image": "8.png", "text": "lamp", "price": 1})
    lines, after = embedded(run, tmp_path, offers)
    assert lines[1].startswith("  3 embedded here, 5 as they were")
    vectors, old = rows_by_id(after), rows_by_id(before)
    assert {*vectors} == {*old, "new"} - {"o2"}
    changed = {name for name in vectors if name in old and (vectors[name] != old[name]).any()}
    assert changed == {"o0", "o1"}
    whole_lines, whole = embedded(run, tmp_path, offers)
    assert whole_lines[1].startswith("  0 embedded")
    prices = dict(zip(whole.table["id"].to_pylist(), whole.table["price"].to_pylist(), strict=True))
    assert prices["o8"] == 100
    # As if it were embedded for the first time.
    shutil.rmtree(tmp_path / "vectors")
    _, fresh = embedded(run, tmp_path, offers)
    for name, vector in rows_by_id(fresh).items():
        np.testing.assert_allclose(vector, vectors[name], atol=1e-6)


def test_a_catalogue_that_grows_into_more_parts_keeps_its_vectors(
    run: api.Run, offers: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count, new in ((2, 5), (8, 3), (1, 0)):
        monkeypatch.setattr(parts, "part_count", lambda _, count=count: count)
        rows = offers[:5] if count == 2 else offers
        lines, index = embedded(run, tmp_path, rows)
        assert lines[1].startswith(f"  {new} embedded here")
        assert len(index.manifest["parts"]) == count
        assert len(parts.part_files(tmp_path / "vectors")) == count


@pytest.mark.usefixtures("small_parts")
def test_a_stopped_command_goes_on_behind_its_last_whole_part(
    run: api.Run, offers: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = parts.write_part, []

    def write_two(*arguments: object) -> Path:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(write(*arguments))
        return written[-1]

    monkeypatch.setattr(parts, "write_part", write_two)
    with pytest.raises(KeyboardInterrupt):
        embedded(run, tmp_path, offers)
    with pytest.raises(DataError, match="was begun and is not whole"):
        open_index(tmp_path / "vectors")
    monkeypatch.setattr(parts, "write_part", write)
    before = sum(len(parts.read_part(path).table) for path in written)
    lines, index = embedded(run, tmp_path, offers)
    assert lines[1].startswith(f"  {8 - before} embedded here, {before} as they were")
    assert len(index) == 8


@pytest.mark.usefixtures("small_parts")
def test_two_processes_share_the_parts_and_the_first_writes_the_manifest(
    run: api.Run, offers: list[dict], tmp_path: Path
) -> None:
    table = tmp_path / "offers.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in offers))
    catalogue, lines = catalogue_of_file(table), {}

    def share(process: int) -> None:
        lines[process] = embedding.embed(
            run, catalogue, tmp_path / "vectors", process_index=process, process_count=2
        )

    first = threading.Thread(target=share, args=(0,))
    first.start()
    assert not (tmp_path / "vectors/manifest.json").exists()
    share(1)
    first.join()
    assert lines[0][0].startswith("8 offers have a vector")
    assert lines[1][0].startswith("2 parts of process 1 of 2 are there")
    shared = open_index(tmp_path / "vectors")
    shutil.rmtree(tmp_path / "vectors")
    _, alone = embedded(run, tmp_path, offers)
    assert shared.table.column("id").equals(alone.table.column("id"))
    np.testing.assert_allclose(shared.vectors, alone.vectors, atol=1e-6)


@pytest.mark.usefixtures("small_parts")
def test_a_process_that_does_not_come_is_named(
    run: api.Run, offers: list[dict], tmp_path: Path
) -> None:
    with pytest.raises(SetupError, match=r"2 parts of process 1 have not come"):
        embedded(run, tmp_path, offers, process_count=2, patience=0.0)


@pytest.mark.usefixtures("small_parts")
def test_a_damaged_part_is_told_and_embedded_again_alone(
    run: api.Run, offers: list[dict], tmp_path: Path
) -> None:
    embedded(run, tmp_path, offers)
    files = [path for (path,) in parts.part_files(tmp_path / "vectors").values()]
    rows = len(parts.read_part(files[1]).table)
    content = bytearray(files[1].read_bytes())
    content[len(content) // 2] ^= 1
    files[1].write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged\n  remove it"):
        open_index(tmp_path / "vectors")
    lines, index = embedded(run, tmp_path, offers)
    assert lines[1].startswith(f"  {rows} embedded here")
    assert len(index) == 8


def test_another_network_is_refused_with_both_fingerprints(
    run: api.Run, date_run: api.Run, offers: list[dict], tmp_path: Path
) -> None:
    _, index = embedded(run, tmp_path, offers)
    both = f"network, {run.fingerprint}; .* is {date_run.fingerprint}"
    with pytest.raises(UsageError, match=both):
        embedded(date_run, tmp_path, offers)
    with pytest.raises(UsageError, match=both):
        index.require(date_run)
    index.require(run)


def test_a_run_that_grounds_embeds_pictures_alone(
    date_run: api.Run, offers: list[dict], tmp_path: Path
) -> None:
    lines, index = embedded(date_run, tmp_path, offers)
    assert "  o3: has no picture" in lines
    assert index.manifest["question"] == "embed_images"
    expected = date_run.embed_images([tmp_path / "5.png"])[0]
    np.testing.assert_allclose(rows_by_id(index)["o5"], expected, atol=1e-6)
    # A text that changes needs no other vector.
    offers[0]["text"] = "changed"
    lines, index = embedded(date_run, tmp_path, offers)
    assert lines[1].startswith("  0 embedded here")
    assert "changed" in index.table.column("text").to_pylist()


def test_a_catalogue_without_a_readable_picture_makes_no_index(
    date_run: api.Run, offers: list[dict], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"no offer of the catalogue has a vector\n  o3: has no"):
        embedded(date_run, tmp_path, offers[3:5])
    with pytest.raises(DataError, match=r"holds no manifest.json"):
        open_index(tmp_path / "vectors")


def test_parts_grow_with_the_root_of_the_catalogue() -> None:
    counts = [parts.part_count(n) for n in (1, 700, 1_000, 100_000, 1_000_000, 100_000_000)]
    assert counts == [1, 1, 2, 128, 256, 4096]
