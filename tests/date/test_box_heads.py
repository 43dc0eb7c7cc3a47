"""The heads of the object seeker, against loops in NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from date_jax.date import box_heads
from date_jax.date.seekers import ObjectSeeker

ROWS, GRID, LENGTH, WIDTH = 3, (4, 6), 4, 8
PLACES = GRID[0] * GRID[1]
MASK = np.arange(LENGTH)[None] < np.array([[4], [2], [3]])
SEEKER = ConfigDict({"l1_weight": 2.0, "giou_weight": 0.5})
CENTRES = [((c + 0.5) / GRID[1], (r + 0.5) / GRID[0]) for r in range(GRID[0]) for c in range(6)]
BOXES = np.array([[0.5, 0.5, 0.6, 0.8], [0.3, 0.4, 0.01, 0.01], [0.9, 0.8, 0.2, 0.4]], np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def giou(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes given by their corners."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    overlap = np.prod(np.maximum(high - low, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - overlap
    hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
    return float(overlap / union - (hull - union) / hull)


def corners(box: np.ndarray) -> np.ndarray:
    return np.concatenate([box[:2] - box[2:] / 2, box[:2] + box[2:] / 2])


def seeker(head: str) -> tuple[Any, Any, tuple[Any, ...]]:
    """`(module, params, inputs)` of a tiny object seeker."""
    rng = np.random.default_rng(0)
    shapes = [(ROWS, PLACES, WIDTH), (ROWS, LENGTH, WIDTH)]
    image, text = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    module, inputs = ObjectSeeker(2, 2, 12, head=head), (image, text, jnp.asarray(MASK))
    tree = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, GRID))["params"]
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.5, s.shape), s.dtype), tree)
    return module, params, inputs


def answers(module: Any, params: Any, inputs: Any, **options: Any) -> tuple[Any, Any]:
    """`(box, outputs)`, compiled, as NumPy's arrays."""
    apply = jax.jit(lambda params: module.apply({"params": params}, *inputs, GRID, **options))
    return jax.device_get(apply(params)[1:])


def test_the_box_of_bins_is_the_mean_of_their_values_and_the_deviation_that_of_its_sides() -> None:
    module, params, inputs = seeker("bins")
    box, outputs = answers(module, params, inputs)
    probability = softmax(np.asarray(outputs["box_logits"], np.float64))
    assert probability.shape == (ROWS, 4, box_heads.BINS)
    for row in range(ROWS):
        for number in range(4):
            values = [k / (box_heads.BINS - 1) for k in range(box_heads.BINS)]
            p = probability[row, number]
            mean = sum(p[k] * values[k] for k in range(box_heads.BINS))
            variance = sum(p[k] * (values[k] - mean) ** 2 for k in range(box_heads.BINS))
            assert box[row, number] == pytest.approx(mean, abs=1e-5)
            side = box[row, 2 + number % 2]
            deviation = outputs["deviation"][row, number]
            assert deviation == pytest.approx(np.sqrt(variance) / side, rel=1e-3)
    np.testing.assert_allclose(outputs["spread"], outputs["deviation"].mean(axis=1), rtol=1e-6)


def test_the_box_of_places_in_training_is_the_mean_of_the_tokens_boxes_under_their_scores() -> None:
    module, params, inputs = seeker("places")
    box, outputs = answers(module, params, inputs, train=True)
    probability = softmax(np.asarray(outputs["scores"], np.float64))
    own = np.asarray(outputs["place_boxes"], np.float64)
    centre = np.array(CENTRES)[None]
    assert (own[..., :2] < centre).all()
    assert (own[..., 2:] > centre).all()
    mean = np.clip((probability[..., None] * own).sum(axis=1), 0, 1)
    found = np.stack([corners(b) for b in np.asarray(box)])
    np.testing.assert_allclose(found, mean, atol=1e-5)
    assert ((box >= 0) & (box <= 1)).all()


