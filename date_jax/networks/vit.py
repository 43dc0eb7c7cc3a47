"""A plain Vision Transformer (2010.11929), with `[REP]` in its last layers.

DINOv2 (2304.07193), SigLIP (2303.15343) and CLIP (2103.00020) are this code with other options, so
that their published weights fit.
"""

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from date_jax.networks.positions import resized_positions
from date_jax.networks.transformer import (
    Attention,
    Mlp,
    apply_layers,
    exact_gelu,
    pooled_tokens,
    quick_gelu,
    tanh_gelu,
)

POOLINGS = ("rep", "mean", "cls", "map")  # where a picture's one vector comes from
PIXELS = {  # mean and deviation of the pixels in [0, 1] that published weights expect
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def swiglu(x: Float[Array, "*B H"]) -> Float[Array, "*B I"]:
    """One half of the channels, gated by the SiLU of the other (2002.05202); I = H / 2."""
    gate, value = jnp.split(x, 2, axis=-1)
    return nn.silu(gate) * value


ACTIVATIONS = {
    "gelu": exact_gelu,
    "gelu_tanh": tanh_gelu,
    "quick_gelu": quick_gelu,
    "swiglu": swiglu,
}


def mlp_width(width: int, mlp_ratio: float, activation: str) -> int:
    """Outputs of an MLP's first layer: for SwiGLU both halves, of two thirds, as DINOv2 has it."""
    hidden = round(width * mlp_ratio)
    if activation == "swiglu":
        return 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8)
    return hidden


class Block(nn.Module):
    """One pre-norm layer: attention and MLP, each in a residual branch.

    Attributes:
        hidden: outputs of the MLP's first layer.
        activation: a key of ACTIVATIONS.
        layer_scale: whether each branch has a learnt factor for every channel.
        epsilon: of both norms.
    """

    heads: int
    hidden: int
    activation: str = "gelu"
    layer_scale: bool = False
    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"], readers: int = 0) -> Float[Array, "B T C"]:
        """The tokens behind the layer.

        Args:
            x: tokens.
            readers: that many leading tokens read the others, and are read by none.
        """
        norms = [
            nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name=f"norm{i}") for i in (1, 2)
        ]
        # Keys and values are those of the other tokens, so readers change none of these.
        normed = norms[0](x)
        attention = Attention(self.heads, dtype=self.dtype, name="attention")
        x = x + self._scaled(attention(normed, context=normed[:, readers:]), "scale1")
        name = "gated_mlp" if self.activation == "swiglu" else "mlp"
        mlp = Mlp(self.hidden, ACTIVATIONS[self.activation], dtype=self.dtype, name=name)
        return x + self._scaled(mlp(norms[1](x)), "scale2")

    def _scaled(self, x: Float[Array, "B T C"], name: str) -> Float[Array, "B T C"]:
        if not self.layer_scale:
            return x
        scale = self.param(name, nn.initializers.ones, (x.shape[-1],))
        return x * scale[None, None].astype(x.dtype)


def _apply_block(block: Block, x: Array, readers: int) -> Array:
    return block(x, readers)


class AttentionPooling(nn.Module):
    """SigLIP's head: a learnt vector attends to all tokens, and an MLP follows.

    Attributes: see `Block`.
    """

    heads: int
    hidden: int
    activation: str = "gelu_tanh"
    epsilon: float = 1e-6
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(self, tokens: Float[Array, "B P C"]) -> Float[Array, "B C"]:
        batch, _, width = tokens.shape
        probe = self.param("probe", nn.initializers.normal(0.02), (width,)).astype(tokens.dtype)
        probe = jnp.broadcast_to(probe[None, None], (batch, 1, width))
        x = Attention(self.heads, dtype=self.dtype, name="attention")(probe, context=tokens)
        mlp = Mlp(self.hidden, ACTIVATIONS[self.activation], dtype=self.dtype, name="mlp")
        norm = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")
        return (x + mlp(norm(x)))[:, 0]


