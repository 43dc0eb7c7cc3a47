"""CAPTURE's pretext tasks (2107.14572): hide words and regions, and tell what they were; and titles
that say more than their picture shows."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

SHARE = 0.15  # of words and of regions, whose value has to be told
MASKED, RANDOM = 0.8, 0.1  # of those words; the rest stays as it is
ZEROED = 0.9  # of those regions


def hidden_words(
    text: Int[Array, "B T"],
    may_hide: Bool[Array, "B T"],
    *,
    rng: Key[Array, ""],
    mask_id: int,
    first_id: int,
    vocab_size: int,
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """The text as BERT hides it (1810.04805), and which tokens were chosen.

    Args:
        may_hide: real tokens that are words.
        mask_id: of [MASK].
        first_id: smallest id of a word; below are the special tokens, which replace nothing.
        vocab_size: one above the largest id.
    """
    choose_key, kind_key, word_key = jax.random.split(rng, 3)
    chosen = jax.random.bernoulli(choose_key, SHARE, text.shape) & may_hide
    kind = jax.random.uniform(kind_key, text.shape)
    other = jax.random.randint(word_key, text.shape, first_id, vocab_size, text.dtype)
    replaced = jnp.where(kind < MASKED, mask_id, jnp.where(kind < MASKED + RANDOM, other, text))
    return jnp.where(chosen, replaced, text), chosen


def hidden_regions(
    shape: tuple[int, int], *, rng: Key[Array, ""]
) -> tuple[Bool[Array, "B R"], Bool[Array, "B R"]]:
    """Which regions are chosen, and which of these are zeroed; the real ones are not known here."""
    choose_key, zero_key = jax.random.split(rng)
    chosen = jax.random.bernoulli(choose_key, SHARE, shape)
    return chosen, chosen & jax.random.bernoulli(zero_key, ZEROED, shape)


def word_losses(
    logits: Float[Array, "B T V"], text: Int[Array, "B T"], chosen: Bool[Array, "B T"]
) -> Float[Array, " B"]:
    """Cross-entropy of the chosen tokens, summed over each row."""
    log_share = jax.nn.log_softmax(logits, axis=-1)
    each = -jnp.take_along_axis(log_share, text[..., None], axis=-1)[..., 0]
    return jnp.where(chosen, each, 0.0).sum(axis=1)


def region_losses(
    guess: Float[Array, "B R F"], region: Float[Array, "B R F"], chosen: Bool[Array, "B R"]
) -> Float[Array, " B"]:
    """Squared error of the chosen regions' features, mean over F and summed over each row."""
    each = jnp.square(guess - region).mean(axis=-1)
    return jnp.where(chosen, each, 0.0).sum(axis=1)


def joined_titles(
    text: Int[Array, "B T"], mask: Bool[Array, "B T"], *, rng: Key[Array, ""]
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """Each title and that of the row before as one, `(text, mask)`, in either order.

    Where the two are longer than T they share it: neither loses words as long as it has no more
    than half of them.

    Args:
        text: [CLS] first, [SEP] last, padding behind.
        mask: False = padding.
    """
    room = text.shape[1] - 2  # one [CLS] and one [SEP]
    # Words, of the row's own title and of the other.
    own = mask.sum(axis=1) - 2
    other = jnp.roll(own, 1)
    swap = jax.random.bernoulli(rng, 0.5, own.shape)
    own, other = (
        jnp.minimum(some, jnp.maximum(half, room - rest))
        for some, rest, half in ((own, other, room - room // 2), (other, own, room // 2))
    )
    before = jnp.roll(text, 1, axis=0)
    first = jnp.where(swap[:, None], before, text)
    second = jnp.where(swap[:, None], text, before)
    begin = 1 + jnp.where(swap, other, own)[:, None]
    end = 1 + (own + other)[:, None]
    place = jnp.arange(text.shape[1])[None]
    from_second = jnp.take_along_axis(second, jnp.maximum(place - begin + 1, 0), axis=1)
    closing = jnp.take_along_axis(text, mask.sum(axis=1, keepdims=True) - 1, axis=1)
    joined = jnp.where(place < begin, first, jnp.where(place < end, from_second, closing))
    return jnp.where(place <= end, joined, 0), place <= end
