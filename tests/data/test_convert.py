"""Other programs' annotations: each format's boxes must be where the red field of a picture is."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_coco_eval import COCO
from faster_coco_eval import mask as coco_mask
from PIL import Image

from date_jax.data.conversion.label_studio import file_name
from date_jax.data.conversion.main import main
from date_jax.data.files.annotations import annotations
from date_jax.errors import DataError

RED, BLUE = (230, 20, 20), (20, 20, 230)
COUNT = 8
NAMES = ["red_mug", "bag"]
UP = "../"


def box_of(number: int) -> tuple[int, int, int, int]:
    """Where picture `number` is red."""
    x, y = 3 + 2 * number, 5 + number
    return x, y, x + 20 + number, y + 15


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Blue PNG pictures of 80 x 60, each with a red field."""
    (tmp_path / "images").mkdir()
    for number in range(COUNT):
        image = Image.new("RGB", (80, 60), BLUE)
        image.paste(RED, box_of(number))
        image.save(tmp_path / f"images/{number}.png")
    return tmp_path


def red_box(path: Path) -> list[int]:
    """Where the red pixels of a picture are, found by looking."""
    red = np.asarray(Image.open(path).convert("RGB"))[..., 0] > 128
    rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def converted(folder: Path, kind: str, path: str, *flags: str, code: int = 0) -> list[dict]:
    out = folder / "shop.jsonl"
    assert main([f"--from={kind}", f"--path={folder / path}", f"--out={out}", *flags]) == code
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


def refusal(
    capsys: pytest.CaptureFixture, folder: Path, kind: str, path: str, *flags: str, code: int = 3
) -> str:
    converted(folder, kind, path, *flags, code=code)
    return capsys.readouterr().err


def coco_file(folder: Path, **changes: Any) -> Path:
    images, items = [], []
    for number in range(COUNT):
        x_min, y_min, x_max, y_max = box_of(number)
        images.append({"id": 10 + number, "file_name": f"{number}.png", "width": 80, "height": 60})
        items.append(
            {
                "id": number + 1,
                "image_id": 10 + number,
                "category_id": 1 + number % 2,
                "bbox": [x_min, y_min, x_max - x_min, y_max - y_min],
                "area": (x_max - x_min) * (y_max - y_min),
                "iscrowd": 0,
            }
        )
    categories = [{"id": 1 + number, "name": name} for number, name in enumerate(NAMES)]
    document = {"images": images, "annotations": items, "categories": categories} | changes
    path = folder / "instances.json"
    path.write_text(json.dumps(document))
    return path


def voc_files(folder: Path) -> None:
    (folder / "Annotations").mkdir()
    (folder / "ImageSets/Main").mkdir(parents=True)
    for number in range(COUNT):
        x_min, y_min, x_max, y_max = box_of(number)
        (folder / f"Annotations/{number}.xml").write_text(
            '<?xml version="1.0" encoding="latin-1"?>\n'
            f"<annotation><filename>C:\\old\\{number}.png</filename>"
            "<size><width>80</width><height>60</height><depth>3</depth></size>"
            f"<object><name>{NAMES[number % 2]}</name><bndbox><xmin>{x_min + 1}</xmin>"
            f"<ymin>{y_min + 1}</ymin><xmax>{x_max}</xmax><ymax>{y_max}</ymax></bndbox></object>"
            "</annotation>"
        )
    lists = {"train": range(6), "val": [6], "test": [7]}
    for split, numbers in lists.items():
        text = "".join(f"{number}\n" for number in numbers)
        (folder / f"ImageSets/Main/{split}.txt").write_text(text)


