"""PG-DA's losses: what is in them, for every option, and that no target box gets near them."""

import json
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from date_jax import boxes
from date_jax.data import pipeline
from date_jax.date import adaptive, aligner, between_steps, network, supervised, teacher
from date_jax.date import batches as streams
from date_jax.date.aligner import FEATURES
from date_jax.pairs.vectors import unit_vectors
from date_jax.task import Learner, Memory
from tests.date.test_aligner import mmd_by_loop

ROWS, VOCAB = 8, 20


@pytest.fixture
def config(tiny_config: ConfigDict) -> ConfigDict:
    """Smaller still: these tests need programs that compile fast, not pictures."""
    tiny_config.batch_size = ROWS
    tiny_config.data.image_size, tiny_config.data.text_length = 16, 6
    tiny_config.model.width = 16
    tiny_config.model.image.update(patch=4, width=8, depths=(1, 1), heads=(1, 2), window=2)
    tiny_config.model.text.update(layers=1, width=8, heads=2)
    tiny_config.model.fusion.update(layers=1, heads=2, mlp_width=16)
    tiny_config.aligner.hidden = 8
    return tiny_config


def domain(seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 255, (ROWS, 16, 16, 3), np.uint8),
        "text": rng.integers(5, VOCAB, (ROWS, 6)).astype(np.int32),
        "text_mask": np.arange(6)[None] < rng.integers(3, 6, (ROWS, 1)),
        "product_id": rng.integers(0, 5, ROWS).astype(np.int32),
        "index": np.arange(ROWS, dtype=np.int32),
        "mask": np.ones(ROWS, bool),
    }


def some_boxes(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.3, 0.6, (ROWS, 4)).astype(np.float32)


def batch() -> dict[str, dict[str, np.ndarray]]:
    """A batch of stage 2 or 3; some source rows have no box."""
    boxes = {"box_cxcywh": some_boxes(2), "box_mask": np.arange(ROWS) % 3 > 0}
    return {"source": {**domain(0), **boxes}, "target": domain(1)}


def memory(**pseudo_boxes: np.ndarray) -> Memory:
    """The memory in stage 3: every second target row has a pseudo box."""
    weight = (np.arange(ROWS) % 2).astype(np.float32)
    table = {"box_cxcywh": some_boxes(3), "weight": weight}
    return Memory({"pseudo_boxes": table | pseudo_boxes}, {})


def some_params(learner: Learner) -> Any:
    """In the shapes of `init`, which would take longer to compile than all that is tested here."""
    shapes = jax.eval_shape(learner.init, jax.random.key(0), batch())[0]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), s.dtype), shapes)


def learner_of(config: ConfigDict) -> Learner:
    return adaptive.learner(config, VOCAB, jnp.arange(VOCAB, dtype=jnp.int32), ROWS)


def step_of(learner: Learner) -> Any:
    """`(params, memory, batch) -> ((loss, aux), gradient)` in the middle of training."""

    def step(params: Any, memory: Memory, batch: Any) -> Any:
        return jax.value_and_grad(learner.loss, has_aux=True)(
            params, memory, batch, step=jnp.int32(10), rng=jax.random.key(0)
        )

    return jax.jit(step)


class Compiled:
    """The step on batches whose target part carries boxes it should never have."""

    def __init__(self, config: ConfigDict):
        self.config = config
        self.learner = learner_of(config)
        self.params = some_params(self.learner)
        self.step = step_of(self.learner)
        given = self.with_target_boxes(some_boxes(4))
        self.lowered = self.step.lower(self.params, memory(), given)
        self._run = self.lowered.compile()

    @staticmethod
    def with_target_boxes(boxes: np.ndarray, **changes: Any) -> Any:
        given = batch()
        given["target"] |= {"box_cxcywh": boxes, "box_mask": np.ones(ROWS, bool)}
        for key, value in changes.items():
            side, name = key.split("_", 1)
            given[side][name] = value
        return given

    def __call__(
        self,
        boxes: np.ndarray | None = None,
        pseudo_boxes: dict[str, np.ndarray] | None = None,
        **changes: Any,
    ) -> Any:
        """`(terms, gradient)`; a change is named `source_<key>` or `target_<key>`."""
        boxes = some_boxes(4) if boxes is None else boxes
        given = self.with_target_boxes(boxes, **changes)
        (loss, aux), gradient = jax.device_get(
            self._run(self.params, memory(**pseudo_boxes or {}), given)
        )
        assert loss == aux.metrics["loss"]
        return aux.metrics, gradient


