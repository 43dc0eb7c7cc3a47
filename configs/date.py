"""DATE with boxes everywhere: find the picture (retrieval) and the box in it (grounding).

    python -m date_jax.main --config=configs/date.py                 # rendered shop, both domains

This takes 11 to 16 minutes on one core. Expect Acc@0.5 of 0.931 ± 0.012 on mall_test and of
0.918 ± 0.003 on live_test (three seeds, docs/retrieval.md). Other data, sizes and parts:

    python -m date_jax.main --config=configs/date.py:files --config.data.path=shop.jsonl \
        --config.data.source=mall                                    # your own pictures
    python -m date_jax.main --config=configs/date.py:swin_b ...      # or swin_t, swin_s, tiny
    python -m date_jax.main --config=configs/date.py --config.object_seeker.weight=0  # no grounding
"""

from typing import Any

from ml_collections import ConfigDict

from configs.extractors import image_section, text_section
from configs.scales import SCALES, scale, words

WORDS = ("files", "pretrained", *SCALES)
METHODS: dict[str, dict[str, Any]] = {  # what date_jax.ablate compares, and what each changes
    "both_seekers": {},
    "image_seeker": {"object_seeker.weight": 0.0},
    "object_seeker": {"image_seeker.weight": 0.0},
    "dual_softmax": {"image_seeker.prior": "dual_softmax"},
    "bfloat16": {"model.dtype": "bfloat16"},
}


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is a comma-separated list of WORDS."""
    chosen = words(arg, WORDS, "configs/date.py")
    config = ConfigDict()
    config.task = "date"
    config.seed = 0
    config.steps = 1500
    config.batch_size = 64  # rows of the global batch, in each domain

    config.data = ConfigDict()
    config.data.name = "shop"  # shop (rendered) | files (your own, at `path`)
    config.data.path = ""  # of files: .jsonl or .csv
    config.data.cache_dir = ""  # "" = $DATE_JAX_CACHE or ~/.cache/date_jax
    config.data.source = "mall+live"  # domains with boxes, joined by +
    config.data.target = ""  # configs/pgda.py alone has one
    config.data.image_size = 64  # pixels of a side
    config.data.fit = "letterbox"  # letterbox | stretch
    config.data.text_length = 20  # word pieces, [CLS] and [SEP] among them
    # A vocab.txt, a tokenizer.json or a folder with one. "" = as next to init.text,
    # or else learned from the training queries.
    config.data.vocab = ""
    config.data.vocab_size = 1000
    config.data.views = 0  # fixed views of each training picture; 0 = another view in each step
    config.data.max_pixels = 64_000_000  # larger pictures are refused unread
    config.data.bad_image_budget = 0.01  # share of rows that unreadable pictures may cost
    # Further training rows of the source. `words`: share of its own rows that ask by the word of
    # their category (column `category`) in place of their title.
    config.data.words = 0.0
    # Composites: products cut out of the source's plain pages, on pictures of the target without
    # boxes and on other pages of the source. `pictures` of them, 0 = none; `share` of the source's
    # rows in a batch; 2 to `most` products, their longer side as a share of the picture's;
    # `frame_share` of them on pictures of the target.
    config.data.paste = ConfigDict(
        {
            "pictures": 0,
            "share": 0.5,
            "most": 4,
            "sizes": (0.1, 0.65),
            "frame_share": 0.75,
            "seed": 0,
        }
    )
    # `pictures` of each domain; `workers` that render them, 0 = all cores.
    config.data.shop = ConfigDict({"pictures": 10_000, "products": 2_000, "seed": 0, "workers": 0})

    config.model = ConfigDict()
    config.model.dtype = "float32"  # float32 | bfloat16, to compute with; the rest is float32
    config.model.remat = False  # compute layers again in the backward pass: less memory, more time
    config.model.scan = False  # compile equal layers once: a sooner start where they are many
    # Rows of a device that go through the network at a time; 0 = all, right for accelerators until
    # their memory is full. On a CPU it is fastest when a chunk's activations fit the cache.
    config.model.rows_at_once = 4
    config.model.width = 64  # D, of both seekers
    config.model.image = image_section()  # the picture's extractor: configs/extractors.py
    config.model.text = text_section()  # the query's
    config.model.fusion = ConfigDict(  # the object seeker's layers over all tokens
        {
            "layers": 3,
            "heads": 4,
            "mlp_width": 128,
            "dropout": 0.0,
            "norm_first": True,
            "head": "loc",  # loc | bins | places: how a box comes out of them
            "heat": False,  # tokens' cosines with the words are added to the scores of `places`
        }
    )

    # Numbers to begin with: all of a finished `run` or of an export of one; or published weights of
    # the extractors, as safetensors (a file or a folder). "" = random ones. `keep` computes the
    # outputs of frozen extractors for all data.views once, and keeps them in the data cache.
    config.init = ConfigDict(
        {"run": "", "image": "", "text": "", "keep": False, "kept_dtype": "float16"}
    )

    config.image_seeker = ConfigDict(  # retrieval
        {
            "weight": 0.1,  # of its loss; 0 = no retrieval
            "loss": "softmax",  # softmax | sigmoid
            "prior": "none",  # none | dual_softmax
            "prior_temperature": 10.0,  # of dual_softmax
            "places_weight": 0.0,  # of finding the words' places in the picture, 0 = none
        }
    )
    # Grounding: the weight of its loss, 0 = none, and of the two terms in it. The last two are of
    # the heads `bins` and `places`: the distribution, and the boxes of the tokens.
    config.object_seeker = ConfigDict(
        {
            "weight": 1.0,
            "l1_weight": 1.0,
            "giou_weight": 1.0,
            "score_weight": 1.0,
            "place_weight": 1.0,
        }
    )
    config.augment = ConfigDict(
        {
            "ramp": 0.5,  # share of `steps` over which the strengths grow to what stands here
            "focus": 1.0,  # share of close-ups of the box at the start; fades over the ramp
            "zoom_in": 1.25,  # how much closer, at most; 1 = off
            "zoom_out": 1.25,  # how much further away, at most; 1 = off
            "aspect": 1.15,  # width by height stretched by that, at most; 1 = off
            "flip": 0.5,  # share of mirrored pictures; "left" becomes "right"
            "brightness": 0.3,  # of all channels, up to that share; 0 = off, and so for all below
            "contrast": 0.3,
            "saturation": 0.3,
            "cast": 0.15,  # of each channel
            "noise": 0.05,  # of each pixel
            "blur": 0.7,  # pixels
            "erase": 0.3,  # share of pictures that lose a rectangle
        }
    )
    config.optim = ConfigDict(
        {
            "learning_rate": 1.5e-3,
            "warmup": 0.05,  # share of `steps` over which the rate rises
            "schedule": "cosine",  # cosine | step
            "beta2": 0.98,  # with 0.999 the plateau at the start lasts twice as long
            "weight_decay": 1e-4,  # of matrices
            "clip": 1.0,  # greatest norm of the gradient
            "ema": 0.995,  # share that the averaged weights, which are evaluated, keep at each step
            "backbone_scale": 1.0,  # of the rate, for what may be pretrained
        }
    )
    config.mesh = ConfigDict({"fsdp": 1})  # the data axis takes the remaining devices
    config.log = ConfigDict({"every": 50})  # steps; so are the two below
    config.eval = ConfigDict({"every": 500, "batch_size": 256, "confidence": True})
    config.checkpoint = ConfigDict({"every": 500, "keep": 2})

    for word in chosen:
        if word == "files":
            config.data.name = "files"
        else:
            scale(config, word)
    return config.lock()