def yolo_files(folder: Path) -> None:
    (folder / "labels").mkdir()
    for number in range(COUNT):
        x_min, y_min, x_max, y_max = box_of(number)
        middle = (x_min + x_max) / 160, (y_min + y_max) / 120
        size = (x_max - x_min) / 80, (y_max - y_min) / 60
        cells = " ".join(f"{value:.6f}" for value in (*middle, *size))
        (folder / f"labels/{number}.txt").write_text(f"{number % 2} {cells}\n")
    (folder / "data.yaml").write_text(f"train: {UP}images\nnames:\n  0: red_mug\n  1: bag\n")


def label_studio_file(folder: Path) -> None:
    tasks = []
    for number in range(COUNT):
        x_min, y_min, x_max, y_max = box_of(number)
        value = {"x": x_min / 0.8, "y": y_min / 0.6, "rotation": 0}
        value |= {"width": (x_max - x_min) / 0.8, "height": (y_max - y_min) / 0.6}
        label = {"rectanglelabels": [NAMES[number % 2]]}
        sizes = {"original_width": 80, "original_height": 60}
        regions = [sizes | {"id": "r", "type": "rectanglelabels", "value": value | label}]
        if not number:
            words = {"text": ["a shiny", "red mug"]}
            regions.append(sizes | {"id": "r", "type": "textarea", "value": value | words})
        data = {"image": f"/data/upload/1/0a1b2c3d-{number}.png", "sku": f"p{number}"}
        cancelled = {"was_cancelled": True, "result": [{"value": {"x": 1}}]}
        tasks.append({"id": number, "data": data, "annotations": [cancelled, {"result": regions}]})
    (folder / "export.json").write_text(json.dumps(tasks))


