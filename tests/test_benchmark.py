"""The benchmark counts and prints what it should; how fast anything is, no test says."""

import importlib
import json
import os
import subprocess
import sys
import types
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from date_jax import benchmark, sharding, subprocesses
from date_jax.benchmarks import (
    compare,
    input,
    loss,
    measure,
    plan,
    profile,
    program_text,
    scaling,
    search,
    selection,
    step,
)
from date_jax.benchmarks.children import Child
from date_jax.benchmarks.flops import matmul_flops
from date_jax.errors import SetupError, UsageError

A, B = jax.ShapeDtypeStruct((3, 5), jnp.float32), jax.ShapeDtypeStruct((5, 7), jnp.float32)
ONE = 2 * 3 * 5 * 7  # flops of A @ B


def repeated(a: Any, b: Any) -> Any:
    return jax.lax.scan(lambda sum_, _: (sum_ + a @ b, None), jnp.zeros((3, 7)), length=4)[0]


def branched(a: Any, b: Any) -> Any:
    return jax.lax.cond(a[0, 0] > 0, lambda: a @ b, lambda: (a @ b) + (a @ b) * 2)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda a, b: a @ b, ONE),
        (lambda a, b: jnp.sin(a) @ b, ONE),
        (jax.jit(lambda a, b: a @ b), ONE),
        (jax.grad(lambda a, b: (a @ b).sum(), (0, 1)), 3 * ONE),
        (jax.grad(jax.checkpoint(lambda a, b: jnp.sin(a @ b).sum()), (0, 1)), 4 * ONE),
        (repeated, 4 * ONE),
        (branched, 2 * ONE),
        (lambda a, b: jnp.einsum("ij,jk,ik->", a, b, jnp.ones((3, 7))), None),
    ],
)
def test_flops_are_those_of_the_products_in_the_program(function: Any, expected: Any) -> None:
    found = matmul_flops(function, A, B)
    assert found == expected if expected else found >= ONE


def test_flops_of_a_convolution_and_of_a_batched_product_are_counted() -> None:
    image, kernel = jnp.zeros((2, 8, 8, 3)), jnp.zeros((4, 4, 3, 6))

    def convolved(image: Any, kernel: Any) -> Any:
        numbers = ("NHWC", "HWIO", "NHWC")
        options = {"window_strides": (4, 4), "padding": "VALID", "dimension_numbers": numbers}
        return jax.lax.conv_general_dilated(image, kernel, **options)

    assert matmul_flops(convolved, image, kernel) == 2 * (2 * 2 * 2 * 6) * (4 * 4 * 3)
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
    made: list[float] = []

    def call() -> jax.Array:
        now[0] += length
        made.append(now[0])
        return jnp.zeros(2)

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    taken = measure.seconds(call, rounds=6, warm_up=2, at_most=18.0)
    assert (len(made), taken.median) == (calls, length)


@pytest.mark.parametrize("name", loss.LOSSES)
def test_both_forms_of_a_loss_are_measured_and_the_dense_one_needs_more(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "PATIENCE", float("inf"))  # both rounds count on a slow machine too
    found = loss.row(loss.LOSSES[name], sharding.device_mesh(), 4096, rounds=2)
    assert found["dense_bytes"] > 2 * found["tiled_bytes"] > 0
    assert found["tiled_seconds"] > 0
    assert found["tiled_spread"] > 0


def test_the_selection_counts_what_random_vectors_have_in_common() -> None:
    found = selection.run(sharding.device_mesh(), sources=300, targets=200, width=16, modalities=1)
    whole = found["growth"][-1]
    assert [row["pairs"] for row in found["growth"]] == [
        18 * 12,
        37 * 25,
        75 * 50,
        150 * 100,
        60_000,
    ]
    # A product of two random unit vectors has deviation width^-0.5; the limit is twice that.
    assert whole["mean_share_counted"] == pytest.approx(0.025, abs=0.01)
    assert found["share_of_peak"] == whole["share_of_peak"] > 0
    assert all(0 < row["least"] <= row["seconds"] <= row["most"] for row in found["growth"])
    assert 0 < whole["temporary_bytes"] < 8 * 1024 * 1024 * 4


def test_the_search_finds_what_was_planted() -> None:
    found = search.run(sharding.device_mesh(), gallery=300, queries=50, width=64, rounds=1)
    assert found["recall_at_1"] == found["first_is_the_match"] == 1.0
    assert [row["what"] for row in found["times"]][:2] == ["nearest", "ranks"]
    assert min(row["seconds"] for row in found["times"]) > 0


def test_a_report_is_a_line_for_each_number_and_a_table_for_rows() -> None:
    rows = [{"batch": 1024, "seconds": 0.123456}, {"batch": 65536, "seconds": None}]
    shown = benchmark.lines({"mode": "loss", "machine": {"host": "an abacus"}, "mmd": rows})
    assert [" ".join(line.split()) for line in shown] == [
        *("mode loss", "machine", "host an abacus"),
        *("", "mmd", "batch seconds", "1,024 0.1235", "65,536 -"),
    ]


