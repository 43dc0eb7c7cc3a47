"""SA-Swin: a Swin Transformer (2103.14030) with `[REP]` at its last stage, after DATE (2304.03669).

Any published size and the tiny one are this code with other numbers. Layout, order of merged
patches and padding follow the published model, so that its weights fit.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from date_jax.losses import MASKED
from date_jax.networks.transformer import (
    Attention,
    EncoderLayer,
    Mlp,
    apply_layers,
    pooled_tokens,
    sincos_2d,
)

EPSILON = 1e-5
POOLINGS = ("rep", "mean", "multi_scale")  # where a picture's one vector comes from


def _relative_index(window: int) -> np.ndarray:
    """The row of the bias table for each pair of places in a window: int `[window², window²]`."""
    # Two places' offset along each axis, counted from 0, as a number in base 2w - 1.
    place = np.stack(np.meshgrid(np.arange(window), np.arange(window), indexing="ij"), -1)
    place = place.reshape(-1, 2)
    offset = place[:, None] - place[None, :] + window - 1
    return offset[..., 0] * (2 * window - 1) + offset[..., 1]


def _shift_mask(height: int, width: int, window: int, shift: int) -> np.ndarray:
    """A bias `[windows window² window²]`, MASKED where rolling joined places that are far apart."""
    # Nine regions of the rolled grid, between which nothing attends.
    region = np.zeros((height, width), np.int32)
    cuts = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            region[rows, columns] = 3 * i + j
    region = rearrange(region, "(h a) (w b) -> (h w) (a b)", a=window, b=window)
    return np.where(region[:, :, None] == region[:, None, :], 0.0, MASKED).astype(np.float32)


class SwinBlock(nn.Module):
    """One Swin block: attention inside (shifted) windows, then an MLP, both pre-norm residual.

    Attributes:
        window: side of a window in tokens; a grid not larger than it is one window, unshifted.
        shift: tokens by which the windows are rolled (0, or window // 2 in every second block).
        with_rep: the first token of the input is `[REP]`; the grid then is one global window.
    """

    heads: int
    window: int
    shift: int
    mlp_ratio: float = 4.0
    with_rep: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"], grid: tuple[int, int]) -> Float[Array, "B T C"]:
        def norm(name: str) -> nn.LayerNorm:
            return nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name=name)

        # Both branches are added to what they read.
        normed = norm("norm1")(x)
        x = x + (self._global_attention if self.with_rep else self._window_attention)(normed, grid)
        mlp = Mlp(int(self.mlp_ratio * x.shape[-1]), dtype=self.dtype, name="mlp")
        return x + mlp(norm("norm2")(x))

    def _position_bias(self, window: int) -> Float[Array, "H T T"]:
        table = self.param(
            "relative_bias",
            nn.initializers.truncated_normal(0.02),
            ((2 * window - 1) ** 2, self.heads),
        )
        return jnp.moveaxis(table[_relative_index(window)], -1, 0)

    def _global_attention(
        self, x: Float[Array, "B T C"], grid: tuple[int, int]
    ) -> Float[Array, "B T C"]:
        """`[REP]` and the whole grid attend to each other."""
        # The table is of a square window: its rows that the (possibly oblong) grid really has.
        side = max(grid)
        places = (np.arange(grid[0])[:, None] * side + np.arange(grid[1])).reshape(-1)
        bias = self._position_bias(side)[:, places[:, None], places[None, :]]

        # [REP] has no place in the table: one learnt number a head for each way to and from it.
        rep = self.param("rep_bias", nn.initializers.zeros, (3, self.heads))
        tokens = grid[0] * grid[1]
        to_rep = jnp.broadcast_to(rep[0][:, None, None], (self.heads, tokens, 1))
        from_rep = jnp.broadcast_to(rep[1][:, None, None], (self.heads, 1, tokens))
        corner = rep[2][:, None, None]
        # [REP] stands in front, so its numbers frame the bias of the grid.
        bias = jnp.concatenate(
            [
                jnp.concatenate([corner, from_rep], axis=2),
                jnp.concatenate([to_rep, bias], axis=2),
            ],
            axis=1,
        )
        return Attention(self.heads, dtype=self.dtype, name="attention")(x, bias[None])

    def _window_attention(
        self, x: Float[Array, "B T C"], grid: tuple[int, int]
    ) -> Float[Array, "B T C"]:
        """Tokens attend to the others of their window; windows are rolled by the shift."""
        height, width = grid
        window = min(self.window, height, width)
        shift = self.shift if min(height, width) > window else 0

        # Padded after the norm, with zeros that take part, as in the published model.
        pad = (-height % window, -width % window)
        x = rearrange(x, "b (h w) c -> b h w c", h=height)
        x = jnp.pad(x, ((0, 0), (0, pad[0]), (0, pad[1]), (0, 0)))
        rows, columns = (height + pad[0]) // window, (width + pad[1]) // window
        x = jnp.roll(x, (-shift, -shift), axis=(1, 2)) if shift else x
        x = rearrange(x, "b (h a) (w d) c -> b (h w) (a d) c", a=window, d=window)

        # What rolling brought into one window from opposite sides stays apart.
        bias = self._position_bias(window)[None, None]
        if shift:
            mask = _shift_mask(height + pad[0], width + pad[1], window, shift)
            bias = bias + mask[None, :, None]
        x = Attention(self.heads, dtype=self.dtype, name="attention")(x, bias)

        # All the way back: windows to a grid, unrolled, without padding.
        x = rearrange(
            x, "b (h w) (a d) c -> b (h a) (w d) c", h=rows, w=columns, a=window, d=window
        )
        x = jnp.roll(x, (shift, shift), axis=(1, 2)) if shift else x
        return rearrange(x[:, :height, :width], "b h w c -> b (h w) c")


def _apply_block(block: SwinBlock, x: Array, grid: tuple[int, int]) -> Array:
    return block(x, grid)


class PatchMerging(nn.Module):
    """Four neighbouring tokens become one of twice the width; odd sides are padded with zeros."""

    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"], grid: tuple[int, int]) -> Float[Array, "B U D"]:
        height, width = grid
        x = rearrange(x, "b (h w) c -> b h w c", h=height)
        x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
        # Column-major order of the four, as the published weights expect.
        x = rearrange(x, "b (h a) (w d) c -> b (h w) (d a c)", a=2, d=2)
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(x)
        return nn.Dense(x.shape[-1] // 2, use_bias=False, dtype=self.dtype, name="reduction")(x)


class ImageExtractor(nn.Module):
    """Swin (2103.14030): pixels to one vector and a grid of tokens.

    Attributes:
        patch: side of a patch in pixels.
        width: channels of the first stage; each further stage has twice as many.
        depths, heads: blocks and attention heads of each stage.
        window: side of a window in tokens. The last stage attends globally: with `rep` over any
            grid, otherwise over square ones (an oblong one has windows of its shorter side).
        pooling: where the one vector comes from: `rep` (the learnt token), `mean` (the average),
            or `multi_scale` (`[REP]` and two layers over all stages but the first, each pooled to
            the last one's grid).
        pool: side of the square of tokens that are averaged to one of those that are returned.
        frozen: the first so many blocks of all stages, and what is in front of them, are not
            trained.
        remat, scan: see `apply_layers`.
    """

    patch: int
    width: int
    depths: Sequence[int]
    heads: Sequence[int]
    window: int
    mlp_ratio: float = 4.0
    pooling: str = "rep"
    pool: int = 1
    frozen: int = 0
    remat: bool = False
    scan: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, image: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B C"], Float[Array, "B P C"]]:
        """`(rep, tokens)` of the last stage; pixels normalised, any size."""
        pad = (-image.shape[1] % self.patch, -image.shape[2] % self.patch)
        image = jnp.pad(image, ((0, 0), (0, pad[0]), (0, pad[1]), (0, 0))).astype(self.dtype)

        # Patches as one matmul: the strided convolution's backward pass is slow on a CPU.
        x = rearrange(image, "b (h a) (w d) c -> b h w (a d c)", a=self.patch, d=self.patch)
        grid = (x.shape[1], x.shape[2])
        x = rearrange(x, "b h w c -> b (h w) c")
        x = nn.Dense(self.width, dtype=self.dtype, name="patch_embedding")(x)
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="patch_norm")(x)

        # Stages of blocks, the grid halved between them; [REP] joins at the last one.
        stages = []
        last = len(self.depths) - 1
        rep_inside = self.pooling == "rep"
        for stage, (depth, heads) in enumerate(zip(self.depths, self.heads, strict=True)):
            with_rep = stage == last and rep_inside
            if with_rep:
                x = jnp.concatenate([self._rep_token(x, "rep"), x], axis=1)
            blocks = [
                SwinBlock(
                    heads,
                    max(grid) if stage == last else self.window,
                    shift=self.window // 2 if i % 2 else 0,
                    mlp_ratio=self.mlp_ratio,
                    with_rep=with_rep,
                    dtype=self.dtype,
                    name=f"stage{stage}_block{i}",
                )
                for i in range(depth)
            ]
            # A block with windows and one with shifted ones belong together.
            period = 2 if depth % 2 == 0 else depth
            call = functools.partial(_apply_block, grid=grid)
            frozen = min(max(self.frozen - sum(self.depths[:stage]), 0), depth)
            saving = {"remat": self.remat, "scan": self.scan}
            x = apply_layers(self, blocks, call, x, period=period, frozen=frozen, **saving)
            stages.append((x, grid))
            if stage != last:
                x = PatchMerging(dtype=self.dtype, name=f"merge{stage}")(x, grid)
                grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="norm")(x)

        # One vector for the whole picture, by `pooling`.
        if rep_inside:
            rep, tokens = x[:, 0], x[:, 1:]
        elif self.pooling == "mean":
            rep, tokens = x.mean(axis=1), x
        else:
            rep, tokens = self._fused_stages([*stages[1:-1], (x, grid)])
        return rep, pooled_tokens(tokens, grid, self.pool)

    def _rep_token(self, x: Float[Array, "B T C"], name: str) -> Float[Array, "B 1 C"]:
        rep = self.param(name, nn.initializers.normal(0.02), (1, 1, x.shape[-1]))
        return jnp.broadcast_to(rep, (x.shape[0], 1, x.shape[-1])).astype(x.dtype)

    def _fused_stages(
        self, stages: list[tuple[Array, tuple[int, int]]]
    ) -> tuple[Float[Array, "B C"], Float[Array, "B P C"]]:
        """`[REP]` and the last stage's tokens, behind two layers over the tokens of all stages."""
        tokens, (height, width) = stages[-1]
        channels = tokens.shape[-1]

        # Each stage at the last one's width and grid, marked by its number and place.
        levels = []
        for i, (x, grid) in enumerate(stages):
            x = nn.Dense(channels, dtype=self.dtype, name=f"level{i}_projection")(x)
            x = rearrange(x, "b (h w) c -> b h w c", h=grid[0])
            factor = (-(-grid[0] // height), -(-grid[1] // width))
            x = nn.avg_pool(x, factor, strides=factor, padding="SAME", count_include_pad=False)
            level = self.param(f"level{i}", nn.initializers.normal(0.02), (channels,))
            position = jnp.asarray(sincos_2d(height, width, channels), self.dtype)
            levels.append(rearrange(x, "b h w c -> b (h w) c") + (level[None] + position)[None])

        # [REP] gathers from all of them, and so does the last stage's grid, which is returned.
        x = jnp.concatenate([self._rep_token(tokens, "rep"), *levels], axis=1)
        for i in range(2):
            x = EncoderLayer(
                self.heads[-1], 4 * channels, norm_first=True, dtype=self.dtype, name=f"fuse{i}"
            )(x)
        x = nn.LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="fuse_norm")(x)
        return x[:, 0], x[:, -height * width :]
