"""Published networks against ours: random weights of transformers' modules, read from their files.

Skipped where PyTorch and transformers are absent; .ci/run installs them.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from safetensors.numpy import save_file

from configs import date as date_config
from configs.scales import SCALES
from date_jax import augment
from date_jax.benchmarks import step, torch_peer
from date_jax.date.network import Date
from date_jax.date.supervised import cooperation_terms
from date_jax.networks import exported, pretrained, published_config
from date_jax.networks.bert import TextExtractor
from date_jax.networks.swin import ImageExtractor
from date_jax.networks.transformer import MASKED, EncoderLayer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SIZES: dict[str, dict[str, Any]] = {
    name: {key: SCALES[name][f"model.image.{key}"] for key in ("width", "depths", "heads")}
    for name in ("swin_t", "swin_s", "swin_b")
}
SHALLOW = (2, 2, 2, 2)


def close(what: str, actual: Any, expected: Any) -> None:
    """Asserts a largest difference of 1e-4, and prints it: `pytest -n0 -s tests/test_parity.py`."""
    print(f"{what}: {np.abs(np.asarray(actual) - expected).max():.1e}")
    np.testing.assert_allclose(actual, expected, 0, 1e-4, err_msg=what)


def randomised(module: Any) -> Any:
    """Weights far from the initial ones, that keep the activations' size; nothing stays zero."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1 and "embeddings.word" not in name and "table" not in name:
                parameter.copy_(noise * (parameter[0].numel() ** -0.5))
            else:
                parameter.add_(0.3 * noise)
    return module.eval()


def loaded(kind: str, module: Any, shapes: Any, folder: Path) -> Any:
    """Our parameters from the file that transformers writes; all that is published has to fit."""
    module.save_pretrained(folder)
    tensors, about = pretrained.read(folder)
    assert about is not None
    values, report = pretrained.fitting_values(kind, shapes, tensors, where=str(folder))
    assert not report.missing
    assert not [name for name in report.left_over if "pooler" not in name]
    rest = {
        path: np.zeros(leaf.shape, np.float32)
        for path, leaf in flatten_dict(shapes, sep="/").items()
    }
    return unflatten_dict(rest | values, sep="/")


def swin(
    tmp_path: Path, *, width: int, depths: Any, heads: Any, window: int, side: int, pooling: str
) -> tuple[Any, ImageExtractor, Any]:
    """transformers' network, ours, and our parameters."""
    theirs = transformers.SwinModel(
        transformers.SwinConfig(
            image_size=side, embed_dim=width, depths=[*depths], num_heads=[*heads],
            window_size=window, drop_path_rate=0.0,
        ),
        add_pooling_layer=False,
    )  # fmt: skip
    ours = ImageExtractor(4, width, depths, heads, window, pooling=pooling)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), image)["params"]
    return theirs, ours, loaded("image", randomised(theirs), shapes, tmp_path)


def test_an_exported_swin_and_bert_are_read_by_transformers(tmp_path: Path) -> None:
    shape = {"width": 24, "depths": SHALLOW, "heads": (1, 2, 4, 8), "window": 7}
    image, text = pixels(224, 224), padded_text(5, 12)
    ours = ImageExtractor(4, **shape, pooling="mean")
    ours_text = TextExtractor(VOCAB, 3, 48, 4, max_length=12)
    params = jax.jit(ours.init)(jax.random.key(0), jnp.asarray(image))["params"]
    words = ours_text.init(jax.random.key(1), *map(jnp.asarray, text))["params"]
    config = ConfigDict(
        {
            "data": {"image_size": 224, "text_length": 12},
            "model": {
                "image": {"patch": 4, "mlp_ratio": 4.0, **shape},
                "text": {"layers": 3, "width": 48, "heads": 4, "mlp_ratio": 4.0},
            },
        }
    )
    for kind, tree in (("image", params), ("text", words)):
        (tmp_path / kind).mkdir()
        tensors = pretrained.published_tensors(kind, tree)
        save_file(tensors, tmp_path / kind / "model.safetensors", metadata={"format": "pt"})
        about = published_config.config_json(kind, config, vocab_size=VOCAB)
        (tmp_path / kind / "config.json").write_text(json.dumps(about))
    swin = transformers.SwinModel.from_pretrained(tmp_path / "image", add_pooling_layer=False)
    bert = transformers.BertModel.from_pretrained(tmp_path / "text", add_pooling_layer=False)
    with torch.no_grad():
        seen = swin(as_torch(image)).last_hidden_state
        read = bert(torch.from_numpy(text[0]), torch.from_numpy(text[1] * 1)).last_hidden_state
    _, tokens = ours.apply({"params": params}, jnp.asarray(image))
    close("exported pictures", tokens, seen.numpy())
    _, tokens = ours_text.apply({"params": words}, *map(jnp.asarray, text))
    close("exported words", np.asarray(tokens)[text[1]], read.numpy()[text[1]])


def pixels(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, height, width, 3)).astype(np.float32)


def as_torch(image: np.ndarray) -> Any:
    return torch.from_numpy(image.transpose(0, 3, 1, 2).copy())


