"""The seven modes of search, against full sorted lists."""

import numpy as np

from date_jax import sharding
from date_jax.same_style import modes

OFFERS = 40
RNG = np.random.default_rng(0)
PRODUCT = RNG.integers(0, 15, OFFERS).astype(np.int32)
CATEGORY = [f"c{product % 3}" for product in PRODUCT]


def vectors() -> dict[str, np.ndarray]:
    found = {}
    for name in modes.KINDS.values():
        x = RNG.normal(size=(OFFERS, 6))
        found[name] = (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)
    return found


def rank_by_sorting(query: np.ndarray, pool: np.ndarray, row: int) -> int:
    order = np.argsort(-(pool @ query[row]))
    others = [place for place in order if place != row]
    return 1 + next(n for n, place in enumerate(others) if PRODUCT[place] == PRODUCT[row])


def test_ranks_are_those_of_a_sorted_list_of_all_offers_but_the_asking_one() -> None:
    given = vectors()
    found = modes.ranks(given, PRODUCT, mesh=sharding.device_mesh())
    asking = [row for row in range(OFFERS) if (PRODUCT[row] == PRODUCT).sum() > 1]
    assert modes.query_rows(PRODUCT).tolist() == asking
    assert tuple(found) == modes.MODES
    for mode, ranks in found.items():
        query, pool = (given[modes.KINDS[letter]] for letter in mode.split("-"))
        assert ranks.tolist() == [rank_by_sorting(query, pool, row) for row in asking], mode


def test_measures_are_means_over_the_asking_offers() -> None:
    asking = modes.query_rows(PRODUCT)
    category = [CATEGORY[row] for row in asking]
    ranks = {mode: RNG.integers(1, 30, len(asking)) for mode in modes.MODES}
    found = modes.metrics(ranks, category)
    for mode in modes.MODES:
        assert np.isclose(found[f"{mode}/mrr"], sum(1 / r for r in ranks[mode]) / len(asking))
        for k in (1, 5, 10, 20):
            share = sum(r <= k for r in ranks[mode]) / len(asking)
            assert np.isclose(found[f"{mode}/recall_at_{k}"], share)
    for name in set(category):
        of = [r for r, c in zip(ranks["t-t"], category, strict=True) if c == name]
        assert np.isclose(found[f"category/{name}/t-t"], sum(r == 1 for r in of) / len(of))


def test_modes_of_a_modality_that_was_not_learnt_are_left_out() -> None:
    given = vectors()
    del given["text_embedding"]
    found = modes.ranks(given, PRODUCT, mesh=sharding.device_mesh())
    assert found.keys() == {"i-i", "m-m", "i-m"}
