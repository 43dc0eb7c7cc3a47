"""Groups of rows that are nearly the same, among millions, without a matrix of all pairs.

Rows whose signs agree under random directions are sorted side by side (random hyperplanes, Charikar
2002). Only neighbours in that order are compared, exactly. Several such orders miss little of what
is near. A group is what links connect.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from date_jax import sharding
from date_jax.pairs.vectors import dot_products

ORDERS = 12  # of the rows; each is another chance for two near rows to meet
WINDOW = 512  # rows that are compared with each other
AT_ONCE = 64  # windows on a device


def groups(
    rows: Float[np.ndarray, "N D"],
    threshold: float,
    *,
    mesh: jax.sharding.Mesh,
    orders: int = ORDERS,
    window: int = WINDOW,
    seed: int = 0,
) -> Int[np.ndarray, " N"]:
    """The group of each row: rows with a product above the threshold are linked, links connect.

    No two rows are linked wrongly. A link may be missed, seldom where the rows are very near.

    Args:
        rows: unit vectors, all of them on every process.
        threshold: a cosine.
        mesh: of `sharding.device_mesh`; the windows are spread over it.
        orders: how often the rows are sorted; each time is another chance to meet.
        window: rows that are compared with each other; twice as many cost twice the time.
        seed: of the random directions.
    """
    # Links of every order, then what they connect.
    rng = np.random.default_rng(seed)
    links = [np.zeros((0, 2), np.int64)]
    for _ in range(orders):
        order = _sign_order(rows, rng, window)
        links += [*_links(rows, order, threshold, window, mesh)]
    ends = np.concatenate(links).T
    graph = coo_array((np.ones(len(ends[0]), bool), tuple(ends)), shape=(len(rows), len(rows)))
    return connected_components(graph, directed=False)[1]


def _sign_order(
    rows: Float[np.ndarray, "N D"], rng: np.random.Generator, window: int
) -> Int[np.ndarray, " N"]:
    """An order in which rows that agree in all of some random signs stand together.

    There are as many signs as leave a quarter of a window to each combination.
    """
    bits = max(1, math.ceil(math.log2(max(2.0, 4 * len(rows) / window))))
    directions = rng.standard_normal((rows.shape[1], bits), np.float32)
    # A combination of signs is a number, and equal numbers stand side by side.
    signs = rows @ directions > 0
    return np.argsort(signs @ (1 << np.arange(bits)), kind="stable")


def _links(
    rows: Float[np.ndarray, "N D"],
    order: Int[np.ndarray, " N"],
    threshold: float,
    window: int,
    mesh: jax.sharding.Mesh,
) -> Iterator[Int[np.ndarray, "_ 2"]]:
    """Pairs of a row and the first one of its window that near rows connect it to.

    Windows overlap by half, so that no combination of signs is cut.
    """
    window = min(window, 2 * len(rows))
    starts = np.arange(0, max(1, len(rows) - window // 2), window // 2)
    size, limit = AT_ONCE * mesh.size, jnp.float32(threshold)
    for at in range(0, len(starts), size):
        # So many windows at a time; zeros, which are near nothing, where there are no rows left.
        place = starts[at : at + size, None] + np.arange(window)[None]
        real = place < len(rows)
        index = order[np.minimum(place, len(rows) - 1)]
        windows = np.zeros((size, window, rows.shape[1]), np.float32)
        windows[: len(index)] = np.where(real[..., None], rows[index], 0)
        on_devices = sharding.device_arrays(windows, sharding.row_sharding(mesh))
        # Places in the window, and from them the rows that are linked.
        first = np.asarray(_first_connected(on_devices, limit, mesh=mesh))[: len(index)]
        first_index = np.take_along_axis(index, first, axis=1)
        has_link = real & (first < np.arange(window)[None])
        yield np.stack([index[has_link], first_index[has_link]], axis=1)


@partial(jax.jit, static_argnames="mesh")
def _first_connected(
    rows: Float[Array, "n w D"], threshold: Float[Array, ""], *, mesh: jax.sharding.Mesh
) -> Int[Array, "n w"]:
    """The first row of each row's window that near rows connect it to; itself where there is none.

    Every row takes the smallest place among its near rows, until none changes.
    """

    def connected_places(rows: Float[Array, "w D"]) -> Int[Array, " w"]:
        place = jnp.arange(len(rows))
        near = (dot_products(rows, rows) > threshold) | (place[:, None] == place[None])

        def lower(state: tuple[Array, Array]) -> tuple[Array, Array]:
            first, _ = state
            lowest = jnp.where(near, first[None], len(rows)).min(axis=1)
            return lowest, (lowest != first).any()

        return jax.lax.while_loop(lambda state: state[1], lower, (place, jnp.array(True)))[0]

    def device_places(_: sharding.Gather, parts: Sequence[Array]) -> Int[Array, "n w"]:
        return jax.lax.map(connected_places, parts[0])

    with sharding.mesh_context(mesh):
        first = sharding.map_rows(device_places, [rows])
    return jax.lax.with_sharding_constraint(first, sharding.replicated_sharding(mesh))
