"""CAPTURE's losses: what is in them, what never gets near them, and that each of them falls."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import capture as configs
from date_jax import augment, sharding
from date_jax.capture import network, predictions, proposals
from date_jax.capture import task as capture
from date_jax.data.corpus import Corpus
from date_jax.data.tokenizer import SPECIAL, WordPieces
from date_jax.errors import DataError
from date_jax.task import Learner, Memory

ROWS, VOCAB, LENGTH, MASK = 16, 24, 6, 4
TERMS = {"words", "regions", "contrast", "joined", "objectness", "box", "loss"}


def small(kind: str) -> ConfigDict:
    """Programs that compile fast: these tests look at numbers, not at pictures."""
    config = configs.get_config().unlock()
    config.steps, config.batch_size = 40, ROWS
    config.data.image_size, config.data.text_length = 16, LENGTH
    config.model.image.update(patch=4, width=8, depths=(1, 1), heads=(1, 2), window=2)
    config.model.regions.update(kind=kind, count=3)
    config.model.streams.update(width=8, embedding=8)
    for name in ("text", "image", "joint"):
        config.model.streams[name].update(layers=1, heads=2)
    config.model.streams.cross.update(layers=1, heads=2, width=8)
    config.model.streams.text.mlp_width = config.model.streams.image.mlp_width = 16
    config.retrieval.instances = 2
    if kind == "precomputed":
        config.model.regions.width = 12
    return config


def batch(kind: str = "proposals") -> dict[str, dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)

    def pictures() -> np.ndarray:
        return rng.integers(0, 255, (ROWS, 16, 16, 3), np.uint8)

    common = {"index": np.arange(ROWS, dtype=np.int32), "mask": np.ones(ROWS, bool)}
    posts = {
        "text": rng.integers(MASK + 1, VOCAB, (ROWS, LENGTH)).astype(np.int32),
        "text_mask": np.arange(LENGTH)[None] < rng.integers(3, LENGTH + 1, (ROWS, 1)),
    }
    corners = np.sort(rng.random((ROWS, 3, 2, 2)), axis=2).astype(np.float32)
    if kind == "precomputed":
        posts |= {
            "regions": rng.normal(size=(ROWS, 3, 12)).astype(np.float32),
            "region_box_xyxy": corners.reshape(ROWS, 3, 4),
            "region_mask": np.arange(3)[None] < rng.integers(1, 4, (ROWS, 1)),
        }
        return {"posts": posts | common}
    low, high = corners[:, :, 0], corners[:, :, 1] + 0.1
    composites = {
        "image": pictures(),
        "box_cxcywh": np.concatenate([(low + high) / 2, high - low], axis=-1),
        "box_mask": np.arange(3)[None] < rng.integers(1, 4, (ROWS, 1)),
    }
    return {"posts": {"image": pictures()} | posts | common, "composites": composites | common}


def learner_of(config: ConfigDict) -> Learner:
    return capture.post_learner(config, VOCAB, MASK, jnp.arange(VOCAB, dtype=jnp.int32))


def some_params(learner: Learner, given: Any) -> Any:
    shapes = jax.eval_shape(learner.init, jax.random.key(0), given)[0]
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), s.dtype), shapes)


def loss_of(learner: Learner) -> Any:
    def step(params: Any, given: Any, step: Any = 30) -> Any:
        (loss, aux), gradient = jax.value_and_grad(learner.loss, has_aux=True)(
            params, Memory(), given, step=jnp.int32(step), rng=jax.random.key(2)
        )
        return (loss, aux.metrics), gradient

    return step


def compiled(function: Any, *inputs: Any) -> Any:
    return jax.jit(function).lower(*inputs).compile()


class Compiled:
    """The loss and its gradient, on batches whose posts carry what they never should."""

    def __init__(self) -> None:
        self.learner = learner_of(small("proposals"))
        self.params = some_params(self.learner, batch())
        self.run = compiled(loss_of(self.learner), self.params, self.with_labels(0))

    @staticmethod
    def with_labels(seed: int) -> Any:
        rng, given = np.random.default_rng(seed), batch()
        given["posts"] |= {
            "product_id": rng.integers(0, 99, ROWS).astype(np.int32),
            "box_cxcywh": rng.random((ROWS, 3, 4)).astype(np.float32),
            "box_mask": rng.random((ROWS, 3)) < 0.5,
        }
        return given


@pytest.fixture(scope="module")
def main() -> Compiled:
    return Compiled()


def equal(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_no_label_and_no_box_of_a_post_reaches_loss_or_gradient(main: Compiled) -> None:
    equal(main.run(main.params, main.with_labels(1)), main.run(main.params, main.with_labels(2)))


def test_the_boxes_of_composites_do_reach_them(main: Compiled) -> None:
    (_, before), _ = main.run(main.params, main.with_labels(0))
    given = main.with_labels(0)
    given["composites"]["box_cxcywh"] = given["composites"]["box_cxcywh"][::-1].copy()
    (_, after), _ = main.run(main.params, given)
    assert set(before) == TERMS
    for name in TERMS:
        assert (before[name] != after[name]) == (name in ("objectness", "box", "loss")), name


def test_every_parameter_gets_a_gradient(main: Compiled) -> None:
    (_, terms), gradient = main.run(main.params, main.with_labels(0))
    assert all(np.isfinite(value) for value in terms.values())
    silent = [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(gradient)
        if not np.abs(leaf).max() > 0
    ]
    # Softmax does not see what is added to all of a query's logits.
    assert all("key" in name and "bias" in name for name in silent), silent


def test_the_loss_on_all_devices_is_that_on_one(main: Compiled) -> None:
    mesh = sharding.device_mesh()
    assert mesh.size == 8

    def on_mesh(params: Any, given: Any) -> Any:
        with sharding.mesh_context(mesh):
            return loss_of(main.learner)(params, given)

    given = sharding.global_batch(mesh, main.with_labels(0))
    found = compiled(on_mesh, main.params, given)(main.params, given)
    expected = main.run(main.params, main.with_labels(0))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), found, expected
    )
    for name, value in expected[0][1].items():
        np.testing.assert_allclose(found[0][1][name], value, rtol=3e-5, err_msg=name)


@pytest.mark.parametrize("kind", ["grid", "precomputed"])
def test_other_kinds_of_regions_have_the_same_terms(kind: str) -> None:
    learner, given = learner_of(small(kind)), batch(kind)
    params = some_params(learner, given)
    run = compiled(
        lambda p, b: learner.loss(p, Memory(), b, step=jnp.int32(3), rng=jax.random.key(0)),
        params,
        given,
    )
    _, (terms, _) = run(params, given)
    assert set(terms) == TERMS - ({"objectness", "box"} if kind == "precomputed" else set())
    assert all(np.isfinite(value) for value in terms.values())
    vectors = jax.eval_shape(learner.predict["vectors"], params, given["posts"])
    assert vectors.shape == (ROWS, 4, 8)


def test_instances_are_close_ups_of_the_proposals(main: Compiled) -> None:
    """Against the whole post's vectors of pictures that are cut out beforehand."""
    rows = 4
    given = {key: value[:rows] for key, value in batch()["posts"].items()}
    names = ("instance_box", "instance_mask", "instance_vectors")

    def ask(params: Any, given: Any) -> Any:
        return {name: main.learner.predict[name](params, given) for name in names}

    found = compiled(ask, main.params, given)(main.params, given)
    assert found["instance_box"].shape == (rows, 2, 4)
    assert found["instance_mask"][:, 0].all()
    vectors = compiled(main.learner.predict["vectors"], main.params, given)
    steps = (np.arange(16) + 0.5) / 16
    for instance in range(2):
        box = np.asarray(found["instance_box"][:, instance], np.float64)
        side = np.maximum(1.8 * (box[:, 2:] - box[:, :2]).max(axis=1), 0.1)
        middle = (box[:, :2] + box[:, 2:]) / 2
        cut = np.empty((rows, 16, 16, 3))
        for row in range(rows):
            picture, ground = cut_out(given["image"][row].astype(np.float64), box[row])
            x, y = (middle[row, n] - side[row] / 2 + side[row] * steps for n in (0, 1))
            cut[row] = read(picture, ground, y, x)
        near = {**given, "image": cut.round().clip(0, 255).astype(np.uint8)}
        expected = vectors(main.params, near)
        close = np.abs(found["instance_vectors"][:, instance] - expected).mean(axis=(1, 2))
        assert close.max() < 0.05 * np.abs(expected).mean(), (instance, close)  # rounded pixels


