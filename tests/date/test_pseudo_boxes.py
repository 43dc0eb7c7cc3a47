import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy.stats import rankdata

from date_jax import sharding
from date_jax.date import pseudo_boxes
from date_jax.date.pseudo_boxes import Features
from date_jax.errors import DataError
from date_jax.evals.collect import collector
from date_jax.pairs import all_pairs

BATCH = 16


def unit_rows(rows: int, width: int, seed: int, shift: float = 0.0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(rows, width)) + shift
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def features(rows: int, seed: int, shift: float = 0.0) -> Features:
    return Features(unit_rows(rows, 6, seed, shift), unit_rows(rows, 6, seed + 100, shift))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a.astype(np.float64) @ b.astype(np.float64).T


def counts_by_loop(source: Features, target: Features, theta: float, combine: str) -> np.ndarray:
    found = np.zeros(len(target.image))
    for t in range(len(found)):
        for s in range(len(source.image)):
            image = float(source.image[s].astype(np.float64) @ target.image[t])
            text = float(source.text[s].astype(np.float64) @ target.text[t])
            together = {"mean": (image + text) / 2, "min": min(image, text)}[combine]
            assert abs(together - theta) > 1e-7  # else float32 could not tell
            found[t] += together > theta
    return found


@pytest.mark.parametrize("sizes", [(1, 1), (37, 5), (64, 64), (29, 83), (130, 17)])
@pytest.mark.parametrize("tile", [1, 7, 32, 1024])
def test_counts_are_those_of_a_loop_for_any_sizes_and_tile(
    sizes: tuple[int, int], tile: int
) -> None:
    source, target = features(sizes[0], 0), features(sizes[1], 1)
    found = pseudo_boxes.similarity_counts(
        source, target, (0.2,), combine="mean", mesh=sharding.device_mesh(), tile=tile
    )
    np.testing.assert_array_equal(found, counts_by_loop(source, target, 0.2, "mean"))


def test_counts_of_the_smaller_cosine_are_those_of_a_loop() -> None:
    source, target = features(50, 2), features(61, 3)
    found = pseudo_boxes.similarity_counts(
        source, target, (0.1,), combine="min", mesh=sharding.device_mesh(), tile=8
    )
    np.testing.assert_array_equal(found, counts_by_loop(source, target, 0.1, "min"))


def test_rank_counts_average_the_ranks_of_each_modality() -> None:
    source, target = features(40, 4), features(33, 5)
    found = pseudo_boxes.similarity_counts(
        source, target, (0.3, -0.1), combine="rank", mesh=sharding.device_mesh(), tile=16
    )
    image = (cosines(source.image, target.image) > 0.3).sum(axis=0)
    text = (cosines(source.text, target.text) > -0.1).sum(axis=0)
    expected = (rankdata(image) + rankdata(text) - 1) / 2 / 33
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_cosine_equal_to_theta_does_not_count() -> None:
    source = [np.array([[1.0, 0.0], [0.5, 0.0], [0.0, 1.0]], np.float32)]
    target = [np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)]
    mesh = sharding.device_mesh()
    assert all_pairs.counts(source, target, 0.5, mesh=mesh).tolist() == [1, 1]
    # Rows that fill the last tile have the product 0, above this limit.
    assert all_pairs.counts(source, target, -0.5, mesh=mesh, tile=2).tolist() == [3, 3]


def test_counts_on_all_devices_are_those_on_one() -> None:
    source, target = features(77, 6), features(90, 7)
    everywhere = sharding.device_mesh()
    alone = jax.sharding.Mesh(everywhere.devices[:1], everywhere.axis_names)
    assert everywhere.size == 8
    found = [
        all_pairs.counts([source.image], [target.image], 0.25, mesh=mesh, tile=16)
        for mesh in (alone, everywhere, sharding.device_mesh(2))
    ]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_counts_of_one_block_after_the_other_are_those_of_the_whole(block: int) -> None:
    source, target = features(45, 6), features(30, 7)
    told: list[tuple[int, int]] = []
    options = {"mesh": sharding.device_mesh(), "tile": 8, "block": block}
    found = all_pairs.counts(
        [source.image], [target.image], 0.2, **options, after_block=lambda *at: told.append(at)
    )
    np.testing.assert_array_equal(found, (cosines(source.image, target.image) > 0.2).sum(axis=0))
    assert told == [(min(end, 45), 45) for end in range(8 * block, 45 + 8 * block, 8 * block)]


