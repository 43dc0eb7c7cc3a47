"""Product1M's own lists of posts (2107.14572): titles, pictures' addresses, and labels of some.

A line is a post: `id#####title#####URL#####mirror URL`, and of queries and gallery a fifth field,
labels joined by `#;#`, with repetitions. Titles come from web pages, some with their `&nbsp;`.
"""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from date_jax.data.files.photos import checked_id
from date_jax.data.files.text_rows import file_text
from date_jax.data.prepared import LABEL_SEPARATOR
from date_jax.errors import DataError

FIELD_SEPARATOR = "#####"
FIELDS = ("id", "title", "URL", "mirror URL", "labels")
FILES = {  # of a split, as `capture` asks for it
    "post_train": "product1m_train_ossurl_v2.txt",
    "suite_val": "product1m_dev_ossurl_v2.txt",
    "suite_test": "product1m_test_ossurl_v2.txt",
    "single_test": "product1m_gallery_ossurl_v2.txt",
}


class Post(NamedTuple):
    """One line of a list.

    Attributes:
        line: of the file, from 1.
        post_id: by which the picture's file is named.
        title: of the post.
        urls: the picture's address and its mirror.
        labels: of the products that the picture shows.
    """

    line: int
    post_id: str
    title: str
    urls: tuple[str, ...]
    labels: tuple[str, ...]


def posts(path: Path, *, labelled: bool) -> tuple[list[Post], int]:
    """The posts of a list, each once as it comes first, and how many lines repeat one.

    Args:
        path: of a list.
        labelled: every post must have labels. Without, those that a list has are not kept.

    Raises:
        DataError: naming the file, the line, and what is wrong with it.
    """
    first: dict[str, Post] = {}
    count = 0
    # Not splitlines(): a title may hold one of the rarer line ends of Unicode.
    for line, content in enumerate(file_text(path).split("\n"), 1):
        if content.strip():
            post = _post(f"{path}:{line}", line, content.rstrip("\r"), labelled=labelled)
            first.setdefault(post.post_id, post)
            count += 1
    if not first:
        raise DataError(f"{path} holds no posts: expected {_line_form(labelled)} a line")
    return list(first.values()), count - len(first)


def _post(where: str, line: int, content: str, *, labelled: bool) -> Post:
    """One line of a list as a post, its id checked, for it becomes a file's name."""
    fields = [field.strip() for field in content.split(FIELD_SEPARATOR)]
    if len(fields) not in ((5,) if labelled else (4, 5)):
        raise DataError(
            f"{where}: {len(fields)} fields: expected {_line_form(labelled)}\n  {content[:80]}"
        )
    # Labels come with repetitions and empty ones, as they were found.
    labels = tuple(filter(None, map(str.strip, "".join(fields[4:]).split(LABEL_SEPARATOR))))
    if labelled and not labels:
        raise DataError(f"{where}: no labels: queries and gallery have one or more, each")
    urls = tuple(filter(None, fields[2:4]))
    title = html.unescape(fields[1])
    return Post(line, checked_id(where, fields[0]), title, urls, labels if labelled else ())


def _line_form(labelled: bool) -> str:
    """The form of a line, for messages."""
    return FIELD_SEPARATOR.join(FIELDS if labelled else FIELDS[:4])


def splits(folder: Path) -> tuple[dict[str, list[Post]], list[str]]:
    """The posts of each split from the lists of a folder, and notes for the user.

    Training posts have no labels, whether or not their list has.

    Raises:
        DataError: a list is missing or wrong.
    """
    split_posts, notes = {}, []
    for name, file in FILES.items():
        split_posts[name], repeated = posts(folder / file, labelled=name != "post_train")
        if repeated:
            notes.append(f"{repeated:,} lines of {file} tell a post again: the first one counts")
    return split_posts, notes


def urls(path: Path) -> list[tuple[str, Sequence[str]]]:
    """Ids of a list's posts with the addresses of each one's picture, for the downloader."""
    return [(post.post_id, post.urls) for post in posts(path, labelled=False)[0]]