def csv_file(folder: Path, header: str = "sku,title,image_path,left,top,w,h") -> None:
    with (folder / "export.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header.split(","))
        for number in range(COUNT):
            x_min, y_min, x_max, y_max = box_of(number)
            size = (x_max - x_min, y_max - y_min)
            title = NAMES[number % 2].replace("_", " ")
            writer.writerow([f"p{number}", title, f"images/{number}", x_min, y_min, *size])


MAP = "image=image_path,query=title,product_id=sku,x=left,y=top,width=w,height=h"
FORMATS: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    "coco": (coco_file, ["instances.json"]),
    "voc": (voc_files, ["", "--images={folder}/images"]),
    "yolo": (yolo_files, ["data.yaml"]),
    "labelstudio": (label_studio_file, ["export.json"]),
    "csv": (csv_file, ["export.csv", f"--columns={MAP}"]),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_the_boxes_of_each_format_are_where_the_pictures_are_red(folder: Path, kind: str) -> None:
    write, (path, *flags) = FORMATS[kind]
    write(folder)
    rows = converted(folder, kind, path, *(flag.format(folder=folder) for flag in flags))
    assert [row["image"] for row in rows] == [f"images/{number}.png" for number in range(COUNT)]
    for number, row in enumerate(rows):
        np.testing.assert_allclose(row["box"], red_box(folder / row["image"]), atol=2e-3)
        assert row["domain"] == "mall"
        if kind != "labelstudio" or number:
            assert row["query"] == ("red mug", "bag")[number % 2]
    # What was written is what a run reads.
    assert len(annotations(folder / "shop.jsonl")) == COUNT


def test_a_coco_file_says_what_the_library_reads_in_it(folder: Path) -> None:
    """Boxes, categories and pictures as faster-coco-eval has them, matched by its own IoU."""
    rows = converted(folder, "coco", str(coco_file(folder)), "--split=test")
    library = COCO(str(folder / "instances.json"))
    assert len(rows) == len(library.getAnnIds())
    for row, item in zip(rows, library.loadAnns(library.getAnnIds()), strict=True):
        (image,) = library.loadImgs([item["image_id"]])
        (category,) = library.loadCats([item["category_id"]])
        assert Path(row["image"]).name == image["file_name"]
        assert row["category"] == category["name"]
        x_min, y_min, x_max, y_max = row["box"]
        ours = np.array([[x_min, y_min, x_max - x_min, y_max - y_min]])
        assert coco_mask.iou(ours, np.array([item["bbox"]], float), [0]) == pytest.approx(1.0)


def test_the_pictures_of_coco_lie_next_to_its_folder_of_annotations(folder: Path) -> None:
    coco_file(folder)
    (folder / "annotations").mkdir()
    (folder / "instances.json").rename(folder / "annotations/instances.json")
    (folder / "images").rename(folder / "train2017")
    rows = converted(folder, "coco", "annotations/instances.json")
    assert [row["image"] for row in rows] == [f"train2017/{n}.png" for n in range(COUNT)]


def test_a_caption_says_more_than_a_category_and_a_mapped_key_more_than_both(folder: Path) -> None:
    document = json.loads(coco_file(folder).read_text())
    document["annotations"][0]["caption"] = "a mug with stripes"
    document["annotations"][1] |= {"attributes": {"title": "my bag"}}
    coco_file(folder, **document)
    rows = converted(folder, "coco", "instances.json")
    assert [row["query"] for row in rows[:3]] == ["a mug with stripes", "bag", "red mug"]
    rows = converted(folder, "coco", "instances.json", "--columns=query=title", "--overwrite")
    assert [row["query"] for row in rows] == ["my bag"]


def test_crowds_boxes_without_area_and_unannotated_pictures_are_counted(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    document = json.loads(coco_file(folder).read_text())
    document["annotations"][0]["iscrowd"] = 1
    document["annotations"][1]["bbox"][2] = 0
    del document["annotations"][2]
    coco_file(folder, **document)
    assert len(converted(folder, "coco", "instances.json")) == COUNT - 3
    said = capsys.readouterr().out
    for line in ("crowds (iscrowd)", "boxes without area", "pictures without annotations"):
        assert f"left out: 1 {line}\n" in said


def test_a_box_of_a_picture_of_another_size_is_left_out_and_named(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    document = json.loads(coco_file(folder).read_text())
    document["images"][0] |= {"width": 60, "height": 80}
    coco_file(folder, **document)
    assert len(converted(folder, "coco", "instances.json")) == COUNT - 1
    assert "images/0.png is 80 x 60, by the source 60 x 80" in capsys.readouterr().out


def test_the_lists_of_voc_tell_the_splits(folder: Path) -> None:
    voc_files(folder)
    rows = converted(folder, "voc", "", f"--images={folder}/images")
    assert [row["split"] for row in rows] == ["train"] * 6 + ["val", "test"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "has a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "has a document type"),
        ("<annotation>" + "<a>" * 40, "more than 32 deep"),
        ("<annotation>", "not XML: no element found"),
        ("<html/>", "expected VOC's <annotation>, got <html>"),
        ("<annotation><object/></annotation>", "object 1: has no <name>"),
        (
            "<annotation><object><name>a</name><bndbox><xmin>1</xmin></bndbox></object></annotation>",
            "bndbox is [1.0, None, None, None]: expected 4 finite numbers",
        ),
        ("x" * (16 << 20) + "x", "more than 16,777,216"),
    ],
)
def test_a_dangerous_or_malformed_xml_file_is_refused(
    folder: Path, text: str, says: str, capsys: pytest.CaptureFixture
) -> None:
    (folder / "0.xml").write_text(text)
    said = refusal(capsys, folder, "voc", "")
    assert says in said
    assert "0.xml" in said
    assert len(said.splitlines()) <= 3


def test_a_polygon_of_yolo_becomes_the_box_around_it(folder: Path) -> None:
    yolo_files(folder)
    (folder / "labels/0.txt").write_text("0 0.1 0.5 0.5 0.1 0.3 0.9\n1 0.5 0.5 0.2 0.2 0.87\n")
    rows = converted(folder, "yolo", "data.yaml")
    assert rows[0]["box"] == [8.0, 6.0, 40.0, 54.0]
    assert rows[1]["box"] == [32.0, 24.0, 48.0, 36.0]


def test_a_yolo_folder_with_a_file_of_names_needs_no_yaml(folder: Path) -> None:
    yolo_files(folder)
    (folder / "data.yaml").unlink()
    (folder / "classes.txt").write_text("mug\nhand bag\n")
    assert {row["query"] for row in converted(folder, "yolo", "")} == {"mug", "hand bag"}


def test_the_splits_of_a_data_yaml_are_taken_over(folder: Path) -> None:
    for number, split in enumerate(("train", "valid", "test")):
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "labels").mkdir()
        (folder / f"images/{number}.png").rename(folder / split / f"images/{number}.png")
        (folder / split / f"labels/{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (folder / "data.yaml").write_text(
        f"train: {UP}train/images\nval: {UP}valid/images\ntest: {UP}test/images\nnames: [mug]\n"
    )
    rows = converted(folder, "yolo", "data.yaml")
    assert [row["split"] for row in rows] == ["train", "val", "test"]


@pytest.mark.parametrize(
    ("yaml", "labels", "says"),
    [
        ("names: [mug]\n", "3 0.5 0.5 0.2 0.2", "labels/0.txt:1: class 3 has no name"),
        ("names: [mug]\n", "0 0.5 0.5", "expected 4 finite numbers"),
        ("names: [mug]\n", "0 40 30 20 10", "are no shares of the picture's sides"),
        ("names: [mug]\n", "mug 0.5 0.5 0.2 0.2", "expected a class and x, y, width, height"),
        ("names: [mug]\ntrain: nowhere\n", "", "train: nothing is at nowhere"),
        ("a: &a [x, x]\nnames: [*a, *a]\n", "", "has aliases (*name)"),
        ("names: {mug: 1}\n", "", "names in data.yaml must be a list of texts"),
        ("names: [", "", "not YAML"),
        ("!!python/object/apply:os.system [ls]", "", "not YAML: could not determine a constructor"),
    ],
)
def test_a_malformed_yolo_folder_is_told_where(
    folder: Path, yaml: str, labels: str, says: str, capsys: pytest.CaptureFixture
) -> None:
    yolo_files(folder)
    (folder / "data.yaml").write_text(yaml)
    (folder / "labels/0.txt").write_text(labels)
    assert says in refusal(capsys, folder, "yolo", "data.yaml")


def test_what_was_written_for_a_region_says_more_than_its_label(folder: Path) -> None:
    label_studio_file(folder)
    rows = converted(folder, "labelstudio", "export.json", "--columns=product_id=sku")
    assert rows[0]["query"] == "a shiny red mug"
    assert rows[0]["category"] == "red_mug"
    assert [row["product_id"] for row in rows] == [f"p{number}" for number in range(COUNT)]


def test_the_short_export_of_label_studio_is_read_too(folder: Path) -> None:
    label_studio_file(folder)
    tasks = json.loads((folder / "export.json").read_text())
    short = [
        {
            "id": task["id"],
            "photo": task["data"]["image"],
            "label": [task["annotations"][1]["result"][0]["value"]],
        }
        for task in tasks
    ]
    (folder / "short.json").write_text(json.dumps(short))
    rows = converted(folder, "labelstudio", "short.json")
    assert [row["box"] for row in rows] == [[*map(float, box_of(n))] for n in range(COUNT)]


def test_a_turned_region_becomes_the_upright_box_around_it(folder: Path) -> None:
    value = {"x": 50, "y": 50, "width": 25, "height": 10, "rotation": 90}
    region = {"id": "r", "original_width": 80, "original_height": 60}
    region |= {"value": value | {"rectanglelabels": ["mug"]}}
    task = {"data": {"image": "0.png"}, "annotations": [{"result": [region]}]}
    (folder / "export.json").write_text(json.dumps([task]))
    # 20 x 6 pixels at (40, 30), turned clockwise about that corner: 6 to the left and 20 down.
    (row,) = converted(folder, "labelstudio", "export.json")
    assert row["box"] == [34.0, 30.0, 40.0, 50.0]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("/data/upload/3/0f1e2d3c-my%20mug.jpg", "my mug.jpg"),
        ("/data/upload/mug.jpg", "mug.jpg"),
        ("/data/local-files/?d=photos%2Fmug.jpg", "photos/mug.jpg"),
        ("s3://shop/mug.jpg", "s3://shop/mug.jpg"),
    ],
)
def test_the_addresses_of_label_studio_name_files(address: str, name: str) -> None:
    assert file_name(address) == name


