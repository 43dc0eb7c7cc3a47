"""DATE with boxes everywhere: find the picture (retrieval) and the box in it (grounding).

    python -m date_jax.main --config=configs/date.py                 # rendered shop, both domains
    python -m date_jax.main --config=configs/date.py:files --config.data.path=shop.jsonl \\
        --config.data.source=mall
    python -m date_jax.main --config=configs/date.py --config.object_seeker.weight=0  # no grounding
"""

from typing import Any

from ml_collections import ConfigDict

from configs import pgda
from configs.scales import SCALES, words

WORDS = ("files", *SCALES)
METHODS: dict[str, dict[str, Any]] = {  # what date_jax.ablate compares, and what each changes
    "both_seekers": {},
    "image_seeker": {"object_seeker.weight": 0.0},
    "object_seeker": {"image_seeker.weight": 0.0},
    "dual_softmax": {"image_seeker.prior": "dual_softmax"},
    "bfloat16": {"model.dtype": "bfloat16"},
}
_OF_ADAPTATION = ("method", "stages", "aligner", "pseudo_boxes")


def get_config(arg: str = "") -> ConfigDict:
    """The config; `arg` is a comma-separated list of WORDS."""
    words(arg, WORDS, "configs/date.py")
    config = pgda.get_config(arg).unlock()
    config.task = "date"
    config.data.source, config.data.target = "mall+live", ""
    for key in _OF_ADAPTATION:
        del config[key]
    del config.image_seeker["target_weight"]
    return config.lock()
