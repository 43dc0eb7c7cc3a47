"""Pointers of Git LFS: the few lines of text that stand where a large file was not downloaded."""

from pathlib import Path

START = b"version https://git-lfs"
WAY_OUT = "run `git lfs install` and `git lfs pull` in its repository, or download the file"


def is_pointer(start: bytes) -> bool:
    """Whether a file that begins so is a pointer.

    >>> is_pointer(b"version https://git-lfs.github.com/spec/v1")
    True

    Args:
        start: the first bytes of the file, 23 or more of them.
    """
    return start.startswith(START)


def is_pointer_file(path: Path) -> bool:
    """Whether a file is a pointer.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return is_pointer(file.read(len(START)))
