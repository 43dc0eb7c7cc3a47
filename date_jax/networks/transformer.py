"""The attention and MLP blocks under every network here. Parameters float32, compute by `dtype`."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float

from date_jax.losses import MASKED

exact_gelu: Callable[[Array], Array] = lambda x: nn.gelu(x, approximate=False)  # noqa: E731
quick_gelu: Callable[[Array], Array] = lambda x: x * nn.sigmoid(1.702 * x)  # noqa: E731


class Attention(nn.Module):
    """Multi-head attention over `[... T C]`: of the tokens to each other, or to other tokens.

    Attributes:
        heads: number of heads; must divide the width.
        dropout: rate on the attention weights.
        width: of queries, keys and values of all heads together; None for C.
    """

    heads: int
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.dtype("float32")
    width: int | None = None

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*B T C"],
        bias: Float[Array, "..."] | None = None,
        mask: Bool[Array, "*B S"] | None = None,
        *,
        others: Float[Array, "*B S D"] | None = None,
        first: int | None = None,
        train: bool = False,
    ) -> Float[Array, "*B Q C"]:
        """`bias` is added to the logits `[*B heads Q S]`; keys whose mask is False are not seen.

        Keys and values are made of `others`, where given, else of `x` itself. With `first`, only
        that many leading tokens ask, and are returned.
        """
        width = self.width or x.shape[-1]

        def heads(x: Array, name: str) -> Array:
            x = nn.Dense(width, dtype=self.dtype, name=name)(x)
            return rearrange(x, "... t (h d) -> ... h t d", h=self.heads)

        query = heads(x[..., :first, :], "query") * (width // self.heads) ** -0.5
        others = x if others is None else others
        key, value = heads(others, "key"), heads(others, "value")
        logits = jnp.matmul(query, jnp.swapaxes(key, -1, -2))
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        if bias is not None:
            logits = logits + bias
        if mask is not None:
            logits = jnp.where(mask[..., None, None, :], logits, MASKED)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        weights = nn.Dropout(self.dropout, deterministic=not train)(weights)
        mixed = rearrange(jnp.matmul(weights, value), "... h t d -> ... t (h d)")
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="out")(mixed)


class Mlp(nn.Module):
    """Two linear layers with `activation` between them; `hidden` is the inner width."""

    hidden: int
    activation: Callable[[Array], Array] = exact_gelu
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "*B C"], *, train: bool = False) -> Float[Array, "*B C"]:
        hidden = self.activation(nn.Dense(self.hidden, dtype=self.dtype, name="up")(x))
        hidden = nn.Dropout(self.dropout, deterministic=not train)(hidden)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(hidden)


class EncoderLayer(nn.Module):
    """One transformer encoder layer: attention and MLP, each in a residual branch with LayerNorm.

    Attributes:
        dropout: rate on the attention weights, and on what either branch adds.
        mlp_dropout: rate between the MLP's two layers: torch's layer has it, BERT has not.
        norm_first: normalise before each branch (trains from scratch without a long warm-up) or
            after each sum (BERT, TransVG).
    """

    heads: int
    mlp_width: int
    dropout: float = 0.0
    mlp_dropout: float = 0.0
    norm_first: bool = False
    activation: Callable[[Array], Array] = exact_gelu
    epsilon: float = 1e-5
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T C"],
        mask: Bool[Array, "B T"] | None = None,
        *,
        first: int | None = None,
        train: bool = False,
    ) -> Float[Array, "B Q C"]:
        """All tokens, or with `first` only that many leading ones; the rest is not computed."""
        attention = Attention(self.heads, self.dropout, self.dtype, name="attention")
        mlp = Mlp(self.mlp_width, self.activation, self.mlp_dropout, self.dtype, name="mlp")
        norms = [
            nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name=f"norm{i}") for i in (1, 2)
        ]
        drop = nn.Dropout(self.dropout, deterministic=not train)
        if self.norm_first:
            mixed = attention(norms[0](x), mask=mask, first=first, train=train)
            x = x[:, :first] + drop(mixed)
            return x + drop(mlp(norms[1](x), train=train))
        mixed = attention(x, mask=mask, first=first, train=train)
        x = norms[0](x[:, :first] + drop(mixed))
        return norms[1](x + drop(mlp(x, train=train)))


def in_turn(
    module: nn.Module,
    layers: Sequence[nn.Module],
    call: Callable[[Any, Array], Array],
    x: Array,
    *,
    remat: bool,
    scan: bool,
    period: int = 1,
) -> Array:
    """Runs `x` through the layers of a module, one after the other.

    Neither option changes a parameter or, without dropout, a number, so a checkpoint goes from one
    to the other.

    Args:
        module: whose method runs; `layers` are its children.
        layers: equal ones, or equal ones at the same place of each period.
        call: `(layer, x) -> x`.
        remat: keep only each period's input for the backward pass and compute the rest again.
        scan: compile one period and repeat it; without it the program grows with their number.
        period: layers that belong together; divides their number.
    """
    if module.is_initializing() or not layers or not (remat or scan):
        for layer in layers:
            x = call(layer, x)
        return x
    params = module.variables["params"]
    keys: Any = [None] * len(layers)
    if module.has_rng("dropout"):
        keys = jax.random.split(module.make_rng("dropout"), len(layers))
    kinds = [layer.clone(parent=None, name=None) for layer in layers[:period]]

    def body(x: Array, given: list[tuple[Any, Any]]) -> Array:
        for kind, (own, key) in zip(kinds, given, strict=True):
            rngs = {} if key is None else {"dropout": key}
            x = nn.apply(call, kind)({"params": own}, x, rngs=rngs)
        return x

    if remat:
        body = jax.checkpoint(body)
    given = [(params[str(layer.name)], key) for layer, key in zip(layers, keys, strict=True)]
    groups = [given[at : at + period] for at in range(0, len(given), period)]
    if scan:
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *groups)
        x, _ = jax.lax.scan(lambda x, given: (body(x, given), None), x, stacked)
        return x
    for group in groups:
        x = body(x, group)
    return x


def sincos_2d(height: int, width: int, channels: int) -> np.ndarray:
    """Fixed 2-D positions `[height·width channels]`: half the channels for y, half for x.

    Frequencies run over 10000^(-i/n), over grid coordinates, as in ViT's sine-cosine variant.

    Raises:
        ValueError: if `channels` is not divisible by 4.
    """
    if channels % 4:
        raise ValueError(f"2-D positions need a width divisible by 4, got {channels}")
    frequencies = 10000.0 ** -(np.arange(channels // 4) / (channels // 4))
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    parts = []
    for coordinate in (y, x):
        angle = coordinate.reshape(-1, 1) * frequencies
        parts += [np.sin(angle), np.cos(angle)]
    return np.concatenate(parts, axis=1).astype(np.float32)
