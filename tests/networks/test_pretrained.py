"""Published weights in: names, layouts, other windows, and files that must be refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import ConfigDict
from safetensors.numpy import load_file, save_file

from date_jax import export, job, train
from date_jax.errors import CheckpointError, UsageError
from date_jax.networks import exported, layouts, pretrained, programs
from date_jax.networks.bert import TextExtractor
from date_jax.networks.card import model_card, parameter_lines
from date_jax.networks.swin import ImageExtractor
from date_jax.run.preemption import Preemption
from date_jax.step import State
from date_jax.tasks import TASKS

VOCAB = 30
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 440449768\n"


def extractor(kind: str, **changes: Any) -> Any:
    """Parameters of a small extractor, all of them random numbers."""
    if kind == "image":
        sizes = {"patch": 4, "width": 8, "depths": (2, 1), "heads": (2, 4), "window": 2} | changes
        ours = ImageExtractor(**sizes)
        inputs = [jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)]
    else:
        sizes = {"layers": 2, "width": 8, "heads": 2, "max_length": 6} | changes
        ours = TextExtractor(VOCAB, **sizes)
        inputs = [jax.ShapeDtypeStruct((1, 6), t) for t in (jnp.int32, jnp.bool_)]
    shapes = flatten_dict(jax.eval_shape(ours.init, jax.random.key(0), *inputs)["params"], sep="/")
    rng = np.random.default_rng(0)
    drawn = {name: rng.standard_normal(leaf.shape) for name, leaf in shapes.items()}
    return unflatten_dict({k: v.astype(np.float32) for k, v in drawn.items()}, sep="/")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("text", {}),
        *(("image", {"pooling": pooling}) for pooling in ("rep", "mean", "multi_scale")),
    ],
)
def test_what_is_written_comes_back(kind: str, changes: dict[str, str], tmp_path: Path) -> None:
    params = extractor(kind, **changes)
    save_file(pretrained.published_tensors(kind, params), tmp_path / "a.safetensors")
    tensors, about = pretrained.read(tmp_path / "a.safetensors")
    assert about is None
    values, report = pretrained.fitting_values(kind, params, tensors, where="a")
    expected = flatten_dict(params, sep="/")
    assert values.keys() == expected.keys()
    unmatched = [report.ours, report.missing, report.left_over, report.renamed]
    assert unmatched == [[], [], [], []]
    for name, value in values.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_a_published_file_leaves_our_own_parameters_new() -> None:
    params = extractor("image")
    tensors = pretrained.published_tensors("image", params)
    ours_alone = ["rep", "stage1_block0/rep_bias"]
    theirs = {name: value for name, value in tensors.items() if name not in ours_alone}
    assert len(theirs) == len(tensors) - 2
    values, report = pretrained.fitting_values("image", params, theirs, where="a")
    assert sorted(report.ours) == ours_alone
    assert [report.missing, report.left_over] == [[], []]
    assert not values.keys() & {*ours_alone}


def test_layouts_are_the_published_ones() -> None:
    params = extractor("image")
    tensors = pretrained.published_tensors("image", params)
    patches = tensors["embeddings.patch_embeddings.projection.weight"]
    kernel = params["patch_embedding"]["kernel"]
    assert patches.shape == (8, 3, 4, 4)
    assert patches[5, 2, 1, 3] == kernel[(1 * 4 + 3) * 3 + 2, 5]  # row 1, column 3, blue
    query = tensors["encoder.layers.0.blocks.1.attention.self.query.weight"]
    assert query[1, 2] == params["stage0_block1"]["attention"]["query"]["kernel"][2, 1]
    table = tensors["encoder.layers.0.blocks.0.attention.self.relative_position_bias_table"]
    np.testing.assert_array_equal(table, params["stage0_block0"]["relative_bias"])
    assert "encoder.layers.0.downsample.reduction.weight" in tensors


def test_prefixes_old_names_and_derived_tensors_are_understood(tmp_path: Path) -> None:
    params = extractor("text")
    tensors = {}
    for name, tensor in pretrained.published_tensors("text", params).items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma")
        tensors[f"bert.{old.replace('LayerNorm.bias', 'LayerNorm.beta')}"] = tensor
    tensors["bert.embeddings.position_ids"] = np.arange(6)
    tensors["cls.predictions.bias"] = np.zeros(VOCAB, np.float32)
    values, report = pretrained.fitting_values("text", params, tensors, where="a")
    assert len(values) == len(flatten_dict(params)) == len(report.renamed)
    assert report.left_over == ["cls.predictions.bias"]
    lines = report.lines("text_extractor from a")
    assert lines[0].endswith(f"{len(values)} tensors loaded, {len(values)} of them renamed")
    assert "left over in the file: 1 (cls.predictions.bias)" in lines[2]


def test_what_a_file_lacks_is_named(tmp_path: Path) -> None:
    params = extractor("image")
    tensors = pretrained.published_tensors("image", params)
    del tensors["layernorm.bias"]
    values, report = pretrained.fitting_values("image", params, tensors, where="a")
    assert report.missing == ["norm/bias"]
    assert "norm/bias" not in values
    assert "warning: missing in the file: 1 (norm/bias)" in report.lines("a")[1]


def test_half_precision_is_widened(tmp_path: Path) -> None:
    params = extractor("text")
    tensors = pretrained.published_tensors("text", params)
    halves = {name: value.astype(jnp.bfloat16) for name, value in tensors.items()}
    save_file(halves, tmp_path / "a.safetensors")
    read, _ = pretrained.read(tmp_path)
    values, _ = pretrained.fitting_values("text", params, read, where="a")
    name = "layer0/mlp/up/kernel"
    rounded = flatten_dict(params, sep="/")[name].astype(jnp.bfloat16).astype(np.float32)
    assert values[name].dtype == np.float32
    np.testing.assert_array_equal(values[name], rounded)


def test_a_position_table_for_longer_texts_gives_its_first_rows() -> None:
    params, longer = extractor("text"), extractor("text", max_length=9)
    tensors = pretrained.published_tensors("text", longer)
    values, _ = pretrained.fitting_values("text", params, tensors, where="a")
    np.testing.assert_array_equal(values["position_embedding"], longer["position_embedding"][:6])


@pytest.mark.parametrize(("old", "new"), [(7, 12), (12, 7)])
def test_tables_of_relative_positions_are_stretched_over_the_new_window(old: int, new: int) -> None:
    place = np.arange(2 * old - 1) + 0.5
    table = np.stack(np.broadcast_arrays(place[:, None], 3 * place[None], 5.0), -1).reshape(-1, 3)
    resized = layouts.resized_table(table.astype(np.float32), (2 * new - 1) ** 2)
    resized = resized.reshape(2 * new - 1, 2 * new - 1, 3)
    # A cubic keeps straight lines, save at the border, where there is nothing beyond to look at.
    stretched = (np.arange(2 * new - 1) + 0.5) * (2 * old - 1) / (2 * new - 1)
    inside = slice(4, -4)
    np.testing.assert_allclose(resized[inside, 0, 0], stretched[inside], 1e-4)
    np.testing.assert_allclose(resized[0, inside, 1], 3 * stretched[inside], 1e-4)
    np.testing.assert_allclose(resized[..., 2], 5.0, 1e-5)
    assert layouts.resized_table(table, len(table)) is table


def test_a_network_with_another_window_loads_resized_tables() -> None:
    params = extractor("image", window=4)
    tensors = pretrained.published_tensors("image", extractor("image"))
    values, report = pretrained.fitting_values("image", params, tensors, where="a")
    assert report.resized == [f"stage0_block{i}/relative_bias" for i in (0, 1)]
    assert values["stage0_block0/relative_bias"].shape == (49, 2)
    assert "2 resized" in report.lines("a")[0]


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("image", {"width": 16}, r"projection.weight: \(8, 3, 4, 4\) in the file, .* \(48, 16\)"),
        ("text", {"width": 16}, r"word_embeddings.weight: \(30, 8\) in the file, .* \(30, 16\)"),
    ],
)
def test_another_width_is_refused_with_both_shapes(
    kind: str, change: dict[str, int], message: str
) -> None:
    tensors = pretrained.published_tensors(kind, extractor(kind))
    with pytest.raises(CheckpointError, match=message):
        pretrained.fitting_values(kind, extractor(kind, **change), tensors, where="a")


def test_another_vocabulary_is_refused_with_what_to_do() -> None:
    tensors = pretrained.published_tensors("text", extractor("text"))
    tensors["embeddings.word_embeddings.weight"] = np.zeros((40, 8), np.float32)
    with pytest.raises(CheckpointError, match=r"--config\.data\.vocab=<its vocab\.txt>"):
        pretrained.fitting_values("text", extractor("text"), tensors, where="a")


def test_a_file_with_too_little_in_it_is_refused() -> None:
    tensors = pretrained.published_tensors("text", extractor("text"))
    name = "embeddings.word_embeddings.weight"
    with pytest.raises(CheckpointError, match=r"lacks 36 of the text extractor's tensors"):
        pretrained.fitting_values("text", extractor("text"), {name: tensors[name]}, where="a")


def test_weights_with_another_vocabulary_beside_them_are_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\nred\nmug\n")
    pretrained.require_same_vocabulary(tmp_path, ["[PAD]", "red", "mug"])
    (tmp_path / "vocab.txt").write_text("[PAD]\r\nred\r\nmug")  # as other editors leave it
    pretrained.require_same_vocabulary(tmp_path, ["[PAD]", "red", "mug"])
    with pytest.raises(UsageError, match=r"set --config\.data\.vocab=.*vocab\.txt"):
        pretrained.require_same_vocabulary(tmp_path / "model.safetensors", ["[PAD]", "mug", "red"])
    (tmp_path / "vocab.txt").unlink()
    pretrained.require_same_vocabulary(tmp_path, ["anything"])


def test_hosts_with_other_numbers_in_their_files_are_told_apart(tmp_path: Path) -> None:
    one = {"text": pretrained.WeightFile(tmp_path / "a", {"x": np.arange(3.0)})}
    same = {"text": pretrained.WeightFile(tmp_path / "b", {"x": np.arange(3.0)})}
    other = {"text": pretrained.WeightFile(tmp_path / "a", {"x": np.arange(3.0) + 1e-6})}
    assert pretrained.digest(one) == pretrained.digest(same) != pretrained.digest(other)


def test_a_file_of_another_kind_is_refused() -> None:
    tensors = pretrained.published_tensors("text", extractor("text"))
    with pytest.raises(CheckpointError, match=r"no embeddings\.patch_embeddings.*\n  it holds: "):
        pretrained.fitting_values("image", extractor("image"), tensors, where="a")


@pytest.mark.parametrize(
    ("name", "content", "path", "message"),
    [
        ("pytorch_model.bin", b"\x80\x02", "", "no .* in this folder\npytorch_model.bin may run"),
        ("pytorch_model.bin", b"\x80\x02", "pytorch_model.bin", "never is"),
        ("model.safetensors", b"not one", "", "cannot be read as safetensors"),
        ("other.txt", b"", "", "no .*safetensors in this folder"),
        ("other.txt", b"", "absent.safetensors", "no such file"),
        ("model.safetensors", POINTER, "", r"is a Git LFS pointer.*\n.*git lfs pull"),
        ("pytorch_model.bin", POINTER, "pytorch_model.bin", "is a Git LFS pointer"),
        ("model.safetensors.index.json", b"{", "absent.index.json", "no such file"),
    ],
)
def test_files_that_cannot_be_used_are_refused_unopened(
    tmp_path: Path, name: str, content: bytes, path: str, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        pretrained.read(tmp_path / path)


def test_a_config_of_another_network_is_refused(tiny_config: ConfigDict, tmp_path: Path) -> None:
    text = tiny_config.model.text
    with pytest.raises(UsageError, match="model_type is distilbert there, this network has bert"):
        pretrained.require_same_sizes("text", text, {"model_type": "distilbert"}, tmp_path)
    about = {"num_attention_heads": 7, "hidden_size": text.width, "hidden_act": "relu"}
    with pytest.raises(UsageError, match=r"heads is 7 there, config\.model\.text\.heads has 2"):
        pretrained.require_same_sizes("text", text, about, tmp_path)
    with pytest.raises(UsageError, match="hidden_act is relu there, this network has gelu"):
        pretrained.require_same_sizes("text", text, about, tmp_path)
    pretrained.require_same_sizes("text", text, {"num_attention_heads": 2}, tmp_path)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run has saved its first state, or will have."""
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def begun(run: Path, tiny_config: ConfigDict) -> State:
    """The state that `run` holds."""
    tiny_config.pseudo_boxes.teacher = "frozen"
    with Preemption() as preemption:
        parts, state = job.prepare(tiny_config, run, preemption)
        if parts.checkpoints.last_step is None:
            average = jax.tree.map(lambda x: x + 1, state.ema)  # no longer the parameters
            state = dataclasses.replace(state, ema=average)
            train.save(parts, state, 0)
        parts.checkpoints.close()
        parts.progress.close()
    return state


