"""What a config says of the image extractor's tokens, against the extractor itself."""

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from date_jax.networks.sizes import stage_widths, stride, token_grid
from date_jax.networks.swin import ImageExtractor


@pytest.mark.parametrize("size", [(32, 32), (36, 20)], ids=["even", "padded"])
def test_tokens_are_as_many_and_as_wide_as_the_config_says(size: tuple[int, int]) -> None:
    image = ConfigDict({"patch": 4, "width": 8, "depths": (1, 2, 1), "heads": (1, 2, 2)})
    network = ImageExtractor(4, 8, image.depths, image.heads, window=2)
    variables, (_, tokens) = jax.eval_shape(
        lambda x: (v := network.init(jax.random.key(0), x), network.apply(v, x)),
        jnp.zeros((1, *size, 3)),
    )
    rows, columns = token_grid(image, *size)
    assert tokens.shape == (1, rows * columns, stage_widths(image)[-1])
    assert stride(image) == 16
    assert stage_widths(image) == [8, 16, 32]
    assert variables["params"]["patch_embedding"]["kernel"].shape[1] == stage_widths(image)[0]
