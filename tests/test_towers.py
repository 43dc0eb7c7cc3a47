"""A published model of two towers answers as transformers does, and is searched by commands."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags
from PIL import Image

import date_jax
from date_jax import embed, search
from date_jax.errors import CheckpointError, UsageError
from date_jax.run import commandline
from tests.data.test_tokenizer_files import siglip, written

SIDE, LENGTH = 32, 12
TEXTS = ["a striped red mug", "LAMP on the right", "mug " * 30, ""]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as it lies on a hub: a tiny SigLIP with random weights far from zero."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("hub")
    written(folder, siglip)
    vocab = siglip()[0].get_vocab_size()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes["intermediate_size"] = 48
    config = transformers.SiglipConfig(
        text_config={**sizes, "vocab_size": vocab, "max_position_embeddings": LENGTH},
        vision_config={**sizes, "image_size": SIDE, "patch_size": 8},
    )
    torch.manual_seed(0)
    model = transformers.SiglipModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    preparation = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(preparation))
    return folder


@pytest.fixture(scope="module")
def pictures(published: Path) -> np.ndarray:
    del published  # without transformers nothing is drawn
    return np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def test_vectors_and_probabilities_are_those_of_transformers(
    published: Path, pictures: np.ndarray
) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.SiglipModel.from_pretrained(published).eval()
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(published)
    ids = theirs(TEXTS, padding="max_length", truncation=True, max_length=LENGTH)["input_ids"]
    pixels = torch.tensor(pictures / 127.5 - 1).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        out = model(input_ids=torch.tensor(ids), pixel_values=pixels)
    run = date_jax.open(published)
    images, texts = run.embed_images(pictures), run.embed_texts(TEXTS)
    np.testing.assert_allclose(images, out.image_embeds.numpy(), atol=1e-4)
    np.testing.assert_allclose(texts, out.text_embeds.numpy(), atol=1e-4)
    expected = torch.sigmoid(out.logits_per_image).numpy()
    np.testing.assert_allclose(run.probability(images @ texts.T), expected, atol=1e-4)
    assert run.questions == ("embed_images", "embed_texts")


def command(module: Any, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Runs a command in this process."""
    values = flags.FlagValues()
    module.define_flags(values)
    monkeypatch.setattr(flags, "FLAGS", values)
    monkeypatch.setattr(commandline, "require_devices", lambda: None)
    module.main(values(["command", *arguments]))


def test_a_catalogue_is_embedded_and_searched_without_any_training(
    published: Path,
    pictures: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pyarrow", reason="the extra index is not installed")
    pytest.importorskip("duckdb", reason="the extra index is not installed")
    lines = []
    for row, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(tmp_path / f"{row}.png")
        lines.append(json.dumps({"id": f"o{row}", "image": f"{row}.png", "text": TEXTS[row]}))
    (tmp_path / "offers.jsonl").write_text("\n".join(lines))
    vectors, catalogue = tmp_path / "vectors", tmp_path / "offers.jsonl"
    command(
        embed, monkeypatch, f"--workdir={published}", f"--catalogue={catalogue}", f"--out={vectors}"
    )
    assert "3 offers have a vector" in capsys.readouterr().out
    command(
        search,
        monkeypatch,
        *(f"--workdir={published}", f"--index={vectors}", "--json", "--count=3"),
        "a striped red mug",
    )
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    run = date_jax.open(published)
    cosines = run.embed_images(pictures) @ run.embed_texts(["a striped red mug"])[0]
    assert [row["id"] for row in rows] == [f"o{row}" for row in np.argsort(-cosines)]
    np.testing.assert_allclose([row["score"] for row in rows], sorted(-cosines * -1)[::-1], 1e-4)


@pytest.mark.parametrize(
    ("name", "content", "error", "pattern"),
    [
        ("config.json", {"model_type": "dinov2"}, UsageError, "only siglip answers without"),
        ("preprocessor_config.json", {"image_mean": [0, 0, 0]}, UsageError, "image_mean"),
        ("preprocessor_config.json", [], CheckpointError, "cannot be read"),
    ],
)
def test_a_published_model_that_cannot_answer_says_why(
    published: Path, tmp_path: Path, name: str, content: Any, error: type, pattern: str
) -> None:
    for file in published.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / name).unlink()
    (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(error, match=pattern):
        date_jax.open(tmp_path)
