"""Pascal VOC's XML: a file a picture, boxes by their first and last pixel, counted from 1."""

from collections import Counter
from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from date_jax.data.conversion.annotation import (
    MAX_TEXT,
    Annotation,
    Box,
    Source,
    capped_text,
    class_query,
    number_list,
    positive_size,
)
from date_jax.data.domains import SPLITS
from date_jax.errors import DataError

MAX_DEPTH = 32  # of elements in each other; VOC's have 5
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LISTS = "ImageSets/Main"  # the folder with the ids of each split


def annotations(path: Path, columns: dict[str, str]) -> Source:
    """The objects of all .xml files under a folder.

    Where the folder has `ImageSets/Main/train.txt` and the like, they tell the splits, and files in
    none of these lists are left out.

    Args:
        path: of the folder, or of one .xml file.
        columns: must be empty: an object has its name alone.

    Raises:
        DataError: there is no such file, or one is malformed.
    """
    del columns
    files = [path] if path.is_file() else sorted(path.rglob("*.xml"))
    if not files:
        raise DataError(f"--path={path}: no .xml file there\n  looked from {Path.cwd()}")
    split_of = _split_lists(path)
    rows: list[Annotation] = []
    left_out = Counter[str]()
    for file in files:
        if split_of and file.stem not in split_of:
            left_out[f"files in no list of {_LISTS}"] += 1
            continue
        objects = _objects(file, len(rows), left_out, split_of.get(file.stem, ""))
        left_out["pictures without annotations"] += not objects
        rows += objects
    # VOC's own folders, then pictures that lie next to their annotations.
    root = path if path.is_dir() else path.parent
    folders = [root / "JPEGImages", root / "images", root, root.parent / "JPEGImages"]
    return Source(rows, [*folders, *dict.fromkeys(file.parent for file in files)], left_out)


def _split_lists(folder: Path) -> dict[str, str]:
    """The split of each id that a list in ImageSets/Main names; nothing without such lists."""
    split_of: dict[str, str] = {}
    for split in SPLITS:
        file = folder / _LISTS / f"{split}.txt"
        if file.is_file():
            # A list of one class has a second column, whether the picture shows it.
            lines = capped_text(file, "--path").split("\n")
            split_of |= {line.split()[0]: split for line in lines if line.strip()}
    return split_of


def _objects(file: Path, first: int, left_out: Counter[str], split: str) -> list[Annotation]:
    """The objects of one file."""
    root = xml_root(file)
    if root.tag != "annotation":
        raise DataError(f"{file}: expected VOC's <annotation>, got <{root.tag[:40]}>")
    # The file's own name where it does not name its picture.
    image = _text(root, "filename") or file.stem
    if "/" not in image and "\\" not in image and _text(root, "folder"):
        image = f"{_text(root, 'folder')}/{image}"
    size = root.find("size")
    sides = None
    if size is not None:
        sides = positive_size(*(_number(size, side) for side in ("width", "height")))
    rows: list[Annotation] = []
    for number, item in enumerate(root.findall("object"), 1):
        where = f"{file}: object {number}"
        name = _text(item, "name")
        if not name:
            raise DataError(f"{where}: has no <name>")
        box = _box(where, item.find("bndbox"))
        if box[2] <= box[0] or box[3] <= box[1]:
            left_out["boxes without area"] += 1
            continue
        rows.append(
            Annotation(
                where,
                first + len(rows),
                image,
                class_query(name),
                box,
                size=sides,
                category=name,
                split=split,
            )
        )
    return rows


def _box(where: str, element: Element | None) -> Box:
    """The corners of a box in pixels from 0, the last ones behind the last pixel."""
    if element is None:
        raise DataError(f"{where}: has no <bndbox>")
    corners = [_number(element, corner) for corner in _CORNERS]
    x_min, y_min, x_max, y_max = number_list(where, "bndbox", corners, 4)
    # Pixels are counted from 1, and the last one belongs to the box; some programs begin with 0.
    return max(x_min - 1, 0.0), max(y_min - 1, 0.0), x_max, y_max


def _number(parent: Element, tag: str) -> float | None:
    """The number in an element; None where it is something else or absent."""
    try:
        return float(_text(parent, tag))
    except ValueError:
        return None


def _text(parent: Element, tag: str) -> str:
    """The text of an element, "" where it is absent."""
    return (parent.findtext(tag) or "").strip()


def xml_root(path: Path) -> Element:
    """The root of a small XML file, read without what makes XML dangerous.

    A document type is refused, and with it every entity that could grow or name other files.

    Raises:
        DataError: the file is too large, too deep, has a document type, or is no XML.
    """
    text = capped_text(path, "--path", MAX_TEXT)
    builder, depth = TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise DataError(f"{path}: elements are more than {MAX_DEPTH} deep in each other")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(*_: object) -> None:
        raise DataError(
            f"{path}: has a document type (<!DOCTYPE), which VOC's files have not\n"
            "  entities could read other files, so it is refused: remove the declaration"
        )

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    try:
        # As UTF-8, whatever the declaration says: that is what was read.
        parser.Parse(_without_declaration(text).encode(), True)
    except expat.ExpatError as error:
        raise DataError(f"{path}: not XML: {error}") from None
    return builder.close()


def _without_declaration(text: str) -> str:
    """The text without `<?xml … ?>`, which may state another encoding; lines keep their numbers."""
    text = text.lstrip()
    return text.partition("?>")[2] if text.startswith("<?xml") else text
