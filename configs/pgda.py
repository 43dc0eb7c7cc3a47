"""PG-DA: learn boxes in one domain, find products in another.

    python -m date_jax.main --config=configs/pgda.py                 # rendered shop, mall to live

This takes about 14 minutes on 2 cores. Expect Acc@0.5 of 0.878 ± 0.004 on live_test; without
adaptation it is 0.611 ± 0.038 (three seeds, docs/ablation.md). Other directions, data and sizes:

    python -m date_jax.main --config=configs/pgda.py:live2mall
    python -m date_jax.main --config=configs/pgda.py:files --config.data.path=shop.jsonl \
        --config.data.source=mall --config.data.target=live          # your own pictures
    python -m date_jax.main --config=configs/pgda.py:files,swin_b ...  # or swin_t, swin_s, tiny

Data, network, seekers, augmentation and optimizer are those of configs/date.py. What adaptation
adds to them stands below.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import date
from configs.scales import SCALES, words

DIRECTIONS = {"mall2live": ("mall", "live"), "live2mall": ("live", "mall")}
WORDS = ("files", *DIRECTIONS, "pretrained", *SCALES)
_NO_BOXES = {"pseudo_boxes.weight": 0.0}
# What date_jax.ablate compares, and what each changes. All but source_only train retrieval on the
# target's pairs.
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
    chosen = words(arg, WORDS, "configs/pgda.py")
    config = date.get_config(",".join(word for word in chosen if word not in DIRECTIONS)).unlock()
    config.task = "pgda"
    config.method = "date"  # date | source_only | oracle
    config.data.source = "mall"  # several domains are joined by +
    config.data.target = "live"
    config.image_seeker.target_weight = 0.1  # of retrieval on the target's pairs
    config.aligner = ConfigDict(  # makes the features of both domains alike
        {
            "kind": "mmd",  # none | mmd | adversarial | conditional_adversarial
            "weight": 0.1,  # of all three terms
            "image_weight": 1.0,  # of the pictures' term, relative to that of the joint feature
            "text_weight": 1.0,  # of the queries'
            "unbiased": False,  # MMD without the rows' similarity to themselves
            "queue": 0,  # rows of earlier batches that MMD compares too; for batches below 64
            "hidden": 1024,  # width of the adversarial kinds' discriminators
        }
    )
    # Where stages 2 (target and aligner) and 3 (pseudo boxes) begin, as shares of `steps`.
    config.stages = ConfigDict({"align": 0.4, "pseudo": 0.5})
    config.pseudo_boxes = ConfigDict(  # a teacher's boxes on the target
        {
            "weight": 1.0,  # of their loss; 0 = none
            "every": 250,  # steps, after which they are made anew
            "teacher": "ema",  # ema | frozen: as it was at the start of the stage
            "looks": 2,  # the second at a close-up of the box that the first one found
            # agreement (of two views) | count (of similar source pairs) | heat (of words, inside)
            "rank": "agreement",
            # These three make the count.
            "combine": "mean",  # mean | rank | min, of picture and text
            "theta_kind": "quantile",  # quantile | absolute
            "theta": 0.9,  # similarity above which a source pair counts, or its quantile
            "keep_start": 0.5,  # share of the target's rows that get a box, when the stage begins
            "keep_end": 0.8,  # the same at its end
            "min_agreement": 0.0,  # mean IoU of two views' boxes, below which none is selected
            "min_row_agreement": 0.0,  # IoU of its two boxes, below which a row is not selected
            # These help where the teacher is often wrong, see docs/date.md.
            "once": False,  # the teacher draws its boxes once
            "self_check": 0.0,  # share of boxes that must seem right for the run to adapt
            "verify": False,  # only boxes whose close-up the image seeker likes better
            "soft": False,  # distil the teacher's distribution, of fusion.head=bins or places
            "mask": 0.0,  # share of image tokens hidden from who learns from pseudo boxes
        }
    )
    for word in chosen:
        if word in DIRECTIONS:
            config.data.source, config.data.target = DIRECTIONS[word]
        elif SCALES.get(word):  # runs of published sizes are longer
            config.pseudo_boxes.every = 2_000
    return config.lock()
