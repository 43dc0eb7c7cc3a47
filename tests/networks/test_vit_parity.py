"""ViTs and SigLIP's text encoder against transformers' modules, whose files are read.

Skipped where PyTorch and transformers are absent. With DATE_JAX_WEIGHTS, a folder that holds the
folders dinov2s and minilm, the real networks are compared too; with DATE_JAX_PHOTOS on real photos.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from PIL import Image
from safetensors.numpy import save_file

from configs import date
from date_jax.augment import plain_view
from date_jax.data.tokenizer_files import tokenizer_of_file
from date_jax.networks import pretrained, published_config
from date_jax.networks.extractors import image_extractor, text_extractor
from date_jax.networks.layouts import KINDS
from date_jax.networks.positions import resized_positions
from date_jax.networks.vit import PIXELS

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
torch.set_num_threads(1)  # as the worker next to this one wants its core

WEIGHTS, PHOTOS = os.environ.get("DATE_JAX_WEIGHTS", ""), os.environ.get("DATE_JAX_PHOTOS", "")
real_weights = pytest.mark.skipif(not WEIGHTS, reason="DATE_JAX_WEIGHTS names no folder")
VOCAB, LENGTH = 60, 8


def close(what: str, actual: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Asserts a largest difference, and prints it: `pytest -n0 -s`."""
    actual, expected = np.asarray(actual), expected.detach().numpy()
    print(f"{what}: {np.abs(actual - expected).max():.1e} of {np.abs(expected).max():.1f}")
    np.testing.assert_allclose(actual, expected, 0, tolerance, err_msg=what)


def randomised(module: Any) -> Any:
    """Weights far from the initial ones, that keep the activations' size; nothing stays zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim in (2, 4) and "embeddings" not in name.rpartition(".")[0]:
                parameter.copy_(noise * (parameter[0].numel() ** -0.5))
            else:
                parameter.add_(0.3 * noise)
    return module.eval()


def layer_outputs(theirs: Any, inputs: dict[str, Any]) -> tuple[Any, list[Any]]:
    """What a module of transformers gives, and what each of its layers does."""
    encoder, outputs = theirs.encoder, []
    hooks = [
        layer.register_forward_hook(
            lambda _, inputs, output: outputs.append(
                output[0] if isinstance(output, tuple) else output
            )
        )
        for layer in (encoder.layer if hasattr(encoder, "layer") else encoder.layers)
    ]
    result = theirs(**inputs)
    for hook in hooks:
        hook.remove()
    return result, outputs


def section_of(folder: Path, *kinds: str) -> ConfigDict:
    """`config.model` with the sizes that the config.json of a folder asks for."""
    model = date.get_config().unlock().model
    file_config = json.loads((folder / "config.json").read_text())
    for kind in kinds:
        sizes = published_config.sizes_of(kind, file_config)
        model[kind].update_from_flattened_dict(sizes)
        pretrained.require_same_sizes(kind, model[kind], file_config, folder)
    return model


def loaded(kind: str, network: Any, folder: Path, *inputs: Any) -> tuple[Any, pretrained.Report]:
    """Our parameters from a folder; what only our network has is 0."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    tensors, _ = pretrained.read(folder)
    values, report = pretrained.fitting_values(kind, shapes, tensors, where=str(folder))
    assert not report.missing
    assert {*report.ours} <= {"rep_offset"}
    values |= {path: np.zeros(flatten_dict(shapes, sep="/")[path].shape) for path in report.ours}
    values = {path: jnp.asarray(value, jnp.float32) for path, value in values.items()}
    return unflatten_dict(values, sep="/"), report


class Ours(NamedTuple):
    """What our network gives: of the whole, in front of the first layer, and of each layer."""

    rep: Any
    tokens: Any
    embedded: Any
    layers: list[Any]


def our_outputs(apply: Any, *inputs: Any, along: Any = None) -> tuple[Ours, Any]:
    """Our outputs; and the gradient of their products with `along`, in the first input.

    Args:
        apply: `(first input, further ones, **options) -> ((rep, tokens), state)`.
        inputs: its inputs.
        along: numbers for rep and tokens; None for no gradient.
    """

    def value(*inputs: Any) -> Any:
        answers, state = apply(
            *inputs, capture_intermediates=lambda _, name: name in ("__call__", "_embedded")
        )
        calls = state["intermediates"]
        names = [name for name in calls if name.startswith("layer")]
        layers = [calls[f"layer{i}"]["__call__"][0] for i in range(len(names))]
        embedded = calls["_embedded"][0][0] if "_embedded" in calls else None
        total = 0.0
        if along is not None:
            total = sum((x * y).sum() for x, y in zip(answers, along, strict=True))
        return total, (*answers, embedded, layers)

    if along is None:
        return Ours(*jax.jit(value)(*inputs)[1]), None
    gradient, outputs = jax.jit(jax.grad(value, has_aux=True))(*map(jnp.asarray, inputs))
    return Ours(*outputs), gradient