def cut_out(picture: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture with nothing but what is in the box, and the mean colour of the rest."""
    middle, half = (box[:2] + box[2:]) / 2, 0.55 * (box[2:] - box[:2])
    place = (np.arange(len(picture)) + 0.5) / len(picture)
    x, y = (np.abs(place - middle[n]) <= half[n] for n in (0, 1))
    inside = y[:, None] & x[None]
    ground = picture[~inside].mean(axis=0) if not inside.all() else np.zeros(3)
    return np.where(inside[..., None], picture, ground), ground


def read(picture: np.ndarray, ground: np.ndarray, ys: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """Bilinear readings; outside the picture, from half a pixel on, the ground's colour."""
    size, found = len(picture), np.empty((len(ys), len(xs), 3))
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            total, weight = np.zeros(3), 0.0
            for r in range(size):
                for c in range(size):
                    w = max(0.0, 1 - abs(y * size - 0.5 - r)) * max(
                        0.0, 1 - abs(x * size - 0.5 - c)
                    )
                    total, weight = total + w * picture[r, c], weight + w
            inside = np.prod([np.clip(2 * min(p, 1 - p) * size + 1, 0, 1) for p in (x, y)])
            found[i, j] = inside * total / max(weight, 1e-6) + (1 - inside) * ground
    return found


def test_what_is_outside_a_box_gets_its_mean_colour() -> None:
    box = np.array(
        [[0.2, 0.1, 0.7, 0.5], [0.51, 0.51, 0.52, 0.52], [-1, -1, 2, 2], [0.8, -0.3, 1.4, 0.6]]
    )
    picture = np.random.default_rng(4).random((len(box), 16, 16, 3))
    shown, ground = predictions.cut_outs(jnp.float32(picture), jnp.float32(box))
    middle, half = (box[:, :2] + box[:, 2:]) / 2, (box[:, 2:] - box[:, :2]) / 2 / 1.1
    asked = np.concatenate([middle - half, middle + half], axis=1)  # it is taken larger there
    for row in range(len(box)):
        expected, colour = cut_out(picture[row], asked[row])
        np.testing.assert_allclose(shown[row], expected, atol=1e-6)
        np.testing.assert_allclose(ground[row], colour, atol=1e-6)
    assert not ground[2].any()


def test_joined_tells_whether_each_text_and_picture_is_nearest_to_its_own() -> None:
    rng = np.random.default_rng(5)

    def some() -> np.ndarray:
        x = rng.random((6, 5))
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    names = ("text_co", "image_co", "text_uni", "image_uni")
    out = {name: jnp.asarray(some()) for name in names}
    out |= {name: jnp.ones(6) for name in ("words", "word_count", "regions", "region_count")}
    expected = 0.0
    for kind in ("text", "image"):
        both = np.concatenate([out[f"{kind}_co"], out[f"{kind}_uni"]]).astype(np.float64)
        for row in range(12):
            logits = np.delete(both @ both[row] / 0.1, row)
            own = both[row] @ both[(row + 6) % 12] / 0.1
            expected += (np.log(np.exp(logits).sum()) - own) / 24
    terms = capture.loss_terms(out, 0.1)
    np.testing.assert_allclose(terms["joined"], expected, rtol=1e-5)
    alone = capture.loss_terms({k: v for k, v in out.items() if not k.endswith("_co")}, 0.1)
    assert set(alone) == set(terms) - {"joined"}


def test_the_published_losses_are_finite_in_bfloat16_with_dropout() -> None:
    config = small("proposals")
    config.loss.joined, config.model.dtype, config.model.streams.dropout = 0.0, "bfloat16", 0.1
    config.model.rows_at_once = 4
    learner = learner_of(config)
    params = some_params(learner, batch())

    def loss(params: Any, given: Any) -> Any:
        return learner.loss(params, Memory(), given, step=jnp.int32(3), rng=jax.random.key(0))

    _, (terms, _) = compiled(loss, params, batch())(params, batch())
    assert set(terms) == TERMS - {"joined"}
    assert all(np.isfinite(value) for value in terms.values())


@pytest.mark.parametrize("last", ["[MASK]", "[PAD]"])
def test_a_vocabulary_without_words_behind_its_special_pieces_is_refused(last: str) -> None:
    vocab = [piece for piece in ("[MASK]", *SPECIAL, "mug") if piece != last]
    vocab = list(dict.fromkeys([*vocab, last]))
    config = small("proposals")
    config.data.vocab = "vocab.txt"
    corpus = Corpus({}, WordPieces(vocab, length=LENGTH), 16, [], "")
    with pytest.raises(DataError, match=r"vocab.txt: \[MASK\] is line .* must come first"):
        capture.learner(config, corpus.tokenizer, {})


def test_each_term_falls(main: Compiled) -> None:
    """Small steps against the gradient's sign, on one batch with the same parts hidden."""
    params, seen = main.params, []
    for _ in range(60):
        (_, terms), gradient = main.run(params, main.with_labels(0))
        params = jax.tree.map(lambda p, g: np.asarray(p) - 0.01 * np.sign(g), params, gradient)
        seen.append(terms)
    for name in TERMS:
        assert seen[-1][name] < 0.9 * seen[0][name], (name, seen[0][name], seen[-1][name])


@pytest.mark.parametrize("pool", [1, 2])
def test_regions_of_a_vit_are_read_from_its_grid_of_tokens(pool: int) -> None:
    config = small("proposals")
    vit = {"kind": "vit", "depths": (1,), "heads": (2,), "width": 8, "pool": pool}
    config.model.image.update(vit)
    config.model.image.vit.positions = 4
    model = network.Capture(config.model, VOCAB, LENGTH)
    posts = {key: jnp.asarray(value[:2]) for key, value in batch()["posts"].items()}
    posts["image"] = augment.plain_view(posts["image"])
    variables = model.init(jax.random.key(0), posts, method=network.Capture.init_outputs)
    bound = model.bind(variables)
    side = 4 // pool
    tokens, grid = bound.tokens(posts["image"]), bound.grid(posts["image"])
    assert grid == (side, side)
    assert tokens.shape == (2, side * side, 8)
    regions = bound.regions(posts)
    assert regions.feature.shape == (2, 3, 8)
    # A region that is the middle of one cell reads that cell's token.
    cells = jnp.asarray(proposals.cells_xyxy(grid))[None]
    middle = (cells[..., :2] + cells[..., 2:]) / 2
    points = jnp.tile(jnp.concatenate([middle, middle], axis=-1), (2, 1, 1))
    np.testing.assert_allclose(proposals.roi_align(tokens, points, grid), tokens, atol=1e-5)
