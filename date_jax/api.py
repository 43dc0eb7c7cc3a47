"""The door for Python: asks a finished network, without its training data and without TensorFlow.

    run = date_jax.open("runs/one")                          # a run's folder, or an export of it
    for answer in run.ground("photo.jpg", ["striped red mug", "blue bag"]):
        print(answer.box_xyxy_pixels, answer.score)
    vectors = run.embed_texts(["striped red mug"])           # [1 E], of length 1

The commands and the server are faces of this object; they add no logic.
"""

import dataclasses
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from jaxtyping import Float
from ml_collections import ConfigDict
from PIL import Image

from date_jax import boxes, sharding
from date_jax.data.files import preprocess, user_pictures
from date_jax.data.files.preprocess import UnreadablePictureError
from date_jax.data.files.user_pictures import Source, UserPicture
from date_jax.data.tokenizer import Tokenizer
from date_jax.data.tokenizer_files import tokenizer_of_file
from date_jax.errors import DataError, UsageError
from date_jax.evals.collect import Collect, collector
from date_jax.finished import finished_run, network
from date_jax.run.user_paths import user_path
from date_jax.task import Prediction, Task
from date_jax.tasks import ANSWERING

BUCKETS = (1, 8, 64)  # rows of each device in a program; other numbers are filled up to one of them
_ASKED = ("image_size", "fit", "text_length")  # of config.data: what changes a vector


class Grounding(NamedTuple):
    """What a query asks for in a picture.

    Attributes:
        box_xyxy_pixels: x_min, y_min, x_max, y_max in the picture as a viewer shows it.
        score: how likely the box is right (IoU of 0.5 or more); None where the run cannot tell.
    """

    box_xyxy_pixels: tuple[float, float, float, float]
    score: float | None


