"""The rungs for a teacher that is often wrong: self-check, soft and verified boxes, heat."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.date import (
    adaptive,
    batches,
    between_steps,
    confidence,
    pseudo_boxes,
    self_check,
    word_places,
)
from date_jax.step import State
from date_jax.task import Learner, Memory
from tests.date import test_tasks as tasks
from tests.date.test_tasks import ROWS, some_boxes
from tests.date.test_tasks import config as smaller_config  # noqa: F401 (a fixture)

# Every rung, in two programs.
RUNGS: dict[str, dict[str, Any]] = {
    "places": {
        "model.fusion.head": "places",
        "model.fusion.heat": True,
        "image_seeker.places_weight": 0.2,
        "pseudo_boxes.self_check": 0.3,
        "pseudo_boxes.soft": True,
        "pseudo_boxes.mask": 0.5,
        "pseudo_boxes.verify": True,
        "pseudo_boxes.rank": "heat",
        "pseudo_boxes.once": True,
    },
    "bins": {
        "model.fusion.head": "bins",
        "pseudo_boxes.soft": True,
        "pseudo_boxes.mask": 0.5,
        "pseudo_boxes.teacher": "frozen",
        "aligner.kind": "none",
    },
}


def memory(config: ConfigDict, adapts: float = 1.0, **table: np.ndarray) -> Memory:
    """That of stage 3; every second target row has a pseudo box of its own certainty."""
    before = tasks.memory().replicated["pseudo_boxes"]
    certainty = {"deviation": 0.5 * some_boxes(5), "weight": before["weight"] * 0.7}
    replicated: dict[str, Any] = {"pseudo_boxes": before | certainty | table}
    if config.pseudo_boxes.self_check:
        replicated["adapts"] = np.float32(adapts)
    return Memory(replicated, {})


@pytest.mark.parametrize("name", RUNGS)
def test_no_rung_lets_a_box_of_the_target_into_training(
    smaller_config: ConfigDict,  # noqa: F811
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("date_jax.augment.strong_view", tasks.plain_view)
    config = smaller_config
    config.update_from_flattened_dict(RUNGS[name])
    learner = tasks.learner_of(config)
    params, step = tasks.some_params(learner), tasks.step_of(learner)
    shapes = jax.eval_shape(learner.init, jax.random.key(0), tasks.batch())[1].replicated
    assert jax.tree.structure(shapes) == jax.tree.structure(memory(config).replicated)
    garbage = tasks.Compiled.with_target_boxes(np.full((ROWS, 4), np.nan, np.float32))
    lowered = step.lower(params, memory(config), tasks.batch())
    assert lowered.as_text() == step.lower(params, memory(config), garbage).as_text()
    compiled = lowered.compile()

    def terms(**changes: Any) -> tuple[dict[str, Any], Any]:
        given = memory(config, **changes)
        (_, aux), gradient = jax.device_get(compiled(params, given, tasks.batch()))
        return aux.metrics, gradient

    # What the table says of rows without a weight is not read either.
    before, gradient = terms()
    chosen = memory(config).replicated["pseudo_boxes"]["weight"] > 0
    nothing = np.where(chosen[:, None], 0.5 * some_boxes(5), np.float32(np.nan))
    assert tasks.is_same((before, gradient), terms(deviation=nothing))
    assert not tasks.is_same(before, terms(deviation=some_boxes(5))[0])
    assert jax.tree.all(jax.tree.map(lambda leaf: np.isfinite(leaf).all(), gradient))
    # The sum of the terms, with those of the target only where the check was passed.
    source = config.object_seeker.weight * (before["box"] + before["scores"])
    source += config.object_seeker.weight * before.get("places", 0.0)
    source += config.image_seeker.weight * before["image"] + before.get("word_places", 0.0)
    always = source + before.get("target_word_places", 0.0)
    pseudo = config.pseudo_boxes.weight * before["pseudo_share"] * before["pseudo"]
    target = config.image_seeker.target_weight * before["target_image"]
    for part, weight in (("image", 1.0), ("text", 1.0), ("object", 1.0)):
        target += config.aligner.weight * weight * before.get(f"align_{part}", 0.0)
    assert before["loss"] == pytest.approx(always + target + pseudo, rel=1e-5)
    if config.pseudo_boxes.self_check:
        refused, _ = terms(adapts=0.0, weight=np.zeros(ROWS, np.float32))
        expected = sum(refused[n] for n in ("box", "scores", "places"))
        expected += config.image_seeker.weight * refused["image"]
        expected += refused["word_places"] + refused["target_word_places"]
        assert refused["loss"] == pytest.approx(expected, rel=1e-5)
    predict = jax.eval_shape(
        lambda p, b: {n: f(p, b) for n, f in learner.predict.items()}, params, tasks.domain(0)
    )
    assert predict["pseudo_deviation"].shape == (ROWS, 4)
    if name == "places":
        assert predict["liking"].shape == predict["heat_inside"].shape == (ROWS,)


def test_places_from_pairs_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    places, query = rng.normal(size=(3, 5, 4)), rng.normal(size=(3, 4))
    places /= np.linalg.norm(places, axis=-1, keepdims=True)
    query /= np.linalg.norm(query, axis=-1, keepdims=True)
    identity, scale = np.array([[1, 7], [2, 8], [1, 9]], np.uint32), 6.0
    fits = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            fits[i, j] = np.log(np.mean([np.exp(scale * p @ query[j]) for p in places[i]]))
    expected = 0.0
    for i in range(3):
        same = [j for j in range(3) if identity[i, 0] == identity[j, 0] or i == j]
        for j in same:
            by_picture = fits[i, j] - np.log(np.exp(fits[i]).sum())
            by_text = fits[j, i] - np.log(np.exp(fits[:, i]).sum())
            expected -= (by_picture + by_text) / len(same) / 3 / 2
    rows = jnp.asarray(places, jnp.float32), jnp.asarray(query, jnp.float32)
    loss = word_places.loss(*rows, jnp.asarray(identity), jnp.float32(scale))
    assert loss == pytest.approx(expected, rel=1e-5)
    # How much of the heat is in a box: two of the five tokens of one row of tokens.
    heat = word_places.heat(*rows)
    box = jnp.tile(jnp.array([[0.2, 0.5, 0.4, 1.0]]), (3, 1))
    inside = word_places.heat_inside(heat, box, (1, 5), jnp.float32(scale))
    e = np.exp(scale * np.einsum("bpd,bd->bp", places, query))
    np.testing.assert_allclose(inside, e[:, :2].sum(1) / e.sum(1), rtol=1e-5)


def pseudo_section(config: ConfigDict, **changes: Any) -> ConfigDict:
    config.pseudo_boxes.update(keep_start=1.0, keep_end=1.0, **changes)
    return config.pseudo_boxes


def rows_of_teacher(**more: np.ndarray) -> dict[str, np.ndarray]:
    index = np.array([2, 0, 1], np.int32)
    box = np.arange(12, dtype=np.float32).reshape(3, 4)
    return {"pseudo_box_cxcywh": box, "agreement": np.full(3, 0.8), "index": index} | more


@pytest.mark.parametrize("expected", [0.2, 0.4])
def test_no_row_weighs_before_the_check_is_passed(tiny_config: ConfigDict, expected: float) -> None:
    section = pseudo_section(tiny_config, self_check=0.33)
    table, metrics = pseudo_boxes.refresh(
        rows_of_teacher(), section, progress=0.0, expected_precision=expected
    )
    passed = expected > 0.33
    assert table["weight"].tolist() == [float(passed)] * 3
    assert metrics["adapts"] == float(passed)
    assert metrics["selected"] == 3.0 * passed
    assert metrics["expected_precision"] == expected


def test_only_boxes_whose_close_up_is_liked_count_and_wide_ones_count_less(
    tiny_config: ConfigDict,
) -> None:
    deviation = np.array([[0.1] * 4, [0.2] * 4, [0.0, 0.0, 0.4, 0.8]], np.float32)
    rows = rows_of_teacher(liking=np.array([0.1, -0.1, 0.2]), pseudo_deviation=deviation)
    table, metrics = pseudo_boxes.refresh(rows, pseudo_section(tiny_config), progress=0.0)
    # By index: the rows came as 2, 0, 1.
    expected = [0.0, np.exp(-0.3), np.exp(-0.1)]
    np.testing.assert_allclose(table["weight"], expected, rtol=1e-6)
    np.testing.assert_array_equal(table["deviation"], deviation[[1, 2, 0]])
    assert metrics["liked"] == pytest.approx(2 / 3)
    assert metrics["selected"] == 2.0


def test_the_target_that_holds_most_of_the_heat_ranks_first(tiny_config: ConfigDict) -> None:
    section = pseudo_section(tiny_config, rank="heat")
    section.keep_start = 0.34
    rows = rows_of_teacher(heat_inside=np.array([0.1, 0.9, 0.5]))
    table, _ = pseudo_boxes.refresh(rows, section, progress=0.0)
    assert table["weight"].tolist() == [1.0, 0.0, 0.0]  # index 0 came second


def test_the_expected_precision_is_the_mean_confidence_and_what_is_not_finite_is_wrong() -> None:
    telling = np.repeat([[1.0], [-1.0]], 100, axis=0)
    calibrated = confidence.fit(telling, telling[:, 0] > 0, np.ones(200), names=("telling",))
    found = self_check.expected_precision(calibrated, np.array([[1.0], [-1.0], [np.nan], [-1.0]]))
    high, low = confidence.probability(calibrated, telling[[0, -1]])
    assert found == pytest.approx((high + 2 * low) / 4)


def test_without_close_ups_a_check_is_calibrated_on_the_agreement_of_two_views() -> None:
    rng = np.random.default_rng(0)
    agreement = rng.random(400)
    true = np.tile(np.float32([0.5, 0.5, 0.4, 0.4]), (400, 1))
    drawn = true + np.where(rng.random(400) < agreement, 0, 0.4)[:, None] * np.float32([1, 0, 0, 0])
    known = np.arange(400) % 4 > 0
    rows = {"pseudo_box_cxcywh": drawn, "true_box_cxcywh": true, "box_mask": known}
    rows |= {"agreement": agreement, "pseudo_deviation": np.full((400, 4), 0.1)}
    names = ("agreement", "pseudo_deviation")
    calibrated = self_check.calibration_of_agreement(rows, names, ["mall_val"])
    assert calibrated is not None
    assert calibrated.rows == 300
    for expected in (0.1, 0.5, 0.9):
        target = np.array([[expected, 0.1]] * 3)
        assert self_check.expected_precision(calibrated, target) == pytest.approx(expected, abs=0.1)
    # Rows without a true box say nothing.
    rows["box_mask"] = np.zeros(400, bool)
    assert self_check.calibration_of_agreement(rows, names, ["mall_val"]) is None


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, [6, 9]),
        ({"pseudo_boxes.once": True}, [6]),
        ({"pseudo_boxes.self_check": 0.3}, [4, 6, 9]),
        ({"pseudo_boxes.self_check": 0.3, "pseudo_boxes.once": True}, [4, 6, 9]),
        ({"pseudo_boxes.self_check": 0.3, "method": "oracle"}, [6]),
        ({"pseudo_boxes.self_check": 0.3, "method": "source_only"}, []),
        ({"pseudo_boxes.self_check": 0.3, "pseudo_boxes.weight": 0.0}, []),
    ],
)
def test_a_run_checks_itself_from_stage_2_on(
    tiny_config: ConfigDict, changes: dict[str, Any], steps: list[int]
) -> None:
    tiny_config.update_from_flattened_dict(changes)
    assert [step for step in range(12) if batches.is_refresh(tiny_config, step)] == steps
    if changes == {"pseudo_boxes.self_check": 0.3}:
        refused, passed = (self_check.line(tiny_config, 6, share) for share in (0.12, 0.5))
        assert "12% of the boxes on live seem right, but 30% are needed" in refused
        assert refused.endswith("as source_only, and asks again at step 9")
        assert passed.endswith("the run adapts")
        assert self_check.line(tiny_config, 9, 0.12).endswith("as source_only, to its end")


def test_a_frozen_teacher_that_draws_once_does_so_when_it_first_passes_the_check(
    tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checks at steps 4 (refused), 6 (refused), 9 (passed), and a refresh at 12 that is none."""
    tiny_config.steps = 15
    tiny_config.stages.update(align=0.28, pseudo=0.4)
    tiny_config.pseudo_boxes.update(self_check=0.5, once=True, teacher="frozen")
    calls = []

    def table(params: Any, teacher: Any, step: int, should_stop: Any) -> Any:
        calls.append((step, float(teacher["w"])))
        passed = step >= 9
        weight = np.full(2, float(passed), np.float32)
        metrics = {"expected_precision": step / 16, "adapts": float(passed)}
        return {"box_cxcywh": np.zeros((2, 4)), "weight": weight}, metrics

    monkeypatch.setattr(between_steps, "table_maker", lambda *_, **__: table)
    lines: list[str] = []
    between = between_steps.between(
        *(tiny_config, None, Learner(abs, abs, {}), sharding.device_mesh()),
        folder=Path(),
        say=lines.append,
    )
    replicated = {"pseudo_boxes": adaptive.empty_table(2, False), "adapts": jnp.zeros(())}
    state = State(**dict.fromkeys(State.__dataclass_fields__, None))
    memory = Memory(replicated, {"teacher": {"w": jnp.float32(0)}})
    state = dataclasses.replace(state, memory=memory, frozen={})
    for step in (4, 6, 9, 12):
        assert between.due(step)
        average = {"w": jnp.float32(step)}
        state = dataclasses.replace(state, params=average, ema=average)
        change = between.run(state, step, lambda: False)
        state = dataclasses.replace(state, memory=change.memory)
    assert calls == [(4, 4.0), (6, 6.0), (9, 9.0)]
    assert ["adapts" in line for line in lines] == [False, False, True]
    assert float(state.memory.replicated["adapts"]) == 1.0
    assert float(state.memory.sharded["teacher"]["w"]) == 9.0
    assert change.metrics == {"selected": 2.0}