def test_what_was_counted_is_saved_and_not_counted_again(tmp_path: Path) -> None:
    source, target = features(50, 8), features(20, 9)
    saved = tmp_path / "counts.npz"

    def counted(stop_at: int, theta: float = 0.2) -> tuple[np.ndarray, list[int]]:
        ends = []

        def after_block(end: int, _: int) -> None:
            ends.append(end)
            if end == stop_at:
                raise InterruptedError

        options = {"mesh": sharding.device_mesh(), "tile": 10, "block": 1, "saved": saved}
        total = np.zeros(0)
        with contextlib.suppress(InterruptedError):
            total = all_pairs.counts(
                [source.image], [target.image], theta, **options, after_block=after_block
            )
        return total, ends

    expected = (cosines(source.image, target.image) > 0.2).sum(axis=0)
    assert counted(stop_at=30)[1] == [10, 20, 30]
    total, ends = counted(stop_at=0)
    np.testing.assert_array_equal(total, expected)
    assert ends == [40, 50]
    total, ends = counted(stop_at=0)
    np.testing.assert_array_equal(total, expected)
    assert ends == []
    assert counted(stop_at=0, theta=0.3)[1] == [10, 20, 30, 40, 50]  # another question
    saved.write_bytes(saved.read_bytes()[:200])  # cut short
    total, ends = counted(stop_at=0)
    np.testing.assert_array_equal(total, expected)
    assert ends == [10, 20, 30, 40, 50]


