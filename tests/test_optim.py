import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from date_jax import optim
from date_jax.networks.layouts import published_mask

PARAMS = {
    "model": {
        "image_extractor": {
            "patch_embedding": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
            "rep": jnp.ones((1, 1, 3)),
            "stage0_block0": {"rep_bias": jnp.ones((3, 2))},
            "fuse0": {"mlp": {"up": {"kernel": jnp.ones((3, 3))}}},
        },
        "head": {
            "dense": {"kernel": jnp.ones((3, 2))},
            "norm": {"scale": jnp.ones(3)},
            "words": {"embedding": jnp.ones((5, 3))},
            "position_embedding": jnp.ones((4, 3)),
        },
    }
}


def schedule(kind: str, step: int) -> float:
    schedule = optim.learning_rate_schedule(peak=0.5, steps=90, warmup=0.1, schedule=kind)
    return float(schedule(step))


def test_the_rate_rises_evenly_to_its_peak() -> None:
    assert [schedule("cosine", step) for step in (0, 3, 9)] == pytest.approx([0, 0.5 / 3, 0.5])


def test_the_first_update_of_a_warm_up_begins_the_averages_and_moves_nothing() -> None:
    rates = optim.learning_rate_schedule(peak=0.5, steps=90, warmup=0.1, schedule="cosine")
    options = {"beta2": 0.999, "weight_decay": 0.1, "clip": 1e9, "backbone_scale": 1.0}
    tx = optim.optimizer(rates, backbone_mask=published_mask, **options)
    changes, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(changes))
    for leaf in jax.tree.leaves(optax.tree.get(state, "mu")):
        np.testing.assert_allclose(leaf, 0.1)
    changes, _ = tx.update(PARAMS, state, PARAMS)
    assert all(np.all(leaf) for leaf in jax.tree.leaves(changes))


@pytest.mark.parametrize("kind", ["cosine", "step"])
def test_without_warm_up_the_first_step_has_the_peak(kind: str) -> None:
    schedule = optim.learning_rate_schedule(peak=0.5, steps=90, warmup=0.0, schedule=kind)
    assert float(schedule(0)) == 0.5
    assert float(schedule(89)) < 0.06


def test_the_cosine_falls_to_half_in_the_middle_and_to_zero_at_the_end() -> None:
    middle = 9 + (90 - 9) / 2
    around = (schedule("cosine", int(middle)) + schedule("cosine", int(middle) + 1)) / 2
    assert around == pytest.approx(0.25, abs=1e-4)
    assert schedule("cosine", 90) == pytest.approx(0)


def test_the_step_schedule_drops_to_a_tenth_after_two_thirds() -> None:
    assert [schedule("step", step) for step in (59, 61, 89)] == pytest.approx([0.5, 0.05, 0.05])


def test_only_matrices_and_word_embeddings_decay() -> None:
    head = optim.decay_mask(PARAMS)["model"]["head"]
    assert head == {
        "dense": {"kernel": True},
        "norm": {"scale": False},
        "words": {"embedding": True},
        "position_embedding": False,
    }
    assert not optim.decay_mask(PARAMS)["model"]["image_extractor"]["patch_embedding"]["bias"]


def updates(gradient: float, **changes: float) -> dict:
    options = {"beta2": 0.999, "weight_decay": 0.0, "clip": 1e9, "backbone_scale": 1.0} | changes
    tx = optim.optimizer(optax.constant_schedule(0.1), backbone_mask=published_mask, **options)
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, gradient), PARAMS)
    return tx.update(gradients, tx.init(PARAMS), PARAMS)[0]["model"]


def test_what_may_be_pretrained_moves_by_its_share_and_new_layers_at_the_full_rate() -> None:
    change = updates(1.0, backbone_scale=0.1)
    extractor = change["image_extractor"]
    for leaf in jax.tree.leaves(extractor["patch_embedding"]):
        assert np.asarray(leaf) == pytest.approx(-0.01, rel=1e-4)
    new_layers = [extractor[name] for name in ("rep", "stage0_block0", "fuse0")]
    for leaf in jax.tree.leaves([change["head"], *new_layers]):
        assert np.asarray(leaf) == pytest.approx(-0.1, rel=1e-4)


def test_weight_decay_is_the_rate_times_its_strength_times_the_weight() -> None:
    change = updates(0.0, weight_decay=0.2)["head"]
    assert np.asarray(change["dense"]["kernel"]) == pytest.approx(-0.1 * 0.2 * 1.0)
    assert np.asarray(change["norm"]["scale"]) == pytest.approx(0)


def test_one_backward_step_is_clipped_to_the_global_norm() -> None:
    tx = optim.optimizer(
        optax.constant_schedule(1.0),
        beta2=0.999,
        weight_decay=0.0,
        clip=0.5,
        backbone_scale=1.0,
        backbone_mask=published_mask,
    )
    state = tx.init(PARAMS)
    gradients = jax.tree.map(lambda leaf: jnp.full_like(leaf, 100.0), PARAMS)
    _, state = tx.update(gradients, state, PARAMS)
    first_moment = optax.tree.get(state, "mu")
    # Adam keeps a tenth of the clipped gradient after one step.
    assert float(optax.tree.norm(first_moment)) == pytest.approx(0.05, rel=1e-4)


def test_the_moving_average_ramps_up_and_then_keeps_its_decay() -> None:
    average, params = np.float64(1.0), 3.0
    leaf = jnp.ones(())
    for step in range(200):
        keep = min(0.9, (1 + step) / (10 + step))
        average = keep * average + (1 - keep) * params
        leaf = optim.moving_average(leaf, jnp.full((), params), step=jnp.array(step), decay=0.9)
        params += 0.1
        assert float(leaf) == pytest.approx(average, rel=1e-5)


def test_two_updates_are_those_of_adam_with_the_given_beta2() -> None:
    tx = optim.optimizer(
        optax.constant_schedule(0.1),
        beta2=0.9,
        weight_decay=0.0,
        clip=1e9,
        backbone_scale=1.0,
        backbone_mask=published_mask,
    )
    state, first, second = tx.init(PARAMS), 0.0, 0.0
    for step, gradient in enumerate((1.0, 3.0), start=1):
        gradients = jax.tree.map(lambda leaf, g=gradient: jnp.full_like(leaf, g), PARAMS)
        updates, state = tx.update(gradients, state, PARAMS)
        first, second = 0.9 * first + 0.1 * gradient, 0.9 * second + 0.1 * gradient**2
        expected = -0.1 * first / (1 - 0.9**step) / (second / (1 - 0.9**step)) ** 0.5
        for leaf in jax.tree.leaves(updates):
            np.testing.assert_allclose(leaf, expected, rtol=1e-5)