_compiled: list[Compiled] = []


@pytest.fixture
def compiled(config: ConfigDict) -> Compiled:
    if not _compiled:
        _compiled.append(Compiled(config))
    return _compiled[0]


def is_same(one: Any, other: Any) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, one, other))


def test_the_loss_is_the_weighted_sum_of_its_terms(compiled: Compiled) -> None:
    terms, gradient = compiled()
    config = compiled.config
    weights = {
        "box": config.object_seeker.weight,
        "image": config.image_seeker.weight,
        "target_image": config.image_seeker.target_weight,
        "align_image": config.aligner.weight * config.aligner.image_weight,
        "align_text": config.aligner.weight * config.aligner.text_weight,
        "align_object": config.aligner.weight,
        "pseudo": config.pseudo_boxes.weight * terms["pseudo_share"],
    }
    assert terms.keys() == weights.keys() | {"iou", "pseudo_share", "loss"}
    assert all(np.shape(term) == () and np.isfinite(term) for term in terms.values())
    assert terms["pseudo_share"] == 0.5
    assert 0 < terms["iou"] < 1
    total = sum(weight * terms[name] for name, weight in weights.items())
    assert terms["loss"] == pytest.approx(total, rel=1e-5)
    assert jax.tree.all(jax.tree.map(lambda leaf: np.isfinite(leaf).all(), gradient))


def test_unselected_targets_have_exactly_no_pseudo_loss(compiled: Compiled) -> None:
    none = np.zeros(ROWS, np.float32)
    terms, gradient = compiled(pseudo_boxes={"weight": none})
    assert terms["pseudo"] == terms["pseudo_share"] == 0
    garbage = np.full((ROWS, 4), np.nan, np.float32)
    again = compiled(pseudo_boxes={"weight": none, "box_cxcywh": garbage})
    assert is_same((terms, gradient), again)


def test_only_selected_rows_train_on_their_pseudo_boxes(compiled: Compiled) -> None:
    chosen = memory().replicated["pseudo_boxes"]["weight"] > 0
    before, other = some_boxes(3), some_boxes(9)
    unselected = np.where(chosen[:, None], before, other)
    assert is_same(compiled(), compiled(pseudo_boxes={"box_cxcywh": unselected}))
    selected, _ = compiled(pseudo_boxes={"box_cxcywh": other})
    assert selected["pseudo"] != compiled()[0]["pseudo"]


def test_each_target_row_trains_on_its_own_entry_of_the_table(compiled: Compiled) -> None:
    order = np.random.default_rng(5).permutation(ROWS).astype(np.int32)
    table = memory().replicated["pseudo_boxes"]
    place = np.argsort(order)
    shuffled = {name: value[place] for name, value in table.items()}
    assert is_same(compiled(), compiled(pseudo_boxes=shuffled, target_index=order))


def test_source_rows_without_a_box_have_no_say_in_where_boxes_are(compiled: Compiled) -> None:
    known = batch()["source"]["box_mask"]
    garbage = np.where(known[:, None], some_boxes(2), np.float32(np.nan))
    assert is_same(compiled(), compiled(source_box_cxcywh=garbage))
    elsewhere, _ = compiled(source_box_cxcywh=some_boxes(9))
    assert elsewhere["box"] != compiled()[0]["box"]


def test_boxes_in_the_target_stream_would_change_nothing_to_the_bit(compiled: Compiled) -> None:
    before = compiled()
    assert is_same(before, compiled(some_boxes(99)))
    assert is_same(before, compiled(np.full((ROWS, 4), np.nan, np.float32)))


def test_the_compiled_program_does_not_even_take_target_boxes(compiled: Compiled) -> None:
    without = compiled.step.lower(compiled.params, memory(), batch())
    assert without.as_text() == compiled.lowered.as_text()


def test_the_first_stage_needs_the_source_alone(compiled: Compiled) -> None:
    alone = {"source": batch()["source"]}
    (_, aux), gradient = jax.eval_shape(compiled.step, compiled.params, memory(), alone)
    assert aux.metrics.keys() == {"box", "image", "iou", "loss"}
    assert jax.tree.structure(gradient) == jax.tree.structure(compiled.params)


