"""The config.json next to published weights: what it says of our config, and what ours says in it.

Each layout of `layouts` has a table of the entries that decide on the network. A file whose entries
differ from `config.model` is refused, and `sizes_of` turns the entries into values of it.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from date_jax.errors import UsageError
from date_jax.networks import bert, siglip, swin
from date_jax.networks.layouts import LAYOUTS

_ACTIVATIONS = {  # theirs, by ours
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "quick_gelu": "quick_gelu",
}
_OUR_ACTIVATIONS = {theirs: ours for ours, theirs in _ACTIVATIONS.items()}
_TOWERS = {"image": "vision", "text": "text"}  # in the names of a model of both


class Entry(NamedTuple):
    """An entry of a config.json that decides on the network.

    Attributes:
        name: theirs.
        key: ours, below the extractor's part of config.model; None where our network is fixed.
        default: theirs, where a file does not say it, which is transformers' default.
        value: their value, from our section.
        ours: our value, from their entries and defaults.
    """

    name: str
    key: str | None
    default: Any
    value: Callable[[Any], Any]
    ours: Callable[[Mapping[str, Any]], Any]


class Requirement(NamedTuple):
    """One thing that a file's config.json must say for its weights to be of this network.

    Attributes:
        name: theirs.
        key: ours, below the extractor's part of config.model; None where our network is fixed.
        value: what both must say.
    """

    name: str
    key: str | None
    value: Any


def _fixed(name: str, value: Any) -> Entry:
    """An entry in which our network has no choice."""
    return Entry(name, None, value, lambda _: value, lambda file: file[name])


def _equal(name: str, key: str, default: Any) -> Entry:
    """An entry that stands in our section as it is, at a dotted key."""

    def value(section: Any) -> Any:
        for part in key.split("."):
            section = section[part]
        return section

    return Entry(name, key, default, value, lambda file: type(default)(file[name]))


def _only(name: str, key: str, default: int) -> Entry:
    """An entry that is the one number of a tuple in our section: a ViT has one stage."""
    return Entry(name, key, default, lambda section: section[key][0], lambda file: (file[name],))


def _tuple(name: str, key: str, default: tuple[int, ...]) -> Entry:
    """An entry that is a list there, and a tuple here."""
    return Entry(
        name, key, [*default], lambda section: [*section[key]], lambda file: tuple(file[name])
    )


def _mlp_width(default: int) -> Entry:
    """The width of an MLP, which is a ratio here."""
    return Entry(
        "intermediate_size",
        "mlp_ratio",
        default,
        lambda section: round(section.mlp_ratio * section.width),
        lambda file: file["intermediate_size"] / file["hidden_size"],
    )


def _activation(default: str) -> Entry:
    return Entry(
        "hidden_act",
        "vit.activation",
        default,
        lambda image: _ACTIVATIONS.get(image.vit.activation, "gelu"),
        _our_activation,
    )


def _our_activation(file: Mapping[str, Any]) -> str:
    # An activation that we do not have stays itself, and is refused as a value of our key.
    if file.get("use_swiglu_ffn"):
        return "swiglu"
    return _OUR_ACTIVATIONS.get(file["hidden_act"], file["hidden_act"])


_IMAGE_SIZE = Entry(
    "image_size",
    "vit.positions",
    224,
    lambda image: image.vit.positions * image.patch,
    lambda file: file["image_size"] // file["patch_size"],
)
_CHANNELS = _fixed("num_channels", 3)
_VIT_SIZES = (
    _equal("hidden_size", "width", 768),
    _only("num_hidden_layers", "depths", 12),
    _only("num_attention_heads", "heads", 12),
    _IMAGE_SIZE,
    _CHANNELS,
)
_TEXT_SIZES = (
    _equal("num_hidden_layers", "layers", 12),
    _equal("hidden_size", "width", 768),
    _equal("num_attention_heads", "heads", 12),
    _mlp_width(3072),
)
ENTRIES: dict[str, tuple[Entry, ...]] = {
    "swin": (
        _fixed("model_type", "swin"),
        _equal("patch_size", "patch", 4),
        _equal("embed_dim", "width", 96),
        _tuple("depths", "depths", (2, 2, 6, 2)),
        _tuple("num_heads", "heads", (3, 6, 12, 24)),
        _equal("mlp_ratio", "mlp_ratio", 4.0),
        _fixed("hidden_act", "gelu"),
        _fixed("qkv_bias", True),
        _fixed("use_absolute_embeddings", False),
        _fixed("layer_norm_eps", swin.EPSILON),
        _CHANNELS,
    ),
    "dinov2": (
        Entry(
            "model_type",
            None,
            "dinov2",
            lambda image: "dinov2_with_registers" if image.vit.registers else "dinov2",
            lambda file: file["model_type"],
        ),
        _equal("patch_size", "patch", 14),
        *_VIT_SIZES,
        Entry(  # a whole number for transformers, which takes no other
            "mlp_ratio",
            "mlp_ratio",
            4,
            lambda image: int(image.mlp_ratio) if image.mlp_ratio % 1 == 0 else image.mlp_ratio,
            lambda file: float(file["mlp_ratio"]),
        ),
        _activation("gelu"),
        Entry(
            "use_swiglu_ffn",
            "vit.activation",
            False,
            lambda image: image.vit.activation == "swiglu",
            _our_activation,
        ),
        Entry(
            "num_register_tokens",
            "vit.registers",
            4,  # of a file with registers; others have no such entry
            lambda image: image.vit.registers,
            lambda file: file["num_register_tokens"] * file["model_type"].endswith("registers"),
        ),
        _fixed("qkv_bias", True),
        _equal("layer_norm_eps", "vit.epsilon", 1e-6),
    ),
    "siglip_vision": (
        _fixed("model_type", "siglip_vision_model"),
        _equal("patch_size", "patch", 16),
        *_VIT_SIZES,
        _mlp_width(3072),
        _activation("gelu_pytorch_tanh"),
        _equal("layer_norm_eps", "vit.epsilon", 1e-6),
    ),
    "clip_vision": (
        _fixed("model_type", "clip_vision_model"),
        _equal("patch_size", "patch", 32),
        *_VIT_SIZES,
        _mlp_width(3072),
        _activation("quick_gelu"),
        _equal("layer_norm_eps", "vit.epsilon", 1e-5),
    ),
    "bert": (
        _fixed("model_type", "bert"),
        *_TEXT_SIZES,
        _fixed("hidden_act", "gelu"),
        _fixed("position_embedding_type", "absolute"),
        _fixed("layer_norm_eps", bert.EPSILON),
    ),
    "siglip_text": (
        _fixed("model_type", "siglip_text_model"),
        *_TEXT_SIZES,
        _fixed("hidden_act", "gelu_pytorch_tanh"),
        _fixed("layer_norm_eps", siglip.EPSILON),
    ),
}
SETTINGS: dict[str, dict[str, Any]] = {  # of our section, which no entry says
    "swin": {"kind": "swin"},
    "dinov2": {
        "kind": "vit",
        "vit.class_tokens": 1,
        "vit.layer_scale": True,
        "vit.input_norm": False,
        "vit.patch_bias": True,
        "vit.pixels": "imagenet",
    },
    "siglip_vision": {
        "kind": "vit",
        "vit.class_tokens": 0,
        "vit.registers": 0,
        "vit.layer_scale": False,
        "vit.input_norm": False,
        "vit.patch_bias": True,
        "vit.pixels": "half",
    },
    "clip_vision": {
        "kind": "vit",
        "vit.class_tokens": 1,
        "vit.registers": 0,
        "vit.layer_scale": False,
        "vit.input_norm": True,
        "vit.patch_bias": False,
        "vit.pixels": "clip",
    },
    "bert": {"kind": "bert"},
    "siglip_text": {"kind": "siglip"},
}
_OTHER_DEFAULTS = {"dinov2_with_registers": {"patch_size": 16}}  # than those of its layout
_LAYOUT_OF_TYPE = {
    "dinov2_with_registers": "dinov2",
    **{entries[0].default: layout for layout, entries in ENTRIES.items()},
}


def section_layout(kind: str, section: Any) -> str:
    """The layout of published weights that an extractor's section asks for, a key of LAYOUTS.

    Args:
        kind: one of `layouts.KINDS`.
        section: `config.model.image` or `config.model.text`; without its `kind` in configs of
            earlier versions.
    """
    if kind == "text":
        return {"bert": "bert", "siglip": "siglip_text"}[section.get("kind", "bert")]
    if section.get("kind", "swin") == "swin":
        return "swin"
    if section.vit.input_norm:
        return "clip_vision"
    return "dinov2" if section.vit.class_tokens else "siglip_vision"


def module_name(kind: str, section: Any) -> str:
    """The name in transformers of the network whose layout an extractor is written in."""
    name = LAYOUTS[section_layout(kind, section)].module
    if name == "Dinov2Model" and section.vit.registers:
        return "Dinov2WithRegistersModel"
    return name


def requirements(kind: str, section: Any) -> list[Requirement]:
    """What a config.json must say for its weights to be of the extractor of a section."""
    entries = ENTRIES[section_layout(kind, section)]
    return [Requirement(entry.name, entry.key, entry.value(section)) for entry in entries]


def tower_config(kind: str, file_config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries about one extractor, of the config.json of a model that may have two."""
    tower = _TOWERS[kind]
    if (part := file_config.get(f"{tower}_config")) is None:
        return dict(file_config)
    return {"model_type": f"{file_config.get('model_type')}_{tower}_model", **part}


