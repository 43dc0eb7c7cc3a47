"""COCO's JSON: images, annotations with boxes as x, y, width, height, and categories."""

from collections import Counter
from pathlib import Path
from typing import Any

from date_jax.data.conversion.annotation import (
    Annotation,
    Box,
    Source,
    class_query,
    field_text,
    fields_by_column,
    json_document,
    json_items,
    number_list,
    positive_size,
)
from date_jax.errors import DataError

CAPTION = "caption"  # of an annotation; it says more than its category


def annotations(path: Path, columns: dict[str, str]) -> Source:
    """The annotations of a COCO file: instances, captions, or both.

    The words are the annotation's caption where it has one, else its category's name.

    Args:
        path: of the JSON file.
        columns: the key of each mapped field, looked for in the annotation, in its `attributes`
            and in its image.

    Raises:
        DataError: the file is malformed: where, and what was expected.
    """
    document = json_document(path)
    if not isinstance(document, dict):
        raise DataError(f"{path}: expected one JSON object with images and annotations")
    # Both tables by id, then the annotations that point into them.
    images = {_key(item.get("id")): item for item in json_items(str(path), document, "images")}
    images.pop(None, None)
    names = _category_names(path, document)
    annotated: set[Any] = set()
    rows: list[Annotation] = []
    left_out = Counter[str]()
    for number, item in enumerate(json_items(str(path), document, "annotations")):
        where = f"{path}: annotations[{number}]"
        image = images.get(_key(item.get("image_id")))
        if image is None:
            raise DataError(f"{where}: image_id {item.get('image_id')!r:.40} is no image's id")
        annotated.add(item["image_id"])
        # A box round a crowd shows no single product.
        if item.get("iscrowd") == 1:
            left_out["crowds (iscrowd)"] += 1
            continue
        box = _box(where, item.get("bbox"))
        if box and (box[2] <= box[0] or box[3] <= box[1]):
            left_out["boxes without area"] += 1
            continue
        rows.append(_annotation(where, number, item, image, names, box, columns))
    left_out["pictures without annotations"] = len(images.keys() - annotated)
    folders = [path.parent, path.parent / "images"]
    # COCO's own files lie in `annotations`, next to the folders of pictures.
    if path.absolute().parent.name == "annotations":
        folders.append(path.absolute().parent.parent)
    return Source(rows, folders, left_out)


def _category_names(path: Path, document: dict[str, Any]) -> dict[Any, str]:
    """The name of each category by its id; a file of captions has no categories."""
    if "categories" not in document:
        return {}
    return {
        _key(item.get("id")): field_text(f"{path}: categories[{number}]", "name", item.get("name"))
        for number, item in enumerate(json_items(str(path), document, "categories"))
    }


def _annotation(
    where: str,
    number: int,
    item: dict[str, Any],
    image: dict[str, Any],
    names: dict[Any, str],
    box: Box | None,
    columns: dict[str, str],
) -> Annotation:
    """One annotation with its image and category."""
    if "category_id" in item and names and _key(item["category_id"]) not in names:
        raise DataError(f"{where}: category_id {item['category_id']!r:.40} is no category's id")
    category = names.get(_key(item.get("category_id")), "")
    attributes = item.get("attributes")
    places = [item, attributes if isinstance(attributes, dict) else {}, image]

    def value_of(key: str) -> Any:
        return next((place[key] for place in places if place.get(key) is not None), None)

    # What the user maps counts before what a COCO file says by itself.
    fields: dict[str, Any] = {
        "image": field_text(where, "file_name of its image", image.get("file_name")),
        "query": field_text(where, CAPTION, item.get(CAPTION)) or class_query(category),
        "category": category,
    }
    fields |= fields_by_column(where, columns, value_of)
    size = positive_size(image.get("width"), image.get("height"))
    return Annotation(where, number, box=box, size=size, **fields)


def _box(where: str, bbox: Any) -> Box | None:
    """The corners of a box x, y, width, height; None where there is none."""
    if bbox is None or bbox == []:
        return None
    x, y, width, height = number_list(where, "bbox", bbox, 4)
    return x, y, x + width, y + height


def _key(value: Any) -> Any:
    """An id that can be looked up, whatever JSON holds in its place."""
    return value if isinstance(value, int | str) else None
