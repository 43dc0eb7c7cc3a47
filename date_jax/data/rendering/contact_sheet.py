"""Contact sheets of rendered pictures: a look at the data before anything is trained on it."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from date_jax.data import command
from date_jax.data.domains import SPLITS
from date_jax.errors import UsageError

INK = (40, 40, 50)
LIMITS = {  # of the flags of a sheet: the least and the most
    "columns": (1, 100),
    "rows": (1, 100),
    "image_size": (10, 2048),  # smaller ones have no room for a product's parts
    "products": (10, 10_000_000),  # they are split 8:1:1
    "seed": (0, 2**32 - 1),
    "unseen": (0, 100),
}
_FRAME = (228, 30, 90)  # of boxes


class Grid:
    """A white sheet of square tiles in columns and rows, with room for words below each.

    Args:
        columns: of tiles.
        rows: of tiles.
        tile: pixels of a tile's side.
        gap: pixels between tiles.
        text: pixels of the room below a tile.

    Attributes:
        image: the sheet.
        draw: what draws on it.
    """

    def __init__(self, columns: int, rows: int, *, tile: int, gap: int, text: int) -> None:
        self._tile, self._gap, self._text = tile, gap, text
        size = (columns * (tile + gap) + gap, rows * (tile + text) + gap)
        self.image = Image.new("RGB", size, "white")
        self.draw = ImageDraw.Draw(self.image)

    def add(
        self,
        column: int,
        row: int,
        image: UInt8[np.ndarray, "S S 3"],
        box_xyxy: Float[np.ndarray, "M 4"] | tuple = (),
    ) -> tuple[int, int]:
        """Puts a picture and its normalised boxes into a tile; returns the x, y of its words."""
        # Enlarged without smoothing: a look at the pixels that a network gets.
        x = self._gap + column * (self._tile + self._gap)
        y = self._gap + row * (self._tile + self._text)
        side = (self._tile, self._tile)
        self.image.paste(Image.fromarray(image).resize(side, Image.Resampling.NEAREST), (x, y))
        for box in box_xyxy:
            corners = (box * self._tile + np.array([x, y, x, y])).tolist()
            self.draw.rectangle(corners, outline=_FRAME, width=max(2, self._tile // 96))
        return x, y + self._tile

    def add_lines(self, place: tuple[int, int], *lines: str) -> None:
        """Writes lines in the small font at the place that `add` returned."""
        x, y = place
        for number, line in enumerate(lines):
            self.draw.text((x, y + 2 + 11 * number), line, fill=INK)


def main(
    arguments: Sequence[str],
    name: str,
    description: str | None,
    contact_sheet: Callable[..., Image.Image],
    **defaults: int | str,
) -> int:
    """The command that draws one contact sheet and saves it; returns the exit code.

    Args:
        arguments: the command line without the program's name.
        name: of the command.
        description: of the command, for `--help`.
        contact_sheet: draws it, from keyword arguments named as `defaults`.
        defaults: of the flags, each of its default's type.
    """
    parser = command.Parser(name, description)
    parser.add_argument("--out", default="sheet.png", help="the PNG file to write")
    for flag, default in defaults.items():
        choices = SPLITS if flag == "split" else None
        parser.add_argument(f"--{flag}", type=type(default), default=default, choices=choices)

    def write(options: argparse.Namespace) -> None:
        # All flags but --out are the sheet's own arguments.
        values = vars(options)
        out = values.pop("out")
        _check_flags(out, values)
        contact_sheet(**values).save(out)
        print(f"wrote {out}")

    return command.run(parser, arguments, write, interrupted="nothing was written")


def _check_flags(out: str, values: dict[str, Any]) -> None:
    """Refuses a sheet that cannot be drawn or saved, before anything is rendered.

    Raises:
        UsageError: naming the flag and what it may be.
    """
    for name, (least, most) in LIMITS.items():
        if name in values and not least <= values[name] <= most:
            raise UsageError(f"--{name}={values[name]}: must be from {least:,} to {most:,}")
    if Path(out).suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UsageError(f"--out={out}: expected a name that ends in .png")