def sizes_of(kind: str, file_config: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an extractor's section that published weights ask for, by dotted key.

    Args:
        kind: one of `layouts.KINDS`; decides which part of a model with two towers is read.
        file_config: the entries of config.json. Those that it leaves out have transformers'
            defaults.

    Raises:
        UsageError: the weights are of a network that we do not have, or an entry is damaged.

    >>> sizes_of("text", {"model_type": "bert", "hidden_size": 384})["width"]
    384
    """
    entries = tower_config(kind, file_config)
    model_type = entries.get("model_type")
    layout = _LAYOUT_OF_TYPE.get(str(model_type))
    if layout is None or LAYOUTS[layout].kind != kind:
        names = [name for name, x in _LAYOUT_OF_TYPE.items() if LAYOUTS[x].kind == kind]
        raise UsageError(
            f"config.init.{kind}: its config.json says model_type {model_type}, which is none of "
            f"the networks here: {', '.join(sorted(names))}"
        )
    defaults = {entry.name: entry.default for entry in ENTRIES[layout]}
    file = defaults | _OTHER_DEFAULTS.get(str(model_type), {}) | entries
    try:
        sizes = {entry.key: entry.ours(file) for entry in ENTRIES[layout] if entry.key}
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UsageError(
            f"config.init.{kind}: its config.json holds an entry that is no size ({error}); copy "
            "the one that was published with the weights"
        ) from error
    return SETTINGS[layout] | sizes


def unreadable(kind: str, section: Any) -> str:
    """The first setting of a section that the published network does not have; "" without any."""
    layout = section_layout(kind, section)
    for key, value in SETTINGS[layout].items():
        ours: Any = section
        for part in key.split("."):
            ours = ours.get(part, value)
        if ours != value and not key.endswith("pixels"):
            return f"model.{kind}.{key} is {ours}, and {module_name(kind, section)} has {value}"
    return ""


def config_json(kind: str, config: Any, *, vocab_size: int) -> dict[str, Any]:
    """The entries of the config.json that stands next to published tensors.

    Args:
        kind: one of `layouts.KINDS`.
        config: the run's.
        vocab_size: rows of the embedding of words.
    """
    # What is required of a file when it is read, and what transformers asks for besides.
    section = config.model[kind]
    layout = section_layout(kind, section)
    entries = {requirement.name: requirement.value for requirement in requirements(kind, section)}
    if kind == "text":
        entries |= {
            "vocab_size": vocab_size,
            "max_position_embeddings": config.data.text_length,
        }
    return (
        entries
        | {
            "swin": lambda: {"image_size": config.data.image_size, "window_size": section.window},
            "siglip_vision": lambda: {"vision_use_head": section.pooling == "map"},
            "bert": lambda: {"type_vocab_size": 1},
            "siglip_text": lambda: {"projection_size": section.width},
        }.get(layout, dict)()
    )