def test_a_pods_batch_has_its_shapes_without_being_drawn(tiny_config: ConfigDict) -> None:
    def of(batch: dict[str, Any]) -> Any:
        return jax.tree.map(lambda x: (x.shape, x.dtype), batch)

    drawn = step.random_batch(tiny_config, 0, tiny_config.data.vocab_size)
    assert of(step.batch_shapes(tiny_config)) == of(drawn)
    pod = step.batch_shapes(step.with_batch(tiny_config, 10**9))
    assert pod["target"]["image"].shape == (10**9, *drawn["target"]["image"].shape[1:])


def test_the_pipeline_and_the_raw_decoder_are_measured_on_the_same_pictures(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input, "SECONDS", 0.05)
    found = input.measured({"config": json.loads(tiny_config.to_json()), "rounds": 2})
    assert [len(found[name]) for name in ("pipeline", "raw")] == [2, 2]
    assert min(found["pipeline"] + found["raw"]) > 0
    about = found["about"]
    assert about["raw_decoder"] == "libpng (Pillow)"
    assert 0.1 < about["kilobytes_per_picture"] < 32 * 32 * 3 / 1e3


def test_a_jpeg_is_decoded_raw_by_libjpeg_turbo() -> None:
    jpeg = BytesIO()
    Image.new("RGB", (8, 8), (10, 20, 30)).save(jpeg, "JPEG")
    name, decode = input._raw_decoder(jpeg.getvalue())
    assert "turbo" in name
    assert decode(jpeg.getvalue()) == 1


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
        "import sys; from absl import flags; from date_jax import benchmark, commandline\n"
        "benchmark.define_flags(flags.FLAGS)\n"
        "try: commandline.run(benchmark.main)\n"
        "finally: assert 'tensorflow' not in sys.modules"
    )
    out = tmp_path / "report.json"
    own = [f"--config={root / 'configs' / 'pgda.py'}", "--rounds=2", f"--out={out}"]
    command = [sys.executable, "-c", code, *own, *overrides]
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


PROGRAM = """
%f (x: f32[8]) -> f32[8] {
  ROOT %p = f32[8]{0} dot(%x, %x)
}

%body.1 (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = f32[8]{0} fusion(%x), calls=%f, metadata={op_name="jvp(Date)/text_extractor/while/body/dot"}, backend_config={"estimated_cycles":"100","is_mask":false}
  ROOT %b = f32[8]{0} add(%a, %a), backend_config={"estimated_cycles":"20"}
}

%outer.2 (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %w = (s32[], f32[8]) while(%t), condition=%until.3, body=%body.1, metadata={op_name="scan"}
  %s = (f32[8]{0}, f32[8]{0}, u32[]) copy-start(%x)
  %g = f32[8]{0} fusion(%x), kind=kCustom, calls=%f
  ROOT %c = f32[8]{0} copy(%w), backend_config={"estimated_cycles":"5"}
}

%until.3 (arg: (s32[], f32[8])) -> pred[] {
  %n = s32[]{:T(128)} constant(6)
  ROOT %lt = pred[]{:T(512)} compare(%i, %n), direction=LT
}

%until.4 (arg: (s32[], f32[8])) -> pred[] {
  %n = s32[] constant(2)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%yes (arg: f32[8]) -> f32[8] {
  ROOT %a = f32[8]{0} add(%x, %x), backend_config={"estimated_cycles":"7"}
}

%no.1 (arg: f32[8]) -> f32[8] {
  ROOT %a = f32[8]{0} reduce(%x, %z), to_apply=%sum, backend_config={"estimated_cycles":"9"}
}

ENTRY %main.9 (x: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t), condition=%until.4, body=%outer.2
  %i = f32[8] conditional(%p, %x, %x), branch_computations={%yes, %no.1}
  %q = f32[8] call(%i), to_apply=%yes
  %e = f32[8] all-reduce(%q), to_apply=%sum, backend_config={"estimated_cycles":"3"}
  ROOT %d = f32[8]{0} add(%w, %i), backend_config={"estimated_cycles":"1000"}
}
"""  # noqa: E501


def test_cycles_are_those_of_all_instructions_as_often_as_they_run() -> None:
    found = program_text.costs(PROGRAM)
    total = 2 * (6 * 120 + 5) + 9 + 7 + 3 + 1000
    assert sum(cost.spent for cost in found) == total
    assert sum(cost.spent == 0 for cost in found) == 2  # the gather and the copy on its way
    kinds, parts = (program_text.shares(found, of) for of in ("kind", "part"))
    cycles = {"products": 12 * 100, "elementwise": 12 * 20 + 1007}
    cycles |= {"moves": 10, "reductions": 9, "exchanges": 3}
    assert kinds == pytest.approx({kind: n / total for kind, n in cycles.items()})
    assert next(iter(kinds)) == "elementwise"
    assert parts == pytest.approx({"text_extractor": 1200 / total, "rest": 1 - 1200 / total})


