"""TFDS builder of pictures that lie in files: a user's photos, offers, and published posts."""

import dataclasses
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from date_jax.data.datasets import records
from date_jax.data.files.box_format import scale_notes
from date_jax.data.files.photo_table import (
    checked_photos,
    photo_table,
    picture_options,
    records_name,
)
from date_jax.data.files.photos import PhotoRow, Photos
from date_jax.data.files.preprocess import prepared_box
from date_jax.errors import DataError
from date_jax.run.countdown import Countdown


@dataclasses.dataclass(kw_only=True, eq=False)
class FilesConfig(tfds.core.BuilderConfig):
    """The rows of one file, and how their pictures are prepared.

    Attributes:
        path: of the file, for messages.
        folder: that the pictures' names are relative to.
        rows: of the file.
        texts: fields of the rows that records have besides those of every data set.
        notes: what the user should be told of the rows.
        image_size, fit, max_pixels, bad_image_budget: as in `config.data`.
    """

    path: Path
    folder: Path
    rows: list[PhotoRow] = dataclasses.field(repr=False)
    texts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    image_size: int
    fit: str
    max_pixels: int
    bad_image_budget: float


def builder(config: Any, cache: Path) -> "Files":
    """The builder of a user's own photos, their file read and its rows checked.

    The pictures come later.

    Args:
        config: `config.data`.
        cache: folder for its records.

    Raises:
        DataError: the file is malformed, or lacks the domains that the config asks for.
    """
    path, rows, notes = photo_table(config)
    return builder_of_rows(config, cache, path=path, folder=path.parent, rows=rows, notes=notes)


def builder_of_rows(
    config: Any,
    cache: Path,
    *,
    path: Path,
    folder: Path,
    rows: list[PhotoRow],
    texts: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> "Files":
    """The builder of rows that are read already.

    Args:
        config: `config.data`.
        cache: folder for its records.
        path, folder, rows, texts, notes: as in FilesConfig.
    """
    settings = settings_of_rows(
        config, path=path, folder=folder, rows=rows, texts=texts, notes=notes
    )
    return Files(config=settings, data_dir=str(cache), file_format="array_record")


def settings_of_rows(
    config: Any,
    *,
    path: Path,
    folder: Path,
    rows: list[PhotoRow],
    texts: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> FilesConfig:
    """The settings of a builder of rows, named after all that its records depend on.

    Args:
        config: `config.data`.
        path, folder, rows, texts, notes: as in FilesConfig.
    """
    options = picture_options(config)
    return FilesConfig(
        name=records_name(folder, rows, options),
        path=path,
        folder=folder,
        rows=rows,
        texts=texts,
        notes=notes,
        **options,
    )


class Files(tfds.core.GeneratorBasedBuilder):
    """Pictures with a text each, and boxes for some."""

    VERSION = records.VERSION

    def __init__(self, *, config: FilesConfig, **options: Any) -> None:
        super().__init__(config=config, **options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self._info_of_boxes(())

    def _info_of_boxes(self, boxes: tuple[int, ...]) -> tfds.core.DatasetInfo:
        """What TFDS asks for, with `boxes` as in `records.features`."""
        config = self.builder_config
        return tfds.core.DatasetInfo(
            builder=self,
            features=records.features(config.image_size, "jpeg", boxes, config.texts),
            disable_shuffling=True,  # in the file's order; the pipeline shuffles
            metadata=tfds.core.MetadataDict(notes=[]),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        """Looks at every header and every box before the first picture is made."""
        del dl_manager
        config = self.builder_config
        photos = checked_photos(
            config.path, config.folder, config.rows, picture_options(vars(config))
        )
        # By split and picture, since all rows of a picture share its decoding.
        splits: dict[str, dict[str, list[PhotoRow]]] = {}
        for row in config.rows:
            splits.setdefault(row.split, {}).setdefault(row.image, []).append(row)
        # One countdown over all splits, of the pictures that can be read.
        total = sum(image in photos.headers for images in splits.values() for image in images)
        countdown = Countdown("preparing pictures", total)
        return {
            name: self._generate_examples(name, images, photos, countdown)
            for name, images in splits.items()
        }

    def _generate_examples(
        self, name: str, rows_of: dict[str, list[PhotoRow]], photos: Photos, countdown: Countdown
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The records of one split with their keys, those of a picture together.

        A picture is decoded once, and stored with each of its rows: that a row is one record costs
        disk, and makes a shuffled read one seek.
        """
        config = self.builder_config
        number = 0
        # Pictures come resized to S x S, so their boxes have to follow.
        for image, file in photos.prepared_files(list(rows_of), countdown):
            size = photos.headers[image][:2]
            # A record's key is its number: they stay in the order of the file's pictures.
            for record in self._records(rows_of[image], size):
                yield number, {"image": io.BytesIO(file), **record}
                number += 1
        # Only now it is known which pictures failed to decode.
        notes = [*photos.notes(), *scale_notes(config.rows, photos.headers)]
        self.info.metadata["notes"] = notes
        if not number:
            raise DataError(
                f"{config.path}: {name} is empty: all its rows were left out, since their "
                f"pictures cannot be read\n  {photos.notes()[-1]}"
            )

    def _records(self, rows: Sequence[PhotoRow], size: tuple[int, int]) -> Iterator[dict[str, Any]]:
        """The records of a picture's rows, one each, without the picture itself.

        Args:
            rows: of one split.
            size: width and height of the picture.
        """
        config = self.builder_config
        for row in rows:
            box = np.zeros(4, np.float32)
            if row.box:
                box = prepared_box(row.box, size, image_size=config.image_size, fit=config.fit)
            yield {
                "text": row.text,
                "box_xyxy": box,
                "has_box": row.box is not None,
                "product_id": row.product_id,
                "category": row.category,
                "row": row.line,
                **{text: getattr(row, text) for text in config.texts},
            }
