"""Label Studio's JSON export: tasks with regions in percent of the picture's sides."""

import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from date_jax.data.conversion.annotation import (
    Annotation,
    Box,
    Source,
    box_of_points,
    class_query,
    field_text,
    fields_by_column,
    json_document,
    number_list,
)
from date_jax.errors import DataError, spelling_hint

_LABELS = ("rectanglelabels", "polygonlabels", "labels")  # keys of a region's classes
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # stands before the name of an uploaded file
_PICTURE = re.compile(r"\.(jpe?g|png|webp)$", re.IGNORECASE)


def annotations(path: Path, columns: dict[str, str]) -> Source:
    """The regions of an export of the kinds "JSON" and "JSON-MIN".

    The words are the text that was written for the region, else its label. Of several people's
    annotations of a task the first counts.

    Args:
        path: of the JSON file.
        columns: the key of each mapped field in a task's `data`.

    Raises:
        DataError: the file is malformed, or a task does not name its picture.
    """
    tasks = json_document(path)
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise DataError(f"{path}: expected Label Studio's list of tasks, exported as JSON")
    rows: list[Annotation] = []
    left_out = Counter[str]()
    for number, task in enumerate(tasks):
        where = f"{path}: task {task.get('id', number)!r:.20}"
        data = task["data"] if isinstance(task.get("data"), dict) else task
        fields = {"image": _picture(where, data, columns)}
        others = {field: key for field, key in columns.items() if field != "image"}
        fields |= fields_by_column(where, others, data.get)
        # Text boxes are regions too: those that share an id with a box describe it.
        regions = _regions(where, task, left_out)
        texts = _texts_by_region(where, regions)
        boxes = [*_boxes(where, regions, left_out)]
        left_out["pictures without annotations"] += not boxes
        for region, label, box in boxes:
            row: dict[str, Any] = {
                "query": texts.get(region) or class_query(label),
                "category": label,
            } | fields
            # A product's title in the task's data may be empty where its label is not.
            row["query"] = row["query"] or texts.get(region) or class_query(label)
            rows.append(Annotation(where, len(rows), box=box, is_share=True, **row))
    return Source(rows, [path.parent, path.parent / "images"], left_out)


def _picture(where: str, data: dict[str, Any], columns: dict[str, str]) -> str:
    """The name of a task's picture, as a file of this machine would have it."""
    key = columns.get("image")
    if key is None:
        # The usual name, or the only text that ends like a picture's name.
        names = [
            name
            for name, value in data.items()
            if isinstance(value, str) and _PICTURE.search(urlsplit(value).path + value)
        ]
        key = "image" if "image" in data else (names[0] if len(names) == 1 else None)
    if key is None or key not in data:
        keys = [*data]
        raise DataError(
            f"{where}: which key of its data names the picture? "
            f"--columns=image={keys[0] if keys else 'image'}"
            f"{spelling_hint(key or 'image', keys)}\n  found: {', '.join(keys)[:200]}"
        )
    return file_name(field_text(where, key, data[key]))


def file_name(address: str) -> str:
    """The file that an address of Label Studio stands for.

    >>> file_name("/data/upload/3/0f1e2d3c-mug.jpg")
    'mug.jpg'
    >>> file_name("/data/local-files/?d=photos/mug.jpg")
    'photos/mug.jpg'
    """
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d")
    if local:
        return local[0]
    if parts.path.startswith("/data/upload/"):
        return _UPLOADED.sub("", unquote(parts.path.rpartition("/")[2]), count=1)
    return address


def _regions(where: str, task: dict[str, Any], left_out: Counter[str]) -> list[dict[str, Any]]:
    """The regions of a task's first annotation that was not cancelled."""
    answers = task.get("annotations")
    if answers is None:
        # JSON-MIN has the regions themselves, under the names of the labelling interface.
        lists = [value for key, value in task.items() if key != "data" and isinstance(value, list)]
        return [
            {"id": f"{n}", "type": "", "value": region}
            for n, region in enumerate(region for regions in lists for region in regions)
            if isinstance(region, dict) and "x" in region
        ]
    if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
        raise DataError(f"{where}: annotations must be a list of objects")
    finished = [answer for answer in answers if not answer.get("was_cancelled")]
    left_out["annotations of further people"] += max(len(finished) - 1, 0)
    result = finished[0].get("result") if finished else []
    if not isinstance(result, list) or not all(isinstance(region, dict) for region in result):
        raise DataError(f"{where}: result must be a list of objects")
    return [region for region in result if isinstance(region.get("value"), dict)]


def _texts_by_region(where: str, regions: list[dict[str, Any]]) -> dict[str, str]:
    """The text that was written for each region."""
    texts = {}
    for region in regions:
        text = region["value"].get("text")
        lines = text if isinstance(text, list) else [text]
        if text and all(isinstance(line, str) for line in lines):
            texts[str(region.get("id"))] = field_text(where, "text", " ".join(lines))
    return texts


def _boxes(
    where: str, regions: list[dict[str, Any]], left_out: Counter[str]
) -> Iterator[tuple[str, str, Box]]:
    """The id, label and box, in shares of the sides, of each region that has an outline."""
    outlined = set()
    for region in regions:
        value, region_id = region["value"], str(region.get("id"))
        label = next((value[key][0] for key in _LABELS if _is_label(value.get(key))), "")
        # A text box repeats the outline of its region, without the label.
        if not label and any(
            other is not region and str(other.get("id")) == region_id and _has_label(other)
            for other in regions
        ):
            continue
        box = _outline(where, region)
        if box is None:
            if not {"text", "choices"} & value.keys():
                left_out["regions of another kind than rectangles and polygons"] += 1
            continue
        if region_id in outlined:
            continue
        outlined.add(region_id)
        if region.get("image_rotation"):
            left_out["regions of pictures that were turned while labelling"] += 1
        elif box[2] <= box[0] or box[3] <= box[1]:
            left_out["boxes without area"] += 1
        else:
            yield region_id, label, box


def _has_label(region: dict[str, Any]) -> bool:
    """Whether a region has a class."""
    return any(_is_label(region["value"].get(key)) for key in _LABELS)


def _is_label(value: Any) -> bool:
    """Whether a value lists a class, as the keys of _LABELS do."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], str)


def _outline(where: str, region: dict[str, Any]) -> Box | None:
    """The upright box around a region, in shares of the sides; None for another kind of region."""
    value = region["value"]
    if isinstance(value.get("points"), list) and value["points"]:
        points = [number_list(where, "points", point, 2) for point in value["points"]]
        return box_of_points([(x / 100, y / 100) for x, y in points])
    if not {"x", "y", "width", "height"} <= value.keys():
        return None
    percent = [value[key] for key in ("x", "y", "width", "height")]
    x, y, width, height = (n / 100 for n in number_list(where, "region", percent, 4))
    (angle,) = number_list(where, "rotation", [value.get("rotation") or 0], 1)
    if not angle:
        return x, y, x + width, y + height
    # It is turned about its upper left corner, clockwise, in pixels: sides are not alike.
    sides = [region.get(f"original_{side}", value.get(f"original_{side}")) for side in _SIDES]
    across, down = number_list(where, "original size of a turned box", sides, 2)
    if min(across, down) <= 0:
        raise DataError(f"{where}: the original size of a turned box is {across:g} x {down:g}")
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    corners = []
    for dx, dy in ((0, 0), (width, 0), (0, height), (width, height)):
        dx, dy = dx * across, dy * down
        corners.append(
            (x + (dx * cosine - dy * sine) / across, y + (dx * sine + dy * cosine) / down)
        )
    return box_of_points(corners)


_SIDES = ("width", "height")