@pytest.mark.parametrize(
    ("size", "depths", "window", "height", "width"),
    [
        ("swin_t", SHALLOW, 7, 224, 224),
        ("swin_s", (2, 2, 4, 2), 7, 198, 213),  # grids 50x54, 25x27, 13x14, 7x7
        ("swin_b", SHALLOW, 12, 384, 384),
        ("swin_t", None, 7, 200, 214),
    ],
)
def test_every_stage_of_a_published_swin_is_reproduced(
    tmp_path: Path, size: str, depths: Any, window: int, height: int, width: int
) -> None:
    shape = {**SIZES[size], "depths": depths or SIZES[size]["depths"]}
    theirs, ours, params = swin(tmp_path, **shape, window=window, side=32 * window, pooling="mean")
    image = pixels(height, width)[:1]
    with torch.no_grad():
        expected = theirs(as_torch(image), output_hidden_states=True)
    (_, tokens), captured = ours.apply(
        {"params": params}, jnp.asarray(image), capture_intermediates=True
    )
    outputs = {
        name: call["__call__"][0]
        for name, call in captured["intermediates"].items()
        if name != "__call__"
    }
    stages = ["patch_norm", "merge0", "merge1", "merge2", f"stage3_block{shape['depths'][3] - 1}"]
    for name, hidden in zip(stages, expected.hidden_states, strict=True):
        close(name, outputs[name], hidden.numpy())
    close("tokens", tokens, expected.last_hidden_state.numpy())


def test_a_rep_that_nobody_looks_at_changes_no_token(tmp_path: Path) -> None:
    theirs, ours, params = swin(
        tmp_path, width=24, depths=SHALLOW, heads=(1, 2, 4, 8), window=7, side=224, pooling="rep"
    )
    params["rep"] = np.ones((1, 1, 192), np.float32)
    for block in (params["stage3_block0"], params["stage3_block1"]):
        block["rep_bias"] = np.stack([np.full(8, bias, np.float32) for bias in (MASKED, 0.0, 0.0)])
    image = pixels(224, 224)
    rep, tokens = ours.apply({"params": params}, jnp.asarray(image))
    with torch.no_grad():
        expected = theirs(as_torch(image)).last_hidden_state.numpy()
    close("tokens", tokens, expected)
    assert np.abs(rep).mean() > 0.1


def test_gradients_of_a_swin_with_respect_to_the_pixels_are_reproduced(tmp_path: Path) -> None:
    theirs, ours, params = swin(
        tmp_path, width=24, depths=SHALLOW, heads=(1, 2, 4, 8), window=7, side=224, pooling="mean"
    )
    image = pixels(198, 213)
    direction = np.random.default_rng(1).standard_normal((2, 49, 192)).astype(np.float32)

    def moved(image: jax.Array) -> jax.Array:
        return (ours.apply({"params": params}, image)[1] * direction).sum()

    inputs = as_torch(image).requires_grad_()
    (theirs(inputs).last_hidden_state * torch.from_numpy(direction)).sum().backward()
    expected = inputs.grad.numpy().transpose(0, 2, 3, 1)
    actual = jax.jit(jax.grad(moved))(jnp.asarray(image))
    close("gradient of the pixels", actual, expected)


VOCAB = 60


def bert(tmp_path: Path, *, layers: int, width: int, heads: int, length: int) -> Any:
    theirs = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=VOCAB, hidden_size=width, num_hidden_layers=layers,
            num_attention_heads=heads, intermediate_size=4 * width,
        ),
    )  # fmt: skip
    ours = TextExtractor(VOCAB, layers, width, heads, max_length=length)
    text = jax.ShapeDtypeStruct((1, length), jnp.int32)
    mask = jax.ShapeDtypeStruct((1, length), jnp.bool_)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), text, mask)["params"]
    return theirs, ours, loaded("text", randomised(theirs), shapes, tmp_path)


