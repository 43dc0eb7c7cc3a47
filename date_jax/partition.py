"""Parameters in two trees, those that training changes and those that it leaves, and back.

A tree is nested dicts of arrays, or of anything in their place.
"""

from typing import Any


def partition(tree: dict[str, Any], mask: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two trees: the leaves where `mask` is True, and the others. `merged` joins them again.

    The second has no branches without leaves; the first has those of `tree`.

        partition({"a": 1, "b": {"c": 2}}, {"a": True, "b": {"c": False}})  # {"a": 1}, {"b": {...}}
    """
    selected: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for name, branch in tree.items():
        if not isinstance(branch, dict):
            (selected if mask[name] else rest)[name] = branch
            continue
        parts = partition(branch, mask[name])
        if parts[0] or not branch:
            selected[name] = parts[0]
        if parts[1]:
            rest[name] = parts[1]
    return selected, rest


def merged(tree: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """One tree of the leaves of two that `partition` made."""
    both = {**tree, **rest}
    for name in tree.keys() & rest.keys():
        both[name] = merged(tree[name], rest[name])
    return both
