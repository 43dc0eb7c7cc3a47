"""A published model with a tower for pictures and one for texts: it answers without training.

SigLIP (2303.15343) and SigLIP 2 (2502.14786) put both into one space. A picture x and a text t
belong together with probability

    sigmoid(a cos(x, t) + b)

whose a and b are in the file. The folder is Hugging Face's: config.json, model.safetensors,
tokenizer.json and preprocessor_config.json.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Bool, Float, Int
from ml_collections import ConfigDict

from date_jax import augment
from date_jax.errors import CheckpointError, UsageError
from date_jax.networks import extractors, pretrained
from date_jax.networks.published_config import sizes_of, tower_config
from date_jax.networks.vit import PIXELS
from date_jax.pairs.vectors import unit_vectors
from date_jax.task import Answer, Batch, Card, Learner, Memory, Params, Task, record_shapes

MODEL_TYPE = "siglip"  # of config.json; SigLIP 2 of a fixed size of pictures has it too
_PREPARATION = "preprocessor_config.json"
_KEYS = {"scale": "logit_scale", "bias": "logit_bias"}  # ours and theirs


class Towers(nn.Module):
    """Both towers of a config, `config.model.image` and `config.model.text`.

    Attributes:
        config: `config.model`.
        vocab_size: rows of the table of words.
        text_length: ids of a text.
    """

    config: ConfigDict
    vocab_size: int
    text_length: int

    def setup(self) -> None:
        model = self.config
        self.image_extractor = extractors.image_extractor(model, model.image.pooling)
        self.text_extractor = extractors.text_extractor(model, self.vocab_size, self.text_length)
        self.scale = self.param("scale", nn.initializers.zeros, (1,))
        self.bias = self.param("bias", nn.initializers.zeros, (1,))

    def __call__(
        self, image: Float[Array, "B H W 3"], text: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> tuple[Float[Array, "B C"], Float[Array, "B C"]]:
        """The unit vectors of pictures and of texts."""
        return self.image_vectors(image), self.text_vectors(text, mask)

    def image_vectors(self, image: Float[Array, "B H W 3"]) -> Float[Array, "B C"]:
        """The unit vectors of pictures, whose pixels are normalised."""
        return unit_vectors(self.image_extractor(image)[0])

    def text_vectors(self, text: Int[Array, "B T"], mask: Bool[Array, "B T"]) -> Array:
        """The unit vectors `[B C]` of texts."""
        return unit_vectors(self.text_extractor(text, mask)[0])


def learner(config: ConfigDict, tokenizer: Any, sizes: Mapping[str, int]) -> Learner:
    """The two towers, which answer and are never trained."""
    del sizes
    rows = max(config.data.vocab_size, len(tokenizer.vocab))
    model = Towers(config.model, rows, config.data.text_length)

    def init(rng: Array, batch: Batch) -> tuple[Params, Memory]:
        variables = model.init(rng, *extractors.one_row(batch["source"]))
        return {"model": variables["params"]}, Memory()

    def image(params: Params, batch: Batch) -> Array:
        view = augment.plain_view(batch["image"])
        vectors: Any = model.apply({"params": params["model"]}, view, method=Towers.image_vectors)
        return vectors

    def text(params: Params, batch: Batch) -> Array:
        inputs = batch["text"], batch["text_mask"]
        vectors: Any = model.apply({"params": params["model"]}, *inputs, method=Towers.text_vectors)
        return vectors

    return Learner(init, _not_trained, {"image_embedding": image, "text_embedding": text})


def probability(params: Params, cosine: Float[np.ndarray, "*N"]) -> Float[np.ndarray, "*N"]:
    """How likely a picture and a text belong together, from their vectors' cosine."""
    scale, bias = (np.asarray(params["model"][name])[0] for name in ("scale", "bias"))
    return 1.0 / (1.0 + np.exp(-(np.exp(scale) * cosine + bias)))


def is_published(folder: Path) -> bool:
    """Whether a folder is that of a published model, whose config.json says what it is of."""
    file = folder / "config.json"
    if not file.is_file():
        return False
    try:
        return "model_type" in json.loads(file.read_bytes())
    except (OSError, ValueError, TypeError):
        return False


