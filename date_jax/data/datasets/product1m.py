"""TFDS builder of Product1M's posts: pictures from a folder by id, titles, labels to evaluate."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from date_jax.data.datasets import files
from date_jax.data.files.photos import PhotoRow, files_by_id
from date_jax.data.files.product1m_lists import Post
from date_jax.data.prepared import LABEL_SEPARATOR
from date_jax.run.user_paths import user_path


def builder(config: Any, cache: Path, posts: Mapping[str, Sequence[Post]]) -> files.Files:
    """The builder of posts whose lists are read already; the pictures come later.

    Args:
        config: `config.data`.
        cache: folder for its records.
        posts: by split, of `files.product1m_lists.splits`.

    Raises:
        DataError: the folder of pictures cannot be read.
    """
    # Pictures lie in the folder by their post's id, with any ending: it is listed once.
    path, folder = (user_path(config[key]) for key in ("path", "images"))
    in_order = [(split, post) for split, posts_of in posts.items() for post in posts_of]
    images = files_by_id(folder, [post.post_id for _, post in in_order])
    # A post is a photo without a box; all its labels go into one column of text.
    rows = [
        PhotoRow(
            line=post.line,
            image=image,
            text=post.title,
            box=None,
            split=split,
            product_id=LABEL_SEPARATOR.join(post.labels),
            category="",
            offer_id=post.post_id,
        )
        for (split, post), image in zip(in_order, images, strict=True)
    ]
    return files.builder_of_rows(
        config, cache, path=path, folder=folder, rows=rows, texts=("offer_id",)
    )
