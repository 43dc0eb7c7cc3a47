import jax
import jax.numpy as jnp
import numpy as np
import pytest

from date_jax import sharding
from date_jax.pairs import all_pairs, neighbours


def whole_numbers(rows: int, seed: int) -> np.ndarray:
    """Small ones: products are exact, and often equal."""
    return np.random.default_rng(seed).integers(-2, 3, (rows, 4)).astype(np.float32)


@pytest.mark.parametrize(("queries", "rows"), [(1, 1), (5, 40), (33, 7), (70, 300), (20, 9000)])
@pytest.mark.parametrize("tile", [4, 16, 1024])
def test_the_nearest_are_those_of_a_sort_and_of_equal_ones_the_first(
    queries: int, rows: int, tile: int
) -> None:
    query, gallery = whole_numbers(queries, 0), whole_numbers(rows, 1)
    k = min(10, rows)
    result = neighbours.nearest_rows(query, gallery, k, mesh=sharding.device_mesh(), tile=tile)
    scores = query @ gallery.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(result.index, order)
    np.testing.assert_array_equal(result.score, np.take_along_axis(scores, order, axis=1))


def test_the_nearest_on_all_devices_are_those_on_one() -> None:
    query, gallery = whole_numbers(50, 2), whole_numbers(200, 3)
    everywhere = sharding.device_mesh()
    alone = jax.sharding.Mesh(everywhere.devices[:1, :1], everywhere.axis_names)
    assert everywhere.size == 8
    expected, on_all, with_fsdp = (
        neighbours.nearest_rows(query, gallery, 5, mesh=mesh, tile=32)
        for mesh in (alone, everywhere, sharding.device_mesh(2))
    )
    for result in (on_all, with_fsdp):
        np.testing.assert_array_equal(expected.index, result.index)
        np.testing.assert_array_equal(expected.score, result.score)


def test_a_small_gallery_leaves_places_free_and_what_is_no_number_is_not_found() -> None:
    gallery = np.array([[1, 0], [np.nan, 0], [2, 0]], np.float32)
    query = np.array([[1, 0]], np.float32)
    result = neighbours.nearest_rows(query, gallery, 4, mesh=sharding.device_mesh())
    assert result.index.tolist() == [[2, 0, -1, -1]]
    assert result.score.tolist() == [[2.0, 1.0, -np.inf, -np.inf]]


def test_a_search_makes_no_array_of_all_pairs() -> None:
    rows, tile, k = 4096, 64, 10
    mesh = sharding.device_mesh()
    gallery = {
        "row": jnp.zeros((rows // tile, tile, 4)),
        "number": jnp.zeros((rows // tile, tile), int),
    }
    query = sharding.global_batch(mesh, {"row": np.zeros((rows, 4), np.float32)})
    program = {"mesh": mesh, "visitor": neighbours._NearestRows(k), "tile": tile}
    start = all_pairs.initial_result(query, mesh=mesh, visitor=neighbours._NearestRows(k))
    compiled = all_pairs.add_block.lower(start, gallery, query, **program).compile()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    assert temporary < 16 * tile * (tile + k) * 4 + 4 * rows * k * 4


def test_sets_of_about_one_size_share_a_program() -> None:
    query = whole_numbers(100, 4)

    def programs() -> int:
        return all_pairs.add_block._cache_size()

    neighbours.nearest_rows(query, whole_numbers(700, 5), 3, mesh=sharding.device_mesh())
    before = programs()
    neighbours.nearest_rows(query[:90], whole_numbers(900, 6), 3, mesh=sharding.device_mesh())
    assert programs() == before
    neighbours.nearest_rows(query, whole_numbers(1100, 7), 3, mesh=sharding.device_mesh())
    assert programs() == before + 1


@pytest.mark.parametrize("rows", [5, 300, 1000])
def test_a_gallery_that_stays_on_the_devices_finds_what_nearest_rows_does(rows: int) -> None:
    generator = np.random.default_rng(0)
    gallery, query = (generator.standard_normal((n, 8)).astype(np.float32) for n in (rows, 11))
    mesh = sharding.device_mesh()
    stays = neighbours.Gallery(gallery, mesh=mesh, tile=32)
    expected = neighbours.nearest_rows(query, gallery, 7, mesh=mesh, tile=32)
    for one, other in zip(stays.nearest(query, 7), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    # Of some rows alone: the same as a gallery of these.
    is_shown = generator.random(rows) < 0.4
    shown = np.flatnonzero(is_shown)
    found = stays.nearest(query, 7, is_shown)
    subset = neighbours.nearest_rows(query, gallery[shown], 7, mesh=mesh, tile=32)
    np.testing.assert_allclose(found.score, subset.score, atol=1e-6)
    expected_rows = np.where(subset.index < 0, -1, shown[subset.index])
    np.testing.assert_array_equal(found.index, expected_rows)
    assert (stays.nearest(query, 3, np.zeros(rows, bool)).index == -1).all()