@pytest.mark.parametrize("combine", ["mean", "rank"])
def test_counting_leaves_no_file_behind_and_one_that_stops_goes_on(
    combine: str, tmp_path: Path
) -> None:
    source, target = features(3000, 8), features(20, 9)
    theta = (0.2,) * (1 + (combine == "rank"))

    def counted(stops: bool) -> tuple[np.ndarray | None, int]:
        ends = []

        def after_block(end: int, _: int) -> None:
            ends.append(end)
            if stops:
                raise InterruptedError

        found = None
        with contextlib.suppress(InterruptedError):
            found = pseudo_boxes.similarity_counts(
                *(source, target, theta),
                combine=combine,
                mesh=sharding.device_mesh(),
                tile=16,
                counting=pseudo_boxes.Counting(tmp_path, after_block),
            )
        return found, len(ends)

    whole, blocks = counted(stops=False)
    assert not [*tmp_path.iterdir()]
    assert blocks == -(-3000 // (16 * all_pairs.BLOCK)) * len(theta)
    assert counted(stops=True) == (None, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["counts0.npz"]
    again, fewer = counted(stops=False)
    assert fewer == blocks - 1
    assert not [*tmp_path.iterdir()]
    np.testing.assert_array_equal(again, whole)


def test_no_array_of_all_pairs_is_made() -> None:
    rows, tile = 4096, 64
    mesh = sharding.device_mesh()
    source = {
        "part": jnp.zeros((rows // tile, tile, 4)),
        "number": jnp.zeros((rows // tile, tile), int),
    }
    local = {"part": np.zeros((rows, 4), np.float32), "theta": np.zeros(rows, np.float32)}
    target = sharding.global_batch(mesh, local)
    kept = sharding.global_batch(mesh, {"kept": np.zeros(rows, np.int32)})["kept"]
    program = {"mesh": mesh, "visitor": all_pairs.Count(("part",)), "tile": tile}
    compiled = all_pairs.add_block.lower(kept, source, target, **program).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * tile * tile * 4 + rows * 16


def test_the_quantile_threshold_lets_that_share_of_source_pairs_through() -> None:
    source = features(300, 8, shift=0.5)
    key = jax.random.key(0)
    for combine in ("mean", "min"):
        (theta,) = pseudo_boxes.thresholds(source, 0.9, kind="quantile", combine=combine, rng=key)
        image, text = cosines(source.image, source.image), cosines(source.text, source.text)
        together = {"mean": (image + text) / 2, "min": np.minimum(image, text)}[combine]
        others = together[~np.eye(300, dtype=bool)]
        assert np.mean(others > theta) == pytest.approx(0.1, abs=1e-3)
    image_theta, _ = pseudo_boxes.thresholds(source, 0.5, kind="quantile", combine="rank", rng=key)
    others = cosines(source.image, source.image)[~np.eye(300, dtype=bool)]
    assert image_theta == pytest.approx(np.median(others), abs=1e-6)


def test_the_quantile_of_a_large_source_is_estimated_on_some_rows() -> None:
    source = features(2500, 9)
    some = pseudo_boxes.thresholds(
        source, 0.9, kind="quantile", combine="mean", rng=jax.random.key(1)
    )
    image, text = cosines(source.image, source.image), cosines(source.text, source.text)
    assert some[0] == pytest.approx(np.quantile((image + text) / 2, 0.9), abs=0.005)


def test_the_absolute_threshold_is_taken_as_it_is() -> None:
    source = features(3, 10)
    for combine, expected in [("mean", (0.7,)), ("min", (0.7,)), ("rank", (0.7, 0.7))]:
        found = pseudo_boxes.thresholds(
            source, 0.7, kind="absolute", combine=combine, rng=jax.random.key(0)
        )
        assert found == expected


def test_centring_removes_the_common_part_and_keeps_the_domains_apart() -> None:
    source, target = features(400, 11, shift=3.0), features(200, 12, shift=3.0)
    assert cosines(source.image, target.image).mean() > 0.8
    s, t = pseudo_boxes.centred_features(source, target)
    both = np.concatenate([source.image, target.image]).astype(np.float64)
    expected = source.image - both.mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(s.image, expected, atol=1e-4)
    assert abs(cosines(s.text, t.text).mean()) < 0.02
    far = Features(-target.image, -target.text)
    s, t = pseudo_boxes.centred_features(source, far)
    assert cosines(s.image, t.image).mean() < -0.5


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 0.99, 1.0])
def test_exactly_the_share_is_selected_and_the_first_of_equal_rows(share: float) -> None:
    rank = np.random.default_rng(1).integers(0, 4, 57).astype(np.float64)
    chosen = pseudo_boxes.selection(rank, share)
    assert chosen.sum() == round(share * 57)
    best = sorted(range(57), key=lambda row: (-rank[row], row))[: chosen.sum()]
    assert set(np.flatnonzero(chosen)) == set(best)


def test_the_share_grows_evenly_over_the_stage() -> None:
    config = ConfigDict({"keep_start": 0.2, "keep_end": 0.6})
    found = [pseudo_boxes.keep_share(config, p) for p in (-1.0, 0.0, 0.25, 1.0, 2.0)]
    assert found == pytest.approx([0.2, 0.2, 0.3, 0.6, 0.6])


# A refresh on a toy: the "network" hands through what the batch says.


def passes(rows: dict[str, np.ndarray]) -> Callable[[], Iterator[dict[str, np.ndarray]]]:
    size = len(rows["image_vector"])

    def one() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, size, BATCH):
            real = min(BATCH, size - start)
            take = np.r_[start : start + real, np.zeros(BATCH - real, np.int64)]
            batch = {name: value[take] for name, value in rows.items()}
            index = take.astype(np.int32)
            yield batch | {"index": index, "product_id": index, "mask": np.arange(BATCH) < real}

    return one


def said(name: str) -> Callable[[Any, dict[str, Any]], jax.Array]:
    return lambda params, batch: params * batch[name]


def toy(
    rank: str,
    *,
    rows: int = 201,
    progress: float = 0.0,
    is_told_the_truth: bool = True,
    **changes: Any,
) -> tuple[pseudo_boxes.Refreshed, dict[str, np.ndarray]]:
    """A teacher that is perfect but on half of the rows, where its boxes disagree and are wrong."""
    rng = np.random.default_rng(3)
    noisy = rng.random(rows) < 0.5
    true = np.concatenate([rng.uniform(0.3, 0.7, (rows, 2)), np.full((rows, 2), 0.2)], axis=1)
    moved = true + noisy[:, None] * np.array([0.2, 0.0, 0.0, 0.0])
    target = {
        "image_vector": unit_rows(rows, 6, 20),
        "text_vector": unit_rows(rows, 6, 21),
        "box": moved.astype(np.float32),
        "steadiness": (0.9 - 0.5 * noisy + 0.05 * rng.random(rows)).astype(np.float32),
    }
    source = {"image_vector": unit_rows(90, 6, 22), "text_vector": unit_rows(90, 6, 23)}
    settings = {
        **{"theta_kind": "quantile", "theta": 0.8, "combine": "mean"},
        **{"keep_start": 0.3, "keep_end": 0.5, "rank": rank},
        **{"min_agreement": 0.0, "min_row_agreement": 0.0},
    }
    settings = ConfigDict(settings | changes)
    mesh = sharding.device_mesh()
    embed = collector(
        {"image_embedding": said("image_vector"), "query_embedding": said("text_vector")}, mesh
    )
    drawn = {"pseudo_box_cxcywh": "box", "agreement": "steadiness"}
    draw = collector({name: said(key) for name, key in drawn.items()}, mesh)
    mask = np.arange(rows) % 10 > 0
    truth = {"box_cxcywh": true.astype(np.float32), "box_mask": mask}
    ranking = None
    if rank == "count":
        sets = [embed(jnp.float32(1), passes(rows)()) for rows in (source, target)]
        ranking = pseudo_boxes.resemblance(*sets, settings, mesh=mesh, rng=jax.random.key(0))
    refreshed = pseudo_boxes.refresh(
        draw(jnp.float32(1), passes(target)()),
        settings,
        progress=progress,
        ranking=ranking,
        truth=truth if is_told_the_truth else None,
    )
    return refreshed, target | {"noisy": noisy, "mask": mask}


def test_selecting_by_agreement_raises_precision() -> None:
    (table, metrics), target = toy("agreement")
    mask, noisy = target["mask"], target["noisy"]
    assert metrics["precision_all"] == pytest.approx(np.mean(~noisy[mask]))
    assert metrics["precision_selected"] == 1.0
    assert metrics["recall_selected"] == pytest.approx(table["weight"][mask].mean())
    assert metrics["selected"] == table["weight"].sum() == round(0.3 * 201)
    assert metrics["mean_agreement"] == pytest.approx(target["steadiness"].mean())
    np.testing.assert_array_equal(table["box_cxcywh"], target["box"])
    assert not table["weight"][noisy].any()


def test_selecting_by_counts_selects_what_a_loop_selects() -> None:
    (table, metrics), target = toy("count")
    source = Features(unit_rows(90, 6, 22), unit_rows(90, 6, 23))
    pair = pseudo_boxes.centred_features(
        source, Features(target["image_vector"], target["text_vector"])
    )
    signal = counts_by_loop(*pair, metrics["theta"], "mean")
    expected = sorted(range(201), key=lambda row: (-signal[row], row))[: round(0.3 * 201)]
    assert set(np.flatnonzero(table["weight"])) == set(expected)
    known = [row for row in expected if target["mask"][row]]
    right = ~target["noisy"][known]
    assert metrics["precision_selected"] == pytest.approx(np.mean(right))
    assert metrics["recall_selected"] == pytest.approx(right.sum() / target["mask"].sum())


def test_more_rows_are_selected_at_the_end_of_the_stage() -> None:
    (_, metrics), _ = toy("count", progress=1.0)
    assert metrics["selected"] == round(0.5 * 201)


def test_rows_below_the_least_agreement_are_never_selected() -> None:
    (table, metrics), target = toy("count", progress=1.0, keep_end=0.9, min_row_agreement=0.7)
    assert not table["weight"][target["noisy"]].any()
    assert metrics["selected"] == np.sum(~target["noisy"])
    assert metrics["precision_selected"] == 1.0


def test_a_teacher_that_has_not_earned_it_teaches_nothing() -> None:
    (table, metrics), _ = toy("agreement", min_agreement=0.99)
    assert not table["weight"].any()
    assert metrics["selected"] == metrics["earned"] == 0.0
    assert metrics["precision_selected"] == 1.0  # still measured: would it be right to begin?


@pytest.mark.parametrize("combine", pseudo_boxes.COMBINE)
@pytest.mark.parametrize("kind", pseudo_boxes.THETA_KINDS)
def test_every_kind_of_threshold_and_combination_selects_what_numpy_selects(
    kind: str, combine: str
) -> None:
    theta = {"quantile": 0.8, "absolute": 0.2}[kind]
    (table, metrics), rows = toy("count", rows=50, theta_kind=kind, theta=theta, combine=combine)
    source = Features(unit_rows(90, 6, 22), unit_rows(90, 6, 23))
    target = Features(rows["image_vector"], rows["text_vector"])
    if kind == "quantile":
        source, target = pseudo_boxes.centred_features(source, target)

    def combined(others: Features) -> list[np.ndarray]:
        image, text = (cosines(s, o) for s, o in zip(source, others, strict=True))
        ways = {"mean": [(image + text) / 2], "min": [np.minimum(image, text)]}
        return ways.get(combine, [image, text])

    limits = [theta] * len(combined(target))
    if kind == "quantile":
        others = ~np.eye(90, dtype=bool)
        limits = [float(np.quantile(own[others], theta)) for own in combined(source)]
    counts = [(x > limit).sum(axis=0) for x, limit in zip(combined(target), limits, strict=True)]
    signal = np.mean([(rankdata(count) - 0.5) / 50 for count in counts], axis=0)
    expected = sorted(range(50), key=lambda row: (-signal[row], row))[:15]
    assert sorted(expected) == np.flatnonzero(table["weight"]).tolist()
    assert metrics["theta"] == pytest.approx(np.mean(limits), abs=1e-6)
    assert table["weight"].dtype == table["box_cxcywh"].dtype == np.float32


def test_the_table_does_not_depend_on_the_truth() -> None:
    told, _ = toy("agreement", rows=40)
    untold, _ = toy("agreement", rows=40, is_told_the_truth=False)
    assert set(untold.metrics) == {"selected", "mean_agreement", "earned"}
    for name, rows in untold.table.items():
        np.testing.assert_array_equal(told.table[name], rows)


def test_an_unknown_combination_is_refused() -> None:
    with pytest.raises(ValueError, match="median"):
        pseudo_boxes.similarity_counts(
            features(2, 0), features(2, 1), (0.5,), combine="median", mesh=sharding.device_mesh()
        )


@pytest.mark.parametrize("combine", pseudo_boxes.COMBINE)
def test_a_quantile_of_a_single_source_row_is_refused_with_what_to_do(combine: str) -> None:
    source, key = features(1, 0), jax.random.key(0)
    with pytest.raises(DataError, match="theta_kind=quantile") as refusal:
        pseudo_boxes.thresholds(source, 0.9, kind="quantile", combine=combine, rng=key)
    assert "their number is 1;" in str(refusal.value)
    assert "--config.pseudo_boxes.theta_kind=absolute" in str(refusal.value)
    # An absolute θ needs no pair of rows, and two rows are one.
    theta = pseudo_boxes.thresholds(source, 0.9, kind="absolute", combine=combine, rng=key)
    assert set(theta) == {0.9}
    two = features(2, 0)
    theta = pseudo_boxes.thresholds(two, 0.5, kind="quantile", combine=combine, rng=key)
    assert np.isfinite(theta).all()
