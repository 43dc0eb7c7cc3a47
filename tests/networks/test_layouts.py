"""Which parameters a published network has, at every scale and with every pooling."""

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from configs import date
from configs.scales import SCALES
from date_jax.networks import layouts, swin
from date_jax.networks.extractors import image_extractor, text_extractor

SWINS = [name for name in SCALES if name == "tiny" or name.startswith("swin")]
# One layer of the fusion of stages.
LAYER = [
    *(
        f"attention/{part}/{leaf}"
        for part in ("query", "key", "value", "out")
        for leaf in ("kernel", "bias")
    ),
    *(f"mlp/{part}/{leaf}" for part in ("up", "down") for leaf in ("kernel", "bias")),
    *(f"norm{i}/{leaf}" for i in (1, 2) for leaf in ("scale", "bias")),
]


def both_groups(module: str, shapes: dict) -> tuple[set[str], set[str]]:
    """The paths of what a published network has, and of what it lacks."""
    mask = layouts.published_mask({"model": {module: shapes}})["model"][module]
    flat = flatten_dict(mask, sep="/")
    return {path for path in flat if flat[path]}, {path for path in flat if not flat[path]}


def config_of(scale: str) -> ConfigDict:
    return date.get_config("" if scale == "tiny" else scale)


def published_swin(depths: list[int]) -> set[str]:
    """The parameters of the published Swin, by our names."""
    ends = [f"{part}/{leaf}" for part in ("patch_norm", "norm") for leaf in ("scale", "bias")]
    ends += ["patch_embedding/kernel", "patch_embedding/bias"]
    merges = [
        f"merge{stage}/{leaf}"
        for stage in range(len(depths) - 1)
        for leaf in ("norm/scale", "norm/bias", "reduction/kernel")
    ]
    blocks = [
        f"stage{stage}_block{block}/{leaf}"
        for stage, depth in enumerate(depths)
        for block in range(depth)
        for leaf in ("relative_bias", *LAYER)
    ]
    return {*ends, *merges, *blocks}


@pytest.mark.parametrize("pooling", swin.POOLINGS)
@pytest.mark.parametrize("scale", SWINS)
def test_the_new_layers_of_the_image_extractor_are_told_from_the_published_ones(
    scale: str, pooling: str
) -> None:
    config = config_of(scale)
    if pooling == "multi_scale" and len(config.model.image.depths) < 3:
        config.model.image.depths, config.model.image.heads = (2, 2, 2), (2, 2, 4)
    depths = [*config.model.image.depths]
    image = jax.ShapeDtypeStruct(
        (1, config.data.image_size, config.data.image_size, 3), jnp.float32
    )
    network = image_extractor(config.model, pooling)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image)["params"]
    published, new = both_groups("image_extractor", shapes)
    expected = {
        "rep": {"rep", *(f"stage{len(depths) - 1}_block{i}/rep_bias" for i in range(depths[-1]))},
        "mean": set(),
        "multi_scale": {
            *("rep", "fuse_norm/scale", "fuse_norm/bias"),
            *(f"fuse{i}/{leaf}" for i in range(2) for leaf in LAYER),
            *(f"level{i}" for i in range(len(depths) - 1)),
            *(
                f"level{i}_projection/{x}"
                for i in range(len(depths) - 1)
                for x in ("kernel", "bias")
            ),
        },
    }
    assert new == expected[pooling]
    assert published == published_swin(depths)
    if pooling == "multi_scale" and scale != "tiny":
        assert len(new) == 44


@pytest.mark.parametrize("scale", SWINS)
def test_a_published_bert_has_all_of_the_text_extractor(scale: str) -> None:
    config = config_of(scale)
    length = config.data.text_length
    inputs = [jax.ShapeDtypeStruct((1, length), dtype) for dtype in (jnp.int32, jnp.bool_)]
    network = text_extractor(config.model, 50, length)
    shapes = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    published, new = both_groups("text_extractor", shapes)
    tables = {"word_embedding/embedding", "position_embedding", "segment_embedding"}
    norm = {"embedding_norm/scale", "embedding_norm/bias"}
    layers = {f"layer{i}/{leaf}" for i in range(config.model.text.layers) for leaf in LAYER}
    assert new == set()
    assert published == tables | norm | layers


def test_nothing_outside_the_extractors_is_published() -> None:
    params = {"image_projection": {"kernel": 1}, "fusion": {"norm": {"scale": 1}}}
    assert not any(jax.tree.leaves(layouts.published_mask(params)))
