"""Same-style products: a picture, words or both find other suppliers' offers of a product.

    python -m date_jax.main --config=configs/same_style.py           # rendered catalogue, clicks

This takes 2 to 8 minutes on 2 cores. Expect R@1 of 0.632 ± 0.006 on offer_test by picture and
words; pairs by no rule give 0.425 ± 0.014 (three seeds, docs/same_style.md). Other catalogues:

    python -m date_jax.main --config=configs/same_style.py:files \
        --config.data.path=offers.csv --config.data.pairs=pairs.parquet
    python -m date_jax.main --config=configs/same_style.py:published \
        --config.data.path=pairs.json --config.data.images=pictures

The network learns from pairs that are mined from a click log. Mining needs the extra `clicks`,
which `launch/setup.sh` installs.
"""

from typing import Any

from ml_collections import ConfigDict

from configs.extractors import image_section, text_section
from configs.scales import ENCODERS, scale, words

WORDS = ("files", "published", *ENCODERS)
_RULES = ("robots", "support", "relevance", "category", "supplier", "coclicks", "duplicates",
          "quota")  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {  # what date_jax.ablate compares, and what each changes
    "all": {},
    "matching_alone": {"losses.distinct_weight": 0.0, "losses.local_weight": 0.0},
    "without_distinct": {"losses.distinct_weight": 0.0},
    "without_local": {"losses.local_weight": 0.0},
    "softmax": {"losses.kind": "softmax"},
    "image_only": {"modality": "image"},
    "text_only": {"modality": "text"},
    "any_category": {"data.clicks.without": "category"},
    "any_relevance": {"data.clicks.without": "relevance"},
    "no_rules": {"data.clicks.without": ",".join(_RULES)},
}
COLUMNS = {  # of its table: which split, which metric
    "m-m R@1": ("offer_test", "m-m/recall_at_1"),
    "i-i R@1": ("offer_test", "i-i/recall_at_1"),
    "t-t R@1": ("offer_test", "t-t/recall_at_1"),
    "m-m MRR": ("offer_test", "m-m/mrr"),
    "i-t R@10": ("offer_test", "i-t/recall_at_10"),
    "t-i R@10": ("offer_test", "t-i/recall_at_10"),
    "pairs right": ("offer_test", "pair_precision"),
}


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is a comma-separated list of WORDS."""
    chosen = words(arg, WORDS, "configs/same_style.py")
    config = ConfigDict()
    config.task = "same_style"
    config.modality = "both"  # both | image | text: what the network sees of an offer
    config.seed = 0
    config.steps = 500
    config.batch_size = 64  # pairs of the global batch

    config.data = ConfigDict()
    # suppliers (rendered) | files (your own) | published (the authors' pairs)
    sources = [word for word in chosen if word not in ENCODERS]
    config.data.name = sources[-1] if sources else "suppliers"
    config.data.path = ""  # of files: your offers, .jsonl or .csv; of published: the JSON file
    config.data.pairs = ""  # of files: what date_jax.data.click_pairs wrote
    config.data.images = ""  # of published: a folder of pictures named <id>.<ending>
    config.data.cache_dir = ""  # "" = $DATE_JAX_CACHE or ~/.cache/date_jax
    config.data.image_size = 48  # pixels of a side
    config.data.fit = "letterbox"  # letterbox | stretch
    config.data.max_pixels = 64_000_000  # larger pictures are refused unread
    config.data.bad_image_budget = 0.01  # share of rows that unreadable pictures may cost
    config.data.text_length = 20  # word pieces, [CLS] and [SEP] among them
    config.data.views = 0  # fixed views of each training offer; 0 = another view in each step
    # A vocab.txt, a tokenizer.json or a folder with one. "" = as next to init.text,
    # or else learned from the training titles.
    config.data.vocab = ""
    config.data.vocab_size = 1000
    # `products` of the rendered catalogue; `workers` that render them, 0 = all cores.
    config.data.suppliers = ConfigDict({"products": 2_000, "seed": 0, "workers": 0})
    # The simulated log, and the thresholds of the rules in date_jax/data/clicks/rules.py.
    config.data.clicks = ConfigDict(
        {
            "rows": 2_000_000,  # of the log
            "seed": 0,
            "without": "",  # rules to leave out, joined by commas
            "min_support": 5,
            "max_clicks": 50,
            "min_relevance": 0.5,
            "min_coclicks": 2,
            "drop_duplicates_share": 0.9,
            "max_pairs": 20,
        }
    )

    config.model = ConfigDict()
    config.model.dtype = "float32"  # float32 | bfloat16, to compute with; the rest is float32
    config.model.remat = False  # compute layers again in the backward pass: less memory, more time
    config.model.scan = False  # compile equal layers once: a sooner start where they are many
    config.model.rows_at_once = 4  # of a device go through the network at a time; 0 = all
    config.model.width = 64  # D, of the joint encoder
    config.model.embedding = 128  # E, of the vectors that are compared
    # The extractors: configs/extractors.py. Only tokens of a picture are read; rep would add one.
    config.model.image = image_section(pooling="mean")
    config.model.text = text_section(layers=1)
    config.model.joint = ConfigDict(  # over the tokens of both
        {"layers": 2, "heads": 4, "mlp_width": 128, "dropout": 0.0, "norm_first": True}
    )
    # Numbers to begin with: all of a finished `run` or of an export of one; or published weights of
    # the extractors, as safetensors (a file or a folder). "" = random ones. `keep` computes the
    # outputs of frozen extractors for all data.views once, and keeps them in the data cache.
    config.init = ConfigDict(
        {"run": "", "image": "", "text": "", "keep": False, "kept_dtype": "float16"}
    )
    config.losses = ConfigDict(
        {
            "kind": "hinge",  # hinge | softmax, of matching and distinctiveness
            "match_margin": 0.2,
            "distinct_margin": 0.2,
            "local_margin": 0.01,
            "distinct_weight": 0.5,  # of distinctiveness; 0 = off
            "local_weight": 1.0,  # of locality; 0 = off
            "nearest": 10,  # offers around a trigger that locality looks at
            "temperature": 0.07,  # of the softmax
        }
    )
    config.augment = ConfigDict(
        {
            "ramp": 0.2,  # share of `steps` over which the strengths grow to what stands here
            "focus": 0.0,  # share of close-ups of a box at the start; fades over the ramp
            "zoom_in": 1.15,  # how much closer, at most; 1 = off
            "zoom_out": 1.2,  # how much further away, at most; 1 = off
            "aspect": 1.1,  # width by height stretched by that, at most; 1 = off
            "flip": 0.0,  # numbers and marks are printed on the products
            "brightness": 0.2,  # of all channels, up to that share; 0 = off, and so for all below
            "contrast": 0.2,
            "saturation": 0.2,
            "cast": 0.1,  # of each channel
            "noise": 0.03,  # of each pixel
            "blur": 0.3,  # pixels
            "erase": 0.2,  # share of pictures that lose a rectangle
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
    config.eval = ConfigDict({"every": 250, "batch_size": 128})
    config.checkpoint = ConfigDict({"every": 250, "keep": 2})
    for word in chosen:
        if word in ENCODERS:
            scale(config, word)
            config.model.image.pooling = "mean"
    return config.lock()