def padded_text(rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    text = rng.integers(5, VOCAB, (rows, length)).astype(np.int32)
    mask = np.arange(length) < rng.integers(2, length + 1, (rows, 1))
    return np.where(mask, text, 0), mask


@pytest.mark.parametrize(("layers", "width", "heads"), [(12, 768, 12), (3, 48, 4)])
def test_every_layer_of_a_published_bert_is_reproduced_on_padded_text(
    tmp_path: Path, layers: int, width: int, heads: int
) -> None:
    theirs, ours, params = bert(tmp_path, layers=layers, width=width, heads=heads, length=12)
    text, mask = padded_text(5, 12)
    inputs = {"input_ids": torch.from_numpy(text), "attention_mask": torch.from_numpy(mask * 1)}
    with torch.no_grad():
        expected = theirs(**inputs, output_hidden_states=True).hidden_states
    _, captured = ours.apply(
        {"params": params}, jnp.asarray(text), jnp.asarray(mask), capture_intermediates=True
    )
    outputs = captured["intermediates"]
    names = ["embedding_norm", *(f"layer{i}" for i in range(layers))]
    for name, hidden in zip(names, expected, strict=True):
        actual = outputs[name]["__call__"][0]
        close(name, actual[mask], hidden.numpy()[mask])


def test_gradients_of_a_bert_with_respect_to_its_word_vectors_are_reproduced(
    tmp_path: Path,
) -> None:
    theirs, ours, params = bert(tmp_path, layers=3, width=48, heads=4, length=12)
    text, mask = padded_text(5, 12)
    direction = np.random.default_rng(1).standard_normal((5, 12, 48)).astype(np.float32)
    direction *= mask[:, :, None]

    def moved(table: jax.Array) -> jax.Array:
        changed = params | {"word_embedding": {"embedding": table}}
        tokens = ours.apply({"params": changed}, jnp.asarray(text), jnp.asarray(mask))[1]
        return (tokens * direction).sum()

    inputs = {"input_ids": torch.from_numpy(text), "attention_mask": torch.from_numpy(mask * 1)}
    (theirs(**inputs).last_hidden_state * torch.from_numpy(direction)).sum().backward()
    expected = theirs.embeddings.word_embeddings.weight.grad.numpy()
    actual = jax.jit(jax.grad(moved))(jnp.asarray(params["word_embedding"]["embedding"]))
    used = np.unique(text[mask])
    close("gradient of the word vectors", np.asarray(actual)[used], expected[used])


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_fusion_layers_are_those_of_torch_with_positions_at_every_layer(
    norm_first: bool,
) -> None:
    width, heads, inner, layers = 32, 4, 64, 6
    theirs = [
        randomised(
            torch.nn.TransformerEncoderLayer(
                width, heads, inner, dropout=0.0, batch_first=True, norm_first=norm_first
            )
        )
        for _ in range(layers)
    ]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 11, width)).astype(np.float32)
    where = rng.standard_normal((1, 11, width)).astype(np.float32)
    mask = np.arange(11) < np.array([[11], [7], [3]])
    with torch.no_grad():
        expected = torch.from_numpy(x)
        for layer in theirs:
            # torch leaves the fast path, which skips padding, out where a mask is given as a float.
            hidden = torch.zeros(mask.shape).masked_fill(torch.from_numpy(~mask), float("-inf"))
            expected = layer(expected + torch.from_numpy(where), src_key_padding_mask=hidden)
    actual = jnp.asarray(x)
    for layer in theirs:
        actual = EncoderLayer(heads, inner, norm_first=norm_first, activation=jax.nn.relu).apply(
            {"params": fusion_params(layer)}, actual + where, jnp.asarray(mask)
        )
    close("fusion layers", actual[mask], expected.numpy()[mask])


def test_the_benchmarks_peer_has_our_outputs_and_our_loss(
    tiny_config: ConfigDict, tmp_path: Path
) -> None:
    config = date_config.get_config()
    config.model, config.data = tiny_config.model, tiny_config.data
    config.model.image.update(pooling="mean", window=4)  # the last stage's grid
    batch = step.random_batch(config, 0, config.data.vocab_size)["source"]
    batch["product_id"][1] = batch["product_id"][0]
    model = Date(config.model, config.data.vocab_size, config.data.text_length)
    rows = jax.tree.map(jnp.asarray, batch)
    inputs = augment.plain_view(rows["image"]), rows["text"], rows["text_mask"]
    params = jax.jit(model.init)(jax.random.key(0), *inputs)["params"]
    exported.write(tmp_path, config, {"model": params}, rest="seekers", meta={})
    peer = torch_peer.Peer(config, tmp_path).eval()
    assert sum(p.numel() for p in peer.parameters()) == sum(x.size for x in jax.tree.leaves(params))
    ours = model.apply({"params": params}, *inputs)
    tensors = {name: torch.from_numpy(value) for name, value in batch.items()}
    theirs = peer(tensors)
    for name, value in theirs.items():
        close(name, ours[name], value.detach().numpy())
    terms = cooperation_terms(ours, rows, rows["box_cxcywh"], config)
    expected = torch_peer.loss(peer, theirs, tensors, config).item()
    np.testing.assert_allclose(terms["loss"], expected, 1e-5)


def fusion_params(layer: Any) -> dict[str, Any]:
    """A torch.nn.TransformerEncoderLayer's weights in our layout."""
    state = {name: value.numpy() for name, value in layer.state_dict().items()}

    def dense(weight: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
        return {"kernel": weight.T, "bias": bias}

    parts = zip(
        ("query", "key", "value"),
        np.split(state["self_attn.in_proj_weight"], 3),
        np.split(state["self_attn.in_proj_bias"], 3),
        strict=True,
    )
    attention = {name: dense(weight, bias) for name, weight, bias in parts}
    attention["out"] = dense(state["self_attn.out_proj.weight"], state["self_attn.out_proj.bias"])
    return {
        "attention": attention,
        "mlp": {
            "up": dense(state["linear1.weight"], state["linear1.bias"]),
            "down": dense(state["linear2.weight"], state["linear2.bias"]),
        },
        **{
            f"norm{i}": {"scale": state[f"norm{i}.weight"], "bias": state[f"norm{i}.bias"]}
            for i in (1, 2)
        },
    }