def test_the_box_of_places_is_that_of_the_tokens_which_agree_with_the_best_one() -> None:
    """Between two products that are alike there is none."""
    module, params, inputs = seeker("places")
    box, outputs = answers(module, params, inputs)
    for row in range(ROWS):
        scores, own = (np.asarray(outputs[name][row], float) for name in ("scores", "place_boxes"))
        total, weights = np.zeros(4), 0.0
        for score, token_box in zip(scores, own, strict=True):
            best = own[scores.argmax()]
            low, high = np.maximum(token_box[:2], best[:2]), np.minimum(token_box[2:], best[2:])
            overlap = np.prod(np.maximum(high - low, 0))
            union = np.prod(token_box[2:] - token_box[:2]) + np.prod(best[2:] - best[:2]) - overlap
            if overlap / union >= 0.5:
                total, weights = total + np.exp(score) * token_box, weights + np.exp(score)
        expected = np.clip(total / weights, 0, 1)
        np.testing.assert_allclose(corners(np.asarray(box[row])), expected, atol=1e-5)
    two = jnp.array([[[0.0, 0.0, 0.2, 0.2], [0.8, 0.8, 1.0, 1.0], [0.0, 0.0, 0.2, 0.21]]])
    alone = box_heads.box_of_best(jnp.array([[2.0, 1.9, -9.0]]), two)
    np.testing.assert_allclose(alone, [[0.0, 0.0, 0.2, 0.2]], atol=1e-5)


def test_heat_raises_the_scores_of_the_tokens_where_it_is() -> None:
    module, params, inputs = seeker("places")
    heat = jnp.zeros((ROWS, PLACES)).at[:, 5].set(1.0)
    width = inputs[0].shape[-1]
    tree = {**params, "places": {**params["places"], "heat_scale": jnp.asarray(3.0)}}
    tree["common"] = {"kernel": jnp.zeros((width, width)), "bias": jnp.zeros(width)}
    plain = answers(module, params, inputs)[1]["scores"]
    products = jnp.repeat(heat[..., None] / width, width, axis=-1)
    warm = answers(module, tree, inputs, products=products)[1]["scores"]
    np.testing.assert_allclose(warm - plain, 3.0 * heat, atol=1e-5)


@pytest.mark.parametrize("head", box_heads.HEADS)
def test_the_content_of_hidden_tokens_has_no_say(head: str) -> None:
    module, params, (image, *text) = seeker(head)
    mask = jnp.asarray(np.arange(PLACES)[None] % 2 == np.array([[0], [1], [0]]))
    apply = jax.jit(
        lambda image: module.apply({"params": params}, image, *text, GRID, token_mask=mask)
    )
    before = apply(image)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, before, apply(jnp.where(mask[..., None], image, -image)))
    )
    seen = apply(jnp.where(mask[..., None], -image, image))
    assert np.abs(seen[0] - before[0]).max() > 1e-3


def test_tokens_in_the_middle_of_a_box_share_its_target_and_the_nearest_has_it_alone() -> None:
    found = box_heads.place_target(jnp.asarray(BOXES), GRID)
    for row, (x, y, width, height) in enumerate(BOXES):
        inside = [abs(a - x) <= 0.35 * width and abs(b - y) <= 0.35 * height for a, b in CENTRES]
        expected = np.array(inside, float)
        if not any(inside):
            expected[np.argmin([(a - x) ** 2 + (b - y) ** 2 for a, b in CENTRES])] = 1
        np.testing.assert_allclose(found[row], expected / expected.sum(), atol=1e-6)


def test_the_target_of_an_uncertain_box_is_wide_and_follows_its_view() -> None:
    box = jnp.array([[0.5, 0.5, 0.4, 0.4]])
    grid = (32, 32)
    x = np.array(box_heads.centres(grid))[:, 0]
    for deviation in (0.0, 0.5, 1.0):
        given = jnp.full((1, 4), deviation)
        whole = np.asarray(box_heads.place_target(box, grid, given))[0]
        # In a view from twice as far the box has half the sides, and the target half the width.
        small = np.asarray(
            box_heads.place_target(box * jnp.array([[1, 1, 0.5, 0.5]]), grid, given)
        )[0]
        spread = [np.sqrt(p @ (x - 0.5) ** 2) for p in (whole, small)]
        if deviation == 0:  # a wider one is cut at the border
            expected = 0.4 * np.sqrt(deviation**2 + 0.7**2 / 12)
            assert spread == pytest.approx([expected, expected / 2], rel=0.1)
        assert spread[1] < spread[0]


