"""The commands that draw a sheet of rendered pictures: what they cannot draw, and say so."""

from pathlib import Path

import pytest
from PIL import Image

from date_jax.data.clicks import simulated_log, trials
from date_jax.data.rendering import offer_pictures, post_pictures, shop_pictures

SHEETS = {"shop": shop_pictures, "suites": post_pictures, "suppliers": offer_pictures}


@pytest.mark.parametrize("name", SHEETS)
@pytest.mark.parametrize(
    "flag",
    [
        *("--products=-4", "--products=0", "--products=9", "--image_size=0", "--image_size=9"),
        *("--seed=-1", "--out=sheet.xyz", "--image_size=100000", "--rows=0", "--columns=-1"),
    ],
)
def test_a_sheet_that_cannot_be_drawn_is_refused_in_a_line(
    name: str, flag: str, capsys: pytest.CaptureFixture
) -> None:
    assert SHEETS[name].main([flag]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {flag}: ")
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "flags", "says"),
    [
        ("suites", ["--products=300"], "products=300, unseen=2 leave 0 products for unseen_test"),
        ("suites", ["--unseen=0"], "unseen=0 leave 0 products for unseen_test"),
        ("suites", ["--unseen=20"], "leave 0 products for post_test"),
        ("suppliers", ["--products=40"], "--products=40: 4 of them are in test, for --rows=8"),
    ],
)
def test_too_few_products_for_a_sheet_are_told(
    name: str, flags: list[str], says: str, capsys: pytest.CaptureFixture
) -> None:
    assert SHEETS[name].main(flags) == 2
    error = capsys.readouterr().err
    assert says in error
    assert len(error.splitlines()) <= 3


def test_the_least_sheet_is_drawn(tmp_path: Path) -> None:
    for name, flags in {"shop": ["--columns=1", "--rows=1"], "suppliers": ["--rows=1"]}.items():
        out = tmp_path / f"{name}.png"
        least = [f"--out={out}", "--products=10", "--image_size=10"]
        assert SHEETS[name].main([*least, *flags]) == 0
        with Image.open(out) as image:
            assert image.format == "PNG"


def test_a_folder_that_is_not_there_ends_a_command_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    flags = ["--columns=1", "--rows=1", f"--out={tmp_path}/none/sheet.png"]
    assert shop_pictures.main(flags) == 5
    assert capsys.readouterr().err.endswith("none/sheet.png: No such file or directory\n")
    (tmp_path / "file").write_text("")
    assert simulated_log.main(["--rows=10", f"--out={tmp_path}/file"]) == 5
    assert "/file: File exists" in capsys.readouterr().err


def test_a_trial_without_rows_is_refused(capsys: pytest.CaptureFixture) -> None:
    for flag in ("--rows=0", "--rows=-5", "--seed=-1"):
        assert trials.main([flag]) == 2
        assert "--rows must be 1 or more, --seed 0 or more" in capsys.readouterr().err