def directions(*shapes: Any) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal(tuple(shape)).astype(np.float32) for shape in shapes]


def move(answers: tuple[Any, ...], along: list[np.ndarray]) -> None:
    """The way back through a module of PyTorch."""
    sum((x * torch.from_numpy(y)).sum() for x, y in zip(answers, along, strict=True)).backward()


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, height, width, 3)).astype(np.float32)


def their_pixels(image: Any, expected: str) -> Any:
    """ImageNet-normalised pixels as another network expects them, channels first."""
    (mean, std), (their_mean, their_std) = PIXELS["imagenet"], PIXELS[expected]
    plain = image * torch.tensor(std) + torch.tensor(mean)
    return ((plain - torch.tensor(their_mean)) / torch.tensor(their_std)).permute(0, 3, 1, 2)


SIZES = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 4}
VITS = {
    "dinov2": (transformers.Dinov2Model, {"image_size": 20, "mlp_ratio": 2}),
    "dinov2_swiglu": (
        transformers.Dinov2Model,
        {"image_size": 20, "mlp_ratio": 2, "use_swiglu_ffn": True},
    ),
    "dinov2_registers": (
        transformers.Dinov2WithRegistersModel,
        {"image_size": 20, "mlp_ratio": 2, "num_register_tokens": 3},
    ),
    "siglip": (transformers.SiglipVisionModel, {"image_size": 16, "intermediate_size": 40}),
    "clip": (transformers.CLIPVisionModel, {"image_size": 16, "intermediate_size": 40}),
}