def test_the_losses_of_places_are_those_of_a_loop() -> None:
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(ROWS, PLACES)).astype(np.float32)
    reach = rng.uniform(0.05, 0.4, (ROWS, PLACES, 4))
    centre = np.array(CENTRES)[None]
    own = np.concatenate([centre - reach[..., :2], centre + reach[..., 2:]], axis=-1)
    outputs = {"scores": jnp.asarray(scores), "place_boxes": jnp.asarray(own, jnp.float32)}
    weight = np.array([1.0, 0.0, 3.0], np.float32)
    found = box_heads.distribution_terms(
        outputs, jnp.asarray(BOXES), jnp.asarray(weight), SEEKER, grid=GRID
    )
    target = np.asarray(box_heads.place_target(jnp.asarray(BOXES), GRID))
    entropy, distance = np.zeros(ROWS), np.zeros(ROWS)
    for row in range(ROWS):
        for place in range(PLACES):
            t = target[row, place]
            a, b = own[row, place], corners(BOXES[row])
            cxcywh = np.concatenate([(a[:2] + a[2:]) / 2, a[2:] - a[:2]])
            entropy[row] -= t * np.log(softmax(scores[row])[place])
            distance[row] += t * 2.0 * np.abs(cxcywh - BOXES[row]).sum()
            distance[row] += t * 0.5 * (1 - giou(a, b))
    assert found["scores"] == pytest.approx(entropy @ weight / 4, rel=1e-4)
    assert found["places"] == pytest.approx(distance @ weight / 4, rel=1e-4)


def test_the_loss_of_bins_is_least_where_the_bins_say_what_the_target_says() -> None:
    box = jnp.asarray(BOXES)
    target = np.asarray(box_heads.bin_target(box))
    values = np.linspace(0, 1, box_heads.BINS)
    inner = (BOXES > 0.1) & (BOXES < 0.9)
    np.testing.assert_allclose((target * values).sum(-1)[inner], BOXES[inner], atol=0.01)

    def loss(logits: jax.Array) -> float:
        outputs = {"box_logits": logits}
        terms = box_heads.distribution_terms(outputs, box, jnp.ones(ROWS), SEEKER, grid=GRID)
        return float(terms["scores"])

    right = jnp.log(jnp.asarray(target) + 1e-30)
    entropy = -(target * np.log(target + 1e-30)).sum(-1).mean()
    assert loss(right) == pytest.approx(entropy, rel=1e-4)
    assert loss(jnp.roll(right, 1, axis=-1)) > loss(0.5 * right) > loss(right)


def test_loc_has_no_distribution_to_learn() -> None:
    outputs = {"box_cxcywh": jnp.asarray(BOXES)}
    terms = box_heads.distribution_terms(
        outputs, jnp.asarray(BOXES), jnp.ones(ROWS), SEEKER, grid=GRID
    )
    assert terms == {}


@pytest.mark.parametrize("head", ["bins", "places"])
def test_a_head_learns_where_a_marked_token_is(head: str) -> None:
    rng = np.random.default_rng(0)
    module = ObjectSeeker(1, 2, 16, head=head)
    place = rng.integers(0, PLACES, 32)
    image = 0.1 * rng.normal(size=(32, PLACES, WIDTH)).astype(np.float32)
    image[np.arange(32), place, 0] += 3.0
    true = np.concatenate([np.array(CENTRES)[place], np.full((32, 2), 0.2)], axis=1)
    inputs = jnp.asarray(image), jnp.zeros((32, LENGTH, WIDTH)), jnp.ones((32, LENGTH), bool)
    params = jax.jit(lambda key: module.init(key, *inputs, GRID))(jax.random.key(0))["params"]
    tx = optax.adam(0.02)

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        _, box, outputs = module.apply({"params": params}, *inputs, GRID)
        box_true = jnp.asarray(true, jnp.float32)
        options = {"config": SEEKER, "grid": GRID}
        terms = box_heads.distribution_terms(outputs, box_true, jnp.ones(32), **options)
        return sum(terms.values()), jnp.abs(box - box_true).mean()

    @jax.jit
    def step(params: Any, state: Any) -> tuple[Any, Any, jax.Array]:
        (_, error), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = tx.update(gradient, state)
        return optax.apply_updates(params, updates), state, error

    errors, state = [], tx.init(params)
    for _ in range(80):
        params, state, error = step(params, state)
        errors.append(float(error))
    assert errors[-1] < errors[0] / 2