def test_an_exported_run_begins_another_one(
    begun: State, run: Path, tiny_config: ConfigDict, tmp_path: Path, capfd: Any
) -> None:
    lines = export.export(run, tmp_path / "out")
    assert lines == [f"step 0 of {run}: {sizes(tmp_path / 'out')} MiB in {tmp_path / 'out'}"]
    for kind in ("image", "text"):
        tiny_config.init[kind] = str(tmp_path / "out" / kind)
    tiny_config.seed = 1
    (tmp_path / "second").mkdir()
    with Preemption() as preemption:
        parts, other = job.prepare(tiny_config, tmp_path / "second", preemption)
        parts.progress.close()
    for tree in (other.params, other.ema):
        for kind in ("image", "text"):
            expected = begun.ema["model"][f"{kind}_extractor"]
            actual = tree["model"][f"{kind}_extractor"]
            jax.tree.map(np.testing.assert_array_equal, actual, expected)
    # The seekers are those of another seed.
    token = other.params["model"]["object_seeker"]["loc_token"]
    assert not np.array_equal(token, begun.params["model"]["object_seeker"]["loc_token"])
    assert "text_extractor from" in capfd.readouterr().out


def sizes(folder: Path) -> str:
    return f"{sum(f.stat().st_size for f in folder.rglob('*.safetensors')) / 2**20:.1f}"


