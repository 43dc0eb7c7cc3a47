"""What is hidden of a post, how often, and what telling it costs: against loops."""

import jax
import jax.numpy as jnp
import numpy as np

from date_jax.capture import pretext

BEGIN, END, MASK, FIRST, VOCAB = 2, 3, 4, 5, 40


def test_words_are_hidden_in_their_shares_and_nothing_else_is_touched() -> None:
    rng = np.random.default_rng(0)
    text = jnp.asarray(rng.integers(FIRST, VOCAB, (400, 50)), jnp.int32)
    is_word = jnp.asarray(rng.random(text.shape) < 0.7)
    options = {"mask_id": MASK, "first_id": FIRST, "vocab_size": VOCAB}
    hidden, chosen = pretext.masked_words(text, is_word, rng=jax.random.key(0), **options)
    assert not (chosen & ~is_word).any()
    np.testing.assert_array_equal(hidden[~chosen], text[~chosen])
    count = chosen.sum()
    assert abs(count / is_word.sum() - 0.15) < 0.01
    masked, kept = (hidden == MASK) & chosen, (hidden == text) & chosen
    assert abs(masked.sum() / count - 0.8) < 0.02
    # A random word is now and then the word itself.
    assert abs(kept.sum() / count - (0.1 + 0.1 / (VOCAB - FIRST))) < 0.02
    other = hidden[chosen & ~masked & ~kept]
    assert other.min() >= FIRST
    assert other.max() < VOCAB


def test_regions_are_chosen_and_zeroed_in_their_shares() -> None:
    chosen, zeroed = pretext.region_masks((500, 40), rng=jax.random.key(1))
    assert abs(chosen.mean() - 0.15) < 0.01
    assert not (zeroed & ~chosen).any()
    assert abs(zeroed.sum() / chosen.sum() - 0.9) < 0.02


def test_losses_are_those_of_a_loop_over_the_chosen() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(3, 4, 6)).astype(np.float32)
    text, chosen = rng.integers(0, 6, (3, 4)), rng.random((3, 4)) < 0.5
    guess, region = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    words, regions = np.zeros(3), np.zeros(3)
    for row, place in np.argwhere(chosen):
        shares = np.exp(logits[row, place].astype(np.float64))
        words[row] -= np.log(shares[text[row, place]] / shares.sum())
        regions[row] += sum((guess[row, place] - region[row, place]) ** 2) / 5
    given = jnp.asarray(chosen)
    found = pretext.word_losses(jnp.asarray(logits), jnp.asarray(text, jnp.int32), given)
    np.testing.assert_allclose(found, words, rtol=1e-5)
    np.testing.assert_allclose(
        pretext.region_losses(jnp.asarray(guess), jnp.asarray(region), given), regions, rtol=1e-5
    )


def test_two_titles_become_one_in_either_order_and_share_the_room() -> None:
    rng, length = np.random.default_rng(3), 11
    words = [rng.integers(FIRST, VOCAB, rng.integers(1, 10)).tolist() for _ in range(400)]
    text, mask = np.zeros((400, length), np.int32), np.zeros((400, length), bool)
    for row, some in enumerate(words):
        text[row, : len(some) + 2], mask[row, : len(some) + 2] = [BEGIN, *some, END], True
    joined, there = map(
        np.asarray,
        pretext.joined_titles(jnp.asarray(text), jnp.asarray(mask), rng=jax.random.key(3)),
    )
    ways = {(order, cut): 0 for order in ("own first", "other first") for cut in (False, True)}
    for row, whole in enumerate(words):
        own, other = [*whole], [*words[row - 1]]
        while len(own) + len(other) > length - 2:  # whoever has more than half loses a word
            (own if len(own) > (length - 1) // 2 else other).pop()
        cut = len(own) + len(other) < len(whole) + len(words[row - 1])
        assert not joined[row][~there[row]].any()
        found = joined[row][there[row]].tolist()
        if found == [BEGIN, *own, *other, END]:
            ways["own first", cut] += 1
        else:
            assert found == [BEGIN, *other, *own, END]
            ways["other first", cut] += 1
    assert min(ways.values()) > 30, ways