def test_a_table_without_a_map_is_told_what_to_map(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    csv_file(folder)
    said = refusal(capsys, folder, "csv", "export.csv")
    assert "which column is the image and which the query?" in said
    assert "found: sku, title, image_path" in said
    assert "--columns=image=image_path,query=title" in said
    said = refusal(capsys, folder, "csv", "export.csv", "--columns=image=image_pat,query=title")
    assert "no column 'image_pat' for image (did you mean 'image_path'?)" in said
    said = refusal(capsys, folder, "csv", "export.csv", f"--columns={MAP[:-17]}")
    assert "a box of x, y, width, height lacks width, height" in said
    assert "say where: --columns=width=COLUMN,height=COLUMN" in said
    said = refusal(capsys, folder, "csv", "export.csv", "--columns=picture=title", code=2)
    assert "no field 'picture'" in said


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("instances.json", "{}", "--from=coco"),
        ("Annotations", None, "--from=coco"),
        ("export.csv", "sku,title,picture\n1,a,b\n", "--from=csv"),
        ("shop.jsonl", '{"sku": 1}\n', "--from=csv"),
    ],
)
def test_a_run_that_gets_annotations_of_another_program_names_the_command(
    tmp_path: Path, name: str, content: str | None, says: str
) -> None:
    if content is None:
        (tmp_path / name).mkdir()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError) as refused:
        annotations(tmp_path / name)
    assert f"python -m date_jax.data.convert {says}" in str(refused.value)
    assert len(str(refused.value).splitlines()) <= 8