def test_an_export_holds_all_of_the_network_and_says_what_it_is(
    begun: State, run: Path, tmp_path: Path
) -> None:
    scores = {"live_test": {"acc_at_0.5": 0.75, "mean_iou": 0.5}}
    (run / "results.json").write_text(json.dumps({"eval": scores}))
    export.export(run, tmp_path / "out")
    average = jax.tree.map(np.asarray, begun.ema)
    again = exported.exported_params(tmp_path / "out", average)
    jax.tree.map(np.testing.assert_array_equal, again, average)
    assert jax.tree.structure(again) == jax.tree.structure(average)
    seekers = load_file(tmp_path / "out" / "seekers.safetensors")
    model = flatten_dict(begun.ema["model"], sep="/")
    assert seekers.keys() == {name for name in model if "_extractor/" not in name}
    for name, value in seekers.items():
        np.testing.assert_array_equal(value, model[name])
    vocabulary = (tmp_path / "out/text/vocab.txt").read_text()
    assert vocabulary == (run / "vocab.txt").read_text()
    rules = (tmp_path / "out/text/tokenizer_config.json").read_text()
    assert rules == (run / "tokenizer_config.json").read_text()
    card = (tmp_path / "out/README.md").read_text()
    assert "| live_test | 0.750 | 0.500 | - | - |" in card
    assert "0 of 12 steps" in card
    assert not (tmp_path / "out/calibration.json").exists()
    (run / "calibration.json").write_text("{}")
    export.export(run, tmp_path / "again")
    assert (tmp_path / "again/calibration.json").read_text() == "{}"
    with pytest.raises(UsageError, match="out: exists already"):
        export.export(run, tmp_path / "out")
    with pytest.raises(CheckpointError, match="no such directory"):
        export.export(tmp_path / "nowhere", tmp_path / "other")


