"""PG-DA: learn boxes in one domain, find products in another.

    python -m date_jax.main --config=configs/pgda.py                 # rendered shop, mall to live
    python -m date_jax.main --config=configs/pgda.py:live2mall
    python -m date_jax.main --config=configs/pgda.py:files --config.data.path=shop.jsonl \
        --config.data.source=mall --config.data.target=live
    python -m date_jax.main --config=configs/pgda.py:files,swin_b ...  # or swin_t, swin_s, tiny
"""

from typing import Any

from ml_collections import ConfigDict

from configs.scales import SCALES, scale, words

DIRECTIONS = {"mall2live": ("mall", "live"), "live2mall": ("live", "mall")}
WORDS = ("files", *DIRECTIONS, *SCALES)
# What date_jax.ablate compares, and what each changes. All but source_only train retrieval on the
# target's pairs.
_NO_BOXES = {"pseudo_boxes.weight": 0.0}
METHODS: dict[str, dict[str, Any]] = {
    "source_only": {"method": "source_only"},
    "pairs": {"aligner.kind": "none", **_NO_BOXES},
    "mmd": {"aligner.kind": "mmd", **_NO_BOXES},
    "adversarial": {"aligner.kind": "adversarial", **_NO_BOXES},
    "conditional_adversarial": {"aligner.kind": "conditional_adversarial", **_NO_BOXES},
    "pseudo_boxes": {"aligner.kind": "none"},
    "recalled": {  # selection and teacher as DATE is recalled; no source gives θ
        "pseudo_boxes.teacher": "frozen",
        "pseudo_boxes.looks": 1,
        "pseudo_boxes.theta_kind": "absolute",
        "pseudo_boxes.theta": 0.5,
        "pseudo_boxes.rank": "count",
        "pseudo_boxes.keep_end": 0.5,
    },
    "date": {"method": "date"},
    "oracle": {"method": "oracle"},
}


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is a comma-separated list of WORDS."""
    given = words(arg, WORDS, "configs/pgda.py")
    config = ConfigDict()
    config.task = "pgda"
    config.method = "date"  # date | source_only | oracle
    config.seed = 0
    config.steps = 1500
    config.batch_size = 64  # rows of the global batch, in each domain

    config.data = ConfigDict()
    config.data.name = "shop"  # shop (rendered) | files (your own, at `path`)
    config.data.path = ""
    config.data.cache_dir = ""  # "" = $DATE_JAX_CACHE or ~/.cache/date_jax
    config.data.source = "mall"  # several domains are joined by +
    config.data.target = "live"
    config.data.image_size = 64
    config.data.fit = "letterbox"  # letterbox | stretch
    config.data.text_length = 20
    config.data.vocab = ""  # a vocab.txt; "" = learned from the training queries
    config.data.vocab_size = 1000
    config.data.max_pixels = 64_000_000  # larger pictures are refused unread
    config.data.bad_image_budget = 0.01  # share of rows that unreadable pictures may cost
    # `pictures` of each domain; `workers` that render them, 0 = all cores.
    config.data.shop = ConfigDict({"pictures": 10_000, "products": 2_000, "seed": 0, "workers": 0})

    config.model = ConfigDict()
    config.model.dtype = "float32"  # float32 | bfloat16, to compute with; the rest is float32
    config.model.remat = False  # compute layers again in the backward pass: less memory
    config.model.scan = False  # compile equal layers once: sooner at work where they are many
    # Rows of a device that go through the network at a time; 0 = all, right for accelerators until
    # their memory is full. On a CPU it is fastest when a chunk's activations fit the cache.
    config.model.rows_at_once = 4
    config.model.width = 64  # D
    config.model.image = ConfigDict(
        {
            "patch": 4,
            "width": 32,
            "depths": (1, 2),
            "heads": (2, 4),
            "window": 4,
            "mlp_ratio": 2.0,
            "pooling": "rep",  # rep | mean | multi_scale
        }
    )
    config.model.text = ConfigDict(
        {"layers": 2, "width": 64, "heads": 4, "mlp_ratio": 2.0, "dropout": 0.0}
    )
    config.model.fusion = ConfigDict(
        {"layers": 3, "heads": 4, "mlp_width": 128, "dropout": 0.0, "norm_first": True}
    )

    # Published weights to begin with, as safetensors (a file or a folder); "" = random ones.
    config.init = ConfigDict({"image": "", "text": ""})

    config.image_seeker = ConfigDict(
        {
            "weight": 0.1,
            "target_weight": 0.1,
            "loss": "softmax",  # softmax | sigmoid
            "prior": "none",  # none | dual_softmax
            "prior_temperature": 10.0,
        }
    )
    config.object_seeker = ConfigDict({"weight": 1.0, "l1_weight": 1.0, "giou_weight": 1.0})
    config.aligner = ConfigDict(
        {
            "kind": "mmd",  # none | mmd | adversarial | conditional_adversarial
            "weight": 0.1,
            "image_weight": 1.0,
            "text_weight": 1.0,
            "unbiased": False,
            "queue": 0,  # rows of earlier batches that MMD compares too; for batches below 64
            "hidden": 1024,  # width of the adversarial kinds' discriminators
        }
    )
    # Where stages 2 (target and aligner) and 3 (pseudo boxes) begin, as shares of `steps`.
    config.stages = ConfigDict({"align": 0.4, "pseudo": 0.5})
    config.pseudo_boxes = ConfigDict(
        {
            "weight": 1.0,
            "every": 250,  # steps
            "teacher": "ema",  # ema | frozen: as it was at the start of the stage
            "looks": 2,  # the second at a close-up of the box that the first one found
            "rank": "agreement",  # agreement (of two views) | count (of similar source pairs)
            # These three make the count.
            "combine": "mean",  # mean | rank | min, of picture and text
            "theta_kind": "quantile",  # quantile | absolute
            "theta": 0.9,
            "keep_start": 0.5,
            "keep_end": 0.8,
            "min_agreement": 0.0,  # mean IoU of two views' boxes, below which none is selected
            "min_row_agreement": 0.0,  # IoU of its two boxes, below which a row is not selected
        }
    )
    config.augment = ConfigDict(
        {
            "ramp": 0.5,  # share of `steps` over which the strengths grow to what stands here
            "focus": 1.0,  # share of close-ups of the box at the start; fades over the ramp
            "zoom_in": 1.25,
            "zoom_out": 1.25,
            "aspect": 1.15,
            "flip": 0.5,
            "brightness": 0.3,
            "contrast": 0.3,
            "saturation": 0.3,
            "cast": 0.15,
            "noise": 0.05,
            "blur": 0.7,
            "erase": 0.3,
        }
    )
    config.optim = ConfigDict(
        {
            "learning_rate": 1.5e-3,
            "warmup": 0.05,
            "schedule": "cosine",  # cosine | step
            "beta2": 0.98,  # with 0.999 the plateau at the start lasts twice as long
            "weight_decay": 1e-4,
            "clip": 1.0,
            "ema": 0.995,
            "backbone_scale": 1.0,
        }
    )
    config.mesh = ConfigDict({"fsdp": 1})  # the data axis takes the remaining devices
    config.log = ConfigDict({"every": 50})
    config.eval = ConfigDict({"every": 500, "batch_size": 256})
    config.checkpoint = ConfigDict({"every": 500, "keep": 2})

    for word in given:
        if word in DIRECTIONS:
            config.data.source, config.data.target = DIRECTIONS[word]
        elif word in SCALES:
            scale(config, word)
        else:
            config.data.name = "files"
    return config.lock()