@pytest.mark.parametrize("size", [(28, 20), (12, 8)], ids=str)
@pytest.mark.parametrize("name", VITS)
def test_every_layer_and_the_gradient_of_a_published_vit_are_reproduced(
    tmp_path: Path, name: str, size: tuple[int, int]
) -> None:
    cls, options = VITS[name]
    theirs = randomised(cls(cls.config_class(**SIZES, **options)))
    theirs.save_pretrained(tmp_path)
    model = section_of(tmp_path, "image")
    network = image_extractor(model, "map" if name == "siglip" else "cls")
    image = pixels(*size)
    params, report = loaded("image", network, tmp_path, image)
    assert {*report.left_over} <= {"embeddings.mask_token"}

    leaf = torch.from_numpy(image).requires_grad_()
    inputs = {"pixel_values": their_pixels(leaf, model.image.vit.pixels)}
    if "dino" not in name:
        inputs["interpolate_pos_encoding"] = True
    result, layers = layer_outputs(theirs, inputs)
    last = result.last_hidden_state
    if name == "clip":  # its pooled vector alone is behind the last norm
        last = theirs.post_layernorm(last)
    answers = (result.pooler_output, last[:, -((size[0] // 4) * (size[1] // 4)) :])
    along = directions(*(answer.shape for answer in answers))
    move(answers, along)

    def apply(image: Any, **options: Any) -> Any:
        return network.apply({"params": params}, image, **options)

    ours, gradient = our_outputs(apply, image, along=along)
    embedded = theirs.embeddings(**inputs)
    close("embedded", ours.embedded, theirs.pre_layrnorm(embedded) if name == "clip" else embedded)
    for i, (actual, expected) in enumerate(zip(ours.layers, layers, strict=True)):
        close(f"layer {i}", actual, expected)
    close("rep", ours.rep, answers[0])
    close("tokens", ours.tokens, answers[1])
    close("gradient of the pixels", gradient, leaf.grad)


@pytest.mark.parametrize("name", VITS)
def test_an_exported_vit_is_read_by_transformers(tmp_path: Path, name: str) -> None:
    cls, options = VITS[name]
    theirs = randomised(cls(cls.config_class(**SIZES, **options)))
    theirs.save_pretrained(tmp_path / "theirs")
    config = date.get_config().unlock()
    config.model = section_of(tmp_path / "theirs", "image")
    config.model.image.pooling = "map" if name == "siglip" else "cls"
    network = image_extractor(config.model, config.model.image.pooling)
    params, _ = loaded("image", network, tmp_path / "theirs", pixels(16, 16))
    assert published_config.unreadable("image", config.model.image) == ""
    (tmp_path / "ours").mkdir()
    tensors = pretrained.published_tensors("image", params)
    save_file(tensors, tmp_path / "ours/model.safetensors", metadata={"format": "pt"})
    entries = published_config.config_json("image", config, vocab_size=0)
    (tmp_path / "ours/config.json").write_text(json.dumps(entries))
    again = cls.from_pretrained(tmp_path / "ours")
    assert again.config.model_type == theirs.config.model_type
    for key, value in theirs.state_dict().items():
        if "mask_token" not in key:
            np.testing.assert_array_equal(again.state_dict()[key], value, err_msg=key)


TEXT_SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "vocab_size": VOCAB,
    "max_position_embeddings": LENGTH,
    "projection_size": 24,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def padded_ids() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.arange(LENGTH) < rng.integers(2, LENGTH + 1, (4, 1))
    return np.where(mask, rng.integers(5, VOCAB, mask.shape), 1).astype(np.int32), mask


def test_every_layer_and_the_gradient_of_siglip_s_text_encoder_are_reproduced(
    tmp_path: Path,
) -> None:
    theirs = randomised(transformers.SiglipTextModel(transformers.SiglipTextConfig(**TEXT_SIZES)))
    theirs.save_pretrained(tmp_path)
    network = text_extractor(section_of(tmp_path, "text"), VOCAB, LENGTH)
    ids, mask = padded_ids()
    params, report = loaded("text", network, tmp_path, ids, mask)
    assert not report.left_over
    result, layers = layer_outputs(theirs, {"input_ids": torch.from_numpy(ids)})
    answers = (result.pooler_output, result.last_hidden_state)
    along = directions(*(answer.shape for answer in answers))
    move(answers, along)

    def apply(table: Any, **options: Any) -> Any:
        changed = params | {"word_embedding": {"embedding": table}}
        return network.apply({"params": changed}, jnp.asarray(ids), jnp.asarray(mask), **options)

    table = params["word_embedding"]["embedding"]
    ours, gradient = our_outputs(apply, table, along=along)
    for i, (actual, expected) in enumerate(zip(ours.layers, layers, strict=True)):
        close(f"layer {i}", actual, expected)
    close("rep", ours.rep, answers[0])
    close("tokens", ours.tokens, answers[1])
    close("gradient of words", gradient, theirs.embeddings.token_embedding.weight.grad)


def test_both_towers_of_a_siglip_come_from_one_folder_of_several_half_precision_files(
    tmp_path: Path,
) -> None:
    vision = {**SIZES, "image_size": 16, "intermediate_size": 40}
    config = transformers.SiglipConfig(text_config=TEXT_SIZES, vision_config=vision)
    theirs = randomised(transformers.SiglipModel(config)).to(torch.bfloat16)
    theirs.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 2
    theirs = theirs.float()
    model, (ids, mask), image = section_of(tmp_path, *KINDS), padded_ids(), pixels(16, 16)
    ours = image_extractor(model, "map")
    params, report = loaded("image", ours, tmp_path, image)
    assert {name.partition(".")[0] for name in report.left_over} == {
        *("text_model", "logit_scale", "logit_bias")
    }
    given = their_pixels(torch.from_numpy(image), "half")
    expected = theirs.vision_model(pixel_values=given).pooler_output
    close("picture", ours.apply({"params": params}, jnp.asarray(image))[0], expected)
    ours = text_extractor(model, VOCAB, LENGTH)
    params, report = loaded("text", ours, tmp_path, ids, mask)
    assert "vision_model" in {name.partition(".")[0] for name in report.left_over}
    expected = theirs.text_model(input_ids=torch.from_numpy(ids)).pooler_output
    close("text", ours.apply({"params": params}, jnp.asarray(ids), jnp.asarray(mask))[0], expected)


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("image", transformers.SwinConfig()),
        ("image", transformers.Dinov2Config()),
        ("image", transformers.Dinov2WithRegistersConfig()),
        ("image", transformers.SiglipVisionConfig()),
        ("image", transformers.CLIPVisionConfig()),
        ("text", transformers.BertConfig()),
        ("text", transformers.SiglipTextConfig()),
    ],
    ids=lambda x: getattr(x, "model_type", x),
)
def test_what_a_config_json_leaves_out_has_the_defaults_of_transformers(
    kind: str, config: Any
) -> None:
    whole = published_config.sizes_of(kind, config.to_dict())
    assert published_config.sizes_of(kind, {"model_type": config.model_type}) == whole


@pytest.mark.parametrize("grid", [(7, 7), (4, 9), (12, 12), (3, 2)], ids=str)
@pytest.mark.parametrize("antialias", [False, True])
def test_positions_are_resized_as_pytorch_does(grid: tuple[int, int], antialias: bool) -> None:
    table = np.random.default_rng(0).standard_normal((49, 5)).astype(np.float32)
    square = torch.from_numpy(table).reshape(1, 7, 7, 5).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        square, size=grid, mode="bicubic", align_corners=False, antialias=antialias
    )
    actual = resized_positions(jnp.asarray(table), grid, antialias=antialias)
    close(str(grid), actual, expected.permute(0, 2, 3, 1).reshape(-1, 5), 1e-5)


def photos(side: int) -> np.ndarray:
    """20 pictures as views of the default network have them; real ones if there are some."""
    rng = np.random.default_rng(0)
    files = sorted(f for f in Path(PHOTOS).rglob("*.jpg")) if PHOTOS else []
    if not files:
        pictures = rng.integers(0, 256, (20, side, side, 3), dtype=np.uint8)
    else:
        places = rng.choice(len(files), 20, replace=False)
        opened = [Image.open(files[i]).convert("RGB").resize((side, side)) for i in places]
        pictures = np.stack([np.asarray(picture) for picture in opened])
    return np.asarray(plain_view(jnp.asarray(pictures)))


def relative(what: str, actual: Any, expected: Any) -> float:
    """The largest difference as a share of the largest number, which is 1e-3 at most."""
    actual, expected = np.asarray(actual), expected.detach().numpy()
    share = float(np.abs(actual - expected).max() / np.abs(expected).max())
    print(f"{what}: {np.abs(actual - expected).max():.1e}, {share:.1e} of the largest")
    assert share <= 1e-3, what
    return share


@real_weights
def test_a_real_dinov2_is_reproduced_on_twenty_pictures() -> None:
    folder = Path(WEIGHTS) / "dinov2s"
    theirs = transformers.Dinov2Model.from_pretrained(folder).eval()
    network = image_extractor(section_of(folder, "image"), "rep")
    image = photos(224)
    params, report = loaded("image", network, folder, image[:1])
    assert report.ours == ["rep_offset"]

    def apply(params: Any, image: Any, **options: Any) -> Any:
        return network.apply({"params": params}, image, **options)

    shares = []
    for start in range(0, 20, 10):
        rows = image[start : start + 10]
        with torch.no_grad():
            given = torch.from_numpy(rows).permute(0, 3, 1, 2).contiguous()
            result, layers = layer_outputs(theirs, {"pixel_values": given})
        ours, _ = our_outputs(apply, params, rows)
        for i, (actual, expected) in enumerate(zip(ours.layers, layers, strict=True)):
            # [REP] stands in front in the last two layers.
            shares.append(relative(f"layer {i}", actual[:, -expected.shape[1] :], expected))
        shares.append(relative("tokens", ours.tokens, result.last_hidden_state[:, 1:]))
        shares.append(relative("rep", ours.rep, result.pooler_output))
    print(f"largest: {max(shares):.1e}")


TITLES = [
    f"{color} {thing} {detail}"
    for color in ("red", "navy blue", "unbleached", "crème", "2-tone")
    for thing in ("mug", "children's shoes", "T-shirt", "desk lamp", "backpack (20 l)")
    for detail in ("on the left", "with stripes, dishwasher-safe")
]


@real_weights
def test_a_real_minilm_is_reproduced_on_fifty_texts() -> None:
    folder = Path(WEIGHTS) / "minilm"
    theirs = transformers.BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    tokenizer = tokenizer_of_file(folder / "vocab.txt", length=24)
    network = text_extractor(section_of(folder, "text"), len(tokenizer.vocab), 24)
    encoded = tokenizer.encode(TITLES)
    ids, mask = encoded.ids, encoded.mask
    params, _ = loaded("text", network, folder, ids[:1], mask[:1])
    with torch.no_grad():
        inputs = {"input_ids": ids.astype(np.int64), "attention_mask": mask.astype(np.int64)}
        inputs = {name: torch.from_numpy(x) for name, x in inputs.items()}
        _, layers = layer_outputs(theirs, inputs)

    def apply(params: Any, ids: Any, mask: Any, **options: Any) -> Any:
        return network.apply({"params": params}, ids, mask, **options)

    ours, _ = our_outputs(apply, params, ids, mask)
    shares = [
        relative(f"layer {i}", actual[mask], expected[torch.from_numpy(mask)])
        for i, (actual, expected) in enumerate(zip(ours.layers, layers, strict=True))
    ]
    assert len(TITLES) == 50
    print(f"largest: {max(shares):.1e}")
