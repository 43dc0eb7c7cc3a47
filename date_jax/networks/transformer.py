"""The transformer layers under every network here. Parameters are float32, the rest is `dtype`."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, reduce
from jaxtyping import Array, Bool, Float

from date_jax.losses import MASKED
from date_jax.pairs.tiles import kept


def exact_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by the error function, as BERT and Swin have it."""
    return nn.gelu(x, approximate=False)


def tanh_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU's approximation by a hyperbolic tangent, as SigLIP has it."""
    return nn.gelu(x, approximate=True)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU's approximation by a sigmoid, `x · sigmoid(1.702 x)`, as CLIP has it."""
    return x * nn.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Multi-head attention of tokens `[... T C]` to each other, or to a context.

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
        context: Float[Array, "*B S D"] | None = None,
        first: int | None = None,
        train: bool = False,
    ) -> Float[Array, "*B Q C"]:
        """The values that each asking token gathers from the tokens that it attends to.

        Args:
            x: tokens that ask.
            bias: added to the logits `[*B heads Q S]`.
            mask: False for keys that nothing attends to.
            context: tokens that keys and values are made of; None for `x` itself.
            first: only that many leading tokens ask, and are returned; None for all.
        """
        width = self.width or x.shape[-1]

        def projected_heads(x: Array, name: str) -> Array:
            x = nn.Dense(width, dtype=self.dtype, name=name)(x)
            return rearrange(x, "... t (h d) -> ... h t d", h=self.heads)

        # Only the leading tokens ask, but all answer.
        query = projected_heads(x[..., :first, :], "query") * (width // self.heads) ** -0.5
        context = x if context is None else context
        key, value = projected_heads(context, "key"), projected_heads(context, "value")

        # The softmax runs in float32 at least: bfloat16 would round its sums of many small terms.
        logits = jnp.matmul(query, jnp.swapaxes(key, -1, -2))
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        if bias is not None:
            logits = logits + bias
        if mask is not None:
            logits = jnp.where(mask[..., None, None, :], logits, MASKED)
        weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
        weights = nn.Dropout(self.dropout, deterministic=not train)(weights)

        # The heads' answers stand next to each other again, mixed by the last matrix.
        mixed = rearrange(jnp.matmul(weights, value), "... h t d -> ... t (h d)")
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="out")(mixed)


class Mlp(nn.Module):
    """Two linear layers with an activation between them.

    Attributes:
        hidden: width between the layers.
        dropout: rate there.
    """

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
        """All tokens, or with `first` only that many leading ones; the others are not computed."""
        attention = Attention(self.heads, self.dropout, self.dtype, name="attention")
        mlp = Mlp(self.mlp_width, self.activation, self.mlp_dropout, self.dtype, name="mlp")
        norms = [
            nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name=f"norm{i}") for i in (1, 2)
        ]
        drop = nn.Dropout(self.dropout, deterministic=not train)

        # Where only the leading tokens are wanted, no others reach the MLP.
        if self.norm_first:
            mixed = attention(norms[0](x), mask=mask, first=first, train=train)
            x = x[:, :first] + drop(mixed)
            return x + drop(mlp(norms[1](x), train=train))
        mixed = attention(x, mask=mask, first=first, train=train)
        x = norms[0](x[:, :first] + drop(mixed))
        return norms[1](x + drop(mlp(x, train=train)))


def encoder_layers(
    count: int, heads: int, mlp_width: int, *, frozen: int = 0, **options: Any
) -> list[EncoderLayer]:
    """Equal layers `layer0`, `layer1` and so on of the module whose compact method calls this.

    Args:
        count: how many.
        heads, mlp_width, options: of `EncoderLayer`.
        frozen: the first so many are not trained, so they drop no units.
    """
    without = {"dropout": 0.0, "mlp_dropout": 0.0}
    return [
        EncoderLayer(
            heads, mlp_width, name=f"layer{i}", **(options | without if i < frozen else options)
        )
        for i in range(count)
    ]


