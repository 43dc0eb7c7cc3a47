"""Texts of any script in pictures. The font of the Chinese letter is made here."""

from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw, ImageFont

from date_jax import lettering
from date_jax.ablation import chart, comparison


def drawn(text: str) -> np.ndarray:
    picture = Image.new("RGB", (200, 30), (255, 255, 255))
    lettering.draw_text(ImageDraw.Draw(picture), (2, 2), text, (0, 0, 0), 14)
    return np.array(picture)


def by_pillow_alone(text: str) -> np.ndarray:
    picture = Image.new("RGB", (200, 30), (255, 255, 255))
    ImageDraw.Draw(picture).text((2, 2), text, (0, 0, 0), ImageFont.load_default(14))
    return np.array(picture)


@pytest.fixture
def font_of_red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A font whose only letter, 红, is a full square; with matplotlib's it is all there is."""
    pen = TTGlyphPen(None)
    for move, place in ((pen.moveTo, (0, 0)), (pen.lineTo, (0, 1000)), (pen.lineTo, (1000, 1000)),
                        (pen.lineTo, (1000, 0))):  # fmt: skip
        move(place)
    pen.closePath()
    font = FontBuilder(1000)
    font.setupGlyphOrder([".notdef", "red"])
    font.setupCharacterMap({ord("红"): "red"})
    font.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "red": pen.glyph()})
    font.setupHorizontalMetrics({".notdef": (1000, 0), "red": (1000, 0)})
    font.setupHorizontalHeader(ascent=1000, descent=0)
    font.setupNameTable({"familyName": "Red", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "red.ttf")
    files = lettering.font_files()[0], str(tmp_path / "red.ttf")
    monkeypatch.setattr(lettering, "font_files", lambda: files)
    return files[1]


def test_plain_text_is_drawn_as_pillow_draws_it() -> None:
    np.testing.assert_array_equal(drawn("A mug, 12 cm…"), by_pillow_alone("A mug, 12 cm…"))


@pytest.mark.parametrize("letter", list("ñé€яжΩ"))
def test_letters_of_europe_are_drawn_and_are_no_boxes(letter: str) -> None:
    assert (drawn(letter) < 128).any()
    # Pillow's own font has one box for all of them.
    np.testing.assert_array_equal(by_pillow_alone(letter), by_pillow_alone("\uffff"))
    assert (drawn(letter) != by_pillow_alone(letter)).any()
    assert (drawn(letter) != drawn("ß")).any()


def test_each_run_is_drawn_in_a_font_that_has_its_letters(font_of_red: str) -> None:
    runs = lettering.font_runs("кружка 红红 a", 14)
    assert "".join(run for run, _ in runs) == "кружка 红红 a"
    paths = {run.strip(): getattr(font, "path", None) for run, font in runs}
    assert paths["红红"] == font_of_red
    assert Path(paths["кружка"]).name == "DejaVuSans.ttf"
    # The square is all ink, and the width is that of what is drawn.
    assert (drawn("红")[5:14, 5:14] == 0).all()
    assert lettering.text_width("红红", 14) == 28


def test_a_text_without_spaces_goes_over_several_lines(font_of_red: str) -> None:
    assert lettering.text_lines("红" * 25, 140) == ["红" * 10, "红" * 10, "红" * 5]
    lines = lettering.text_lines("红" * 99, 140)
    assert len(lines) == 3
    assert lines[2].endswith("…")


def test_letters_that_no_font_has_are_said_once_with_what_to_install(
    font_of_red: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lettering, "_packages_said", set())
    for text in ("红色的杯子", "杯子", "ガラス"):
        drawn(text)
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert "'色' (U+8272)" in said
    assert "apt install fonts-noto-cjk" in said
    drawn("แก้ว")
    assert "apt install fonts-noto-core" in capsys.readouterr().err
    # A joiner without a picture is no letter.
    drawn("é\u200d\ufe0f")
    assert capsys.readouterr().err == ""


def test_a_chart_s_names_are_drawn_in_fonts_that_have_their_letters(
    font_of_red: str, tmp_path: Path
) -> None:
    assert lettering.font_families(["mug", "кружка"]) == ["DejaVu Sans"]
    assert lettering.font_families(["红 mug"]) == ["DejaVu Sans", "Red"]
    entry = {"eval": {"offer_test": {"mrr": 0.5}}}
    results = entry | {"wall_seconds": 9.0, "config": {"data": {"name": "suppliers"}}}
    results["history"] = [{"step": 5, **entry}]
    for direction in ("", "红"):
        run = comparison.Finished(direction, "红", 0, results)
        path = tmp_path / f"chart{direction}.png"
        chart.write(path, [run], columns={"MRR": ("offer_test", "mrr")})
    # The letter of the title stands upright: a square of ink, as nothing else in the chart is.
    squares = []
    for name in ("chart.png", "chart红.png"):
        with Image.open(tmp_path / name) as picture:
            ink = np.array(picture.convert("L")) < 40
        windows = np.lib.stride_tricks.sliding_window_view(ink, (10, 10))
        squares.append(windows.all((2, 3)).any())
    assert squares == [False, True]
