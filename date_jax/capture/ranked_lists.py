"""Posts found for a query that shows several products: merged lists, and how right they are.

The measures of Product1M (2107.14572). A query's labels are a multiset Y; a post of the gallery
counts by its first label. G(c) are the posts of label c, P = Σ_{c∈Y} |G(c)| with repetitions, and
k = min(N, P, length of the list). On the host, without a loop over queries.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int

AT = (10, 50, 100)
MOST = 100  # ids of a list
NONE = -1  # fills up lists and labels


def merged(
    index: Int[np.ndarray, "Q K L"],
    score: Float[np.ndarray, "Q K L"],
    mask: Bool[np.ndarray, "Q K"],
    *,
    how: str,
) -> Int[np.ndarray, "Q M"]:
    """One list of up to MOST different posts of each query, from those of its K instances.

    Args:
        index: posts found for each instance, best first; NONE behind the last.
        score: of each.
        mask: which instances there are.
        how: `round_robin` takes every instance's best, then every second best, and so on; `max`
            orders by the best score that any instance gave.
    """
    queries, instances, length = index.shape
    if how == "round_robin":
        turn = np.arange(length)[None] * instances + np.arange(instances)[:, None]
        key = np.broadcast_to(turn[None], index.shape).reshape(queries, -1).astype(np.float64)
    else:
        key = -score.reshape(queries, -1).astype(np.float64)
    ids = np.where(mask[..., None], index, NONE).reshape(queries, -1)
    order = np.argsort(np.where(ids == NONE, np.inf, key), axis=1, kind="stable")
    ids = np.take_along_axis(ids, order, axis=1)
    fresh = ~_repeated(ids) & (ids != NONE)
    place = np.cumsum(fresh, axis=1) - 1
    lists = np.full((queries, MOST), NONE, np.int64)
    row, column = np.nonzero(fresh & (place < MOST))
    lists[row, place[row, column]] = ids[row, column]
    return lists


def _repeated(ids: Int[np.ndarray, "Q L"]) -> Bool[np.ndarray, "Q L"]:
    """Whether the same number stands further left in its row."""
    order = np.argsort(ids, axis=1, kind="stable")
    ordered = np.take_along_axis(ids, order, axis=1)
    same = np.zeros(ids.shape, bool)
    same[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeated = np.empty_like(same)
    np.put_along_axis(repeated, order, same, axis=1)
    return repeated


def numbered(
    labels: Sequence[Sequence[str]], gallery: Sequence[str]
) -> tuple[Int[np.ndarray, "Q M"], Int[np.ndarray, " G"]]:
    """Labels of queries and gallery as numbers; NONE behind a query's last one."""
    number = {label: n for n, label in enumerate(dict.fromkeys(gallery))}
    for some in labels:
        for label in some:
            number.setdefault(label, len(number))
    wanted = np.full((len(labels), max(map(len, labels))), NONE, np.int64)
    for row, some in enumerate(labels):
        wanted[row, : len(some)] = [number[label] for label in some]
    return wanted, np.array([number[label] for label in gallery], np.int64)


def scores(
    lists: Int[np.ndarray, "Q L"],
    wanted: Int[np.ndarray, "Q M"],
    gallery: Int[np.ndarray, " G"],
    at: int,
) -> dict[str, Float[np.ndarray, " Q"]]:
    """Of each query, with hits(i) the right ones among the first i, and H = hits(k):

        average_precision           (1/H) Σ_{i≤k} rel(i) hits(i)/i              as Product1M has it
        precision                   H/k
        average_recall              mean over the distinct c of min(got(c), e(c)) / e(c), with
                                    e(c) = min(⌊N/|Y|⌋ · mult(c), |G(c)|)
        standard_average_precision  (1/min(m, N)) Σ_{i≤N} rel(i) hits(i)/i, m = all right posts

    What would be 0/0 is 0: no hits, no posts of a label, more labels than N.

    Args:
        lists: different posts, best first; NONE behind the last.
        wanted: Y, see `numbered`.
        gallery: each post's first label.
        at: N.
    """
    asked = wanted != NONE
    count = np.bincount(gallery, minlength=int(max(wanted.max(), gallery.max())) + 1)
    posts = np.where(asked, count[wanted], 0)  # |G(c)| of each label asked for
    found = np.where(lists != NONE, gallery[lists], NONE - 1)[:, :at]
    is_label = found[:, None, :] == wanted[:, :, None]
    right = is_label.any(axis=1)
    place = np.arange(1, found.shape[1] + 1)
    gain = right * np.cumsum(right, axis=1) / place
    cut = np.minimum(at, np.minimum(posts.sum(axis=1), (lists != NONE).sum(axis=1)))
    within = place <= cut[:, None]
    hits = (right & within).sum(axis=1)

    first = ~_repeated(wanted) & asked
    multiplicity = (wanted[:, :, None] == wanted[:, None, :]).sum(axis=2)
    expected = np.minimum(at // asked.sum(axis=1)[:, None] * multiplicity, posts)
    got = np.minimum(is_label.sum(axis=2), expected)
    recall = np.where(first, _share(got, expected), 0).sum(axis=1) / first.sum(axis=1)
    most = np.minimum(np.where(first, posts, 0).sum(axis=1), at)
    return {
        "average_precision": _share((gain * within).sum(axis=1), hits),
        "precision": _share(hits, cut),
        "average_recall": recall,
        "standard_average_precision": _share(gain.sum(axis=1), most),
    }


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros(np.shape(part)), where=whole > 0)


_NAMES = {
    "average_precision": "map",
    "precision": "precision",
    "average_recall": "mar",
    "standard_average_precision": "standard_map",
}


def metrics(
    lists: Int[np.ndarray, "Q L"], wanted: Int[np.ndarray, "Q M"], gallery: Int[np.ndarray, " G"]
) -> dict[str, float]:
    """The means over all queries: `map_at_10` (Product1M's), `precision_at_10`, `mar_at_10`,
    `standard_map_at_10`, and the same at 50 and 100."""
    return {
        f"{_NAMES[name]}_at_{at}": float(each.mean())
        for at in AT
        for name, each in scores(lists, wanted, gallery, at).items()
    }


def write(
    path: Path, lists: Int[np.ndarray, "Q L"], queries: Sequence[str], gallery: Sequence[str]
) -> None:
    """Writes the lists as Product1M's script reads them: `query_id,id_0,...,id_99`, one a line.

    Args:
        queries, gallery: ids of the posts.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for query, found in zip(queries, lists, strict=True):
            writer.writerow([query, *(gallery[post] for post in found if post != NONE)])