def published_config(folder: Path) -> ConfigDict:
    """The config of a published model that answers.

    Raises:
        UsageError: it has not two towers of which both are networks here.
        CheckpointError: a file of it is damaged.
    """
    entries = pretrained.file_config(folder) or {}
    if entries.get("model_type") != MODEL_TYPE:
        raise UsageError(
            f"{folder}: a published model of type {entries.get('model_type')}; of those only "
            f"{MODEL_TYPE} answers without training\n"
            "  train a run with it: --config.init.image or --config.init.text of date_jax.main"
        )
    towers = {kind: tower_config(kind, entries) for kind in ("image", "text")}
    sections = {kind: unflatten_dict(sizes_of(kind, entries), sep=".") for kind in towers}
    length, side = (
        towers["text"].get("max_position_embeddings", 64),
        towers["image"].get("image_size", 224),
    )
    sections["image"] |= {"pooling": "map", "pool": 1}
    sections["image"]["vit"] |= {"rep_layers": 0, "pixels": _pixels(folder)}
    sections["text"]["dropout"] = 0.0
    return ConfigDict(
        {
            "task": "towers",
            "batch_size": 1,
            "data": {
                "image_size": side,
                "fit": "stretch",  # theirs are resized to a square
                "max_pixels": 64_000_000,
                "text_length": length,
                "vocab_size": towers["text"].get("vocab_size", 32_000),
            },
            "model": {
                "dtype": "float32",
                "remat": False,
                "scan": False,
                "rows_at_once": 0,
                **sections,
            },
        }
    )


def _pixels(folder: Path) -> str:
    """The name of the mean and deviation that a model's pixels have; SigLIP's without a file."""
    file = folder / _PREPARATION
    if not file.exists():
        return "half"
    try:
        entries = json.loads(file.read_bytes())
        numbers = [entries.get(f"image_{name}", [0.5] * 3) for name in ("mean", "std")]
        for name, pixels in PIXELS.items():
            if np.allclose(pixels, numbers, atol=1e-3):
                return name
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); download it again") from None
    raise UsageError(f"{file}: image_mean and image_std are {numbers}, which no network here takes")


def published_params(folder: Path, config: ConfigDict, tokenizer: Any) -> Any:
    """The parameters of a published model, by our names.

    Raises:
        CheckpointError: tensors are missing, damaged, or of another network.
    """
    tensors, _ = pretrained.read(folder)
    shapes, _ = jax.eval_shape(
        learner(config, tokenizer, {}).init, jax.random.key(0), TASK.example(config)
    )
    params: dict[str, Any] = {}
    missing = []
    for kind in ("image", "text"):
        module = f"{kind}_extractor"
        values, report = pretrained.fitting_values(
            kind, shapes["model"][module], tensors, where=str(folder)
        )
        params[module] = unflatten_dict(values, sep="/")
        missing += [*report.missing, *report.ours]
    for ours, theirs in _KEYS.items():
        if theirs in tensors and tensors[theirs].size == 1:
            params[ours] = np.asarray(tensors[theirs], np.float32).reshape(1)
        else:
            missing.append(theirs)
    # Nothing of it is trained, so that nothing may be random.
    if missing:
        raise CheckpointError(
            f"{folder}: lacks {len(missing)} tensors of its two towers: {', '.join(missing[:4])}"
        )
    return params


def _not_trained(*_: Any, **__: Any) -> Any:
    raise UsageError("a published model answers as it is; train a run with config.init")


def _contradictions(config: ConfigDict) -> Iterator[str]:
    yield f"config.task={config.task}: a published model answers as it is, and is not trained"


TASK = Task(
    contradictions=_contradictions,
    load=_not_trained,
    learner=learner,
    example=lambda config: {"source": record_shapes(config, "image", "text", "text_mask")},
    batches=_not_trained,
    evaluator=_not_trained,
    highlight=lambda config, names, kind: None,
    terms=(),
    columns=(),
    card=Card("", "", "", lambda config: "", "", "towers", "scale and bias of two towers", ()),
    answer=Answer(image="image_embedding", text="text_embedding", probability=probability),
)
