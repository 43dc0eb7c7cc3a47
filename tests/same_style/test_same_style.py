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
    """Pairs of other offers each, but for a reversed one and a chain."""
    sides = {"trigger": domain(0), "offer": domain(1)}
    sides["offer"]["index"] += ROWS
    first = sides["trigger"]["index"][0], sides["offer"]["index"][0]
    sides["offer"]["index"][1], sides["trigger"]["index"][1] = first
    sides["offer"]["index"][-1] = first[0]
    return sides


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


def gradient_of_cosines(cosines: np.ndarray, identity: np.ndarray, kind: str) -> np.ndarray:
    """The gradient of matching by each cosine of a trigger (row) and an offer (column), `[B B]`."""

    def matching_loss(trigger: Any) -> Any:
        # The offers are the axes, so that a trigger's coordinates are its cosines.
        outputs = {"trigger_joint": trigger, "trigger_text": trigger}
        outputs["offer_joint"] = jnp.eye(len(cosines))
        settings = ConfigDict(LOSSES | {"kind": kind, "temperature": 0.07})
        pairs = jnp.asarray(identity, jnp.uint32)
        return same_style.pair_losses(outputs, pairs, ("text",), settings)["loss"]

    return np.asarray(jax.grad(matching_loss)(jnp.asarray(cosines, jnp.float32)))


def has_common_offer(identity: np.ndarray) -> np.ndarray:
    offers = [{*pair} for pair in identity.tolist()]
    return np.array([[bool(one & other) for other in offers] for one in offers])


def oracle_gradient(cosines: np.ndarray, identity: np.ndarray, kind: str) -> np.ndarray:
    """`gradient_of_cosines` by the derivatives of both losses, written out in float64."""
    s, positive = cosines.astype(np.float64), has_common_offer(identity)
    size = len(s)
    if kind == "hinge":
        active = ~positive & (s - np.diag(s)[:, None] + LOSSES["match_margin"] > 0)
        return (active - np.diag(active.sum(axis=1))) / size**2
    exponentials = np.exp(s / 0.07)
    by_trigger = exponentials / exponentials.sum(axis=1, keepdims=True)
    by_offer = exponentials / exponentials.sum(axis=0, keepdims=True)
    target = positive / positive.sum(axis=1, keepdims=True)
    return (by_trigger + by_offer - target - target.T) / (2 * 0.07 * size)


@pytest.mark.parametrize("kind", ["hinge", "softmax"])
def test_a_pair_and_its_reverse_in_one_batch_have_the_gradient_of_an_oracle(kind: str) -> None:
    # (a, b), (b, a), one that ends with a, and one of other offers.
    identity = np.array([[0, 1], [1, 0], [2, 0], [3, 4]])
    cosines = np.random.default_rng(0).uniform(-0.3, 0.6, (4, 4))
    cosines[0, 1] = cosines[1, 0] = cosines[0, 2] = 1  # an offer and itself
    actual = gradient_of_cosines(cosines, identity, kind)
    expected = oracle_gradient(cosines, identity, kind)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_a_reversed_pair_pushes_an_offer_from_itself_by_half_and_in_the_hinge_not_at_all() -> None:
    # Both triggers lie on their own vector as the other pair's offer, and far from their pair's.
    cosines, identity = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0, 1], [1, 0]])
    softmax = gradient_of_cosines(cosines, identity, "softmax")
    assert softmax[0, 1] == pytest.approx(1 / 0.07 / 4, rel=1e-4)  # 1 / 0.07 / 2 as a negative
    assert not gradient_of_cosines(cosines, identity, "hinge").any()


@pytest.mark.parametrize("kind", ["hinge", "softmax"])
def test_no_offer_of_a_batch_is_a_negative_of_itself_or_of_its_pair(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        # 12 pairs of 20 offers, of which many are in several, some with the reverse of another.
        identity = np.array([rng.permutation(20)[:2] for _ in range(8)])
        identity = rng.permutation(np.concatenate([identity, identity[:4, ::-1]]))
        gradient = gradient_of_cosines(np.zeros((12, 12)), identity, kind)
        # Where all cosines are equal, a negative's falls and a positive's rises.
        is_itself = identity[:, :1] == identity[:, 1]
        assert is_itself.sum() >= 8
        assert (gradient[is_itself] <= 0).all()
        np.testing.assert_array_equal(gradient > 0, ~has_common_offer(identity))


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
