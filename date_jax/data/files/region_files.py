"""Regions of pictures that a detector found beforehand: written once, then read row by row.

A folder holds, of N posts with K regions of F numbers each,

    manifest.json    {"format": "date_jax regions 1", "rows": N, "regions": K, "width": F,
                      "dtype": "float16", "fingerprint": a text that changes with the rest}
    ids.txt          the posts' ids, one a line
    features.npy     float16 or float32 [N K F]
    boxes.npy        float32 [N K 4]: x_min, y_min, x_max, y_max as shares of the picture's sides
    mask.npy         bool [N K]: False where a picture has fewer regions

with the best regions first. The arrays are memory-mapped, and pickles in them refused. From files
`<id>.npz` as the detectors of bottom-up attention (1707.07998) write them, with x [R F], bbox [R 4]
in pixels, image_w and image_h:

    python -m date_jax.data.region_files --npz=detected --out=regions --count=36
"""

import argparse
import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from date_jax.data import command
from date_jax.errors import DataError
from date_jax.run import git_lfs
from date_jax.run.countdown import Countdown

FORMAT = "date_jax regions 1"
KINDS = ("float16", "float32")
CHECKED_ROWS = 1024  # rows whose boxes are checked when a folder is opened


class Regions(NamedTuple):
    """The regions of some posts.

    Attributes:
        features: float16 or float32.
        box_xyxy: normalised.
        mask: False where a post has fewer than K regions.
    """

    features: Float[np.ndarray, "*N K F"]
    box_xyxy: Float[np.ndarray, "*N K 4"]
    mask: Bool[np.ndarray, "*N K"]


def _array_forms(
    rows: int, count: int, width: int, dtype: str
) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each array of a folder, by its file's name, as `Regions` orders them."""
    return {
        "features": ((rows, count, width), dtype),
        "boxes": ((rows, count, 4), "float32"),
        "mask": ((rows, count), "bool"),
    }


class RegionFiles:
    """A folder of regions, opened.

    Args:
        folder: with the files of the module's text.

    Attributes:
        fingerprint: of the manifest.

    Raises:
        DataError: a file is missing, cut, or of another shape than the manifest says.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        manifest = _manifest(folder)
        self.fingerprint: str = manifest["fingerprint"]
        forms = _array_forms(*(manifest[key] for key in ("rows", "regions", "width", "dtype")))
        self._arrays = Regions(
            *(_mapped_array(folder / f"{name}.npy", *form) for name, form in forms.items())
        )
        self._row_of = _rows_by_id(folder / "ids.txt", manifest["rows"])
        # Boxes in pixels are the mistake that is made; a look at the first ones does not take long.
        first = self._arrays.box_xyxy[:CHECKED_ROWS]
        if not ((first >= 0) & (first <= 1)).all():
            raise DataError(
                f"{folder}/boxes.npy: boxes are not shares of the picture's sides in [0, 1]\n"
                "  divide pixels by the picture's width and height"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """K and F, the regions of a post and the width of a feature."""
        return self._arrays.features.shape[1:]

    @property
    def dtype(self) -> np.dtype:
        """The type of the features."""
        return self._arrays.features.dtype

    def rows(self, ids: Sequence[str], name: str) -> Int[np.ndarray, " N"]:
        """The rows of these posts.

        Args:
            ids: of the posts.
            name: of the posts' split, for the message.

        Raises:
            DataError: some are not there.
        """
        lacking = [post for post in ids if post not in self._row_of]
        if lacking:
            raise DataError(
                f"{self.folder} has no regions of {len(lacking):,} of {len(ids):,} posts of {name}"
                f"\n  such as {', '.join(lacking[:3])}; it has {', '.join([*self._row_of][:3])}"
            )
        return np.array([self._row_of[post] for post in ids], np.int64)

    def __getitem__(self, rows: Int[np.ndarray, " B"]) -> Regions:
        """The regions of some rows, read now."""
        return Regions(*(np.ascontiguousarray(array[rows]) for array in self._arrays))


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder, all of its entries checked."""
    # Whoever wrote the folder wrote this last: without it the rest may be cut.
    path = folder / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"config.data.regions={folder}: cannot read manifest.json: {error.strerror} (looked "
            f"from {Path.cwd()})\n  expected what python -m date_jax.data.region_files writes; "
            "without the manifest it was not finished"
        ) from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f'{path}: expected an object with "format": "{FORMAT}"')
    for key in ("rows", "regions", "width"):
        value = manifest.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise DataError(f"{path}: {key} is {json.dumps(value)[:60]}: expected a number above 0")
    # The fingerprint tells whether what was computed of the regions is still of these.
    if manifest.get("dtype") not in KINDS:
        raise DataError(f"{path}: dtype must be one of {', '.join(KINDS)}")
    if not isinstance(manifest.get("fingerprint"), str):
        raise DataError(f"{path}: fingerprint must be a text that changes with the contents")
    return manifest


def _mapped_array(path: Path, shape: tuple[int, ...], kind: str) -> np.ndarray:
    """A memory-mapped array of this shape and type, as the manifest has them."""
    # Mapped: a batch reads its rows alone, and hosts share what lies in memory.
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        if git_lfs.is_pointer_file(path):
            raise DataError(f"{path} is a Git LFS pointer\n  {git_lfs.WAY_OUT}") from None
        raise DataError(f"{path}: not a whole .npy file of numbers: {error}") from None
    if array.shape != shape or array.dtype != np.dtype(kind):
        raise DataError(
            f"{path}: holds {array.dtype} {list(array.shape)}; the manifest says {kind} "
            f"{list(shape)}"
        )
    return array