class VisionTransformer(nn.Module):
    """A plain ViT (2010.11929): pixels to one vector and a grid of tokens.

    `[REP]` begins as the class token in front of the last `rep_layers` layers, or as the mean of
    the patches where there is none, plus a learnt offset. It reads the other tokens, and none of
    them reads it. As the offset begins with 0, `rep` is the class token until it is trained, and
    the other tokens always are what they are without it.

    Attributes:
        patch: side of a patch in pixels.
        width, depth, heads, mlp_ratio: size of the encoder.
        pooling: where the one vector comes from, one of POOLINGS: `rep`, the mean of the patches,
            the class token, or `map`, the attention pooling of SigLIP.
        pool: side of the square of tokens that are averaged to one of those that are returned.
        class_tokens, registers: learnt tokens with and without a place in the table of positions.
        layer_scale: whether each branch has a learnt factor for every channel.
        activation: a key of ACTIVATIONS.
        positions: side of the table of positions, which is resized to the picture's grid.
        input_norm: whether a norm stands in front of the layers.
        patch_bias: whether the patches' matrix has one.
        epsilon: of every norm.
        rep_layers: the last layers that `[REP]` goes through.
        pixels: a key of PIXELS, which the weights are made for.
        frozen: the first so many layers, and what is in front of them, are not trained.
        remat, scan: see `apply_layers`.
    """

    patch: int
    width: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    pooling: str = "rep"
    pool: int = 1
    class_tokens: int = 1
    registers: int = 0
    layer_scale: bool = False
    activation: str = "gelu"
    positions: int = 16
    input_norm: bool = False
    patch_bias: bool = True
    epsilon: float = 1e-6
    rep_layers: int = 2
    pixels: str = "imagenet"
    frozen: int = 0
    remat: bool = False
    scan: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self, image: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B C"], Float[Array, "B P C"]]:
        """`(rep, tokens)` behind the last norm; pixels at ImageNet's mean and deviation."""
        x, grid = self._embedded(image)
        hidden = mlp_width(self.width, self.mlp_ratio, self.activation)
        shape: dict[str, Any] = {
            "activation": self.activation,
            "epsilon": self.epsilon,
            "dtype": self.dtype,
        }
        blocks = [
            Block(self.heads, hidden, layer_scale=self.layer_scale, name=f"layer{i}", **shape)
            for i in range(self.depth)
        ]

        # [REP] joins in front of the last layers.
        saving = {"remat": self.remat, "scan": self.scan}
        readers = int(self.pooling == "rep")
        first = self.depth - self.rep_layers * readers
        x = apply_layers(
            self,
            blocks[:first],
            functools.partial(_apply_block, readers=0),
            x,
            frozen=min(self.frozen, first),
            **saving,
        )
        if readers:
            x = jnp.concatenate([self._rep_token(x), x], axis=1)
            call = functools.partial(_apply_block, readers=readers)
            frozen = max(self.frozen - first, 0)
            x = apply_layers(self, blocks[first:], call, x, frozen=frozen, **saving)
        x = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm")(x)

        # One vector for the whole picture, by `pooling`; the patches stand last.
        tokens = x[:, x.shape[1] - grid[0] * grid[1] :]
        if self.pooling == "mean":
            rep = tokens.mean(axis=1)
        elif self.pooling == "map":
            rep = AttentionPooling(self.heads, hidden, name="head", **shape)(tokens)
        else:
            rep = x[:, 0]
        return rep, pooled_tokens(tokens, grid, self.pool)

    def _embedded(
        self, image: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B T C"], tuple[int, int]]:
        """The tokens in front of the first layer: class, registers, patches; and their grid."""
        # Pixels as the weights expect them; what is no whole patch is padded.
        if self.pixels != "imagenet":
            mean, std = (jnp.asarray(x)[None, None, None] for x in PIXELS["imagenet"])
            their_mean, their_std = (jnp.asarray(x)[None, None, None] for x in PIXELS[self.pixels])
            image = (image * std + mean - their_mean) / their_std
        pad = (-image.shape[1] % self.patch, -image.shape[2] % self.patch)
        image = jnp.pad(image, ((0, 0), (0, pad[0]), (0, pad[1]), (0, 0))).astype(self.dtype)

        # Patches as one matmul, as in the Swin.
        x = rearrange(image, "b (h a) (w d) c -> b h w (a d c)", a=self.patch, d=self.patch)
        grid = (x.shape[1], x.shape[2])
        x = rearrange(x, "b h w c -> b (h w) c")
        x = nn.Dense(
            self.width, use_bias=self.patch_bias, dtype=self.dtype, name="patch_embedding"
        )(x)

        # Class tokens have the table's first rows, registers none.
        init = nn.initializers.normal(0.02)
        rows = self.class_tokens + self.positions**2
        table = self.param("position_embedding", init, (rows, self.width))
        of_class, of_grid = table[: self.class_tokens], table[self.class_tokens :]
        of_grid = resized_positions(of_grid, grid, antialias=self.registers > 0)
        parts = [x + of_grid[None].astype(x.dtype)]
        if self.registers:
            parts.insert(0, self._repeated("register_token", (self.registers, self.width), x))
        if self.class_tokens:
            tokens = self._repeated("class_token", (self.class_tokens, self.width), x)
            parts.insert(0, tokens + of_class[None].astype(x.dtype))
        x = jnp.concatenate(parts, axis=1)
        if self.input_norm:
            x = nn.LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="input_norm")(x)
        return x, grid

    def _repeated(self, name: str, shape: tuple[int, int], x: Array) -> Float[Array, "B N C"]:
        """Learnt tokens for every row of `x`."""
        token = self.param(name, nn.initializers.normal(0.02), shape)
        return jnp.broadcast_to(token[None], (x.shape[0], *shape)).astype(x.dtype)

    def _rep_token(self, x: Float[Array, "B T C"]) -> Float[Array, "B 1 C"]:
        offset = self.param("rep_offset", nn.initializers.zeros, (self.width,))
        start = x[:, :1] if self.class_tokens else x[:, self.registers :]
        return start.mean(axis=1, keepdims=True) + offset[None, None].astype(x.dtype)
