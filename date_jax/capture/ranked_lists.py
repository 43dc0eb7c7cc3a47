"""The posts found for a query of several products: one merged list, and how right it is.

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


def merged_lists(
    index: Int[np.ndarray, "Q K L"],
    score: Float[np.ndarray, "Q K L"],
    mask: Bool[np.ndarray, "Q K"],
    *,
    how: str,
) -> Int[np.ndarray, "Q M"]:
    """One list of up to MOST different posts of each query, from those of its K instances.

    Args:
        index: posts found for each instance, best first; NONE behind the last.
        score: of each post.
        mask: which instances there are.
        how: `round_robin` takes every instance's best, then every second best, and so on; `max`
            orders by the best score that any instance gave.
    """
    queries, instances, length = index.shape
    # The order of all posts of all instances: by turn, or by score.
    if how == "round_robin":
        turn = np.arange(length)[None] * instances + np.arange(instances)[:, None]
        key = np.broadcast_to(turn[None], index.shape).reshape(queries, -1).astype(np.float64)
    else:
        key = -score.reshape(queries, -1).astype(np.float64)
    posts = np.where(mask[..., None], index, NONE).reshape(queries, -1)
    order = np.argsort(np.where(posts == NONE, np.inf, key), axis=1, kind="stable")
    posts = np.take_along_axis(posts, order, axis=1)
    # A post that several instances found stands where the first of them has it.
    is_new = ~_repeats(posts) & (posts != NONE)
    place = np.cumsum(is_new, axis=1) - 1
    lists = np.full((queries, MOST), NONE, np.int64)
    row, column = np.nonzero(is_new & (place < MOST))
    lists[row, place[row, column]] = posts[row, column]
    return lists


def _repeats(numbers: Int[np.ndarray, "Q L"]) -> Bool[np.ndarray, "Q L"]:
    """Whether the same number stands further left in its row."""
    order = np.argsort(numbers, axis=1, kind="stable")
    ordered = np.take_along_axis(numbers, order, axis=1)
    same = np.zeros(numbers.shape, bool)
    same[:, 1:] = ordered[:, 1:] == ordered[:, :-1]
    repeats = np.empty_like(same)
    np.put_along_axis(repeats, order, same, axis=1)
    return repeats


def label_numbers(
    labels: Sequence[Sequence[str]], gallery: Sequence[str]
) -> tuple[Int[np.ndarray, "Q M"], Int[np.ndarray, " G"]]:
    """Labels of queries and of the gallery as numbers; NONE behind a query's last one.

    Args:
        labels: of each query, with repetitions.
        gallery: each post's first label.
    """
    # The gallery's labels first, so that labels it lacks have the numbers behind.
    number = {label: n for n, label in enumerate(dict.fromkeys(gallery))}
    for label in (label for query in labels for label in query):
        number.setdefault(label, len(number))
    # One row a query, as wide as the longest of them.
    numbers = np.full((len(labels), max(map(len, labels))), NONE, np.int64)
    for row, query in enumerate(labels):
        numbers[row, : len(query)] = [number[label] for label in query]
    return numbers, np.array([number[label] for label in gallery], np.int64)


def scores(
    lists: Int[np.ndarray, "Q L"],
    labels: Int[np.ndarray, "Q M"],
    gallery: Int[np.ndarray, " G"],
    at: int,
) -> dict[str, Float[np.ndarray, " Q"]]:
    """The measures of each query's list, cut at N posts.

    With hits(i) the right posts among the first i, and H = hits(k):

        average_precision           (1/H) Σ_{i≤k} rel(i) hits(i)/i              as Product1M has it
        precision                   H/k
        average_recall              mean over the distinct c of min(got(c), e(c)) / e(c), with
                                    e(c) = min(⌊N/|Y|⌋ · mult(c), |G(c)|)
        standard_average_precision  (1/min(m, N)) Σ_{i≤N} rel(i) hits(i)/i, m = all right posts

    What would be 0/0 is 0: no hits, no posts of a label, more labels than N.

    Args:
        lists: different posts, best first; NONE behind the last.
        labels: Y, see `label_numbers`.
        gallery: each post's first label.
        at: N.
    """
    is_label = labels != NONE
    count = np.bincount(gallery, minlength=int(max(labels.max(), gallery.max())) + 1)
    post_count = np.where(is_label, count[labels], 0)  # |G(c)| of each label of the query
    # Which posts are right, and the precision at the place of each right one.
    list_labels = np.where(lists != NONE, gallery[lists], NONE - 1)[:, :at]
    matches = list_labels[:, None, :] == labels[:, :, None]
    right = matches.any(axis=1)
    place = np.arange(1, list_labels.shape[1] + 1)
    gain = right * np.cumsum(right, axis=1) / place
    k = np.minimum(at, np.minimum(post_count.sum(axis=1), (lists != NONE).sum(axis=1)))
    within = place <= k[:, None]
    hits = (right & within).sum(axis=1)

    # Recall label by label: a label that stands twice in Y is expected twice, and counts once.
    first = ~_repeats(labels) & is_label
    multiplicity = (labels[:, :, None] == labels[:, None, :]).sum(axis=2)
    expected = np.minimum(at // is_label.sum(axis=1)[:, None] * multiplicity, post_count)
    got = np.minimum(matches.sum(axis=2), expected)
    recall = np.where(first, _ratio(got, expected), 0).sum(axis=1) / first.sum(axis=1)
    reachable = np.minimum(np.where(first, post_count, 0).sum(axis=1), at)
    return {
        "average_precision": _ratio((gain * within).sum(axis=1), hits),
        "precision": _ratio(hits, k),
        "average_recall": recall,
        "standard_average_precision": _ratio(gain.sum(axis=1), reachable),
    }


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """The quotient, and 0 where the denominator is 0."""
    zeros = np.zeros(np.shape(numerator))
    return np.divide(numerator, denominator, out=zeros, where=denominator > 0)


_NAMES = {
    "average_precision": "map",
    "precision": "precision",
    "average_recall": "mar",
    "standard_average_precision": "standard_map",
}


def metrics(
    lists: Int[np.ndarray, "Q L"], labels: Int[np.ndarray, "Q M"], gallery: Int[np.ndarray, " G"]
) -> dict[str, float]:
    """The means of `scores` over all queries, by name.

    Returns:
        `map_at_10` (Product1M's), `precision_at_10`, `mar_at_10`, `standard_map_at_10`, and the
        same at 50 and 100.
    """
    return {
        f"{_NAMES[name]}_at_{at}": float(values.mean())
        for at in AT
        for name, values in scores(lists, labels, gallery, at).items()
    }


def write(
    path: Path, lists: Int[np.ndarray, "Q L"], queries: Sequence[str], gallery: Sequence[str]
) -> None:
    """Writes the lists as Product1M's script reads them: `query_id,id_0,...,id_99`, one a line.

    Args:
        path: of the file.
        lists: posts of the gallery, best first; NONE behind the last.
        queries, gallery: ids of the posts.
    """
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for query, posts in zip(queries, lists, strict=True):
            writer.writerow([query, *(gallery[post] for post in posts if post != NONE)])