def test_boxes_of_a_table_in_another_format_are_told(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    lines = [f"images/{number}.png,a,{40 + number},30,9,9\n" for number in range(COUNT)]
    (folder / "export.csv").write_text("image,query,left,top,w,h\n" + "".join(lines))
    wrong = "x_min=left,y_min=top,x_max=w,y_max=h"
    said = refusal(capsys, folder, "csv", "export.csv", f"--columns={wrong}")
    assert "boxes are not x_min, y_min, x_max, y_max in pixels" in said
    assert "all look like x, y, width, height" in said


def test_a_box_over_the_border_is_cut_and_a_file_of_them_is_refused(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    document = json.loads(coco_file(folder).read_text())
    items = document["annotations"] * 2
    items[0] = items[0] | {"bbox": [60, 10, 30, 20]}
    coco_file(folder, annotations=items)
    rows = converted(folder, "coco", "instances.json")
    assert rows[0]["box"] == [60.0, 10.0, 80.0, 30.0]
    assert "1 boxes are cut at the border of their picture" in capsys.readouterr().out
    coco_file(folder, annotations=[item | {"bbox": [60, 10, 30, 20]} for item in items])
    said = refusal(capsys, folder, "coco", "instances.json", "--overwrite")
    assert "16 outside the picture" in said


def test_a_file_that_is_there_is_kept_and_the_same_rows_are_added_once(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    coco_file(folder)
    first = converted(folder, "coco", "instances.json", "--split=train")
    said = refusal(capsys, folder, "coco", "instances.json", "--split=train", code=2)
    assert "is there: --append adds to it, --overwrite replaces it" in said
    assert converted(folder, "coco", "instances.json", "--split=train", "--append") == first
    assert "left out: 8 rows that were there already" in capsys.readouterr().out
    both = converted(folder, "coco", "instances.json", "--domain=live", "--split=val", "--append")
    assert both[:COUNT] == first
    assert {(row["domain"], row["split"]) for row in both[COUNT:]} == {("live", "val")}
    assert [path.name for path in folder.glob(".*.jsonl")] == []


def test_pictures_are_named_relative_to_the_file_that_is_written(folder: Path) -> None:
    coco_file(folder)
    (folder / "lists").mkdir()
    out = folder / "lists/shop.jsonl"
    flags = ["--from=coco", f"--path={folder}/instances.json", f"--out={out}"]
    assert main(flags) == 0
    row = json.loads(out.read_text().splitlines()[0])
    assert row["image"] == f"{UP}images/0.png"
    assert (out.parent / row["image"]).is_file()


def test_a_missing_picture_is_named_and_without_any_the_folder_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    coco_file(folder)
    (folder / "images/3.png").unlink()
    (folder / "images/4.png").write_bytes(b"no picture")
    assert len(converted(folder, "coco", "instances.json")) == COUNT - 2
    said = capsys.readouterr().out
    assert (
        "left out: 1 rows whose picture is not there, or is one of several of its name: 3.png"
        in said
    )
    assert "left out: 1 rows whose picture cannot be read: images/4.png is no JPEG" in said
    (folder / "images").rename(folder.parent / f"{folder.name}_moved")
    said = refusal(capsys, folder, "coco", "instances.json", "--overwrite")
    assert "none of its 8 pictures is there, such as 0.png" in said
    assert "say where they lie: --images=FOLDER" in said
    moved = f"--images={folder.parent}/{folder.name}_moved"
    assert len(converted(folder, "coco", "instances.json", "--overwrite", moved)) == COUNT - 2


def test_pictures_of_one_name_in_several_folders_are_told_apart(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    for place in ("a", "b"):
        (folder / f"images/{place}").mkdir()
        (folder / f"images/{place}/0.png").write_bytes((folder / "images/0.png").read_bytes())
    (folder / "images/0.png").unlink()
    # By the last folders of a name from another machine.
    lines = "".join(f"/old/disk/images/{place}/0.png,{place}\n" for place in ("a", "b"))
    (folder / "export.csv").write_text("image,query\n" + lines)
    rows = converted(folder, "csv", "export.csv")
    assert [row["image"] for row in rows] == ["images/a/0.png", "images/b/0.png"]
    # And by the last folder alone, wherever it lies.
    (folder / "export.csv").write_text("image,query\na/0.png,a\nb/0.png,b\n")
    assert converted(folder, "csv", "export.csv", "--overwrite") == rows
    # Without them nobody knows which is meant; and two names never share a picture.
    (folder / "export.csv").write_text("image,query\n0.png,a\n1.png,b\n")
    assert len(converted(folder, "csv", "export.csv", "--overwrite")) == 1
    assert "or is one of several of its name: 0.png" in capsys.readouterr().out
    (folder / "export.csv").write_text("image,query\nnew/1.png,a\nold/1.png,b\n")
    said = refusal(capsys, folder, "csv", "export.csv", "--overwrite")
    assert "its pictures new/1.png and old/1.png both lead to" in said


def test_labels_of_yolo_belong_to_one_picture_each(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    yolo_files(folder)
    (folder / "data.yaml").write_text("names: [red_mug, bag]\n")
    for place in ("a", "b"):
        (folder / f"images/{place}").mkdir()
        (folder / f"images/{place}/9.png").write_bytes((folder / "images/0.png").read_bytes())
    (folder / "labels/9.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    said = refusal(capsys, folder, "yolo", "data.yaml")
    assert "labels/9.txt: is the label file of" in said
    # With the folders of the pictures each has its own.
    for place in ("a", "b"):
        (folder / f"labels/{place}").mkdir()
        (folder / f"labels/{place}/9.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    assert len(converted(folder, "yolo", "data.yaml")) == COUNT + 2


def test_pictures_of_one_product_and_products_of_one_picture_share_a_split(folder: Path) -> None:
    pairs = [(0, "a"), (1, "a"), (1, "b"), (2, "b"), (3, "c"), (4, "d"), (5, "e"), (6, "f")]
    lines = [f"images/{picture}.png,words,{product}\n" for picture, product in pairs]
    (folder / "export.csv").write_text("image,query,product_id\n" + "".join(lines))
    splits = [row["split"] for row in converted(folder, "csv", "export.csv")]
    assert len(set(splits[:4])) == 1
    # By a hash, so that another order of the rows changes nothing.
    (folder / "export.csv").write_text("image,query,product_id\n" + "".join(lines[::-1]))
    again = [row["split"] for row in converted(folder, "csv", "export.csv", "--overwrite")]
    assert again == splits[::-1]


def test_words_for_splits_are_understood_and_unknown_ones_refused(
    folder: Path, capsys: pytest.CaptureFixture
) -> None:
    text = "image,query,split\nimages/0.png,a,Validation\nimages/1.png,b,testing\n"
    (folder / "export.csv").write_text(text)
    assert [row["split"] for row in converted(folder, "csv", "export.csv")] == ["val", "test"]
    (folder / "export.csv").write_text(text + "images/2.png,c,tren\n")
    said = refusal(capsys, folder, "csv", "export.csv", "--overwrite")
    assert "export.csv:4: the split 'tren' is none of train, val, test" in said


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--from=coca"], "invalid choice: 'coca'"),
        (["--from=voc", "--columns=query=title"], "nothing to map"),
        (["--from=coco", "--domain=my shop"], "may hold only letters"),
        (["--from=coco", "--append", "--overwrite"], "contradict each other"),
        (["--from=coco", "--names=classes.txt"], "--names belongs to --from=yolo"),
        (["--from=coco", "--out=shop.csv"], "ends in .jsonl"),
    ],
)
def test_flags_that_make_no_sense_are_refused_in_a_line(
    folder: Path, flags: list[str], says: str, capsys: pytest.CaptureFixture
) -> None:
    coco_file(folder)
    default = [f"--path={folder}/instances.json", f"--out={folder}/shop.jsonl"]
    assert main([*default, *flags]) == 2
    said = capsys.readouterr().err
    assert says in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        *("[]", "{}", "[1]", "{", '{"images": 1}', "[" * 100_000, "nan"),
        '{"images": [], "annotations": [{"image_id": 1}]}',
        '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": [1, 2, 3]}]}',
        '{"images": [{"id": 1}], "annotations": [{"image_id": 1, "bbox": [1, 2, 3, 1e999]}]}',
        '{"images": [{"id": 1, "file_name": ["a"]}], "annotations": [{"image_id": 1}]}',
        '{"images": [{"id": [1]}], "annotations": []}',
        '{"images": [{"id": 1, "file_name": "a", "width": 1' + "0" * 400 + ', "height": 1}], '
        '"annotations": [{"image_id": 1, "caption": "a"}]}',
        '[{"data": {"image": 3}}]',
        '[{"data": {"image": "a.png"}, "annotations": [{"result": [{"value": {"points": [1]}}]}]}]',
        '[{"data": {"image": "a.png"}, "annotations": 4}]',
        '[{"data": {}}]',
    ],
)
@pytest.mark.parametrize("kind", ["coco", "labelstudio"])
def test_malformed_json_is_told_without_a_traceback(
    folder: Path, kind: str, content: str, capsys: pytest.CaptureFixture
) -> None:
    (folder / "export.json").write_text(content)
    said = refusal(capsys, folder, kind, "export.json")
    assert said.startswith("error: ")
    assert "export.json" in said
    assert len(said.splitlines()) <= 4
    assert len(said) < 700
