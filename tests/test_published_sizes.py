import json
from pathlib import Path
from typing import Any

import jax
import pytest
from ml_collections import ConfigDict

from configs import capture, date, pgda, same_style, scales
from date_jax.config import validate
from date_jax.data.tokenizer import SPECIAL
from date_jax.errors import UsageError
from date_jax.published_sizes import with_published_sizes
from date_jax.run.workdir import flat

VISION = {
    "model_type": "dinov2",
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 14,
    "image_size": 70,
}
WORDS = {
    "model_type": "bert",
    "hidden_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,
    "intermediate_size": 60,
    "max_position_embeddings": 24,
}
SIGLIP = {
    "model_type": "siglip",
    "vision_config": {**VISION, "model_type": "siglip_vision_model", "intermediate_size": 48},
    "text_config": {**WORDS, "model_type": "siglip_text_model", "max_position_embeddings": 16},
}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Folders of weights, as far as sizes are concerned."""
    for name, content in (("image", VISION), ("text", WORDS), ("siglip", SIGLIP)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
    (tmp_path / "text/vocab.txt").write_text("".join(piece + "\n" for piece in SPECIAL))
    return tmp_path


def config_of(
    module: Any, folders: Path, *, image: str = "image", text: str = "text"
) -> ConfigDict:
    config = module.get_config("pretrained")
    config.init.image = str(folders / image)
    if "text" in config.init:
        config.init.text = str(folders / text)
    return config


@pytest.mark.parametrize("module", [date, pgda, capture, same_style])
def test_the_sizes_of_both_extractors_are_read_from_their_folders(
    folders: Path, module: Any
) -> None:
    config, lines = with_published_sizes(config_of(module, folders), {}, None)
    image = config.model.image
    assert (image.kind, image.patch, image.width) == ("vit", 14, 24)
    assert (image.depths, image.heads) == ((3,), (2,))
    assert (image.vit.positions, image.vit.layer_scale, image.vit.pixels) == (5, True, "imagenet")
    if module is not capture:
        text = config.model.text
        assert (text.layers, text.width, text.heads, text.mlp_ratio) == (2, 20, 5, 3.0)
        assert config.data.text_length == min(24, module.get_config("pretrained").data.text_length)
        assert config.data.vocab == str(folders / "text/vocab.txt")
        assert f"sizes of {folders / 'text'}: kind bert, layers 2, width 20" in lines[1]
    validate(config, device_count=jax.device_count(), process_count=1)


def test_both_towers_of_siglip_are_read_from_one_file(folders: Path) -> None:
    config = config_of(date, folders, image="siglip", text="siglip")
    config, _ = with_published_sizes(config, {}, None)
    assert (config.model.image.pooling, config.model.image.vit.pixels) == ("map", "half")
    assert (config.model.text.kind, config.data.text_length) == ("siglip", 16)
    typed = {"model.image.pooling": "mean", "data.text_length": 8}
    config = config_of(date, folders, image="siglip", text="siglip")
    config.update_from_flattened_dict(typed)
    config, _ = with_published_sizes(config, typed, None)
    assert (config.model.image.pooling, config.data.text_length) == ("mean", 8)


def test_a_size_in_the_command_that_is_not_that_of_the_weights_is_refused(folders: Path) -> None:
    config = config_of(date, folders)
    config.model.image.width = 48
    with pytest.raises(
        UsageError, match=r"(?s)image: .*--config\.model\.image\.width=48: 24 there"
    ):
        with_published_sizes(config, {"model.image.width": 48}, None)
    with_published_sizes(config, {}, None)  # of a word of the config, it is replaced
    config.model.image.width = 24
    with_published_sizes(config, {"model.image.width": 24}, None)


def test_a_run_that_goes_on_takes_its_sizes_from_its_own_folder(
    folders: Path, tmp_path: Path
) -> None:
    begun, _ = with_published_sizes(config_of(date, folders), {}, tmp_path / "run")
    run = tmp_path / "run"
    (run / "checkpoints/1").mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(begun.to_dict()))
    (run / "vocab.txt").touch()
    command = config_of(date, folders)
    for name in ("image", "text"):
        (folders / name / "config.json").unlink()
    going_on, lines = with_published_sizes(command, {}, run)
    assert not lines
    ours, theirs = flat(going_on.to_dict()), flat(begun.to_dict())
    assert ours.pop("data.vocab") == str(run / "vocab.txt")
    theirs.pop("data.vocab")
    assert ours == theirs


def test_weights_without_a_config_json_leave_the_config_as_it_is(folders: Path) -> None:
    (folders / "image/config.json").unlink()
    config = date.get_config()
    config.init.image = str(folders / "image")
    same, lines = with_published_sizes(config, {}, None)
    assert (same.to_dict(), lines) == (config.to_dict(), [])


def test_each_key_of_a_word_is_one_of_a_config() -> None:
    keys = set().union(*(flat(m.get_config().to_dict()) for m in (date, capture, same_style)))
    for values in (scales.PRETRAINED, *scales.SCALES.values()):
        assert values.keys() <= keys
