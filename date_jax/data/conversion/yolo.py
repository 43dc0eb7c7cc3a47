"""YOLO's text files: a class and x, y, width, height as shares of the sides, one object a line."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from date_jax.data.conversion.annotation import (
    Annotation,
    Box,
    Source,
    box_of_points,
    capped_text,
    class_query,
    number_list,
    split_of_word,
)
from date_jax.data.conversion.picture_files import ENDINGS, pictures_below
from date_jax.errors import DataError

_NAME_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "predefined_classes.txt")
_SPLIT_KEYS = ("train", "val", "valid", "test")  # of a data.yaml


def annotations(
    path: Path, columns: dict[str, str], *, names: Path | None = None, images: Path | None = None
) -> Source:
    """The objects of all pictures that a data.yaml or a folder has.

    The labels of `images/a.jpg` are in `labels/a.txt`, or next to the picture. A polygon becomes
    the box around it.

    Args:
        path: of a data.yaml, or of a folder with one or with `classes.txt`.
        columns: must be empty: an object has its class alone.
        names: a file with a class's name a line, instead of those of the folder.
        images: the folder of the pictures, instead of those that data.yaml lists.

    Raises:
        DataError: names or pictures are missing, or a line is malformed.
    """
    del columns
    settings = _settings(path)
    root = path if path.is_dir() else path.parent
    class_names = _class_names(root, settings, names)
    # The pictures, each with the split that data.yaml gives it.
    pictures = [*_listed_pictures(root, settings)] if settings and not images else []
    if not pictures:
        pictures = [(file, "") for file in pictures_below(images or root)]
    if not pictures:
        raise DataError(f"--path={path}: no pictures ({', '.join(ENDINGS)}) there")
    rows: list[Annotation] = []
    left_out = Counter[str]()
    picture_of: dict[Path, Path] = {}
    for picture, split in pictures:
        labels = _label_file(picture, root, images or root / "images")
        if labels and picture_of.setdefault(labels, picture) != picture:
            raise DataError(
                f"{labels}: is the label file of {picture_of[labels]} and of {picture}\n"
                "  give labels the folders that pictures have"
            )
        objects = _objects(labels, len(rows), class_names, left_out) if labels else []
        left_out["pictures without annotations"] += not objects
        rows += [row._replace(image=str(picture.absolute()), split=split) for row in objects]
    return Source(rows, [root], left_out)


def _settings(path: Path) -> dict[str, Any]:
    """What data.yaml holds; nothing for a folder without one."""
    file = path
    if path.is_dir():
        files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")])
        named = [file for file in files if file.stem in ("data", "dataset")]
        file = (named or files or [path])[0]
        if file == path:
            return {}
    text = capped_text(file, "--path")
    try:
        # An alias can make a small file a huge value; no data.yaml has one.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, yaml.SafeLoader)):
            raise DataError(f"{file}: has aliases (*name), which no data.yaml needs: remove them")
        settings = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"{file}: not YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(settings, dict):
        raise DataError(f"{file}: expected YOLO's data.yaml with names, train and val")
    return settings


def _class_names(root: Path, settings: dict[str, Any], names: Path | None) -> dict[int, str]:
    """The name of each class: from a file of names, or from data.yaml."""
    value = settings.get("names")
    if isinstance(value, str):
        names = names or root / value
    if names is None and isinstance(value, list):
        value = dict(enumerate(value))
    if names is None and isinstance(value, dict):
        table = {key: name for key, name in value.items() if isinstance(key, int)}
        if len(table) == len(value) and all(isinstance(name, str) for name in table.values()):
            return table
        raise DataError(f"{root}: names in data.yaml must be a list of texts, or texts by number")
    files = [root / name for name in _NAME_FILES] + sorted(root.glob("*.names"))
    names = names or next((file for file in files if file.is_file()), None)
    if names is None:
        raise DataError(
            f"--path={root}: no names of classes there: no data.yaml with names, no "
            f"{', '.join(_NAME_FILES[:2])}\n  give a file with a name a line: --names=classes.txt"
        )
    lines = capped_text(names, "--names").rstrip().split("\n")
    return {number: line.strip() for number, line in enumerate(lines)}


def _listed_pictures(root: Path, settings: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """The pictures of each split of data.yaml, with the split."""
    base = settings.get("path")
    bases = [root / base if isinstance(base, str) else root, root]
    for key in _SPLIT_KEYS:
        values = settings.get(key) or []
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str):
                raise DataError(f"{root}: {key} in data.yaml must name folders or lists")
            place = _existing_place(key, bases, value)
            split = split_of_word(f"{root}: data.yaml", key)
            if place.is_dir():
                yield from ((file, split) for file in pictures_below(place))
            else:
                yield from ((file, split) for file in _pictures_of_list(place, bases))


def _existing_place(key: str, bases: list[Path], value: str) -> Path:
    """The folder or list that data.yaml names; exports often name it from one folder further in."""
    inner = str(PurePosixPath(*[part for part in Path(value).parts if part != ".."]))
    places = [base / name for name in (value, inner) for base in bases]
    place = next((place for place in places if place.exists()), None)
    if place is None:
        tried = ", ".join(dict.fromkeys(map(str, places)))
        raise DataError(f"data.yaml: {key}: nothing is at {value}\n  looked at {tried}"[:600])
    return place


def _pictures_of_list(path: Path, bases: list[Path]) -> Iterator[Path]:
    """The pictures that a list names, one a line."""
    for line in capped_text(path, "--path").split("\n"):
        if line.strip():
            places = [base / line.strip() for base in (path.parent, *bases)]
            yield next((place for place in places if place.is_file()), places[0])


def _label_file(picture: Path, root: Path, images: Path) -> Path | None:
    """The file with the objects of a picture; None where there is none."""
    parts = list(picture.parts)
    places = [picture.with_suffix(".txt"), root / "labels" / f"{picture.stem}.txt"]
    if picture.is_relative_to(images):
        inner = picture.relative_to(images).with_suffix(".txt")
        places.insert(0, root / "labels" / inner)
    # The last folder called images has a sister called labels.
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[:-1][::-1].index("images")
        places.insert(0, Path(*parts[:last], "labels", *parts[last + 1 :]).with_suffix(".txt"))
    return next((place for place in places if place.is_file()), None)


def _objects(
    file: Path, first: int, names: dict[int, str], left_out: Counter[str]
) -> list[Annotation]:
    """The objects of one picture, their image still to be named."""
    rows: list[Annotation] = []
    for line, text in enumerate(capped_text(file, "--path").split("\n"), 1):
        if not text.strip():
            continue
        where = f"{file}:{line}"
        try:
            number, *values = [float(cell) for cell in text.split()]
        except ValueError:
            raise DataError(
                f"{where}: expected a class and x, y, width, height, got {text[:60]!r}"
            ) from None
        if number not in names:
            raise DataError(
                f"{where}: class {number:g} has no name: {len(names)} classes have one\n"
                "  --names=classes.txt gives others"
            )
        name = names[int(number)]
        box = _box(where, values)
        if box[2] <= box[0] or box[3] <= box[1]:
            left_out["boxes without area"] += 1
            continue
        query = class_query(name)
        row = Annotation(where, first + len(rows), "", query, box, is_share=True, category=name)
        rows.append(row)
    return rows


def _box(where: str, values: list[float]) -> Box:
    """The corners, as shares, of a box by its middle, or around a polygon of 3 points or more."""
    if len(values) >= 6 and len(values) % 2 == 0:
        values = number_list(where, "polygon", values, len(values))
        return box_of_points([*zip(values[::2], values[1::2], strict=True)])
    # A fifth number is the confidence of a prediction.
    x, y, width, height = number_list(where, "box", values[:4] if len(values) == 5 else values, 4)
    if max(x, y, width, height) > 1.5:
        raise DataError(
            f"{where}: {x:g} {y:g} {width:g} {height:g} are no shares of the picture's sides: "
            "expected numbers in [0, 1]"
        )
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2