def encoded_tokens(
    module: nn.Module,
    layers: Sequence[EncoderLayer],
    x: Float[Array, "B T C"],
    mask: Bool[Array, "B T"] | None,
    *,
    position: Float[Array, "T C"] | None = None,
    first: int | None = None,
    frozen: int = 0,
    remat: bool,
    scan: bool,
    train: bool,
) -> Float[Array, "B Q C"]:
    """Tokens behind a stack of encoder layers.

    Args:
        module: whose method calls this; `layers` are its children.
        layers: equal ones, one at least where `first` is not None.
        x: the tokens, in the layers' dtype.
        mask: False = padding; None where there is none.
        position: added to the input of every layer, not of the first alone.
        first: only that many leading tokens are returned, so the last layer computes no others.
        frozen, remat, scan: see `apply_layers`.
        train: whether units are dropped.
    """

    def call(layer: EncoderLayer, x: Array, first: int | None = None) -> Array:
        x = x if position is None else x + position[None]
        return layer(x, mask, first=first, train=train)

    # Every layer but the last needs all tokens, whatever is returned.
    apply = functools.partial(apply_layers, module, remat=remat, scan=scan, frozen=frozen)
    if first is None:
        return apply(layers, call, x)
    x = apply(layers[:-1], call, x)
    return call(layers[-1], x, first)


def apply_layers(
    module: nn.Module,
    layers: Sequence[nn.Module],
    call: Callable[[Any, Array], Array],
    x: Array,
    *,
    remat: bool,
    scan: bool,
    period: int = 1,
    frozen: int = 0,
) -> Array:
    """Runs `x` through the layers of a module, one after the other.

    Neither option changes a parameter or, without dropout, a number, so a checkpoint goes from one
    to the other.

    Args:
        module: whose method calls this; `layers` are its children.
        layers: equal ones, or equal ones at the same place of each period.
        call: `(layer, x) -> x`.
        remat: keep only each period's input for the backward pass and compute the rest again.
        scan: compile one period and repeat it; without it the program grows with their number.
        period: layers that belong together; divides their number.
        frozen: the first so many are not trained. Those of whole periods have a loop of their own,
            or it would have the gradient of all, and what comes out of them is kept.
    """
    if frozen := frozen // period * period:
        before = layers[:frozen]
        x = apply_layers(module, before, call, x, remat=remat, scan=scan, period=period)
        x = kept(x)
        layers = layers[frozen:]
    # Parameters are made by plain calls, so both options find the same tree.
    if module.is_initializing() or not layers or not (remat or scan):
        for layer in layers:
            x = call(layer, x)
        return x

    # Each layer's parameters and dropout key become arguments of one function of a period.
    params = module.variables["params"]
    keys: Any = [None] * len(layers)
    if module.has_rng("dropout"):
        keys = jax.random.split(module.make_rng("dropout"), len(layers))
    templates = [layer.clone(parent=None, name=None) for layer in layers[:period]]

    def apply_period(x: Array, inputs: list[tuple[Any, Any]]) -> Array:
        for template, (layer_params, key) in zip(templates, inputs, strict=True):
            rngs = {} if key is None else {"dropout": key}
            x = nn.apply(call, template)({"params": layer_params}, x, rngs=rngs)
        return x

    if remat:
        apply_period = jax.checkpoint(apply_period)
    inputs = [(params[str(layer.name)], key) for layer, key in zip(layers, keys, strict=True)]
    periods = [inputs[start : start + period] for start in range(0, len(inputs), period)]

    # Stacked along a new first axis, the periods are what a loop runs over.
    if scan:
        stacked = jax.tree.map(lambda *parts: jnp.stack(parts), *periods)
        x, _ = jax.lax.scan(lambda x, inputs: (apply_period(x, inputs), None), x, stacked)
        return x
    for period_inputs in periods:
        x = apply_period(x, period_inputs)
    return x


def pooled_tokens(
    tokens: Float[Array, "B P C"], grid: tuple[int, int], side: int
) -> Float[Array, "B Q C"]:
    """The tokens of a grid, averaged over squares of `side` by `side`, which divides the grid."""
    if side == 1:
        return tokens
    sides = {"h": grid[0] // side, "w": grid[1] // side}
    return reduce(tokens, "b (h a w d) c -> b (h w) c", "mean", **sides, a=side, d=side)


def sincos_2d(height: int, width: int, channels: int) -> np.ndarray:
    """Fixed 2-D positions `[height·width channels]`: half the channels for y, half for x.

    Frequencies run over 10000^(-i/n), over grid coordinates, as in ViT's sine-cosine variant.

    Raises:
        ValueError: if `channels` is not divisible by 4.
    """
    if channels % 4:
        raise ValueError(f"2-D positions need a width divisible by 4, got {channels}")
    # A quarter of the channels for each sine and cosine, of y and of x.
    frequencies = 10000.0 ** -(np.arange(channels // 4) / (channels // 4))
    y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    parts = []
    for coordinate in (y, x):
        angle = coordinate.reshape(-1, 1) * frequencies
        parts += [np.sin(angle), np.cos(angle)]
    return np.concatenate(parts, axis=1).astype(np.float32)