def test_a_run_becomes_programs_with_all_that_belongs_to_them(
    begun: State, run: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    lines = export.export(run, out, file_format="stablehlo")
    assert lines[-1].startswith(f"step 0 of {run}: ")
    names = {"image_embedding", "query_embedding", "box_cxcywh", "confidence_features"}
    assert {file.stem for file in out.glob("*.stablehlo")} == names
    assert {file.name for file in (out / "text").iterdir()} == {
        "vocab.txt",
        "tokenizer_config.json",
    }
    assert json.loads((out / "config.json").read_text())["task"] == "pgda"
    assert "| `box_cxcywh.stablehlo` | `image` uint8" in (out / "README.md").read_text()
    # The parameters in the file are the average.
    program = jax.export.deserialize(bytearray((out / "query_embedding.stablehlo").read_bytes()))
    text, mask = np.zeros((2, 12), np.int32), np.ones((2, 12), bool)
    vector = program.call(text=text, text_mask=mask)["query_embedding"]
    np.testing.assert_allclose(np.linalg.norm(vector, axis=1), 1, rtol=1e-5)


def test_what_a_format_cannot_hold_is_told(
    begun: State, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reasons = {"box_cxcywh": "no sine"}

    def onnx(program: programs.Program) -> tuple[bytes, str]:
        reason = reasons.get(program.name, "")
        return b"" if reason else b"program", reason

    monkeypatch.setattr(programs, "onnx", onnx)
    lines = export.export(run, tmp_path / "out", file_format="onnx")
    assert lines[0] == "warning: no box_cxcywh: no sine"
    assert not (tmp_path / "out/box_cxcywh.onnx").exists()
    assert "- no `box_cxcywh`: no sine" in (tmp_path / "out/README.md").read_text()
    for name in ("image_embedding", "query_embedding", "confidence_features"):
        assert (tmp_path / f"out/{name}.onnx").read_bytes() == b"program"
        reasons[name] = "no cosine"
    with pytest.raises(UsageError, match="no program of this network can be written; take stableh"):
        export.export(run, tmp_path / "none", file_format="onnx")
    assert not [*tmp_path.glob("none*")]


def test_a_card_says_whether_other_programs_read_the_exported_swin(
    tiny_config: ConfigDict, tmp_path: Path
) -> None:
    (tmp_path / "image").mkdir()
    (tmp_path / "image/model.safetensors").touch()

    def card() -> str:
        words = TASKS["pgda"].card
        content = parameter_lines(tiny_config, words, tmp_path)
        return model_card(tiny_config, words, step=0, scores={}, content=content)

    assert "gives the same numbers where" in card()
    tiny_config.data.image_size = 64
    assert "windows are all alike, here of 4, but the last\nstage is one of 8." in card()


def test_a_tensor_in_two_files_of_a_folder_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"word": np.zeros(2, np.float32)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=r"b\.safetensors: word stands in another file"):
        pretrained.read(tmp_path)


def write_index(folder: Path, files: dict[str, str]) -> Path:
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return index


def test_the_index_of_several_files_stands_for_its_folder(tmp_path: Path) -> None:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for tensor, name in names.items():
        save_file({tensor: np.ones(2, np.float32)}, tmp_path / name)
    tensors, _ = pretrained.read(write_index(tmp_path, names))
    assert tensors.keys() == pretrained.read(tmp_path)[0].keys() == {"a", "b"}


def test_a_file_that_an_index_names_and_the_folder_lacks_is_named(tmp_path: Path) -> None:
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    save_file({"a": np.ones(2, np.float32)}, tmp_path / names["a"])
    index = write_index(tmp_path, names)
    for path in (tmp_path, index):
        with pytest.raises(CheckpointError, match=r"lacks model-00002-of-00002\.safetensors, of"):
            pretrained.read(path)
    # The same model in one file needs no parts; a list of nothing is no index.
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="is no index of weights"):
        pretrained.read(tmp_path)
    (tmp_path / names["a"]).rename(tmp_path / "model.safetensors")
    assert pretrained.read(tmp_path)[0].keys() == {"a"}


