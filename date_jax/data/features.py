"""The outputs of frozen extractors on disk: read by row, in place of pictures and words.

Block files of equal size hold them, `[rows 1 + P C]`: a `rep` vector and then the tokens of each
entry. They are memory-mapped, so a batch costs the pages of its rows and no more.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int


class Blocks:
    """The rows of several files of one shape, as one array that is read by row number.

    Args:
        paths: `.npy` files in order, each of `rows` rows but the last.
        rows: of a file.
    """

    def __init__(self, paths: Sequence[Path], rows: int):
        self._arrays = [np.load(path, mmap_mode="r") for path in paths]
        self._rows = rows

    def __getitem__(self, index: Int[np.ndarray, " B"]) -> Float[np.ndarray, "B P C"]:
        first = self._arrays[0]
        values = np.empty((len(index), *first.shape[1:]), first.dtype)
        for place, entry in enumerate(index.tolist()):
            values[place] = self._arrays[entry // self._rows][entry % self._rows]
        return values


@dataclasses.dataclass(frozen=True)
class SplitFeatures:
    """The entries of one split's rows among those of all pictures and texts; None for none.

    Attributes:
        picture: a number that only rows with the same picture share.
        plain: entry of the picture as it is, for each row.
        other: entry of its other view.
        views: entry of its first training view, which the others follow.
        text, mirrored_text: entry of its text, and of that of a mirrored picture.
    """

    picture: Int[np.ndarray, " N"]
    plain: Int[np.ndarray, " N"] | None = None
    other: Int[np.ndarray, " N"] | None = None
    views: Int[np.ndarray, " N"] | None = None
    text: Int[np.ndarray, " N"] | None = None
    mirrored_text: Int[np.ndarray, " N"] | None = None


@dataclasses.dataclass(frozen=True)
class FeatureFiles:
    """The kept features of a corpus.

    Attributes:
        splits: the entries of the rows of each split.
        image: outputs of the image extractor.
        text: outputs of the text extractor; None where that one is trained.
        window_xyxy, flip: of every entry of `image`: the part of the picture that it shows, and
            whether it is mirrored.
    """

    splits: Mapping[str, SplitFeatures]
    image: Blocks
    text: Blocks | None
    window_xyxy: Float[np.ndarray, "E 4"]
    flip: Bool[np.ndarray, " E"]

    def has(self, names: Sequence[str], part: str) -> bool:
        """Whether all of some splits have a part of SplitFeatures, such as `plain`."""
        splits = [self.splits.get(name) for name in names]
        return all(split is not None and getattr(split, part) is not None for split in splits)

    def column(self, names: Sequence[str], part: str) -> Int[np.ndarray, " N"]:
        """A part of SplitFeatures of some splits, one after the other."""
        return np.concatenate([getattr(self.splits[name], part) for name in names])

    def training_rows(
        self, names: Sequence[str], index: Int[np.ndarray, " B"], view: Int[np.ndarray, " B"]
    ) -> dict[str, np.ndarray]:
        """What batches hold of some rows of joined splits, each in the view of that number."""
        entry = self.column(names, "views")[index] + view
        flip = self.flip[entry]
        batch = self._parts("image", self.image, entry)
        batch |= {"window_xyxy": self.window_xyxy[entry], "flip": flip}
        if self.text is not None:
            text, mirrored = (self.column(names, part)[index] for part in ("text", "mirrored_text"))
            batch |= self._parts("text", self.text, np.where(flip, mirrored, text))
        return batch

    def plain_rows(
        self, names: Sequence[str], index: Int[np.ndarray, " B"]
    ) -> dict[str, np.ndarray]:
        """The same of pictures as they are, with their other view where there is one."""
        batch = self._parts("image", self.image, self.column(names, "plain")[index])
        batch["picture"] = self.column(names, "picture")[index]
        texts = {"text": "text"}
        if self.has(names, "other"):
            entry = self.column(names, "other")[index]
            batch |= self._parts("other_image", self.image, entry)
            # All entries of other views are mirrored, or none is.
            texts["other_text"] = "mirrored_text" if self.flip[entry].any() else "text"
        if self.text is not None:
            for name, part in texts.items():
                batch |= self._parts(name, self.text, self.column(names, part)[index])
        return batch

    def _parts(self, name: str, blocks: Blocks, entry: Int[np.ndarray, " B"]) -> dict[str, Any]:
        values = blocks[entry]
        return {f"{name}_rep": values[:, 0], f"{name}_tokens": values[:, 1:]}