# Each choice of the config that the defaults and the golden step leave out is in one of them.
OPTIONS = {
    "mean_sigmoid_unaligned": {
        "model.image.pooling": "mean",
        "image_seeker.loss": "sigmoid",
        "aligner.kind": "none",
        "model.fusion.norm_first": False,
    },
    "multi_scale_prior_adversarial": {
        "model.image.pooling": "multi_scale",
        "model.image.patch": 2,
        "model.image.depths": (1, 1, 1),
        "model.image.heads": (1, 2, 2),
        "image_seeker.prior": "dual_softmax",
        "aligner.kind": "adversarial",
        "model.dtype": "bfloat16",
    },
}


def plain_view(
    batch: Any, box_cxcywh: jax.Array, *, step: Any, rng: Any, config: Any, swap_table: Any
) -> Any:
    image = batch["image"].astype(jnp.float32) / 255 - 0.5
    return {"image": image, "text": batch["text"], "text_mask": batch["text_mask"]}, box_cxcywh


@pytest.mark.parametrize("name", OPTIONS)
def test_every_other_option_takes_a_gradient_step(
    config: ConfigDict, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No option touches the views, and they are half of what there is to compile.
    monkeypatch.setattr("date_jax.augment.strong_view", plain_view)
    config.update_from_flattened_dict(OPTIONS[name])
    learner = learner_of(config)
    arguments = params, *_ = some_params(learner), memory(), batch()
    step = step_of(learner).lower(*arguments).compile()
    (loss, (terms, _)), gradient = jax.device_get(step(*arguments))
    assert all(np.shape(term) == () and np.isfinite(term) for term in terms.values())
    assert jax.tree.all(jax.tree.map(lambda leaf: np.isfinite(leaf).all(), gradient))
    assert {np.asarray(leaf).dtype for leaf in jax.tree.leaves((loss, gradient))} == {
        np.dtype(np.float32)
    }
    kind = config.aligner.kind
    assert ("align_object" in terms) == (kind != "none")
    assert ("aligner" in params) == (kind != "none")
    flat = jax.tree_util.tree_leaves_with_path(gradient["model"])
    still = {jax.tree_util.keystr(path) for path, leaf in flat if not np.any(leaf)}
    # Whatever the options leave without a gradient is not to be found in the network at all, but
    # for the bias that serves the sigmoid loss only.
    expected = set() if config.image_seeker.loss == "sigmoid" else {"['image_seeker']['bias']"}
    assert still == expected


def test_the_loss_aligns_with_what_the_queue_holds_and_without_the_diagonal_where_asked(
    config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("date_jax.augment.strong_view", plain_view)
    config.aligner.update(queue=ROWS + 4, unbiased=True)
    learner, rng = learner_of(config), np.random.default_rng(0)
    shape = 4, config.model.width
    earlier = {
        side: {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name in FEATURES}
        for side in ("source", "target")
    }
    empty = aligner.empty_queue(ROWS + 4, config.model.width)
    queue = aligner.updated_queue(empty, earlier["source"], earlier["target"])
    before = memory()._replace(replicated={**memory().replicated, "queue": queue})
    options = {"step": jnp.int32(10), "rng": jax.random.key(0)}
    loss = jax.jit(lambda *arguments: learner.loss(*arguments, **options))
    _, (terms, after) = jax.device_get(loss(some_params(learner), before, batch()))
    # What the batch brought lies in front, what came earlier behind it.
    queue = after.replicated["queue"]
    assert queue["filled"] == ROWS + 4
    sides = [queue[side]["loc"] for side in ("source", "target")]
    for side, rows in zip(("source", "target"), sides, strict=True):
        np.testing.assert_array_equal(rows[ROWS:], earlier[side]["loc"])
        assert np.abs(rows[:ROWS]).min() > 0
    assert terms["align_object"] == pytest.approx(mmd_by_loop(*sides, unbiased=True), rel=1e-4)


def test_equal_texts_are_positives_of_each_other_as_equal_products_are(config: ConfigDict) -> None:
    rng = np.random.default_rng(0)
    out = {
        "query_embedding": unit_vectors(jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)),
        "image_embedding": unit_vectors(jnp.asarray(rng.normal(size=(4, 6)), jnp.float32)),
        "scale": jnp.float32(5.0),
        "bias": jnp.float32(0.0),
    }
    alike = np.array([[3, 4, 0], [3, 4, 0], [4, 3, 0], [3, 4, 5]], np.int32)
    other = np.array([[3, 4, 0], [3, 4, 1], [4, 3, 0], [3, 4, 5]], np.int32)

    def loss(product_id: list[int], text: np.ndarray) -> float:
        batch = {"product_id": jnp.asarray(product_id), "text": jnp.asarray(text)}
        return float(supervised.image_loss(out, batch, config.image_seeker))

    assert loss([0, 1, 2, 3], alike) == loss([0, 0, 2, 3], other) != loss([0, 1, 2, 3], other)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_each_chunk_of_a_batch_drops_other_units(config: ConfigDict, dropout: float) -> None:
    config.model.rows_at_once, config.model.fusion.dropout = 2, dropout
    config.augment.focus = 0.0  # and at step 0 nothing else changes a picture
    model = network.Date(config.model, VOCAB, 6)
    forward = network.training_forward(model, config, jnp.arange(VOCAB, dtype=jnp.int32))
    alike = {name: jnp.repeat(rows[:1], ROWS, axis=0) for name, rows in domain(0).items()}
    boxes = jnp.full((ROWS, 4), 0.5)
    view = jax.jit(lambda p: forward(p, alike, boxes, jnp.int32(0), jax.random.key(1))[0]["loc"])
    found = np.asarray(view(some_params(learner_of(config)))).reshape(4, 2, -1)
    apart = np.abs(found[:, None] - found[None]).max(axis=(2, 3))
    same = apart < 1e-6
    assert (same == (np.eye(4, dtype=bool) if dropout else np.ones((4, 4), bool))).all()


def test_predictions_are_unit_vectors_boxes_and_overlaps(config: ConfigDict) -> None:
    learner = learner_of(config)
    params = some_params(learner)
    predict = jax.jit(lambda p, b: {name: f(p, b) for name, f in learner.predict.items()})
    found = jax.device_get(predict.lower(params, domain(0)).compile()(params, domain(0)))
    assert found.keys() == {
        *("image_embedding", "query_embedding", "box_cxcywh"),
        *("pseudo_box_cxcywh", "agreement", "confidence_features"),
    }
    for name in ("image_embedding", "query_embedding"):
        assert found[name].shape == (ROWS, config.model.width)
        np.testing.assert_allclose(np.linalg.norm(found[name], axis=1), 1, rtol=1e-5)
    assert found["box_cxcywh"].shape == found["pseudo_box_cxcywh"].shape == (ROWS, 4)
    assert ((found["box_cxcywh"] > 0) & (found["box_cxcywh"] < 1)).all()
    assert found["agreement"].shape == (ROWS,)
    assert ((found["agreement"] >= 0) & (found["agreement"] <= 1)).all()


def test_with_one_look_a_pseudo_box_is_what_the_network_finds_in_the_picture(
    config: ConfigDict,
) -> None:
    config.pseudo_boxes.looks = 1
    learner = learner_of(config)
    params, rows = some_params(learner), domain(0)
    names = ("box_cxcywh", "pseudo_box_cxcywh")
    predict = jax.jit(lambda p, b: [boxes.xyxy(learner.predict[name](p, b)) for name in names])
    found = predict(params, rows)
    np.testing.assert_allclose(found[1], np.clip(found[0], 0, 1), atol=1e-4)


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_a_pseudo_box_is_found_again_in_a_close_up_and_held_against_that_of_another_view(
    config: ConfigDict, flip: float
) -> None:
    """Every view is made here by NumPy's mirroring and by Pillow's cropping and resizing."""
    config.augment.flip = flip
    swapped = np.arange(VOCAB, dtype=np.int32)
    swapped[[6, 9]] = swapped[[9, 6]]  # words such as left and right
    learner = adaptive.learner(config, VOCAB, jnp.asarray(swapped), ROWS)
    params, rows = some_params(learner), domain(0)
    names = ("box_cxcywh", "pseudo_box_cxcywh", "agreement")
    predict = jax.jit(lambda p, b: {name: learner.predict[name](p, b) for name in names})
    found = jax.device_get(predict(params, rows))
    size = rows["image"].shape[1]
    whole = np.tile(np.float32([0.5, 0.5, 1, 1]), (ROWS, 1))

    def looked_at(rows: dict[str, np.ndarray], box: np.ndarray, margin: float) -> np.ndarray:
        """What is found in cut-outs around boxes, in the whole pictures and cut at their border."""
        views, windows = [], []
        for image, (x, y, width, height) in zip(rows["image"], box, strict=True):
            side = max(margin * max(width, height), 0.1)
            low = np.array([x, y]) - side / 2
            mean = image.mean(axis=(0, 1))
            around = np.round(np.broadcast_to(mean, (3 * size, 3 * size, 3))).astype(np.uint8)
            around[size : 2 * size, size : 2 * size] = image
            corner = (low + 1) * size
            view = Image.fromarray(around).resize(
                (size, size), Image.Resampling.BILINEAR, box=(*corner, *(corner + side * size))
            )
            views.append(np.asarray(view))
            windows.append([*low, side])
        lows, sides = np.array(windows)[:, :2], np.array(windows)[:, 2:]
        inside = np.asarray(predict(params, {**rows, "image": np.stack(views)})["box_cxcywh"])
        centre, half = inside[:, :2] * sides + lows, inside[:, 2:] * sides / 2
        low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
        return np.concatenate([(low + high) / 2, high - low], axis=1)

    again = looked_at(rows, found["box_cxcywh"], teacher.CLOSE_UP)
    np.testing.assert_allclose(found["pseudo_box_cxcywh"], again, atol=0.02)
    if flip:
        mirrored = {"image": rows["image"][:, :, ::-1], "text": swapped[rows["text"]]}
        other = np.array(predict(params, {**rows, **mirrored})["pseudo_box_cxcywh"])
        other[:, 0] = 1 - other[:, 0]
    else:
        other = looked_at(rows, looked_at(rows, whole, streams.OTHER_ZOOM), teacher.CLOSE_UP)
    own = boxes.xyxy(jnp.asarray(found["pseudo_box_cxcywh"]))
    overlap = np.asarray(boxes.iou(boxes.xyxy(jnp.asarray(other, jnp.float32)), own))
    assert overlap.min() < 0.8
    np.testing.assert_allclose(found["agreement"], overlap, atol=1e-4 if flip else 0.05)


@pytest.mark.parametrize(
    ("method", "starts"), [("date", (4, 6)), ("oracle", (4, 6)), ("source_only", (12, 12))]
)
def test_stages_start_at_their_share_of_the_steps(
    config: ConfigDict, method: str, starts: tuple[int, int]
) -> None:
    config.method = method
    assert (streams.align_start(config), streams.pseudo_start(config)) == starts


def written(folder: Path, target_box: list[int]) -> Path:
    """Photos of two domains; all that a caller may choose is where the target's boxes are."""
    folder.mkdir()
    lines = []
    for number in range(48):
        live = number % 2 == 1
        name = f"{number}.png"
        Image.new("RGB", (32, 32), (5 * number, 100, 50)).save(folder / name)
        row = {
            "image": name,
            "query": f"cup number {number // 2}",
            "box": target_box if live else [4, 4, 20, 20],
            "domain": "live" if live else "mall",
            "product_id": f"p{number // 4}",
            "split": "test" if number % 12 > 9 else "train",
        }
        lines.append(json.dumps(row) + "\n")
    path = folder / "photos.jsonl"
    path.write_text("".join(lines))
    return path


def test_other_target_boxes_in_the_data_give_the_same_batches_to_the_bit(
    config: ConfigDict, tmp_path: Path
) -> None:
    config.data.name = "files"
    seen, truths = [], []
    for name, box in {"one": [2, 2, 30, 12], "other": [10, 16, 14, 31]}.items():
        config.data.path = str(written(tmp_path / name, box))
        corpus = pipeline.load(config.data, "grounding")
        batches = streams.adaptive_batches(config, corpus, 0)
        seen.append(list(islice(batches, config.steps)))
        truths.append(between_steps.true_boxes(config, corpus))
    assert not np.array_equal(truths[0]["box_cxcywh"], truths[1]["box_cxcywh"])
    assert is_same(*seen)
    for step, given in enumerate(seen[0]):
        assert given["source"].keys() > {"box_cxcywh", "box_mask"}
        assert ("target" in given) == (step >= streams.align_start(config))
        assert not [key for key in given.get("target", {}) if "box" in key]