@pytest.mark.parametrize(
    ("dtype", "name"), [("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"), ("I8", "int8")]
)
def test_quantised_weights_are_refused_with_their_type(
    tmp_path: Path, dtype: str, name: str
) -> None:
    header = {"word": {"dtype": dtype, "shape": [4], "data_offsets": [0, 4]}}
    head = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))
    with pytest.raises(CheckpointError, match=rf"holds {name} \(word\).*\n.*float16 or float32"):
        pretrained.read(tmp_path / "a.safetensors")


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_refused_with_their_tensor(number: float) -> None:
    params = extractor("text")
    tensors = pretrained.published_tensors("text", params)
    name = "encoder.layer.1.output.dense.bias"
    tensors[name] = np.full_like(tensors[name], number)
    with pytest.raises(CheckpointError, match=rf"{name} holds 8 numbers that are NaN or infinite"):
        pretrained.fitting_values("text", params, tensors, where="a")


def test_a_config_of_an_odd_form_is_refused(tiny_config: ConfigDict, tmp_path: Path) -> None:
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list, not the settings"):
        pretrained.read(tmp_path)
    text = tiny_config.model.text
    with pytest.raises(UsageError, match="layer_norm_eps is small there"):
        pretrained.require_same_sizes("text", text, {"layer_norm_eps": "small"}, tmp_path)


def test_weights_that_cannot_be_read_stop_a_run_before_it_begins(
    tiny_config: ConfigDict, tmp_path: Path
) -> None:
    tiny_config.init.image = str(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="nowhere: no such file"):
        train.train(tiny_config, tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