def test_a_profile_names_what_ran_by_kind_and_part() -> None:
    """One product and nothing else has a share of the time, and what calls it none of its own."""
    x = jnp.ones((256, 256))

    def function(x: jax.Array) -> jax.Array:
        with jax.named_scope("text_extractor"):
            return jax.lax.fori_loop(0, 20, lambda _, y: y @ x, x)

    program = jax.jit(function).lower(x).compile()
    found = profile.of_calls(program, lambda: program(x))
    assert found["runs"] >= 20
    assert 0 < found["seconds"] < 1
    assert sum(found["kind"].values()) == pytest.approx(1)
    assert next(iter(found["kind"])) == "products"
    assert next(iter(found["part"])) == "text_extractor"
    assert found["kind"]["products"] > 0.5


def test_a_platform_with_other_names_for_operations_has_no_profile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profile.jax, "default_backend", lambda: "gpu")
    assert profile.of_calls(None, lambda: None) == {"runs": 0, "seconds": 0.0}


def test_a_profile_adds_up_the_operations_of_the_record() -> None:
    """By the operation's name, not by that of the kernel; and of one call, not of all rounds."""

    def event(name: str, nanoseconds: int, stats: dict[str, Any]) -> Any:
        return types.SimpleNamespace(name=name, duration_ns=nanoseconds, stats=stats.items())

    events = [
        *(event("kernel", 3000, {"hlo_op": "p"}) for _ in range(profile.ROUNDS)),
        *(event("b", 1000, {"hlo_op": "b"}) for _ in range(profile.ROUNDS)),
        event("p", 5000, {}),
        event("w", 5000, {"hlo_op": "w"}),
        event("p", 5000, {"hlo_op": "of another program"}),
    ]
    plane = types.SimpleNamespace(lines=[types.SimpleNamespace(events=events)])
    record = types.SimpleNamespace(planes=[plane])
    found = profile.shares(program_text.instructions(PROGRAM), record)
    assert (found["runs"], found["seconds"]) == (2, pytest.approx(4e-6))
    assert found["kind"] == {"products": 0.75, "elementwise": 0.25}


def test_instructions_are_those_that_compute() -> None:
    found = program_text.instructions(PROGRAM)
    assert not {"w", "i", "q"} & found.keys(), "loops, branches and calls run others"
    assert (found["b"].kind, found["p"].kind) == ("elementwise", "products")


def test_exchanged_bytes_are_those_of_the_results() -> None:
    text = """
      %a = f32[64,32]{1,0:T(8,128)} all-gather(%x), dimensions={0}
      %b = (bf16[64,32]{1,0}, f32[64]{0}) all-reduce(%y, %z), to_apply=%sum
      %c = (f32[8]{0}, f32[8]{0}) all-reduce-start(%w)
      %d = f32[8]{0} all-reduce-done(%c)
    """
    reduced = (64 * 32 * 2 + 64 * 4) + 8 * 4
    assert program_text.exchanged_bytes(text) == {"all-gather": 64 * 32 * 4, "all-reduce": reduced}


def test_an_exchange_beside_other_work_counts_once_and_that_work_is_what_it_is() -> None:
    text = """
%step.1 (p: bf16[64,32]) -> bf16[64,64] {
  %g.1 = f32[256]{0} all-gather(%p), channel_id=1, frontend_attributes={chain_id="0"}
  ROOT %m = bf16[64,64]{1,0} dot(%p, %p)
}
%step.2 (p: f32[64]) -> f32[64] {
  %g.2 = f32[256]{0} all-gather(%p), channel_id=1, frontend_attributes={chain_id="0"}
  ROOT %t = f32[64] tuple(%p)
}
ENTRY %main (x: bf16[64,32]) -> bf16[64,64] {
  %f.1 = bf16[64,64]{1,0} fusion(%x), calls=%step.1, backend_config={"estimated_cycles":"5"}
  %f.2 = f32[64] fusion(%x), calls=%step.2, backend_config={"estimated_cycles":"2"}
  %h = f32[128]{0} all-gather(%x), channel_id=1, frontend_attributes={chain_id="1"}
  %i = f32[64]{0} all-gather(%x), channel_id=1
  ROOT %j = f32[64]{0} all-gather(%x), channel_id=1
}
"""
    assert program_text.collectives(text) == {"all-gather": 4}
    assert program_text.exchanged_bytes(text) == {"all-gather": 4 * (256 + 128 + 64 + 64)}
    spent = {cost.kind: cost.spent for cost in program_text.costs(text) if cost.spent}
    assert spent == {"products": 5, "exchanges": 2}


