"""The benchmark counts and prints what it should; how fast anything is, no test says."""

import importlib
import json
import os
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from date_jax import benchmark, sharding
from date_jax.benchmarks import (
    compare,
    input,
    loss,
    measure,
    scaling,
    search,
    selection,
    step,
    stores,
)
from date_jax.benchmarks.children import Child
from date_jax.benchmarks.flops import matmul_flops
from date_jax.errors import SetupError, UsageError
from date_jax.run import subprocesses

A, B = jax.ShapeDtypeStruct((3, 5), jnp.float32), jax.ShapeDtypeStruct((5, 7), jnp.float32)
ONE = 2 * 3 * 5 * 7  # flops of A @ B


def repeat(a: Any, b: Any) -> Any:
    return jax.lax.scan(lambda sum_, _: (sum_ + a @ b, None), jnp.zeros((3, 7)), length=4)[0]


def branch(a: Any, b: Any) -> Any:
    return jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) + (a @ b) * 2)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b: a @ b, ONE),
        (lambda a, b: jnp.sin(a) @ b, ONE),
        (jax.jit(lambda a, b: a @ b), ONE),
        (jax.grad(lambda a, b: (a @ b).sum(), (0, 1)), 3 * ONE),
        (jax.grad(jax.checkpoint(lambda a, b: jnp.sin(a @ b).sum()), (0, 1)), 4 * ONE),
        (repeat, 4 * ONE),
        (branch, 2 * ONE),
        (lambda a, b: jnp.einsum("ij,jk,ik->", a, b, jnp.ones((3, 7))), None),
    ],
)
def test_flops_are_those_of_the_products_in_the_program(function: Any, expected: Any) -> None:
    flops = matmul_flops(function, A, B)
    assert flops == expected if expected else flops >= ONE


