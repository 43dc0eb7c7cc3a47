"""Same-style matching: what is in its loss, and what the network may look at."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax import sharding
from date_jax.same_style import task as same_style
from date_jax.task import Learner, Memory
from tests.date.test_tasks import ROWS, VOCAB, domain, plain_view

LOSSES = {
    "kind": "hinge",
    "match_margin": 0.2,
    "distinct_margin": 0.3,
    "local_margin": 0.0,
    "distinct_weight": 0.5,
    "local_weight": 2.0,
    "nearest": 3,
    "temperature": 0.1,
}


@pytest.fixture
def config(tiny_config: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> ConfigDict:
    """Programs that compile fast, not pictures."""
    monkeypatch.setattr("date_jax.augment.strong_view", plain_view)
    tiny_config = tiny_config.unlock()
    tiny_config.data.image_size, tiny_config.data.text_length = 16, 6
    tiny_config.model.width = 16
    tiny_config.model.image.update(patch=4, width=8, depths=(1, 1), heads=(1, 2), window=2)
    tiny_config.model.image.pooling = "mean"
    tiny_config.model.text.update(layers=1, width=8, heads=2)
    tiny_config.model.embedding, tiny_config.model.rows_at_once = 8, 0
    tiny_config.model.joint = ConfigDict(
        {"layers": 1, "heads": 2, "mlp_width": 16, "dropout": 0.0, "norm_first": True}
    )
    tiny_config.losses, tiny_config.modality = ConfigDict(LOSSES), "both"
    return tiny_config


def batch() -> dict[str, dict[str, np.ndarray]]:
    return {"trigger": domain(0), "offer": domain(1)}


def some_params(learner: Learner) -> Any:
    shapes = jax.eval_shape(learner.init, jax.random.key(0), batch())[0]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), s.dtype), shapes)


def learner_of(config: ConfigDict) -> Learner:
    return same_style.pair_learner(config, VOCAB, jnp.arange(VOCAB, dtype=jnp.int32))


def stepped(learner: Learner, given: Any, mesh: Any = None) -> Any:
    """`((loss, terms), gradient)` of a step whose views are the pictures."""

    def step(params: Any, batch: Any) -> Any:
        with sharding.mesh_context(mesh or sharding.device_mesh(devices=jax.devices()[:1])):
            (loss, aux), gradient = jax.value_and_grad(learner.loss, has_aux=True)(
                params, Memory(), batch, step=jnp.int32(0), rng=jax.random.key(0)
            )
        return (loss, aux.metrics), gradient

    params = some_params(learner)
    return jax.device_get(jax.jit(step).lower(params, given).compile()(params, given))


def test_the_loss_is_the_weighted_sum_of_its_terms(config: ConfigDict) -> None:
    (loss, terms), gradient = stepped(learner_of(config), batch())
    kinds = ("match_joint", "match_text", "match_image")
    weights = dict.fromkeys(kinds, 1.0)
    weights |= {"distinct_text": 0.5, "distinct_image": 0.5, "local_text": 2, "local_image": 2}
    assert terms.keys() == weights.keys() | {"loss"}
    assert loss == terms["loss"]
    assert loss == pytest.approx(sum(weights[name] * terms[name] for name in weights), rel=1e-5)
    assert all(np.isfinite(term) and term > 0 for term in terms.values())
    flat = jax.tree_util.tree_leaves_with_path(gradient)
    assert not [jax.tree_util.keystr(path) for path, leaf in flat if not np.any(leaf)]


def test_product_ids_have_no_way_into_the_loss(config: ConfigDict) -> None:
    learner, given = learner_of(config), batch()
    without = {
        side: {key: value for key, value in rows.items() if key != "product_id"}
        for side, rows in given.items()
    }
    params = some_params(learner)
    loss = jax.jit(
        lambda b: learner.loss(params, Memory(), b, step=jnp.int32(0), rng=jax.random.key(0))
    )
    texts = [loss.lower(each).as_text() for each in (given, without)]
    assert texts[0] == texts[1]


def test_a_batch_over_eight_devices_in_chunks_gives_the_step_of_one_device(
    config: ConfigDict,
) -> None:
    one = stepped(learner_of(config), batch())
    mesh = sharding.device_mesh()
    given = {side: sharding.global_batch(mesh, rows) for side, rows in batch().items()}
    config.model.rows_at_once = 1
    for x, y in zip(
        jax.tree.leaves(one), jax.tree.leaves(stepped(learner_of(config), given, mesh)), strict=True
    ):
        np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("modality", ["image", "text"])
def test_one_modality_alone_never_looks_at_the_other(config: ConfigDict, modality: str) -> None:
    config.modality = modality
    learner, given = learner_of(config), batch()
    other = {"image": ("text",), "text": ("image",)}[modality]
    params = some_params(learner)
    assert f"{other[0]}_extractor" not in params["model"]
    changed = batch()
    for side in changed:
        for name in other:
            changed[side][name] = np.roll(given[side][name], 1, axis=0)
    (_, terms), _ = one = stepped(learner, given)
    assert terms.keys() == {f"match_{modality}", "loss"}
    again = stepped(learner, changed)
    assert jax.tree.all(jax.tree.map(np.array_equal, one, again))
    assert learner.predict.keys() == {"joint_embedding", f"{modality}_embedding"}


def test_the_softmax_takes_the_hinge_s_place() -> None:
    rng = np.random.default_rng(0)
    rows = {
        name: jnp.asarray(rng.normal(size=(ROWS, 4)), jnp.float32)
        for name in ("trigger_joint", "trigger_text", "trigger_image", "offer_joint")
    }
    rows = {name: x / jnp.linalg.norm(x, axis=1, keepdims=True) for name, x in rows.items()}
    identity = jnp.arange(2 * ROWS, dtype=jnp.uint32).reshape(ROWS, 2)
    found = {
        kind: same_style.pair_losses(
            rows, identity, ("text", "image"), ConfigDict(LOSSES | {"kind": kind})
        )
        for kind in ("hinge", "softmax")
    }
    for name in found["hinge"].keys() - {"loss"}:
        same = found["hinge"][name] == pytest.approx(float(found["softmax"][name]))
        assert same == name.startswith("local_"), name
    logits = np.asarray(rows["trigger_text"] @ rows["offer_joint"].T, np.float64) / 0.1
    both = [x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (logits, logits.T)]
    expected = -np.mean([np.diag(x) for x in both])
    assert float(found["softmax"]["match_text"]) == pytest.approx(expected, rel=1e-4)


def test_predictions_are_the_network_s_vectors_of_what_is_shown(config: ConfigDict) -> None:
    learner = learner_of(config)
    params, rows = some_params(learner), domain(0)
    predict = jax.jit(lambda b: {name: f(params, b) for name, f in learner.predict.items()})
    found = jax.device_get(predict(rows))
    assert found.keys() == {"joint_embedding", "image_embedding", "text_embedding"}
    for each in found.values():
        np.testing.assert_allclose(np.linalg.norm(each, axis=1), 1, rtol=1e-5)
    other = jax.device_get(predict({**rows, "text": np.roll(rows["text"], 1, axis=0)}))
    np.testing.assert_array_equal(found["image_embedding"], other["image_embedding"])
    assert np.abs(found["text_embedding"] - other["text_embedding"]).max() > 1e-3
    assert np.abs(found["joint_embedding"] - other["joint_embedding"]).max() > 1e-3