def test_more_devices_keep_their_rows_and_exchange_more() -> None:
    chip = plan.CHIPS["v5e"]
    found = {"estimated_cycles": 1.5e8, "rows_per_device": 64.0, "flops_per_device": 1.97e12}
    found |= {"devices": 4, "exchanged_bytes": {"all-reduce": 10**9, "all-gather": 4 * 10**6}}
    one, many = (plan._row("x", found, chip, devices) for devices in (1, 256))
    assert one["estimated_ms"] == many["estimated_ms"] == pytest.approx(100)
    assert one["efficiency_modelled"] == 1.0
    assert one["mfu_estimated"] == pytest.approx(0.1)
    gathered = 255 * 1e6  # each device's own megabyte goes once around
    assert many["exchange_ms_modelled"] == pytest.approx((2 * 255 / 256 * 1e9 + gathered) / 1e8)
    expected = 64 * 256 / (0.1 + many["exchange_ms_modelled"] / 1e3)
    assert many["examples_per_second_modelled"] == pytest.approx(expected)


def test_an_unknown_chip_is_refused() -> None:
    with pytest.raises(UsageError, match=r"--topology=v9:2x2: must begin with v4, v5e, v5p, v6e"):
        plan.topology_devices("v9:2x2")
    with pytest.raises(UsageError, match=r"--topology=v5e:four: after the chip come its sides"):
        plan.topology_devices("v5e:four")


def test_without_the_accelerators_compiler_a_plan_is_modelled(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = {"params": np.zeros((1000, 1000), np.float32), "step": np.zeros((), np.int32)}
    line = plan.Line((1e6, 2e6), (1e9, 1e8), (0.0, 1e12), state, 4_000_000)
    monkeypatch.setattr(plan, "line_through_small_steps", lambda config: line)
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None)
    tiny_config.mesh.fsdp = 4
    names = ("v5e:2x2", "v5e:4x4")
    found = plan.run(tiny_config, topologies={n: plan.topology_devices(n) for n in names})
    assert found["modelled"].startswith("all:")
    small, large = found["v5e:2x2"], found["v5e:4x4"]
    assert (small["devices"], large["devices"], large["batch_size"]) == (4, 16, 64)
    assert small["bytes_per_device"] == large["bytes_per_device"]
    assert small["bytes_per_device"]["temporary"] == 9_000_000, "4 rows"
    batch = sum(x.nbytes for x in jax.tree.leaves(step.random_batch(tiny_config, 0, 50)))
    assert small["bytes_per_device"]["arguments"] == 1_000_000 + 4 + batch // 4, "a quarter"
    assert [row["devices"] for row in found["scaling"]] == [2**n for n in range(11)]
    alone = found["scaling"][0]
    assert alone["mfu_estimated"] == 1.0, "products bound it"
    assert alone["estimated_ms"] == pytest.approx(4e12 / 197e12 * 1e3)
    free = 16 * 2**30 - (small["bytes_per_device"]["arguments"] - batch // 4) - 1_000_000
    rows = free / (2_000_000 + batch / 16)
    assert found["largest_batch_modelled"] == pytest.approx(4 * rows, rel=1e-3)


@pytest.mark.slow
def test_a_plan_is_modelled_from_small_steps(tiny_config: ConfigDict) -> None:
    line = plan.line_through_small_steps(tiny_config)
    assert all(a_row > 0 for _, a_row in (line.temporary, line.traffic, line.flops))
    assert abs(line.flops[0]) < line.flops[1], "products are of rows alone"
    state = sharding.bytes_of_a_device(line.state, devices=1, fsdp=1)
    assert state > 3 * line.gradients, "two moments and the average beside the parameters"


@pytest.mark.slow
def test_each_of_two_devices_does_half_the_work_of_one(tiny_config: ConfigDict) -> None:
    one, two = (scaling.row(tiny_config, count, fsdp=1) for count in (1, 2))
    assert two["flops"] == pytest.approx(one["flops"] / 2, rel=0.1)
    assert two["temporary"] < one["temporary"]
    assert (one["exchanges"], one["exchanged"]) == (0, 0)
    assert two["exchanged"] > 0


def test_collectives_are_counted_whatever_their_results_are() -> None:
    text = """
      %a = f32[64,32]{1,0} all-gather(%x), dimensions={0}
      %b = (f32[64,32]{1,0}, f32[64]{0}) all-reduce(%y, %z), to_apply=%sum
      %c = (f32[8], f32[64]) all-gather-start(%w)
      %d = f32[64] all-gather-done(%c)
      %e = f32[64] add(%a, %d)
    """
    assert program_text.collectives(text) == {"all-gather": 2, "all-reduce": 1}
