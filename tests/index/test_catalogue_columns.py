"""A catalogue of any columns: which of them are ours, and the types of the others."""

from pathlib import Path

import pytest

from date_jax.errors import DataError, UsageError
from date_jax.index.catalogue import catalogue_of_file

pytest.importorskip("pyarrow", reason="the extra index is not installed")


def written(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return path


def test_usual_names_are_found_and_other_columns_kept_with_types(tmp_path: Path) -> None:
    table = written(
        tmp_path,
        "offers.csv",
        "sku,title,picture,price,stock,code,note",
        'a1,"mug, red",a.jpg,3.50,4,007,x',
        "a2,bag,,12,,010,",
        ",,,,,,",
    )
    catalogue = catalogue_of_file(table)
    assert catalogue.columns == {"id": "sku", "path": "picture", "text": "title"}
    assert catalogue.ids == ["a1", "a2"]
    assert catalogue.texts == ["mug, red", "bag"]
    assert catalogue.pictures == ["a.jpg", ""]
    assert catalogue.fields.to_pydict() == {
        "price": [3.5, 12.0],
        "stock": [4, None],
        "code": ["007", "010"],
        "note": ["x", None],
    }


def test_json_keeps_its_types_and_lists_become_texts(tmp_path: Path) -> None:
    table = written(
        tmp_path,
        "offers.jsonl",
        '{"id": 7.0, "image": "a.jpg", "new": true, "price": 3, "sizes": [1, 2], "code": "5"}',
        '{"id": 8, "image": "b.jpg", "new": false, "price": 2.5, "sizes": null, "code": "6"}',
    )
    catalogue = catalogue_of_file(table)
    assert catalogue.ids == ["7", "8"]
    assert catalogue.fields.to_pydict() == {
        "new": [True, False],
        "price": [3.0, 2.5],
        "sizes": ["[1, 2]", None],
        "code": ["5", "6"],
    }


def test_a_map_says_what_columns_are_called(tmp_path: Path) -> None:
    table = written(tmp_path, "offers.csv", "Art,Bild,Titel", "a1,a.jpg,mug")
    catalogue = catalogue_of_file(table, "id=Art,image=Bild,text=Titel")
    assert (catalogue.ids, catalogue.texts, catalogue.pictures) == (["a1"], ["mug"], ["a.jpg"])
    assert catalogue.fields.num_rows == 1
    with pytest.raises(DataError, match="no column is called image or text"):
        catalogue_of_file(table)
    with pytest.raises(DataError, match="no column 'Bilder' for --columns=image=…"):
        catalogue_of_file(table, "image=Bilder")
    with pytest.raises(UsageError, match=r"no column 'imag' of ours .did you mean 'image'"):
        catalogue_of_file(table, "imag=Bild")


def test_without_an_id_the_picture_is_one(tmp_path: Path) -> None:
    table = written(tmp_path, "pairs.csv", "image,query", "a.jpg,mug", "b.jpg,mug")
    assert catalogue_of_file(table).ids == ["a.jpg", "b.jpg"]


def test_a_picture_that_is_named_as_the_id_is_still_the_picture(tmp_path: Path) -> None:
    table = written(tmp_path, "offers.csv", "sku,image,title", "p0,a.jpg,mug", "p0,b.jpg,mug")
    catalogue = catalogue_of_file(table, "id=image")
    assert catalogue.ids == catalogue.pictures == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["id,image", "a,1.jpg", "b,2.jpg", "a,3.jpg"],
            r"2 of 3 offers share their id .*\n.*'a' on lines 2, 4\n.*--columns=id=image",
        ),
        (["image", "1.jpg", "1.jpg"], r"2 of 2 offers share their image .*\n.*\n.*--columns=id=…"),
        (["id,image", ",1.jpg"], r"offers.csv:2: id is empty"),
        (["id,image,vector", "a,1.jpg,x"], "'vector' has the name of another"),
        (["id,image,Price,price", "a,1.jpg,1,2"], "'Price' has the name of another"),
        (["id,image"], "holds no rows"),
        (["id,image", "a,https://a.example/1.jpg"], "python -m date_jax.data.download"),
    ],
)
def test_a_table_that_will_not_do_is_refused(
    lines: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=message):
        catalogue_of_file(written(tmp_path, "offers.csv", *lines))
