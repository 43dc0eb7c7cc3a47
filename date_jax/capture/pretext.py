"""CAPTURE's pretext tasks (2107.14572): masked words, masked regions, two titles joined to one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

SHARE = 0.15  # of words and of regions, whose value has to be predicted
MASKED, RANDOM = 0.8, 0.1  # of those words; the rest stays as it is
ZEROED = 0.9  # of those regions


def masked_words(
    text: Int[Array, "B T"],
    is_word: Bool[Array, "B T"],
    *,
    rng: Key[Array, ""],
    mask_id: int,
    first_id: int,
    vocab_size: int,
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """The text as BERT masks it (1810.04805), and which of its tokens were chosen.

    Args:
        text: token ids.
        is_word: real tokens that are words; no other is chosen.
        rng: of the choices.
        mask_id: of [MASK].
        first_id: smallest id of a word; below are the special tokens, which replace nothing.
        vocab_size: one above the largest id.
    """
    choose_key, kind_key, word_key = jax.random.split(rng, 3)
    chosen = jax.random.bernoulli(choose_key, SHARE, text.shape) & is_word
    # Of the chosen tokens most become [MASK], some a random word, and some stay.
    kind = jax.random.uniform(kind_key, text.shape)
    random_word = jax.random.randint(word_key, text.shape, first_id, vocab_size, text.dtype)
    replacement = jnp.where(kind < MASKED + RANDOM, random_word, text)
    replacement = jnp.where(kind < MASKED, mask_id, replacement)
    return jnp.where(chosen, replacement, text), chosen


def region_masks(
    shape: tuple[int, int], *, rng: Key[Array, ""]
) -> tuple[Bool[Array, "B R"], Bool[Array, "B R"]]:
    """The masks of the regions that are chosen, and of those among them that are zeroed.

    Places without a region are chosen like the others; the caller leaves them out.
    """
    choose_key, zero_key = jax.random.split(rng)
    # Most of the chosen regions are zeroed; the others have to be predicted though they are seen.
    chosen = jax.random.bernoulli(choose_key, SHARE, shape)
    return chosen, chosen & jax.random.bernoulli(zero_key, ZEROED, shape)


def word_losses(
    logits: Float[Array, "B T V"], text: Int[Array, "B T"], chosen: Bool[Array, "B T"]
) -> Float[Array, " B"]:
    """Cross-entropy of the chosen words, summed over each row (1810.04805).

        l_i = - Σ_t chosen_it · log softmax(logits_it)[text_it]

    Four words that are equally likely cost log 4:

        >>> chosen = jnp.array([[True, False]])
        >>> word_losses(jnp.zeros((1, 2, 4)), jnp.array([[3, 1]]), chosen)
        Array([1.3862944], dtype=float32)

    Args:
        logits: over the vocabulary.
        text: the true ids.
        chosen: tokens that count.
    """
    log_probability = jax.nn.log_softmax(logits, axis=-1)
    loss = -jnp.take_along_axis(log_probability, text[..., None], axis=-1)[..., 0]
    return jnp.where(chosen, loss, 0.0).sum(axis=1)


def region_losses(
    predicted: Float[Array, "B R F"], true: Float[Array, "B R F"], chosen: Bool[Array, "B R"]
) -> Float[Array, " B"]:
    """Squared error of the chosen regions' features, summed over each row.

        l_i = Σ_r chosen_ir · (1/F) Σ_f (predicted_irf - true_irf)²

    Divided by the number of chosen regions it is the official code's, of 2107.14572:

        >>> chosen = jnp.array([[True, False]])
        >>> region_losses(jnp.zeros((1, 2, 2)), jnp.full((1, 2, 2), 3.0), chosen)
        Array([9.], dtype=float32)

    Args:
        predicted, true: features.
        chosen: regions that count.
    """
    loss = jnp.square(predicted - true).mean(axis=-1)
    return jnp.where(chosen, loss, 0.0).sum(axis=1)


def joined_titles(
    text: Int[Array, "B T"], mask: Bool[Array, "B T"], *, rng: Key[Array, ""]
) -> tuple[Int[Array, "B T"], Bool[Array, "B T"]]:
    """Titles joined with that of the row before, in either order, as `(text, mask)`.

    Where the two are longer than T they share it: neither loses words as long as it has no more
    than half of them.

    Args:
        text: [CLS] first, [SEP] last, padding behind.
        mask: False = padding.
        rng: of the order.
    """
    room = text.shape[1] - 2  # one [CLS] and one [SEP]
    # How many words the row's title and the one before it have, and how many of them fit.
    length = mask.sum(axis=1) - 2
    other_length = jnp.roll(length, 1)
    swap = jax.random.bernoulli(rng, 0.5, length.shape)
    length, other_length = (
        jnp.minimum(length, jnp.maximum(room - room // 2, room - other_length)),
        jnp.minimum(other_length, jnp.maximum(room // 2, room - length)),
    )
    # The first title keeps its place, the second moves behind it, [SEP] behind both.
    other_text = jnp.roll(text, 1, axis=0)
    first = jnp.where(swap[:, None], other_text, text)
    second = jnp.where(swap[:, None], text, other_text)
    begin = 1 + jnp.where(swap, other_length, length)[:, None]
    end = 1 + (length + other_length)[:, None]
    place = jnp.arange(text.shape[1])[None]
    from_second = jnp.take_along_axis(second, jnp.maximum(place - begin + 1, 0), axis=1)
    separator = jnp.take_along_axis(text, mask.sum(axis=1, keepdims=True) - 1, axis=1)
    joined = jnp.where(place < begin, first, jnp.where(place < end, from_second, separator))
    return jnp.where(place <= end, joined, 0), place <= end
