"""Same-style on kept features of frozen extractors: what is learnt is that of the same views."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from date_jax import augment
from date_jax.data import pipeline
from date_jax.networks import extractors
from date_jax.same_style.task import TASK as SAME_STYLE
from date_jax.task import Memory


@pytest.fixture
def frozen(tiny_same_style: ConfigDict) -> ConfigDict:
    """The job on fixed views, with both extractors frozen."""
    tiny_same_style.data.views = 2
    tiny_same_style.augment.flip = 0.5
    tiny_same_style.batch_size = 8
    tiny_same_style.model.image.train = tiny_same_style.model.text.train = "none"
    return tiny_same_style


@pytest.fixture
def corpus(frozen: ConfigDict) -> pipeline.Corpus:
    return SAME_STYLE.load(frozen)


def with_features(batch: Any, config: ConfigDict, params: Any, swap: Any) -> Any:
    """The batch with the extractors' outputs for its views in place of pictures and words."""
    image = extractors.image_extractor(config.model, config.model.image.pooling)
    words = params["text_extractor"]["word_embedding"]["embedding"]
    text = extractors.text_extractor(config.model, len(words), config.data.text_length)
    sides = {}
    for side, rows in batch.items():
        view = augment.fixed_view(rows["image"], rows["view_place"], rows["view"], config=config)
        ids = jnp.where(view.flip[:, None], swap[rows["text"]], rows["text"])
        rep, tokens = image.apply({"params": params["image_extractor"]}, view.image)
        other = {key: rows[key] for key in rows if key not in ("image", "text")}
        sides[side] = other | {"image_rep": rep, "image_tokens": tokens, "flip": view.flip}
        rep, tokens = text.apply({"params": params["text_extractor"]}, ids, rows["text_mask"])
        # A batch has the ids as well; they must not count.
        sides[side] |= {"text_rep": rep, "text_tokens": tokens, "text": rows["text"] * 0}
    return sides


def test_the_loss_of_features_is_that_of_the_same_views(
    frozen: ConfigDict, corpus: pipeline.Corpus
) -> None:
    learner = SAME_STYLE.learner(frozen, corpus.tokenizer, corpus.sizes)
    batch = jax.tree.map(jnp.asarray, next(SAME_STYLE.batches(frozen, corpus, 0)))
    params, _ = learner.init(jax.random.key(0), batch)
    swap = jnp.asarray(corpus.tokenizer.swap_table())
    features = with_features(batch, frozen, params["model"], swap)
    assert any(side["flip"].any() for side in features.values())

    @jax.jit
    def terms(batch: Any) -> dict[str, jax.Array]:
        rng = jax.random.key(1)
        return learner.loss(params, Memory(), batch, step=jnp.int32(3), rng=rng)[1].metrics

    one, other = terms(batch), terms(features)
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
