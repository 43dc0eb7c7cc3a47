"""Baselines of boxes, against counts by hand."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from date_jax.data.survey.baselines import baselines, main
from date_jax.errors import UsageError

LEFT, RIGHT, WHOLE, CORNER = [0, 0, 50, 80], [50, 0, 100, 80], [0, 0, 100, 80], [0, 0, 10, 8]


def write(folder: Path) -> Path:
    """Hats at the left and bags at the right in training; one test picture has it otherwise."""
    rows: list[dict[str, Any]] = []

    def add(image: str, query: str, box: list[int], split: str, domain: str = "mall") -> None:
        Image.new("RGB", (100, 80)).save(folder / image)
        category = "hat" if "hat" in query else "bag"
        fields = {"image": image, "query": query, "box": box, "domain": domain}
        rows.append(fields | {"split": split, "category": category})

    for number in range(3):
        add(f"train{number}.png", "hat", LEFT, "train")
        add(f"train{number}.png", "bag", RIGHT, "train")
    add("train3.png", "one more hat", LEFT, "train")
    add("test0.png", "hat", LEFT, "test")  # by its word
    add("test0.png", "a hat of no training row", LEFT, "test")  # by its category
    add("test0.png", "bag", RIGHT, "test")  # by its word
    add("test1.png", "hat", RIGHT, "test")
    add("test1.png", "bag", WHOLE, "test")
    add("test2.png", "bag", RIGHT, "test", "live")
    add("test2.png", "hat", CORNER, "test", "live")
    path = folder / "shop.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_baselines_are_those_that_one_counts(tmp_path: Path) -> None:
    table = baselines(write(tmp_path), split="test", train="mall")
    # Half a picture has an IoU of just 0.5 with the whole; most training boxes are at the left.
    assert table["mall"] == pytest.approx(
        {
            "rows": 5,
            "whole picture": 1.0,
            "median box": 3 / 5,
            "median of the word": 4 / 5,
            "best box": 4 / 5,
        }
    )
    assert table["live"] == pytest.approx(
        {
            "rows": 2,
            "whole picture": 1 / 2,
            "median box": 0.0,
            "median of the word": 1 / 2,
            "best box": 1 / 2,
        }
    )


def test_a_domain_without_training_boxes_has_no_median(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write(tmp_path)
    assert main([f"--path={path}", "--json"]) == 0
    assert [*json.loads(capsys.readouterr().out)["live"]] == ["rows", "whole picture", "best box"]
    assert main([f"--path={path}"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == [
        "live",
        "2",
        "0.500",
        "-",
        "-",
        "0.500",
    ]
    assert main([f"--path={path}", "--train=mal"]) == UsageError.exit_code
    assert "did you mean 'mall'" in capsys.readouterr().err
