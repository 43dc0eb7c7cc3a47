"""The two seekers of DATE (2304.03669): one finds the picture, one finds the box in it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from date_jax.date.box_heads import BinsHead, PlacesHead
from date_jax.networks.transformer import encoded_tokens, encoder_layers, sincos_2d
from date_jax.pairs.vectors import unit_vectors

MAX_SCALE = 100.0


class ImageSeeker(nn.Module):
    """The concentrated vectors at length 1, with a learnt inverse temperature for their cosines.

    Nothing here mixes a query with a picture, so a gallery's vectors can be computed beforehand.
    """

    @nn.compact
    def __call__(
        self, image_rep: Float[Array, "B D"], text_rep: Float[Array, "B D"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "B D"], Float[Array, ""], Float[Array, ""]]:
        """`(query, image, scale, bias)`; the bias serves the sigmoid loss only."""
        log_scale = self.param("log_scale", nn.initializers.constant(jnp.log(1 / 0.07)), ())
        bias = self.param("bias", nn.initializers.constant(-10.0), ())
        scale = jnp.exp(log_scale)
        # Its gradient passes the limit, or a scale beyond it could never come back.
        scale = scale + jax.lax.stop_gradient(jnp.minimum(scale, MAX_SCALE) - scale)
        return unit_vectors(text_rep), unit_vectors(image_rep), scale, bias


class ObjectSeeker(nn.Module):
    """`[LOC; image tokens; text tokens]` through a transformer; a head makes the box of it.

    Type and position embeddings are added to the input of *every* layer: attention then never has
    to carry the places through the layers, and grounding is learnt several times sooner.

    Attributes:
        layers, heads, mlp_width, dropout: size of the encoder.
        norm_first: see `EncoderLayer`.
        head: one of `box_heads.HEADS`.
        remat, scan: see `apply_layers`.
    """

    layers: int
    heads: int
    mlp_width: int
    dropout: float = 0.0
    norm_first: bool = True
    head: str = "loc"
    remat: bool = False
    scan: bool = False
    dtype: jnp.dtype = jnp.dtype("float32")

    @nn.compact
    def __call__(
        self,
        image_tokens: Float[Array, "B P D"],
        text_tokens: Float[Array, "B T D"],
        text_mask: Bool[Array, "B T"],
        grid: tuple[int, int],
        *,
        token_mask: Bool[Array, "B P"] | None = None,
        products: Float[Array, "B P D"] | None = None,
        train: bool = False,
    ) -> tuple[Float[Array, "B D"], Float[Array, "B 4"], dict[str, Float[Array, "B ..."]]]:
        """`(f_loc, box_cxcywh, distribution)`, the box in [0, 1].

        Args:
            image_tokens, text_tokens: at one width.
            text_mask: False = padding.
            grid: the shape of the image tokens.
            token_mask: False for image tokens that are hidden: nothing attends to them, and of
                their own content they keep the place alone. None hides none.
            products: unit vectors of image tokens times that of the words, channel by channel, for
                `places`. Tokens learn from them what they have in common with the words long before
                attention does, and their sums, the cosines, are a part of the scores.
            train: whether units are dropped.

        Returns:
            The state of `[LOC]`, the box, and what `box_heads` gives besides; nothing of `loc`.
        """
        # What a token is and where it lies: [LOC], a place of the picture, a place in the text.
        batch, places, width = image_tokens.shape
        length = text_tokens.shape[1]
        init = nn.initializers.normal(0.02)
        loc = self.param("loc_token", init, (1, 1, width))
        kind = self.param("type_embedding", init, (3, width))
        text_position = self.param("text_position", init, (length, width))
        position = jnp.concatenate(
            [kind[:1], sincos_2d(*grid, width) + kind[1:2], text_position + kind[2:]], axis=0
        ).astype(self.dtype)
        # The sequence [LOC; image; text]; padding of the text and hidden tokens are masked.
        loc = jnp.broadcast_to(loc, (batch, 1, width))
        heat = None
        if products is not None:
            heat = products.sum(axis=-1)
            common = nn.Dense(width, dtype=self.dtype, name="common")(products * width**0.5)
            image_tokens = image_tokens.astype(self.dtype) + common
        if token_mask is not None:
            heat = None if heat is None else jnp.where(token_mask, heat, 0.0)
            image_tokens = jnp.where(token_mask[..., None], image_tokens, 0.0)
        sequence = [tokens.astype(self.dtype) for tokens in (loc, image_tokens, text_tokens)]
        x = jnp.concatenate(sequence, axis=1)
        visible = jnp.ones((batch, 1 + places), bool)
        if token_mask is not None:
            visible = visible.at[:, 1:].set(token_mask)
        mask = jnp.concatenate([visible, text_mask], axis=1)
        layers = encoder_layers(
            self.layers,
            self.heads,
            self.mlp_width,
            dropout=self.dropout,
            mlp_dropout=self.dropout,
            norm_first=self.norm_first,
            activation=nn.relu,
            dtype=self.dtype,
        )
        # Of the last layer only what the head reads is computed: [LOC], for `places` the image too.
        states = encoded_tokens(
            self,
            layers,
            x,
            mask,
            position=position,
            first=1 + places if self.head == "places" else 1,
            remat=self.remat,
            scan=self.scan,
            train=train,
        )
        if self.norm_first:
            states = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(states)
        # The box in float32: bfloat16 cannot tell neighbouring pixels of a large picture apart.
        states = states.astype(jnp.promote_types(states.dtype, jnp.float32))
        f_loc = states[:, 0]
        if self.head == "bins":
            return f_loc, *BinsHead(name="bins")(f_loc)
        if self.head == "places":
            head = PlacesHead(name="places")
            return f_loc, *head(f_loc, states[:, 1:], grid, heat, train=train)
        # An accelerator's default precision would make bfloat16 of it again.
        hidden = nn.relu(nn.Dense(width, precision="highest", name="box1")(f_loc))
        hidden = nn.relu(nn.Dense(width, precision="highest", name="box2")(hidden))
        return f_loc, nn.sigmoid(nn.Dense(4, precision="highest", name="box3")(hidden)), {}
