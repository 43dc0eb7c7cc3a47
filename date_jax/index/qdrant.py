"""A store in Qdrant, a server that is asked by its address."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from date_jax.errors import UsageError
from date_jax.index.exact import INTERNAL, Hit
from date_jax.index.extra import extra_module
from date_jax.index.parts import vectors_of_table
from date_jax.index.where import filter_expression

_AT_ONCE = 256  # points that are sent together
_NAMESPACE = uuid.UUID("6e1f8f0c-6f0b-5f0e-9d5c-2b9a3a5d1c77")
_OPPOSITE = {
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHANOREQUALTO",
    "COMPARE_EQUAL": "COMPARE_NOTEQUAL",
}
_OPPOSITE |= {value: key for key, value in _OPPOSITE.items()}
_MIRROR = {
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHAN",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHANOREQUALTO",
}
_MIRROR |= {value: key for key, value in _MIRROR.items()}
_RANGES = {
    "COMPARE_LESSTHAN": "lt",
    "COMPARE_LESSTHANOREQUALTO": "lte",
    "COMPARE_GREATERTHAN": "gt",
    "COMPARE_GREATERTHANOREQUALTO": "gte",
}
_KNOWN = "Qdrant's filters know a column compared with a value, in, between, is null, and, or, not"


class QdrantStore:
    """Offers in a collection of Qdrant; a `Store`.

    Args:
        url: of the server, such as http://localhost:6333; ":memory:" for one in this process.
        name: of the collection.
        api_key: of the server, if it wants one.
        exact: whether all vectors are compared; else Qdrant's graph is followed, which may miss
            some.
    """

    def __init__(
        self, url: str, name: str = "offers", api_key: str | None = None, *, exact: bool = True
    ):
        client = extra_module("qdrant_client").QdrantClient
        self._client = (
            client(location=url) if url == ":memory:" else client(url=url, api_key=api_key)
        )
        self._name, self._exact = name, exact
        self._models = extra_module("qdrant_client.models")
        self._names: tuple[str, ...] = ()

    def add(self, rows: Any) -> None:
        """Adds offers, or replaces those of the same ids."""
        models, vectors = self._models, vectors_of_table(rows)
        if not self._client.collection_exists(self._name):
            parameters = models.VectorParams(size=vectors.shape[1], distance=models.Distance.DOT)
            self._client.create_collection(self._name, vectors_config=parameters)
        names = [name for name in rows.column_names if name not in INTERNAL]
        self._names = tuple(names)
        payloads = rows.select(names).to_pylist()
        for start in range(0, len(payloads), _AT_ONCE):
            chunk = payloads[start : start + _AT_ONCE]
            points = models.Batch(
                ids=[_point_id(payload["id"]) for payload in chunk],
                vectors=vectors[start : start + _AT_ONCE].tolist(),
                payloads=chunk,
            )
            self._client.upsert(self._name, points=points, wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        """Removes offers; ids that are not there are passed over."""
        if ids and self._client.collection_exists(self._name):
            points = self._models.PointIdsList(points=[_point_id(offer_id) for offer_id in ids])
            self._client.delete(self._name, points_selector=points, wait=True)

    def search(
        self, vectors: Float[np.ndarray, "Q E"], count: int, where: str = ""
    ) -> list[list[Hit]]:
        """The offers nearest to each vector.

        Raises:
            UsageError: the filter is none, or none that Qdrant knows.
        """
        if not self._client.collection_exists(self._name) or not len(vectors):
            return [[] for _ in vectors]
        models, query_filter = self._models, None
        if where:
            expression = filter_expression(where, self._column_names())
            query_filter = models.Filter(must=[self._condition(expression)])
        requests = [
            models.QueryRequest(
                query=vector,
                limit=count,
                filter=query_filter,
                with_payload=True,
                params=models.SearchParams(exact=self._exact),
            )
            for vector in np.asarray(vectors, np.float32).tolist()
        ]
        answers = self._client.query_batch_points(self._name, requests=requests)
        return [[_hit(point) for point in answer.points] for answer in answers]

    def _column_names(self) -> tuple[str, ...]:
        """The columns of the collection, which another process may have filled."""
        if not self._names:
            points, _ = self._client.scroll(self._name, limit=1)
            self._names = tuple(points[0].payload) if points else ()
        return self._names

    def _condition(self, tree: Mapping[str, Any], *, negated: bool = False) -> Any:
        """A filter's tree as a condition of Qdrant.

        A negation is pushed down to the comparisons, where SQL leaves empty cells out.
        """
        models, kind, children = self._models, tree["type"], tree.get("children", [])
        if kind == "OPERATOR_NOT":
            return self._condition(children[0], negated=not negated)
        if kind in ("CONJUNCTION_AND", "CONJUNCTION_OR"):
            parts = [self._condition(child, negated=negated) for child in children]
            is_and = (kind == "CONJUNCTION_AND") != negated
            return models.Filter(must=parts) if is_and else models.Filter(should=parts)
        if kind == "COMPARE_BETWEEN":
            bounds = [
                {
                    "type": "COMPARE_GREATERTHANOREQUALTO",
                    "left": tree["input"],
                    "right": tree["lower"],
                },
                {
                    "type": "COMPARE_LESSTHANOREQUALTO",
                    "left": tree["input"],
                    "right": tree["upper"],
                },
            ]
            both = {"type": "CONJUNCTION_AND", "children": bounds}
            return self._condition(both, negated=negated)
        if kind in ("OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL"):
            empty = models.IsEmptyCondition(
                is_empty=models.PayloadField(key=self._column(children[0]))
            )
            is_empty = (kind == "OPERATOR_IS_NULL") != negated
            return models.Filter(must=[empty]) if is_empty else models.Filter(must_not=[empty])
        if kind in ("COMPARE_IN", "COMPARE_NOT_IN"):
            equal = [
                {"type": "COMPARE_EQUAL", "left": children[0], "right": c} for c in children[1:]
            ]
            any_of = {"type": "CONJUNCTION_OR", "children": equal}
            return self._condition(any_of, negated=negated != (kind == "COMPARE_NOT_IN"))
        return self._comparison(tree, negated=negated)

    def _comparison(self, tree: Mapping[str, Any], *, negated: bool) -> Any:
        """A column compared with a value."""
        models, kind = self._models, tree["type"]
        if kind not in _OPPOSITE:
            raise UsageError(f"where: {_KNOWN}")
        # The column stands at the left.
        left, right = tree["left"], tree["right"]
        if left["type"] != "COLUMN_REF":
            left, right, kind = right, left, _MIRROR.get(kind, kind)
        kind = _OPPOSITE[kind] if negated else kind
        key, value = self._column(left), _value(right)
        if kind in _RANGES:
            if not isinstance(value, int | float):
                raise UsageError(f"where: {key} is compared with {value!r}: {_KNOWN}")
            return models.FieldCondition(key=key, range=models.Range(**{_RANGES[kind]: value}))
        if isinstance(value, str | bool):
            match = models.FieldCondition(key=key, match=models.MatchValue(value=value))
        else:  # whole and other numbers alike
            match = models.FieldCondition(key=key, range=models.Range(gte=value, lte=value))
        if kind == "COMPARE_EQUAL":
            return match
        empty = models.IsEmptyCondition(is_empty=models.PayloadField(key=key))
        return models.Filter(must_not=[match, empty])

    def _column(self, tree: Mapping[str, Any]) -> str:
        """The name of a column as it is spelt in the collection."""
        if tree["type"] != "COLUMN_REF":
            raise UsageError(f"where: {_KNOWN}")
        (name,) = tree["column_names"]
        return next(other for other in self._column_names() if other.lower() == name.lower())


def _value(tree: Mapping[str, Any]) -> Any:
    """The number, text or switch of a constant."""
    if tree["type"] == "OPERATOR_CAST" and tree["cast_type"]["id"] == "BOOLEAN":
        return tree["child"]["value"]["value"] in ("t", "true")
    if tree["type"] != "VALUE_CONSTANT" or tree["value"]["is_null"]:
        raise UsageError(f"where: {_KNOWN}")
    value, kind = tree["value"]["value"], tree["value"]["type"]
    if kind["id"] == "DECIMAL":  # a whole number and the places behind its point
        return value / 10 ** kind["type_info"]["scale"]
    return value


def _point_id(offer_id: str) -> str:
    """Qdrant's ids are numbers or UUIDs."""
    return str(uuid.uuid5(_NAMESPACE, offer_id))


def _hit(point: Any) -> Hit:
    fields = dict(point.payload)
    return Hit(fields.pop("id"), float(point.score), fields)
