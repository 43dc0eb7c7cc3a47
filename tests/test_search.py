"""A catalogue is searched by every task's questions: from Python, and from the shell."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import date_jax
from date_jax import api, search, seek
from date_jax.errors import DataError, SetupError, UsageError
from date_jax.index import embedding
from date_jax.index.catalogue import catalogue_of_file
from date_jax.index.exact import Index, open_index
from date_jax.pairs.vectors import host_unit_vectors
from date_jax.run import commandline

pytest.importorskip("pyarrow", reason="the extra index is not installed")
pytest.importorskip("duckdb", reason="the extra index is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures of six products with a catalogue of them; the runs and indices come here."""
    folder = tmp_path_factory.mktemp("asked")
    generator, lines = np.random.default_rng(0), []
    for number in range(12):
        pixels = generator.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        row = {"id": f"o{number}", "image": f"{number}.png", "text": f"red mug {number}"}
        row |= {"price": number, "product_id": number // 2}
        lines.append(json.dumps(row) + "\n")
    (folder / "offers.jsonl").write_text("".join(lines))
    return folder


Opened = tuple[api.Run, Index]


@pytest.fixture(scope="module")
def opened(
    folder: Path, untrained_run: Callable[[ConfigDict, Path], Path]
) -> Callable[[ConfigDict, str], Opened]:
    """A run of a config that means nothing, and the catalogue as it sees it."""
    pairs: dict[str, Opened] = {}

    def open_both(config: ConfigDict, name: str) -> Opened:
        if name not in pairs:
            run = date_jax.open(untrained_run(config, folder / name))
            catalogue = catalogue_of_file(folder / "offers.jsonl")
            embedding.embed(run, catalogue, folder / f"{name}_vectors")
            pairs[name] = run, open_index(folder / f"{name}_vectors")
        return pairs[name]

    return open_both


@pytest.fixture
def date(opened: Callable[..., Opened], tiny_config: ConfigDict) -> Opened:
    return opened(tiny_config, "date")


@pytest.fixture
def same_style(opened: Callable[..., Opened], tiny_same_style: ConfigDict) -> Opened:
    return opened(tiny_same_style, "same_style")


@pytest.fixture
def capture(opened: Callable[..., Opened], tiny_capture: ConfigDict) -> Opened:
    return opened(tiny_capture, "capture")


def order(index: Index, vector: np.ndarray) -> list[str]:
    """The ids of all offers, the nearest to a vector first."""
    rows = np.argsort(-(index.vectors @ vector), kind="stable")
    return [index.table.column("id")[int(row)].as_py() for row in rows]


def test_words_find_pictures_and_the_box_in_each(date: Opened, folder: Path) -> None:
    run, index = date
    (line,) = seek.seek(run, index, "red mug", count=3, where="price < 8")
    near = [i for i in order(index, run.embed_texts(["red mug"])[0]) if int(i[1:]) < 8][:3]
    assert [found.id for found in line.offers] == near
    for found in line.offers:
        (grounding,) = run.ground(folder / found.fields["path"], "red mug")
        np.testing.assert_allclose(found.box_xyxy_pixels, grounding.box_xyxy_pixels, atol=1e-3)
        assert found.box_score is None


def test_a_picture_finds_itself_and_with_words_the_direction_between_both(date: Opened) -> None:
    run, index = date
    picture = index.pictures / "4.png"
    (line,) = seek.seek(run, index, picture=picture, count=2)
    assert line.offers[0].id == "o4"
    assert line.offers[0].score == pytest.approx(1.0, abs=1e-5)
    assert line.offers[0].box_xyxy_pixels is None
    (line,) = seek.seek(run, index, "mug", picture, count=12)
    both = run.embed_images([picture])[0] + run.embed_texts(["mug"])[0]
    assert [found.id for found in line.offers] == order(index, both)
    assert line.offers[0].box_xyxy_pixels is not None


def test_a_picture_that_has_gone_has_no_box_and_stops_nobody(date: Opened, tmp_path: Path) -> None:
    run, index = date
    for number in range(0, 12, 2):
        shutil.copy(index.pictures / f"{number}.png", tmp_path)
    moved = open_index(index.path, tmp_path)
    (line,) = seek.seek(run, moved, "red mug", count=12)
    for found in line.offers:
        assert (found.box_xyxy_pixels is None) == (int(found.id[1:]) % 2 == 1)


def test_an_offer_finds_others_by_what_counts(same_style: Opened) -> None:
    run, index = same_style
    own = index.vectors[index.row("o3")]
    picture = index.pictures / "3.png"
    expected: list[tuple[dict[str, Any], np.ndarray]] = [
        ({}, own),
        ({"by": "image"}, run.embed_images([picture])[0]),
        ({"by": "text"}, run.embed_texts(["red mug 3"])[0]),
        ({"words": "blue"}, run.embed_products([picture], ["blue"])[0]),
    ]
    for options, vector in expected:
        (line,) = seek.seek(run, index, offer_id="o3", count=5, **options)
        others = [offer_id for offer_id in order(index, vector) if offer_id != "o3"]
        assert [found.id for found in line.offers] == others[:5]


def test_style_transfer_adds_and_takes_away_directions(same_style: Opened) -> None:
    run, index = same_style
    old, new = run.embed_texts(["red", "blue"])
    vector = host_unit_vectors(index.vectors[index.row("o3")] + 0.5 * (new - old))
    (line,) = seek.seek(run, index, offer_id="o3", old="red", new="blue", strength=0.5, count=11)
    assert [found.id for found in line.offers] == [i for i in order(index, vector) if i != "o3"]
    (still,) = seek.seek(run, index, offer_id="o3", old="red", new="blue", strength=0.0, count=11)
    (plain,) = seek.seek(run, index, offer_id="o3", count=11)
    assert [found.id for found in still.offers] == [found.id for found in plain.offers]


def test_every_product_of_a_picture_has_its_line_of_posts(capture: Opened) -> None:
    run, index = capture
    picture = index.pictures / "2.png"
    lines = seek.seek(run, index, "red mug", picture, count=4)
    (instances,) = run.instances([picture], ["red mug"])
    assert len(lines) == len(instances) > 0
    for line, instance in zip(lines, instances, strict=True):
        np.testing.assert_allclose(line.box_xyxy_pixels, instance.box_xyxy_pixels, atol=1e-3)
        assert line.score == pytest.approx(instance.score, abs=1e-5)
        np.testing.assert_allclose(
            [found.score for found in line.offers],
            np.sort(index.vectors @ instance.embedding)[::-1][:4],
            atol=1e-5,
        )
    (line,) = seek.seek(run, index, offer_id="o2", count=3)
    assert "o2" not in [found.id for found in line.offers]
    with pytest.raises(UsageError, match="cannot be asked with words alone; give a picture"):
        seek.seek(run, index, "red mug")


def test_equal_offers_are_groups_and_others_are_not(same_style: Opened, folder: Path) -> None:
    run, _ = same_style
    lines = (folder / "offers.jsonl").read_text().splitlines()
    copies = [json.dumps(json.loads(line) | {"id": f"copy{n}"}) for n, line in enumerate(lines[:3])]
    (folder / "twice.jsonl").write_text("\n".join([*lines, *copies, copies[0].replace("y0", "y9")]))
    catalogue = catalogue_of_file(folder / "twice.jsonl")
    embedding.embed(run, catalogue, folder / "twice_vectors")
    index = open_index(folder / "twice_vectors")
    groups = seek.duplicate_groups(index, 0.999999)
    names = [sorted(hit.id for hit in group) for group in groups]
    assert names[0] == ["copy0", "copy9", "o0"]
    assert sorted(names[1:]) == [["copy1", "o1"], ["copy2", "o2"]]
    assert [len(group) for group in seek.duplicate_groups(index, 0.999999, "price = 1")] == [2]
    with pytest.raises(UsageError, match=r"duplicates=1.5: expected a cosine"):
        seek.duplicate_groups(index, 1.5)


@pytest.mark.parametrize(
    ("modality", "words", "picture", "message"),
    [
        ("image", "blue", None, "trained without words"),
        ("text", "", "3.png", "trained without a picture"),
    ],
)
def test_what_a_run_does_not_see_is_refused(
    opened: Callable[..., Opened],
    tiny_same_style: ConfigDict,
    modality: str,
    words: str,
    picture: str | None,
    message: str,
) -> None:
    tiny_same_style.modality = modality
    run, index = opened(tiny_same_style, f"of_{modality}")
    with pytest.raises(UsageError, match=message):
        seek.seek(run, index, words, picture and index.pictures / picture)
    (line,) = seek.seek(run, index, offer_id="o3", count=2)
    assert len(line.offers) == 2


def test_questions_of_another_network_or_of_nothing_are_refused(
    date: Opened, same_style: Opened
) -> None:
    run, index = same_style
    with pytest.raises(
        UsageError, match=f"network, {index.manifest['network']}; .* is {date[0].fingerprint}"
    ):
        seek.seek(date[0], index, "red mug")
    for options, message in (
        ({}, "nothing is asked"),
        ({"offer_id": "o1", "picture": "a.png"}, "one or the other"),
        ({"offer_id": "o1", "old": "red"}, "belong together"),
        ({"offer_id": "o99"}, "no offer 'o99' .did you mean 'o"),
        ({"words": "mug", "by": "picture"}, "by=picture: one of joint, image, text"),
        ({"words": "mug", "by": "image"}, "the question has no picture"),
        ({"words": "mug", "where": "colour = 1"}, "no column 'colour'"),
        ({"words": "mug", "count": 0}, "count=0"),
    ):
        with pytest.raises(UsageError, match=message):
            seek.seek(run, index, **options)
    with pytest.raises(DataError, match=r"absent.png: cannot be opened"):
        seek.seek(run, index, picture="absent.png")


def ask(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """One question to the command, as from a shell."""
    values = search.flags.FlagValues()
    search.define_flags(values)
    rest = commandline.parse(["search", *arguments], values, words=1)
    monkeypatch.setattr(search.flags, "FLAGS", values)
    search.main(rest)


@pytest.mark.parametrize(
    "question",
    [
        ["--id=o3"],
        ["--id=o3", "--by=image"],
        ["--id=o3", "blue mug"],
        ["blue mug"],
        ["--picture=7.png", "red", "--where=price > 2"],
        ["--id=o3", "--old=red", "--new=blue"],
        ["--duplicates=0.001"],
    ],
)
def test_each_question_is_answered_and_drawn(
    same_style: Opened,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    question: list[str],
) -> None:
    question = [x.replace("7.png", str(folder / "7.png")) for x in question]
    out, index = tmp_path / "found.png", folder / "same_style_vectors"
    where = [f"--workdir={folder / 'same_style'}", f"--index={index}", f"--out={out}", "--count=4"]
    ask(monkeypatch, *where, *question)
    console = capsys.readouterr().out.splitlines()
    assert console[-1] == f"drawn into {out}"
    assert np.asarray(Image.open(out)).std() > 5
    if "--duplicates=0.001" in question:
        assert console[-2].endswith(" offers")
    else:
        scores = [float(line.split()[0]) for line in console[:-1]]
        assert len(scores) == 4
        assert scores == sorted(scores, reverse=True)


def test_json_has_boxes_scores_and_the_catalogues_columns(
    date: Opened, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run, index = date
    where = [f"--workdir={run.path}", f"--index={index.path}", "--count=2", "--json"]
    monkeypatch.chdir(folder)
    ask(monkeypatch, *where, "red mug")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (line,) = seek.seek(run, index, "red mug", count=2)
    assert [row["id"] for row in rows] == [found.id for found in line.offers]
    np.testing.assert_allclose(rows[0]["box"], line.offers[0].box_xyxy_pixels, atol=1e-3)
    assert rows[0]["fields"].keys() == {"text", "path", "price", "product_id"}
    assert not (folder / "found.png").exists()
    ask(monkeypatch, *where, "red mug", "--where=price > 100")
    assert capsys.readouterr().out == "nothing was found\n"


def test_each_product_is_printed_with_its_place(
    capture: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run, index = capture
    picture, out = index.pictures / "2.png", tmp_path / "found.png"
    ask(monkeypatch, f"--workdir={run.path}", f"--index={index.path}", f"--picture={picture}",
        f"--out={out}", "--count=2")  # fmt: skip
    console = capsys.readouterr().out.splitlines()
    heads = [line for line in console if line.startswith("product at ")]
    assert len(heads) == len(run.instances([picture], [""])[0])
    assert len(console) == 3 * len(heads) + 1
    assert np.asarray(Image.open(out)).std() > 5


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ([], "nothing is asked"),
        (["--id=o1", "--picture=a.jpg"], "one or the other"),
        (["--id=o1", "--old=red"], "belong together"),
        (["--duplicates=0.9", "--id=o1"], "leave out the other"),
        (["--duplicates=0.9", "mug"], "leave out the other"),
        (["mug", "--count=0"], "must be 1 or more"),
        (["red", "mug"], "mug: unexpected, put several words into quotes"),
        (["mug", "--indx=vectors"], "did you mean '--index'"),
    ],
)
def test_a_question_that_means_nothing_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, question: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        ask(monkeypatch, "--workdir=nowhere", *question)


def test_what_lacks_is_named(
    same_style: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, index = same_style
    with pytest.raises(UsageError, match="--workdir is required"):
        ask(monkeypatch, "mug")
    with pytest.raises(DataError, match=r"holds no manifest.json\n  python -m date_jax.embed"):
        ask(monkeypatch, f"--workdir={run.path}", f"--index={tmp_path}", "mug")
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with pytest.raises(SetupError, match="duckdb is not installed here: pip install 'duckdb<2'"):
        seek.seek(run, open_index(index.path), "mug", where="price < 3")
