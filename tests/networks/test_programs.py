"""Programs: one file answers as we do, alone, for any number of rows."""

import datetime
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax import export
from date_jax.data.tokenizer import SPECIAL, WordPieces
from date_jax.errors import SetupError, UsageError
from date_jax.networks import programs
from date_jax.networks.card import program_lines
from date_jax.networks.programs import Program
from date_jax.tasks import TASKS

ROWS = (1, 3, 8)
READ_ALONE = """
import sys
from pathlib import Path
import numpy as np
from jax import export
for file in sorted(Path(sys.argv[1]).glob("*.stablehlo")):
    program = export.deserialize(bytearray(file.read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    for inputs in sorted(file.parent.glob(f"{file.stem}-*.npz")):
        answers = program.call(**np.load(inputs))
        np.savez(inputs.with_suffix(".answers"), **answers)
assert "date_jax" not in sys.modules
"""


def questions(config: ConfigDict) -> list[Program]:
    """The programs of a network with random parameters."""
    tokenizer = WordPieces([*SPECIAL, "red", "mug"], length=config.data.text_length)
    task = TASKS[config.task]
    learner, example = task.learner(config, tokenizer, {}), task.example(config)
    shapes, _ = jax.eval_shape(learner.init, jax.random.key(0), example)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.2, x.shape).astype(x.dtype), shapes)
    return programs.programs(learner.predict, task.answer, params, example)


def inputs_of(program: Program, rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    inputs = {key: programs.random_rows(x, rows, rng) for key, x in program.inputs.items()}
    if "text_mask" in inputs:
        inputs["text_mask"][:, 6:] = False
    return inputs


@pytest.fixture
def config(request: pytest.FixtureRequest) -> ConfigDict:
    """The smallest config of a task."""
    return request.getfixturevalue(request.param)


TINY = pytest.mark.parametrize(
    "config", ["tiny_config", "tiny_same_style", "tiny_capture"], indirect=True
)


@TINY
def test_a_fresh_process_without_our_code_gives_our_answers(
    config: ConfigDict, tmp_path: Path
) -> None:
    ours: dict[str, Any] = {}
    for program in questions(config):
        (tmp_path / f"{program.name}.stablehlo").write_bytes(programs.stablehlo(program))
        for rows in ROWS:
            inputs = inputs_of(program, rows)
            np.savez(tmp_path / f"{program.name}-{rows}.npz", **inputs)
            ours[f"{program.name}-{rows}"] = jax.jit(program.function)(**inputs)
    code = [sys.executable, "-c", READ_ALONE, str(tmp_path)]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name, answers in ours.items():
        theirs = np.load(tmp_path / f"{name}.answers.npz")
        assert {*theirs} == {*answers}
        for key, answer in answers.items():
            assert theirs[key].dtype == answer.dtype
            np.testing.assert_allclose(theirs[key], answer, atol=1e-5, rtol=0, err_msg=key)


@pytest.mark.parametrize(
    ("config", "inputs"),
    [
        (
            "tiny_config",
            {
                "image_embedding": ["image"],
                "query_embedding": ["text", "text_mask"],
                "box_cxcywh": ["image", "text", "text_mask"],
                "confidence_features": ["image", "text", "text_mask"],
            },
        ),
        (
            "tiny_same_style",
            {
                "image_embedding": ["image"],
                "text_embedding": ["text", "text_mask"],
                "joint_embedding": ["image", "text", "text_mask"],
            },
        ),
        (
            "tiny_capture",
            {
                "vectors": ["image", "text", "text_mask"],
                "instances": ["image", "text", "text_mask"],
            },
        ),
    ],
    indirect=["config"],
)
def test_a_program_takes_what_changes_its_answer(
    config: ConfigDict, inputs: dict[str, list[str]]
) -> None:
    assert {program.name: [*program.inputs] for program in questions(config)} == inputs


def test_regions_take_the_place_of_pictures(tiny_capture: ConfigDict) -> None:
    tiny_capture.model.regions.kind = "precomputed"
    read = ["text", "text_mask", "regions", "region_box_xyxy", "region_mask"]
    assert [sorted(each.inputs) for each in questions(tiny_capture)] == [sorted(read)] * 2


@pytest.mark.parametrize(
    ("written", "last"),
    [
        ((2026, 11, 30), (2027, 5, 30)),
        ((2026, 8, 31), (2027, 2, 28)),
        ((2027, 8, 30), (2028, 2, 29)),
        ((2026, 12, 1), (2027, 6, 1)),
        ((2026, 3, 31), (2026, 9, 30)),
    ],
)
def test_the_promise_ends_six_months_later(written: Any, last: Any) -> None:
    last_day = programs.last_day_of_promise(datetime.date(*written))
    assert last_day == datetime.date(*last)


def test_the_card_says_what_a_program_takes_and_how_it_is_called(tiny_config: ConfigDict) -> None:
    written = questions(tiny_config)[2:3]
    text = "\n".join(program_lines(tiny_config, written, {"other": "a reason"}, "stablehlo"))
    assert "| `box_cxcywh.stablehlo` | `image` uint8 [B 32 32 3], `text` int32 [B 12]," in text
    assert "| `box_cxcywh` float32 [B 4] |\n- no `other`: a reason\n" in text
    assert ".call(image=image, text=text, text_mask=text_mask)" in text
    assert f"until {programs.last_day_of_promise(datetime.date.today())}." in text


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--format=onx: one of .* \(did you mean 'onnx'\?\)"):
        export.export(tmp_path, tmp_path / "out", file_format="onx")


def test_onnx_without_its_packages_says_what_to_install(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    (program, *_) = questions(tiny_config)
    with pytest.raises(SetupError, match=r'pip install "date_jax\[onnx\]"'):
        programs.onnx(program)


@pytest.mark.filterwarnings("ignore")  # those of the converter
@pytest.mark.parametrize("config", ["tiny_config", "tiny_same_style"], indirect=True)
def test_onnxruntime_gives_our_answers_on_100_pictures(config: ConfigDict) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("jax2onnx", reason="the extra onnx is not installed")
    names = []
    for program in questions(config):
        content, reason = programs.onnx(program)
        assert content or program.name == "confidence_features", reason
        if not content:
            continue
        names.append(program.name)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        inputs = inputs_of(program, 100)
        ours = jax.jit(program.function)(**inputs)
        for key, answer in zip(ours, session.run([*ours], inputs), strict=True):
            np.testing.assert_allclose(answer, ours[key], atol=1e-4, rtol=0, err_msg=key)
    assert len(names) == 3
