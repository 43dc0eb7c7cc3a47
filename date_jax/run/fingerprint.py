"""Proof that the arrays which come back are those that were saved.

Orbax neither sums nor checks what it stores: one flipped bit restores as silently wrong weights.
So every leaf of a state gets a fingerprint, computed where it lives. The fingerprints are saved
with the state, in a description that is signed itself, and compared when the state is read.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, UInt32

from date_jax.errors import CheckpointError

_ODD = 2654435761  # Knuth's multiplier, 2^32 over the golden ratio


class DamageError(ValueError):
    """The error of a read whose values are not those that were saved."""


def fingerprint(leaf: Array) -> UInt32[Array, ""]:
    """Sum over all elements of bits × an odd number that depends on the place, modulo 2^32.

    Multiplying by an odd number is one-to-one modulo 2^32, so a change in any single element,
    down to one bit, changes the sum. Sums of integers do not depend on their order: the
    fingerprint is the same however the array is sharded.

        fingerprint(jnp.arange(4)) != fingerprint(jnp.arange(4)[::-1])
    """
    # The number of each element, counted along the last axis first.
    place = jnp.zeros(leaf.shape, jnp.uint32)
    for axis in range(leaf.ndim):
        place = place * leaf.shape[axis] + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
    # One multiplication leaves neighbours' weights an equal step apart; mixing breaks that.
    mixed = (place + 1) * jnp.uint32(_ODD)
    mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(0x2C1B3C6D)
    weight = (mixed ^ (mixed >> 13)) | 1
    return jnp.sum(_words(leaf) * weight, dtype=jnp.uint32)


def _words(leaf: Array) -> Array:
    """The bits of each element as uint32, without losing or adding any."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[leaf.dtype.itemsize]
    return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32)


@jax.jit
def _fingerprints(leaves: list[Array]) -> tuple[Array, Array]:
    """The fingerprint of each leaf, and whether each leaf of floats is finite, in one program."""
    finite = [jnp.all(jnp.isfinite(x)) for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
    return jnp.stack([fingerprint(x) for x in leaves]), jnp.stack([*finite, jnp.array(True)])


def leaves_by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their path in it, such as `.params['kernel']`."""
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def descriptions(tree: Any) -> tuple[dict[str, tuple[str, int]], bool]:
    """Type and fingerprint of each leaf by name, and whether all of them are finite."""
    # One program and one transfer for all leaves.
    leaves = leaves_by_name(tree)
    prints, finite = jax.device_get(_fingerprints(list(leaves.values())))
    described = {
        name: (_type(leaf), int(value))
        for (name, leaf), value in zip(leaves.items(), prints, strict=True)
    }
    return described, bool(finite.all())


def _type(leaf: Any) -> str:
    """Dtype and shape of a leaf: `float32[512, 256]`."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def signed_meta(meta: dict[str, Any]) -> dict[str, str]:
    """JSON values with their hash; `verified_meta` reads them."""
    body = json.dumps(meta)
    return {"body": body, "sha256": hashlib.sha256(body.encode()).hexdigest()}


def verified_meta(signature: dict[str, str]) -> dict[str, Any]:
    """The JSON values that were signed.

    Raises:
        DamageError: they have changed since.
    """
    if hashlib.sha256(signature["body"].encode()).hexdigest() != signature["sha256"]:
        raise DamageError("its description has changed")
    return json.loads(signature["body"])


def require_undamaged(leaves: dict[str, Any], saved: dict[str, Any]) -> None:
    """Refuses arrays that are not what was saved.

    Args:
        leaves: arrays by name.
        saved: `descriptions` of these and maybe other arrays.

    Raises:
        DamageError: names the first of them.
    """
    prints = np.asarray(_fingerprints(list(leaves.values()))[0])
    wrong = [n for n, value in zip(leaves, prints, strict=True) if saved[n][1] != int(value)]
    if wrong:
        raise DamageError(f"its bits have changed in {', '.join(wrong[:3])}")


def require_same_types(directory: Path, saved: dict[str, Any], target: Any) -> None:
    """Refuses a state of other arrays than those saved; Orbax would cast a dtype silently.

    Args:
        directory: of the saved step, for the message.
        saved: its `descriptions`.
        target: tree of what is to be read.

    Raises:
        CheckpointError: a name, a shape or a dtype differs.
    """
    # Both ways: what the checkpoint lacks, and what the network of now lacks.
    types = {name: _type(leaf) for name, leaf in leaves_by_name(target).items()}
    differences = [
        f"  {name}: saved {saved.get(name, ['nothing'])[0]}, now {types.get(name, 'nothing')}"
        for name in sorted(saved.keys() | types.keys())
        if saved.get(name, [None])[0] != types.get(name)
    ]
    if differences:
        head = f"{directory}: saved by another model ({len(differences)} arrays)"
        raise CheckpointError("\n".join([head, *differences[:5]]))


def shapes_of_part(saved: dict[str, Any], part: str) -> dict[str, Any]:
    """The tree of one field of a saved state, as shapes that live on this process's first device.

    Args:
        saved: the state's `descriptions`.
        part: name of the field.
    """
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = {}
    for name, (kind, _) in saved.items():
        # A name is `.ema['model']['kernel']`, a kind is `float32[512, 256]`.
        if name.startswith(f".{part}["):
            dtype, _, shape = kind.partition("[")
            place = tuple(re.findall(r"\['([^']*)'\]", name))
            shapes[place] = jax.ShapeDtypeStruct(json.loads(f"[{shape}"), dtype, sharding=device)
    return unflatten_dict(shapes)
