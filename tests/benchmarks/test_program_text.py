"""What is read from compiled programs, and from the record of one that ran."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from date_jax.benchmarks import profile, program_text

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
    costs = program_text.costs(PROGRAM)
    total = 2 * (6 * 120 + 5) + 9 + 7 + 3 + 1000
    assert sum(cost.spent for cost in costs) == total
    assert sum(cost.spent == 0 for cost in costs) == 2  # the gather and the copy on its way
    kinds, parts = (program_text.shares(costs, field) for field in ("kind", "part"))
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
    report = profile.profile_of(program, lambda: program(x))
    assert report["runs"] >= 20
    assert 0 < report["seconds"] < 1
    assert sum(report["kind"].values()) == pytest.approx(1)
    assert next(iter(report["kind"])) == "products"
    assert next(iter(report["part"])) == "text_extractor"
    assert report["kind"]["products"] > 0.5


def test_a_platform_with_other_names_for_operations_has_no_profile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profile.jax, "default_backend", lambda: "gpu")
    assert profile.profile_of(None, lambda: None) == {"runs": 0, "seconds": 0.0}


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
    report = profile.shares(program_text.instructions(PROGRAM), record)
    assert (report["runs"], report["seconds"]) == (2, pytest.approx(4e-6))
    assert report["kind"] == {"products": 0.75, "elementwise": 0.25}


def test_instructions_are_those_that_compute() -> None:
    instructions = program_text.instructions(PROGRAM)
    assert not {"w", "i", "q"} & instructions.keys(), "loops, branches and calls run others"
    assert (instructions["b"].kind, instructions["p"].kind) == ("elementwise", "products")


def test_exchanged_bytes_are_those_of_the_results() -> None:
    text = """
      %a = f32[64,32]{1,0:T(8,128)} all-gather(%x), dimensions={0}
      %b = (bf16[64,32]{1,0}, f32[64]{0}) all-reduce(%y, %z), to_apply=%sum
      %c = (f32[8]{0}, f32[16]{0}) all-reduce-start(%v, %w), to_apply=%sum
      %d = (f32[8]{0}, f32[16]{0}) all-reduce-done(%c)
      %e = ((f32[8]{0}, bf16[4]{0}), (f32[64]{0}, bf16[32]{0})) all-gather-start(%v, %w)
      %f = (f32[8]{0}, f32[64]{0}) all-gather-start(%w), dimensions={0}
      %g = (f32[10]{0}, f32[10]{0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%w)
    """
    assert program_text.exchanged_bytes(text) == {
        "all-gather": 64 * 32 * 4 + (64 * 4 + 32 * 2) + 64 * 4,
        "all-reduce": (64 * 32 * 2 + 64 * 4) + (8 + 16) * 4,
        "collective-permute": 10 * 4,
    }


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


def test_collectives_are_counted_whatever_their_results_are() -> None:
    text = """
      %a = f32[64,32]{1,0} all-gather(%x), dimensions={0}
      %b = (f32[64,32]{1,0}, f32[64]{0}) all-reduce(%y, %z), to_apply=%sum
      %c = (f32[8], f32[64]) all-gather-start(%w)
      %d = f32[64] all-gather-done(%c)
      %e = f32[64] add(%a, %d)
    """
    assert program_text.collectives(text) == {"all-gather": 2, "all-reduce": 1}
