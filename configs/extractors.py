"""The sections `model.image` and `model.text`: the extractors of every config."""

from typing import Any

from ml_collections import ConfigDict


def image_section(**values: Any) -> ConfigDict:
    """The section `model.image`, a small Swin unless `values` say otherwise."""
    section = ConfigDict(
        {
            "kind": "swin",  # swin | vit
            "patch": 4,  # pixels
            "width": 32,  # of the first stage; each further one has twice as many
            "depths": (1, 2),  # layers of each stage; a ViT has one stage
            "heads": (2, 4),
            "window": 4,  # of a Swin: tokens that attend to each other, along a side; the last
            "mlp_ratio": 2.0,  # stage: all
            "pooling": "rep",  # rep | mean; of a Swin multi_scale too, of a ViT cls and map too
            "pool": 1,  # side of the square of last tokens that are averaged to one
            # What training changes: all | head (what no published file has, and the last norm) |
            # last_<n> (that and n layers) | none
            "train": "all",
            "vit": {  # what a ViT alone has
                "class_tokens": 1,
                "registers": 0,  # further tokens without a place, that nothing reads at the end
                "layer_scale": False,  # a learnt factor for each channel of what a layer adds
                "activation": "gelu",  # gelu | gelu_tanh | quick_gelu | swiglu
                "positions": 16,  # side of the table of positions; resized to the picture's grid
                "input_norm": False,  # a norm in front of the layers, as CLIP has it
                "patch_bias": True,
                "epsilon": 1e-6,  # of every norm
                "rep_layers": 2,  # last layers that [REP] goes through, where pooling is rep
                "pixels": "imagenet",  # imagenet | half | clip: mean and deviation of its pixels
            },
        }
    )
    section.update(values)
    return section


def text_section(**values: Any) -> ConfigDict:
    """The section `model.text`, a small BERT unless `values` say otherwise."""
    section = ConfigDict(
        {
            "kind": "bert",  # bert | siglip
            "layers": 2,
            "width": 64,
            "heads": 4,
            "mlp_ratio": 2.0,
            "dropout": 0.0,
            "train": "all",  # as that of the picture's extractor
        }
    )
    section.update(values)
    return section
