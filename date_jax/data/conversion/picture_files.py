"""The files of pictures whose names come from another machine, lack endings or folders."""

import os
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from date_jax.run.user_paths import is_address

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


class PictureFiles:
    """Files by the names that sources give them.

    Args:
        folders: in which pictures may lie, the likeliest first; those that are not there count not.

    Attributes:
        folders: those that are there.
    """

    def __init__(self, folders: Iterable[Path]):
        self.folders = [folder for folder in dict.fromkeys(folders) if folder.is_dir()]
        self._by_name: dict[str, list[Path]] | None = None

    def path(self, name: str) -> Path | None:
        """The picture of that name, None where none or several could be it.

        Looked for, in this order: the name in each folder, as it is or with a picture's ending; the
        name without its first folder, without the first two, and so on; the file's name anywhere
        below the folders, if several have it in a folder of the right name.
        """
        if is_address(name):
            name = unquote(urlsplit(name).path).lstrip("/")
        name = name.replace("\\", "/")
        # Of a name of another machine the last folders tell more than the first ones.
        rest = name
        while rest:
            for folder in self.folders:
                for ending in ("", *ENDINGS):
                    if _is_file(folder / (rest + ending)):
                        return folder / (rest + ending)
            last, rest = rest, rest.partition("/")[2]
        # Anywhere below; of several files of that name the one whose folder has the right name too.
        files = self._files_by_name().get(last, []) if name else []
        if len(files) > 1:
            end = "/".join(name.split("/")[-2:])
            files = [file for file in files if file.as_posix().endswith(f"/{end}")]
        return files[0] if len(files) == 1 else None

    def _files_by_name(self) -> dict[str, list[Path]]:
        """All pictures below the folders, by their names; read when first wanted."""
        if self._by_name is None:
            self._by_name = {}
            seen: set[Path] = set()
            for folder in self.folders:
                for file in pictures_below(folder):
                    if file not in seen:
                        seen.add(file)
                        self._by_name.setdefault(file.name, []).append(file)
        return self._by_name


def pictures_below(folder: Path) -> list[Path]:
    """All pictures in a folder and in those below it, in order."""
    # Not rglob(), which ends with an error where a folder goes away or may not be read.
    return sorted(
        Path(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.lower().endswith(ENDINGS)
    )


def relative_name(picture: Path, folder: Path) -> str:
    """The name of a picture relative to a folder, with forward slashes."""
    # Both without links on the way, since `..` leads out of the folder that a link stands for.
    return Path(
        os.path.relpath(picture.parent.resolve() / picture.name, folder.resolve())
    ).as_posix()


def _is_file(path: Path) -> bool:
    """Whether a file is there; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