def test_flops_of_a_convolution_and_of_a_batched_product_are_counted() -> None:
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((4, 4, 3, 6))

    def convolution(image: Any, kernel: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        options = {"window_strides": (4, 4), "padding": "VALID", "dimension_numbers": numbers}
        return jax.lax.conv_general_dilated(image, kernel, **options)

    assert matmul_flops(convolution, image, kernel) == 2 * (2 * 2 * 2 * 6) * (4 * 4 * 3)
    batched = [jnp.zeros((4, 3, 5)), jnp.zeros((4, 5, 7))]
    assert matmul_flops(jnp.matmul, *batched) == 4 * ONE


def test_every_round_counts_but_those_that_warm_up() -> None:
    calls = []
    taken = measure.seconds(lambda: calls.append(1) or jnp.zeros(2), rounds=5, warm_up=2)
    assert len(calls) == 7
    assert 0 < taken.least <= taken.median <= taken.most


@pytest.mark.parametrize(("length", "calls"), [(1.0, 8), (4.0, 5), (30.0, 3)])
def test_long_calls_are_fewer_but_one_counts(
    length: float, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    times: list[float] = []

    def call() -> jax.Array:
        now[0] += length
        times.append(now[0])
        return jnp.zeros(2)

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    taken = measure.seconds(call, rounds=6, warm_up=2, at_most=18.0)
    assert (len(times), taken.median) == (calls, length)


@pytest.mark.parametrize("name", loss.LOSSES)
def test_both_forms_of_a_loss_are_measured(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "PATIENCE", float("inf"))  # both rounds count on a slow machine too
    report = loss.row(loss.LOSSES[name], sharding.device_mesh(), 1024, rounds=2)
    for form in ("tiled", "dense"):
        assert min(report[f"{form}_{what}"] for what in ("bytes", "seconds", "spread")) > 0


@pytest.mark.parametrize("name", loss.LOSSES)
def test_tiles_grow_with_the_batch_and_the_whole_form_with_its_square(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmeasured = measure.Seconds(1.0, 1.0, 1.0)  # memory is known from what is compiled
    monkeypatch.setattr(measure, "seconds", lambda *_, **__: unmeasured)
    half, full = (
        loss.row(loss.LOSSES[name], sharding.device_mesh(), batch, rounds=1)
        for batch in (4096, 8192)
    )
    assert full["tiled_bytes"] < 2.1 * half["tiled_bytes"]
    assert full["dense_bytes"] > 3.5 * half["dense_bytes"]
    assert full["dense_bytes"] > 2 * full["tiled_bytes"]


def test_the_selection_counts_what_random_vectors_have_in_common() -> None:
    report = selection.run(sharding.device_mesh(), sources=300, targets=200, width=16)
    last = report["growth"][-1]
    assert [row["pairs"] for row in report["growth"]] == [
        18 * 12,
        37 * 25,
        75 * 50,
        150 * 100,
        60_000,
    ]
    # The mean of two random cosines is above twice its deviation.
    assert last["mean_share_counted"] == pytest.approx(0.025, abs=0.01)
    assert report["share_of_peak"] == last["share_of_peak"] > 0
    assert all(0 < row["least"] <= row["seconds"] <= row["most"] for row in report["growth"])
    assert 0 < last["temporary_bytes"] < 8 * 1024 * 1024 * 4


def test_the_search_finds_what_was_planted() -> None:
    report = search.run(sharding.device_mesh(), gallery=300, queries=50, width=64, rounds=1)
    assert report["recall_at_1"] == report["first_is_the_match"] == 1.0
    assert [row["what"] for row in report["times"]][:2] == ["nearest", "ranks"]
    assert min(row["seconds"] for row in report["times"]) > 0


def test_every_store_is_built_and_the_exact_ones_miss_nothing() -> None:
    pytest.importorskip("pyarrow", reason="the extra index is not installed")
    report = stores.run(sharding.device_mesh(), rows=300, queries=20, width=32)
    recall = {row["what"]: row["recall_at_10"] for row in report["ways"]}
    assert recall.pop("exact") == 1.0
    recall.pop("faiss hnsw", None)
    assert all(share > 0.99 for share in recall.values())
    assert min(row["queries_per_second"] for row in report["ways"]) > 0


def test_a_report_is_a_line_for_each_number_and_a_table_for_rows() -> None:
    rows = [{"batch": 1024, "seconds": 0.123456}, {"batch": 65536, "seconds": None}]
    lines = benchmark.report_lines({"mode": "loss", "machine": {"host": "an abacus"}, "mmd": rows})
    assert [" ".join(line.split()) for line in lines] == [
        *("mode loss", "machine", "host an abacus"),
        *("", "mmd", "batch seconds", "1,024 0.1235", "65,536 -"),
    ]


def test_a_pods_batch_has_its_shapes_without_being_drawn(tiny_config: ConfigDict) -> None:
    def shapes(batch: dict[str, Any]) -> Any:
        return jax.tree.map(lambda x: (x.shape, x.dtype), batch)

    drawn = step.random_batch(tiny_config, 0, tiny_config.data.vocab_size)
    assert shapes(step.batch_shapes(tiny_config)) == shapes(drawn)
    pod = step.batch_shapes(step.with_batch(tiny_config, 10**9))
    assert pod["target"]["image"].shape == (10**9, *drawn["target"]["image"].shape[1:])


def test_the_pipeline_and_the_raw_decoder_are_measured_on_the_same_pictures(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input, "SECONDS", 0.05)
    report = input.rates_of_rounds({"config": json.loads(tiny_config.to_json()), "rounds": 2})
    assert [len(report[name]) for name in ("pipeline", "raw")] == [2, 2]
    assert min(report["pipeline"] + report["raw"]) > 0
    about = report["about"]
    assert about["raw_decoder"] == "libpng (Pillow)"
    assert 0.1 < about["kilobytes_per_picture"] < 32 * 32 * 3 / 1e3


def test_a_jpeg_is_decoded_raw_by_libjpeg_turbo() -> None:
    jpeg = BytesIO()
    Image.new("RGB", (8, 8), (10, 20, 30)).save(jpeg, "JPEG")
    name, decode = input._raw_decoder([jpeg.getvalue()], 8)
    assert "turbo" in name
    assert decode([jpeg.getvalue()] * 3) == 3
    with pytest.raises(ValueError, match="buffer"):
        input._raw_decoder([jpeg.getvalue()], 4)[1]([jpeg.getvalue()])
    png = BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    mixed = [jpeg.getvalue(), png.getvalue()]
    assert input._raw_decoder(mixed, 8)[1](mixed) == 2


def test_a_child_answers_with_its_own_cores_and_what_it_raises_is_raised_here(
    tiny_config: ConfigDict,
) -> None:
    tiny_config.data.name = "shpo"
    question = {"config": json.loads(tiny_config.to_json()), "rounds": 1}
    before = subprocesses.cores()
    with Child("date_jax.benchmarks.input", before[:1]) as child:
        assert subprocesses.cores() == before
        assert os.sched_getaffinity(child._process.pid) == {before[0]}
        with pytest.raises(UsageError, match=r"unknown data set 'shpo' \(did you mean 'shop'"):
            child.ask(question)
        child._process.kill()
        with pytest.raises(SetupError, match=r"input ended with exit code -9; why stands above"):
            child.ask(question)


@pytest.mark.parametrize(
    ("config_file", "changes", "message"),
    [
        ("pgda", {}, r"the peer is supervised.*configs/date.py"),
        ("date", {}, r"has no \[REP\].*pooling=mean"),
        ("date", {"model.image.pooling": "mean"}, r"set --config.model.image.window=8"),
        (
            "date",
            {"model.image.pooling": "mean", "image_seeker.prior": "dual_softmax"},
            r"image_seeker.prior=dual_softmax: the peer has only none",
        ),
        (
            "date",
            {"model.image.pooling": "mean", "object_seeker.l1_weight": 5.0},
            r"object_seeker.l1_weight=5.0: the peer has only 1",
        ),
    ],
)
def test_what_the_peer_does_not_have_is_refused(
    config_file: str, changes: dict[str, Any], message: str
) -> None:
    config = importlib.import_module(f"configs.{config_file}").get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UsageError, match=message):
        compare.run(config, peer="torch", rounds=1, devices=1)


@pytest.mark.slow
def test_the_command_times_the_real_step_without_tensorflow(
    tmp_path: Path, overrides: list[str], root: Path
) -> None:
    code = (
        "import sys; from absl import flags; from date_jax import benchmark\n"
        "from date_jax.run import commandline\n"
        "benchmark.define_flags(flags.FLAGS)\n"
        "try: commandline.run(benchmark.main)\n"
        "finally: assert 'tensorflow' not in sys.modules"
    )
    out = tmp_path / "report.json"
    arguments = [f"--config={root / 'configs' / 'pgda.py'}", "--rounds=2", f"--out={out}"]
    command = [sys.executable, "-c", code, *arguments, *overrides]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert 0 < report["mfu"] < 1
    assert report["parts"].keys() == {
        *("augmentation", "image extractor", "text extractor", "fusion", "losses", "aligner"),
        *("optimizer", "moving average"),
    }
    assert min(report["parts"].values()) >= 0
    assert report["profile"]["runs"] > 100
    assert report["profile"]["part"].keys() == {
        *("image_extractor", "text_extractor", "object_seeker", "rest")
    }
    assert np.isclose(report["examples_per_second"], 32 / report["step_seconds"]["median"])


@pytest.mark.slow
def test_each_of_two_devices_does_half_the_work_of_one(tiny_config: ConfigDict) -> None:
    one, two = (scaling.row(tiny_config, count, fsdp=1) for count in (1, 2))
    assert two["flops"] == pytest.approx(one["flops"] / 2, rel=0.1)
    assert two["temporary"] < one["temporary"]
    assert (one["exchanges"], one["exchanged"]) == (0, 0)
    assert two["exchanged"] > 0