class Instance(NamedTuple):
    """One product of a picture.

    Attributes:
        box_xyxy_pixels: x_min, y_min, x_max, y_max in the picture as a viewer shows it.
        score: how sure the network is that a product is there, in [0, 1].
        embedding: of length 1.
    """

    box_xyxy_pixels: tuple[float, float, float, float]
    score: float
    embedding: Float[np.ndarray, " E"]


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished network that answers; made by `open_run`.

    A list of any length may be asked about: it is cut into batches of few sizes, filled up, and
    spread over this process's devices, so that a new length compiles nothing.

    Attributes:
        path: of the run or the export.
        config: of its training.
        step: of the checkpoint.
        fingerprint: equal exactly where the same picture and words give the same vector.
        warnings: of damaged checkpoints that were passed over.
        scores: see `Answer.scorer`; None where the run was not calibrated, as before its end.
    """

    path: Path
    config: ConfigDict
    step: int
    fingerprint: str
    warnings: tuple[str, ...]
    task: Task
    tokenizer: Tokenizer
    predict: Mapping[str, Prediction]
    params: Any
    mesh: jax.sharding.Mesh
    scores: Callable[[np.ndarray], np.ndarray] | None
    _collectors: dict[tuple[str, ...], Collect]

    @cached_property
    def questions(self) -> tuple[str, ...]:
        """The methods that this run's task answers."""
        answer = self.task.answer
        names = {
            "ground": answer.box,
            "embed_images": answer.image,
            "embed_texts": answer.text,
            "embed_products": answer.product,
            "instances": "".join(answer.instances[:1]),
        }
        return tuple(question for question, name in names.items() if name in self.predict)

    def pictures(self, images: Sequence[Source]) -> list[UserPicture | UnreadablePictureError]:
        """The pictures as the network sees them, or for each why it cannot be read.

        Every method takes them in the place of images, so that each is decoded once.
        """
        return user_pictures.user_pictures(list(images), self.config.data)

    def ground(
        self, images: Source | Sequence[Source], queries: str | Sequence[str]
    ) -> list[Grounding]:
        """The box of each query in its picture.

        One picture goes with many queries, and one query with many pictures.

        Args:
            images: paths, bytes of files, PIL images or uint8 `[H W 3]`; or one of them.
            queries: words; or one text.

        Raises:
            DataError: a picture cannot be read.
            UsageError: the run answers no such question; or there is not a query for each picture.
        """
        self._require("ground")
        # A single one is decoded once, and stands for as many as there are of the other.
        texts = text_list(queries)
        pictures = self._readable(picture_list(images))
        if len(pictures) == 1:
            pictures *= len(texts)
        if len(texts) == 1:
            texts *= len(pictures)
        if len(texts) != len(pictures):
            raise UsageError(f"{len(pictures)} images and {len(texts)} queries: give a pair each")
        if not pictures:
            return []
        rows = self._rows(self._box_names, self._picture_rows(pictures) | self._text_rows(texts))
        answer = self.task.answer
        box_xyxy = np.asarray(boxes.xyxy(jnp.asarray(rows[answer.box])))
        scores: list[float | None] = [None] * len(box_xyxy)
        if self.scores is not None:
            scores = [float(score) for score in self.scores(rows[answer.confidence])]
        return [
            Grounding(self._original_box(box, picture), score)
            for box, picture, score in zip(box_xyxy, pictures, scores, strict=True)
        ]

    def embed_images(self, images: Source | Sequence[Source]) -> Float[np.ndarray, "N E"]:
        """The unit vectors of pictures; of one, a list of one.

        Raises:
            DataError: a picture cannot be read.
            UsageError: the run answers no such question.
        """
        self._require("embed_images")
        images = picture_list(images)
        return self._vectors(self.task.answer.image, images, [""] * len(images))

    def embed_texts(self, texts: str | Sequence[str]) -> Float[np.ndarray, "N E"]:
        """The unit vectors of words; of one text, a list of one.

        Raises:
            UsageError: the run answers no such question, or a text is none.
        """
        self._require("embed_texts")
        texts = text_list(texts)
        return self._vectors(self.task.answer.text, [None] * len(texts), texts)

    def probability(self, cosine: Float[np.ndarray, "*N"]) -> Float[np.ndarray, "*N"]:
        """How likely a picture and words belong together, from the cosine of their vectors.

        Raises:
            UsageError: the network does not tell.
        """
        if self.task.answer.probability is None:
            raise UsageError(f"{self.path}: tells no probability; cosines order the answers")
        return self.task.answer.probability(self.params, cosine)

    def embed_products(
        self, images: Sequence[Source | None], titles: Sequence[str]
    ) -> Float[np.ndarray, "N E"]:
        """The unit vectors of products, each from its picture and its title.

        Where the network knows pictures alone and words alone, a product may lack one of them: None
        for its picture, or "" for its title.

        Raises:
            DataError: a picture cannot be read, or a product has too little.
            UsageError: the run answers no such question.
        """
        self._require("embed_products")
        if len(images) != len(titles):
            raise UsageError(f"{len(images)} images and {len(titles)} titles: give a pair each")
        # Products that have the same parts go together, and then back into their order.
        groups: dict[str, list[int]] = {self.task.answer.product: []}
        for row, (image, title) in enumerate(zip(images, titles, strict=True)):
            name = self._product_prediction(row, image is not None, bool(title))
            groups.setdefault(name, []).append(row)
        vectors = [
            self._vectors(name, [images[row] for row in rows], [titles[row] for row in rows])
            for name, rows in groups.items()
        ]
        order = np.argsort([row for rows in groups.values() for row in rows], kind="stable")
        return np.concatenate(vectors)[order]

    def instances(self, images: Sequence[Source], titles: Sequence[str]) -> list[list[Instance]]:
        """The products that each picture shows, best first.

        Args:
            images: as in `ground`.
            titles: of the posts that they belong to; "" for none.

        Raises:
            DataError: a picture cannot be read.
            UsageError: the run answers no such question; or there is not a title for each picture.
        """
        self._require("instances")
        if len(images) != len(titles):
            raise UsageError(f"{len(images)} images and {len(titles)} titles: give a pair each")
        pictures = self._readable(images)
        if not pictures:
            return []
        names = self.task.answer.instances
        rows = self._rows(names, self._picture_rows(pictures) | self._text_rows(titles))
        box_xyxy, is_instance, scores, vectors = (rows[name] for name in names)
        embeddings = self.task.answer.embedding(self.config, vectors)
        return [
            [
                Instance(self._original_box(box_xyxy[row, k], picture), float(scores[row, k]),
                         embeddings[row, k])
                for k in np.flatnonzero(is_instance[row])
            ]
            for row, picture in enumerate(pictures)
        ]  # fmt: skip

    def warm_up(self) -> None:
        """Compiles, or loads, all programs, so that no later question waits for one."""
        for _ in self.warm_programs():
            pass

    def warm_programs(self) -> Iterator[tuple[str, ...]]:
        """Compiles, or loads, one program at each step; what it predicts."""
        data, answer = self.config.data, self.task.answer
        picture = np.zeros((1, data.image_size, data.image_size, 3), np.uint8)
        row = {"image": picture} | self._text_rows(["?"])
        vectors = ((name,) for name in (answer.image, answer.text, answer.product))
        for names in (*vectors, self._box_names, answer.instances):
            if names and all(name in self.predict for name in names):
                for bucket in self._buckets:
                    self._rows(names, {key: np.repeat(x, bucket, axis=0) for key, x in row.items()})
                    yield names

    @cached_property
    def _box_names(self) -> tuple[str, ...]:
        """The predictions of a grounding: the box, and what its score is made of."""
        answer = self.task.answer
        return (answer.box,) if self.scores is None else (answer.box, answer.confidence)

    @cached_property
    def _buckets(self) -> tuple[int, ...]:
        """The sizes of a batch, which all devices share."""
        return tuple(rows * self.mesh.size for rows in BUCKETS)

    def _product_prediction(self, row: int, has_image: bool, has_title: bool) -> str:
        """The prediction that reads what a product has; raises DataError where none does."""
        answer = self.task.answer
        if has_image and (has_title or not answer.image):
            return answer.product
        alone = answer.image if has_image else answer.text if has_title else ""
        if alone not in self.predict:
            has = (
                "a picture"
                if has_image
                else "a title"
                if has_title
                else "neither picture nor title"
            )
            raise DataError(f"product {row} has {has} alone, which {self.path} does not read")
        return alone

    def _require(self, question: str) -> None:
        """Raises UsageError where the run's task does not answer a question."""
        if question not in self.questions:
            raise UsageError(
                f"{self.path}: a run of task {self.config.task} does not answer `{question}`; it "
                f"answers {', '.join(self.questions) or 'nothing'}"
            )

    def _readable(self, images: Sequence[Source]) -> list[UserPicture]:
        """The pictures as the network sees them; raises DataError where one cannot be read."""
        pictures = self.pictures(images)
        for row, (image, picture) in enumerate(zip(images, pictures, strict=True)):
            if isinstance(picture, UnreadablePictureError):
                name = str(image) if isinstance(image, str | Path) else f"picture {row}"
                raise DataError(f"{name}: {picture}")
        return [picture for picture in pictures if isinstance(picture, UserPicture)]

    def _picture_rows(self, pictures: Sequence[UserPicture]) -> dict[str, np.ndarray]:
        """The pictures' part of a batch."""
        return {"image": np.stack([picture.pixels for picture in pictures])}

    def _text_rows(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The texts' part of a batch."""
        encoded = self.tokenizer.encode(texts)
        return {"text": encoded.ids, "text_mask": encoded.mask}

    def _vectors(
        self, name: str, images: Sequence[Source | None], texts: Sequence[str]
    ) -> Float[np.ndarray, "N E"]:
        """The unit vectors of a prediction; what it does not read may be None and ""."""
        side = self.config.data.image_size
        black = np.zeros((side, side, 3), np.uint8)
        # Without a row one is made up, and dropped again: the width follows from the network.
        count = len(texts)
        images, texts = (images, texts) if count else ([None], [""])
        sources = [UserPicture(black, (side, side)) if image is None else image for image in images]
        batch = self._picture_rows(self._readable(sources)) | self._text_rows(texts)
        vectors = self.task.answer.embedding(self.config, self._rows((name,), batch)[name])
        return vectors.astype(np.float32)[:count]

    def _rows(self, names: tuple[str, ...], batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Predictions for rows `[N ...]`, N of 1 or more, by name."""
        if names not in self._collectors:
            predict = {name: self.predict[name] for name in names}
            self._collectors[names] = collector(
                predict, self.mesh, rows_at_once=self.config.model.rows_at_once
            )
        return self._collectors[names](self.params, self._batches(batch))

    def _batches(self, rows: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """The rows in batches of the largest bucket; the last in buckets at least half full."""
        count, most, start = len(next(iter(rows.values()))), self._buckets[-1], 0
        while start < count:
            real = min(count - start, most)
            bucket = next(size for size in self._buckets if size >= real)
            # Nine rows in a program of 64 take five times as long as eight and one.
            smaller = [size for size in self._buckets if size <= real]
            if 2 * real < bucket and smaller:
                real = bucket = smaller[-1]
            # The last row again, for a row of zeros could give NaN where nothing is.
            index = np.minimum(np.arange(start, start + bucket), count - 1)
            yield {name: x[index] for name, x in rows.items()} | {"mask": np.arange(bucket) < real}
            start += real

    def _original_box(
        self, box_xyxy: Float[np.ndarray, " 4"], picture: UserPicture
    ) -> tuple[float, float, float, float]:
        """A normalised box of the prepared picture, in pixels of the original."""
        data = self.config.data
        corners = preprocess.original_box(
            box_xyxy, picture.size, image_size=data.image_size, fit=data.fit
        )
        left, top, right, bottom = (float(x) for x in corners)
        return left, top, right, bottom


def open_run(path: str | Path) -> Run:
    """The network of a run's latest whole checkpoint, or of an export, ready to answer.

    It is the moving average of training. The training data need not be there.

    Raises:
        CheckpointError: there is no checkpoint and no export, or none that is whole.
        UsageError: the network reads regions that were found beforehand, so no picture alone.
        DataError: its vocabulary cannot be read.
    """
    finished = finished_run(user_path(path))
    config = finished.config

    # The functions that answer, which need no data but the vocabulary.
    task = ANSWERING[config.task]
    if not any("image" in rows for rows in task.example(config).values()):
        raise UsageError(
            f"{finished.path}: the network was trained on regions that were found beforehand, so "
            "it cannot be asked with pictures"
        )
    tokens = tokenizer_of_file(finished.vocab, length=config.data.text_length)
    learner = task.learner(config, tokens, {})

    # Its parameters, on the devices of this process: hosts that share work share files, not arrays.
    model, step, warnings = network(finished)
    params = {"model": model}
    mesh = sharding.device_mesh(devices=jax.local_devices())
    return Run(
        path=finished.path,
        config=config,
        step=step or 0,
        fingerprint=fingerprint(config, tokens, params),
        warnings=warnings,
        task=task,
        tokenizer=tokens,
        predict=learner.predict,
        params=sharding.device_arrays(params, sharding.replicated_sharding(mesh)),
        mesh=mesh,
        scores=task.answer.scorer(finished.folder),
        _collectors={},
    )


def picture_list(images: Source | Sequence[Source]) -> list[Source]:
    """The pictures of an argument that may be one, several, or an array `[N H W 3]` of them."""
    if isinstance(images, np.ndarray):
        return [*images] if images.ndim == 4 else [images]
    # A file opens as a sequence of its lines.
    is_one = isinstance(images, UserPicture | str | Path | bytes | Image.Image)
    if is_one or isinstance(images, io.IOBase) or not isinstance(images, Iterable):
        return [images]  # type: ignore[list-item]
    return [*images]


def text_list(texts: str | Sequence[str]) -> list[str]:
    """The texts of an argument that may be one or several.

    Raises:
        UsageError: one is no text.
    """
    text_rows = [*texts] if isinstance(texts, Iterable) and not isinstance(texts, str) else [texts]
    for row, text in enumerate(text_rows):
        if not isinstance(text, str):
            raise UsageError(f"query {row}: is no text but {type(text).__name__}: give words")
    return text_rows


def fingerprint(config: ConfigDict, tokens: Tokenizer, params: Any) -> str:
    """Sixteen hex digits of all that a vector depends on: network, preparation, vocabulary."""
    data = {key: config.data[key] for key in _ASKED}
    names = ("model", *ANSWERING[config.task].answer.settings)
    sections = {name: config.to_dict()[name] for name in names}
    rules = dataclasses.asdict(tokens.rules)
    settings = [config.task, data, sections, rules, tokens.vocab]
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name, value in sorted(flatten_dict(params, sep="/").items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()[:16]
