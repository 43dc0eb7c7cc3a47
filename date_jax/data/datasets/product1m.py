"""TFDS builder of Product1M's posts: pictures from a folder by id, titles, labels to evaluate."""

from pathlib import Path
from typing import Any

from date_jax.data.datasets import files
from date_jax.data.files import product1m
from date_jax.data.files.annotations import Row
from date_jax.data.files.photos import files_by_id
from date_jax.data.prepared import LABEL_SEPARATOR


def builder(config: Any, cache: Path) -> tuple[files.Files, list[str]]:
    """The builder for `config.data`, its lists read and checked, and notes; pictures come later.

    Raises:
        DataError: a list is missing or malformed, or the folder of pictures cannot be read.
    """
    path, folder = (Path(config[key]).expanduser() for key in ("path", "images"))
    found, notes = product1m.splits(path)
    told = [(name, post) for name, posts in found.items() for post in posts]
    images = files_by_id(folder, [post.post_id for _, post in told])
    rows = [
        Row(
            line=post.line,
            image=image,
            text=post.title,
            box=None,
            domain=name.rpartition("_")[0],
            product_id=LABEL_SEPARATOR.join(post.labels),
            category="",
            split=name.rpartition("_")[2],
            offer_id=post.post_id,
        )
        for (name, post), image in zip(told, images, strict=True)
    ]
    made = files.built(config, cache, path=path, folder=folder, rows=rows, texts=("offer_id",))
    return made, notes
