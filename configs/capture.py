"""CAPTURE: find every product of a picture that shows several, learnt from titles alone.

    python -m date_jax.main --config=configs/capture.py              # rendered suites

This takes about 12 minutes on 2 cores. Expect mAP@10 of 0.581 ± 0.019 on suite_test; one vector a
post gives 0.240 ± 0.006 (three seeds, docs/capture.md). Other regions, sizes and data:

    python -m date_jax.main --config=configs/capture.py:grid         # tokens as regions
    python -m date_jax.main --config=configs/capture.py:published    # the published streams
    python -m date_jax.main --config=configs/capture.py:product1m \
        --config.data.path=lists --config.data.images=pictures       # Product1M's posts
    python -m date_jax.main --config=configs/capture.py:product1m,precomputed,published \
        --config.data.path=lists --config.data.images=pictures --config.data.regions=regions
    python -m date_jax.main --config=configs/capture.py:files --config.data.path=photos.jsonl \
        --config.data.pages=mall_collage --config.data.singles=mall  # your own photos

Words join by commas. `precomputed` takes regions that a detector found beforehand, in the files of
date_jax.data.files.region_files. Product1M's lists are read as they are, its pictures as <id>.jpg,
.png or .webp.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.extractors import image_section
from configs.scales import ENCODERS, scale, words
from date_jax.errors import UsageError

WORDS = ("files", "grid", "precomputed", "product1m", "published", *ENCODERS)
METHODS: dict[str, dict[str, Any]] = {  # what date_jax.ablate compares, and what each changes
    "proposals": {"model.regions.kind": "proposals"},
    "grid": {"model.regions.kind": "grid"},
    "without_joined": {"loss.joined": 0.0},
}
COLUMNS = {  # of its table: which split, which metric
    "mAP@10": ("suite_test", "map_at_10"),
    "mAR@10": ("suite_test", "mar_at_10"),
    "standard mAP@10": ("suite_test", "standard_map_at_10"),
    "author's mAP@10": ("suite_test", "author_round_robin/map_at_10"),
    "author's mAR@10": ("suite_test", "author_round_robin/mar_at_10"),
    "crops alone mAP@10": ("suite_test", "image_by_instance/map_at_10"),
    "crops alone mAR@10": ("suite_test", "image_by_instance/mar_at_10"),
    "whole post mAP@10": ("suite_test", "sum_whole_post/map_at_10"),
    "whole post mAR@10": ("suite_test", "sum_whole_post/mar_at_10"),
    "author's whole post mAP@10": ("suite_test", "author_whole_post/map_at_10"),
    "author's whole post mAR@10": ("suite_test", "author_whole_post/mar_at_10"),
    "titles mAP@10": ("suite_test", "text_alone/map_at_10"),
    "titles mAR@10": ("suite_test", "text_alone/mar_at_10"),
    "pictures mAP@10": ("suite_test", "image_alone/map_at_10"),
    "pictures mAR@10": ("suite_test", "image_alone/mar_at_10"),
    "unseen mAP@10": ("unseen_test", "map_at_10"),
    "unseen mAR@10": ("unseen_test", "mar_at_10"),
    "instances": ("suite_test", "instances"),
    "proposals' recall@10": ("composite_test", "proposal_recall_at_10"),
}
PUBLISHED: dict[str, Any] = {  # the official code's sizes and losses, on Swin-T; rates are ours
    "data.image_size": 224,
    "data.text_length": 36,
    "data.vocab_size": 21_128,
    "model.dtype": "bfloat16",
    "model.remat": True,
    "model.rows_at_once": 0,
    "model.regions.count": 36,
    "model.image.patch": 4,
    "model.image.width": 96,
    "model.image.depths": (2, 2, 6, 2),
    "model.image.heads": (3, 6, 12, 24),
    "model.image.window": 7,
    "model.image.mlp_ratio": 4.0,
    "model.streams": {
        "width": 768,
        "embedding": 512,
        "dropout": 0.1,
        "text": {"layers": 4, "heads": 12, "mlp_width": 3072, "max_length": 512},
        "image": {"layers": 4, "heads": 8, "mlp_width": 1024},
        "cross": {"layers": 4, "heads": 8, "width": 512},
        "joint": {"layers": 6, "heads": 12},
    },
    "loss.joined": 0.0,
    "retrieval.embedding": "author",
    "retrieval.context": 0.0,
    "retrieval.margin": 1.0,
    "optim.learning_rate": 1e-4,
    "optim.beta2": 0.999,
    "optim.ema": 0.999,
    "steps": 40_000,
    "eval.every": 4_000,
    "checkpoint.every": 1_000,
}


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is a comma-separated list of WORDS."""
    chosen = words(arg, WORDS, "configs/capture.py")
    if "grid" in chosen and "precomputed" in chosen:
        raise UsageError("configs/capture.py: grid and precomputed: regions are one or the other")
    if "files" in chosen and {"precomputed", "product1m"} & {*chosen}:
        raise UsageError("configs/capture.py: files has pictures of its own: leave out the others")
    config = ConfigDict()
    config.task = "capture"
    config.seed = 0
    config.steps = 1_800
    config.batch_size = 64  # posts of the global batch, and as many composites

    config.data = ConfigDict()
    config.data.name = "suites"  # suites (rendered) | product1m | files (your own photos)
    config.data.path = ""  # of product1m: the folder of its four lists; of files: .jsonl or .csv
    config.data.images = ""  # of product1m: a folder of pictures named <id>.<ending>
    # Of files: the domain of pictures that show several products, and that of single ones.
    config.data.pages = ""
    config.data.singles = ""
    config.data.regions = ""  # of precomputed: what date_jax.data.files.region_files wrote
    config.data.cache_dir = ""  # "" = $DATE_JAX_CACHE or ~/.cache/date_jax
    config.data.image_size = 64  # pixels of a side
    config.data.fit = "letterbox"  # letterbox | stretch, of files and product1m
    config.data.max_pixels = 64_000_000  # larger pictures are refused unread
    config.data.bad_image_budget = 0.01  # share of rows that unreadable pictures may cost
    config.data.text_length = 28  # word pieces, [CLS] and [SEP] among them
    # A vocab.txt, a tokenizer.json or a folder with one; "" = learned from the training titles.
    config.data.vocab = ""
    config.data.vocab_size = 1000
    # Pictures to train on; `queries` of each kind; `views` of each product in the gallery; `unseen`
    # categories that training never shows; `workers` that render, 0 = all cores.
    config.data.suites = ConfigDict(
        {
            "posts": 16_000,
            "composites": 8_000,
            "queries": 400,
            "views": 8,
            "products": 1_000,
            "unseen": 2,
            "seed": 0,
            "workers": 0,
        }
    )

    config.model = ConfigDict()
    config.model.dtype = "float32"  # float32 | bfloat16, to compute with; the rest is float32
    config.model.remat = False  # compute layers again in the backward pass: less memory, more time
    config.model.scan = False  # compile equal layers once: a sooner start where they are many
    config.model.rows_at_once = 4  # of a device go through the network at a time; 0 = all
    config.model.regions = ConfigDict(
        {
            "kind": "proposals",  # proposals | grid | precomputed
            "count": 10,  # proposals of a picture, or precomputed regions
            "width": 2048,  # numbers of a precomputed region
            "overlap": 0.6,  # IoU above which one of two proposals is left out
            # Proposals that are less likely a product are neither regions nor instances to search
            # for, but for the best one.
            "min_score": 0.5,
        }
    )
    # The picture's extractor: configs/extractors.py. Only its tokens are read; rep would add one.
    config.model.image = image_section(pooling="mean")
    config.model.streams = ConfigDict(  # text and image alone, then across, then joined
        {
            "width": 64,
            "embedding": 128,
            "dropout": 0.0,
            "text": {"layers": 2, "heads": 4, "mlp_width": 128, "max_length": 1},
            "image": {"layers": 1, "heads": 4, "mlp_width": 128},
            "cross": {"layers": 1, "heads": 4, "width": 64},
            "joint": {"layers": 1, "heads": 4},
        }
    )
    # Numbers to begin with: all of a finished `run` or of an export of one; or published weights of
    # the picture's extractor, as safetensors (a file or a folder). "" = random ones.
    config.init = ConfigDict({"run": "", "image": ""})
    config.loss = ConfigDict(  # weights; and the temperature of `contrast` and `joined`
        {
            "words": 1.0,
            "regions": 1.0,
            "contrast": 1.0,
            "joined": 1.0,  # of vectors under two titles joined; ours, not CAPTURE's
            "objectness": 2.0,
            "box": 4.0,
            "temperature": 0.07,
        }
    )
    config.retrieval = ConfigDict(
        {
            "embedding": "sum",  # author | sum
            "merge": "round_robin",  # round_robin | max
            "instances": 6,  # of a query, at most
            # An instance's crop: what its box holds, `context` times as large, on an even ground;
            # 0 leaves what is around it. And the crop's side, by the longer side of the box.
            "context": 1.1,
            "margin": 1.8,
        }
    )
    config.augment = ConfigDict(
        {
            "ramp": 0.2,  # share of `steps` over which the strengths grow to what stands here
            "focus": 0.0,  # share of close-ups of a box at the start; fades over the ramp
            "zoom_in": 1.2,  # how much closer, at most; 1 = off
            "zoom_out": 1.2,  # how much further away, at most; 1 = off
            "aspect": 1.15,  # width by height stretched by that, at most; 1 = off
            "flip": 0.5,  # share of mirrored pictures; "left" becomes "right"
            "brightness": 0.2,  # of all channels, up to that share; 0 = off, and so for all below
            "contrast": 0.2,
            "saturation": 0.2,
            "cast": 0.1,  # of each channel
            "noise": 0.03,  # of each pixel
            "blur": 0.5,  # pixels
            "erase": 0.0,  # share of pictures that lose a rectangle
        }
    )
    config.optim = ConfigDict(
        {
            "learning_rate": 1.5e-3,
            "warmup": 0.05,  # share of `steps` over which the rate rises
            "schedule": "cosine",  # cosine | step
            "beta2": 0.98,  # decay of the squared gradients' average
            "weight_decay": 1e-4,  # of matrices
            "clip": 1.0,  # greatest norm of the gradient
            "ema": 0.99,  # share that the averaged weights, which are evaluated, keep at each step
            "backbone_scale": 1.0,  # of the rate, for what may be pretrained
        }
    )
    config.mesh = ConfigDict({"fsdp": 1})  # the data axis takes the remaining devices
    config.log = ConfigDict({"every": 50})  # steps; so are the two below
    config.eval = ConfigDict({"every": 600, "batch_size": 128})
    config.checkpoint = ConfigDict({"every": 300, "keep": 2})

    if "files" in chosen:  # the titles of all products of a page
        config.data.update(name="files", text_length=64, vocab_size=4_000)
    if "product1m" in chosen:  # titles are longer, and Chinese alone has thousands of signs
        config.data.update(name="product1m", text_length=36, vocab_size=8_000)
    if "published" in chosen:
        config.update_from_flattened_dict(PUBLISHED)
    if "grid" in chosen:
        config.model.regions.kind = "grid"
    if "precomputed" in chosen:
        config.model.regions.update(kind="precomputed", count=36)
        config.data.fit = "stretch"  # their boxes are shares of the whole picture
    for word in chosen:
        if word in ENCODERS:
            scale(config, word)
            config.model.image.pooling = "mean"
    return config.lock()