def _rows_by_id(path: Path, count: int) -> dict[str, int]:
    """The row of each post; there must be `count` of them, and none twice."""
    try:
        ids = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    row_of = {post: row for row, post in enumerate(ids)}
    if len(ids) != count or len(row_of) != count:
        raise DataError(
            f"{path}: {len(ids):,} lines, {len(row_of):,} different ids; "
            f"the manifest says {count:,}"
        )
    return row_of


def write(
    folder: Path,
    ids: Sequence[str],
    regions: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    count: int,
    width: int,
    dtype: str = "float16",
) -> None:
    """Writes a folder of regions, one post at a time; the manifest comes last.

    Args:
        folder: made if absent.
        ids: of the posts, each once.
        regions: of each post features `[R F]` and box_xyxy `[R 4]`, normalised, the best first. Of
            more than `count` the first ones are kept.
        count: K.
        width: F.
        dtype: of KINDS, to store features in.

    Raises:
        DataError: an array has another shape, is not finite in `dtype`, or boxes lie outside.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    arrays = [
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", shape=shape, dtype=kind)
        for name, (shape, kind) in _array_forms(len(ids), count, width, dtype).items()
    ]
    # Straight to disk, a post at a time: the arrays may be larger than the memory.
    digest = hashlib.sha256(json.dumps([*ids]).encode())
    for row, (post, (feature, box)) in enumerate(zip(ids, regions, strict=True)):
        padded = padded_regions(post, feature, box, count=count, width=width, dtype=dtype)
        for array, part in zip(arrays, padded, strict=True):
            array[row] = part
            digest.update(part.tobytes())
    for array in arrays:
        array.flush()
    # The manifest says that all the rest is there.
    (folder / "ids.txt").write_text("".join(f"{post}\n" for post in ids), encoding="utf-8")
    manifest = {"format": FORMAT, "rows": len(ids), "regions": count, "width": width}
    manifest |= {"dtype": dtype, "fingerprint": digest.hexdigest()}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")


def padded_regions(
    post: str, feature: np.ndarray, box_xyxy: np.ndarray, *, count: int, width: int, dtype: str
) -> Regions:
    """One post's regions, cut or filled up with zeros to `count`; raises as `write`."""
    regions = len(feature) if feature.ndim else 0
    if feature.shape != (regions, width) or box_xyxy.shape != (regions, 4):
        raise DataError(
            f"regions of {post}: features {list(feature.shape)}, boxes {list(box_xyxy.shape)}: "
            f"expected [R {width}] and [R 4]"
        )
    # What float16 cannot hold becomes infinite here, and is refused below.
    with np.errstate(over="ignore"):
        stored = feature[:count].astype(dtype)
    box = box_xyxy[:count].astype(np.float32)
    if not np.isfinite(stored).all():
        raise DataError(f"regions of {post}: features are not finite in {dtype}")
    # Shares of the sides, with corners in order; a detector may give pixels.
    if not ((box >= 0) & (box <= 1)).all() or (box[:, 2:] < box[:, :2]).any():
        raise DataError(
            f"regions of {post}: boxes are not x_min, y_min, x_max, y_max as shares in [0, 1]"
        )
    lacking = ((0, count - len(stored)), (0, 0))
    return Regions(np.pad(stored, lacking), np.pad(box, lacking), np.arange(count) < len(stored))


def detected_regions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features `[R F]` and normalised box_xyxy `[R 4]` of a detector's .npz file.

    Args:
        path: of the file, its arrays named as the module's text says.

    Raises:
        DataError: it is not one, or lacks an array.
    """
    keys = ("x", "bbox", "image_w", "image_h")
    try:
        with np.load(path, allow_pickle=False) as members:
            # Anything else, such as a pickled `info`, is not read.
            feature, box, wide, high = (np.asarray(members[key]) for key in keys)
        size = np.array([float(wide), float(high)] * 2)
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: not an .npz file with numbers {', '.join(keys)}: {error}"
        ) from None
    if box.shape[1:] != (4,) or not (size > 0).all():
        raise DataError(f"{path}: bbox is {list(box.shape)}, the picture {size[:2].tolist()}")
    return feature, np.clip(box / size, 0.0, 1.0)


def main(arguments: Sequence[str]) -> int:
    """Writes a folder of regions from .npz files; returns the exit code."""
    parser = command.Parser("region_files", __doc__)
    parser.add_argument("--npz", type=Path, required=True, help="a folder of <id>.npz files")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--count", type=int, default=36, help="regions of a picture, at most")
    parser.add_argument("--dtype", choices=KINDS, default="float16", help="of the features")
    interrupted = "a folder without its manifest is not read; start again"
    return command.run(parser, arguments, write_folder, interrupted=interrupted)


def write_folder(options: argparse.Namespace) -> None:
    """Writes the regions of all .npz files of a folder, as the command's flags say.

    Raises:
        DataError: there is no such file, one is malformed, or `options.count` is below 1.
    """
    paths = sorted(options.npz.glob("*.npz"))
    if not paths:
        raise DataError(f"--npz={options.npz}: no .npz file there (looked from {Path.cwd()})")
    count, dtype = options.count, options.dtype
    if count < 1:
        raise DataError(f"--count={count}: must be 1 or more")
    # The first file says how wide features are; `write` refuses those of another width.
    width = detected_regions(paths[0])[0].shape[-1]
    ids = [path.stem for path in paths]
    write(options.out, ids, _all_regions(paths), count=count, width=width, dtype=dtype)
    print(f"regions of {len(paths):,} pictures, {count} of {width} numbers, in {options.out}")


def _all_regions(paths: Sequence[Path]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The regions of each file, read when they are wanted."""
    countdown = Countdown("reading regions", len(paths))
    for path in paths:
        yield detected_regions(path)
        countdown.advance()
