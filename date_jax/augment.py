"""Views of a picture, made on the device from the step's key; a box moves with its picture.

One resampling does crop, zoom, flip and blur: two small matmuls a picture, no gather.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Bool, Float, Int, Key, Real, UInt8, UInt32
from ml_collections import ConfigDict

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, as the published backbones expect
STD = (0.229, 0.224, 0.225)
NO_BOX = (0.5, 0.5, 0.0, 0.0)  # binds a crop only to the picture's centre
WHOLE_PICTURE = (0.5, 0.5, 1.0, 1.0)  # the box that is the picture
KEPT_SIDE = 0.75  # a crop keeps this share of each side of the box, so over half of its area


class Strengths(NamedTuple):
    """The greatest strength of each change in a random view; the defaults change nothing.

    Attributes:
        zoom_in, zoom_out: the window's side is from 1 / zoom_in to zoom_out of the picture's.
        aspect: longest ratio of its sides.
        flip: share of pictures that are mirrored.
        brightness, contrast, saturation, cast: greatest share by which a colour changes.
        noise: greatest change of a value, of 1.
        blur: pixels that the kernel's radius grows by.
        erase: share of pictures that a rectangle hides a part of.
        focus: share of pictures that are close-ups of their box.
    """

    zoom_in: Any = 1.0
    zoom_out: Any = 1.0
    aspect: Any = 1.0
    flip: Any = 0.0
    brightness: Any = 0.0
    contrast: Any = 0.0
    saturation: Any = 0.0
    cast: Any = 0.0
    noise: Any = 0.0
    blur: Any = 0.0
    erase: Any = 0.0
    focus: Any = 0.0


def normalised_pixels(image: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Pixels from [0, 1] at the extractors' zero mean and unit variance."""
    mean, std = jnp.asarray([[[MEAN]]]), jnp.asarray([[[STD]]])
    return (image - mean) / std


def pixels_of_view(view: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """The pixels of a normalised view, from 0 to 255 as a picture's but not rounded."""
    mean, std = jnp.asarray([[[MEAN]]]), jnp.asarray([[[STD]]])
    return jnp.clip(view * std + mean, 0.0, 1.0) * 255.0


def plain_view(image: Real[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """The picture as it is, normalised: as evaluation, search and a teacher's first look see it.

    Args:
        image: pixels from 0 to 255.
    """
    return normalised_pixels(image.astype(jnp.float32) / 255.0)


def resampled_image(
    image: Float[Array, "B H W 3"],
    window_xyxy: Float[Array, "B 4"],
    flip: Bool[Array, " B"],
    radius: Float[Array, " B"],
    fill: Float[Array, "B 3"],
) -> Float[Array, "B H W 3"]:
    """The part of each picture inside a window, at the picture's size.

    Args:
        image: pixels in [0, 1].
        window_xyxy: normalised; may reach outside the picture.
        flip: mirror left and right.
        radius: of the triangle kernel in pixels; 1 is bilinear, more blurs.
        fill: colour outside the picture.
    """

    # Along each axis, what every pixel of the view takes of every pixel of the picture.
    def axis_weights(
        low: Array, high: Array, size: int, mirror: Array | None
    ) -> tuple[Array, Array]:
        pixel = jnp.arange(size, dtype=jnp.float32)
        # Where each pixel of the view lies in the picture, and how far from each pixel there.
        place = low[:, None] + (high - low)[:, None] * (pixel[None] + 0.5) / size
        if mirror is not None:
            place = jnp.where(mirror[:, None], place[:, ::-1], place)
        distance = jnp.abs(place[:, :, None] * size - 0.5 - pixel[None, None])
        weights = jnp.maximum(1.0 - distance / radius[:, None, None], 0.0)
        weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-6)
        # 1 inside the picture, 0 from half a pixel outside it, where no pixel is within reach.
        inside = jnp.clip(2 * jnp.minimum(place, 1.0 - place) * size + 1.0, 0.0, 1.0)
        return weights, inside

    height, width = image.shape[1:3]
    x_low, y_low, x_high, y_high = (window_xyxy[:, i] for i in range(4))
    rows, row_inside = axis_weights(y_low, y_high, height, None)
    columns, column_inside = axis_weights(x_low, x_high, width, flip)
    inside = (row_inside[:, :, None] * column_inside[:, None, :])[..., None]

    # With the channels before the columns, both matmuls take the picture as it lies in memory.
    view = jnp.matmul(rows, rearrange(image, "b h w c -> b h (c w)"))
    view = rearrange(view, "b i (c w) -> b (i c) w", w=width)
    view = jnp.matmul(view, jnp.swapaxes(columns, 1, 2))
    view = rearrange(view, "b (i c) j -> b i j c", i=height)
    return inside * view + (1.0 - inside) * fill[:, None, None, :]


def window_view(
    image: Real[Array, "B H W 3"], window_xyxy: Float[Array, "B 4"], flip: Bool[Array, " B"]
) -> Float[Array, "B H W 3"]:
    """A window of each picture without any other change, normalised; its mean colour is around it.

    Args:
        image: pixels from 0 to 255.
        window_xyxy, flip: see `resampled_image`.
    """
    pixels = image.astype(jnp.float32) / 255.0
    sharp, fill = jnp.ones((len(pixels),)), pixels.mean(axis=(1, 2))
    return normalised_pixels(resampled_image(pixels, window_xyxy, flip, sharp, fill))


def moved_box(
    box_cxcywh: Float[Array, "B 4"], window_xyxy: Float[Array, "B 4"], flip: Bool[Array, " B"]
) -> Float[Array, "B 4"]:
    """Boxes in the coordinates of a view by `resampled_image`, cut at its border."""
    # Corners in the window's coordinates, cut at its border, and mirrored with it.
    size = jnp.tile(window_xyxy[:, 2:] - window_xyxy[:, :2], (1, 2))
    half = box_cxcywh[:, 2:] / 2
    corners = jnp.concatenate([box_cxcywh[:, :2] - half, box_cxcywh[:, :2] + half], axis=1)
    corners = jnp.clip((corners - jnp.tile(window_xyxy[:, :2], (1, 2))) / size, 0.0, 1.0)
    mirrored = jnp.stack(
        [1 - corners[:, 2], corners[:, 1], 1 - corners[:, 0], corners[:, 3]], axis=1
    )
    corners = jnp.where(flip[:, None], mirrored, corners)
    return jnp.concatenate(
        [(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1
    )


def original_box(
    box_cxcywh: Float[Array, "B 4"], window_xyxy: Float[Array, "B 4"], flip: Bool[Array, " B"]
) -> Float[Array, "B 4"]:
    """Boxes of a view in the coordinates of the whole picture: the way back from `moved_box`."""
    # Unmirrored first: the flip is of the view, after its window was cut out.
    x = jnp.where(flip, 1 - box_cxcywh[:, 0], box_cxcywh[:, 0])
    box_cxcywh = box_cxcywh.at[:, 0].set(x)
    size = window_xyxy[:, 2:] - window_xyxy[:, :2]
    return jnp.concatenate(
        [box_cxcywh[:, :2] * size + window_xyxy[:, :2], box_cxcywh[:, 2:] * size], axis=1
    )


def close_up_window(box_cxcywh: Float[Array, "B 4"], margin: float) -> Float[Array, "B 4"]:
    """Square windows around boxes, `margin` times their longer side, for `resampled_image`."""
    side = jnp.maximum(margin * box_cxcywh[:, 2:].max(axis=1, keepdims=True), 0.1)
    return jnp.concatenate([box_cxcywh[:, :2] - side / 2, box_cxcywh[:, :2] + side / 2], axis=1)


def _random_window(
    box_cxcywh: Float[Array, "B 4"], rng: Key[Array, ""], config: Strengths
) -> Float[Array, "B 4"]:
    """A random window that keeps the box's centre and more than half of its area."""
    size_key, aspect_key, place_key, focus_key, near_key = jax.random.split(rng, 5)
    batch = len(box_cxcywh)

    # The size: drawn, or that of a close-up, stretched, and never too small for the box.
    side = jax.random.uniform(
        size_key, (batch, 1), minval=1 / config.zoom_in, maxval=config.zoom_out
    )
    # A close-up shows the box and little else: where learning begins, there is nothing to mix up.
    longer = box_cxcywh[:, 2:].max(axis=1, keepdims=True)
    near = longer * jax.random.uniform(near_key, (batch, 1), minval=1.3, maxval=2.2)
    close_up = jax.random.bernoulli(focus_key, config.focus, (batch, 1)) & (longer > 0)
    side = jnp.where(close_up, jnp.minimum(near, side), side)
    stretch = jnp.exp(
        jax.random.uniform(aspect_key, (batch, 1), minval=-1, maxval=1) * jnp.log(config.aspect) / 2
    )
    size = side * jnp.concatenate([stretch, 1 / stretch], axis=1)
    size = jnp.maximum(size, KEPT_SIDE * box_cxcywh[:, 2:])

    # The place: inside the picture where the window is smaller, around it where it is larger.
    share = jax.random.uniform(place_key, (batch, 2))
    around = box_cxcywh[:, :2] + box_cxcywh[:, 2:] / 2 - size + share * (size - box_cxcywh[:, 2:])
    low = jnp.where(close_up, around, share * (1.0 - size))

    # Moved back where too much of the box would be outside.
    cut = (0.5 - (1 - KEPT_SIDE)) * box_cxcywh[:, 2:]
    low = jnp.clip(low, box_cxcywh[:, :2] + cut - size, box_cxcywh[:, :2] - cut)
    return jnp.concatenate([low, low + size], axis=1)


def _recoloured_image(
    image: Float[Array, "B H W 3"], rng: Key[Array, ""], config: Strengths
) -> Float[Array, "B H W 3"]:
    """Pictures in other light, with other colours, and with noise."""
    keys = jax.random.split(rng, 5)
    batch = len(image)

    def factor(key: Array, strength: Array | float, shape: tuple[int, ...]) -> Array:
        return 1.0 + strength * jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)

    image = image * factor(keys[0], config.brightness, (batch, 1, 1, 1))
    image = image * factor(keys[1], config.cast, (batch, 1, 1, 3))

    # Contrast pulls away from the picture's mean, saturation from each pixel's grey.
    mean = image.mean(axis=(1, 2, 3), keepdims=True)
    image = mean + (image - mean) * factor(keys[2], config.contrast, (batch, 1, 1, 1))
    grey = image.mean(axis=3, keepdims=True)
    image = grey + (image - grey) * factor(keys[3], config.saturation, (batch, 1, 1, 1))

    # Eight random bits a value are noise enough; drawn four values at a time, since the generator
    # makes 32 of them for every number it is asked for.
    quarter = (*image.shape[:2], -(-image.shape[2] * 3 // 4))
    bits = jax.lax.bitcast_convert_type(jax.random.bits(keys[4], quarter, jnp.uint32), jnp.uint8)
    bits = bits.reshape(*image.shape[:2], -1)[..., : image.shape[2] * 3]
    bits = bits.reshape(image.shape).astype(jnp.float32)
    return jnp.clip(image + config.noise * (bits / 127.5 - 1.0), 0.0, 1.0)


def _erased_image(
    image: Float[Array, "B H W 3"], rng: Key[Array, ""], config: Strengths
) -> Float[Array, "B H W 3"]:
    """Pictures of which a share has a rectangle of one random colour over them."""
    # A rectangle somewhere in every picture; which of them it hides is drawn apart.
    which_key, place_key, size_key, colour_key = jax.random.split(rng, 4)
    batch, height, width = image.shape[:3]
    size = jax.random.uniform(size_key, (batch, 2), minval=0.1, maxval=0.3)
    low = jax.random.uniform(place_key, (batch, 2)) * (1 - size)

    def is_covered(axis: int, pixels: int) -> Array:
        place = (jnp.arange(pixels) + 0.5) / pixels
        edges = low[:, axis, None], (low + size)[:, axis, None]
        return (place[None] >= edges[0]) & (place[None] < edges[1])

    is_inside = is_covered(0, height)[:, :, None, None] & is_covered(1, width)[:, None, :, None]
    is_erased = jax.random.bernoulli(which_key, config.erase, (batch, 1, 1, 1))
    colour = jax.random.uniform(colour_key, (batch, 1, 1, 3))
    return jnp.where(is_inside & is_erased, colour, image)


def random_view(
    image: UInt8[Array, "B H W 3"],
    box_cxcywh: Float[Array, "B 4"],
    text: Int[Array, "B T"],
    *,
    rng: Key[Array, ""],
    config: ConfigDict,
    strength: Float[Array, ""],
    swap_table: Int[Array, " V"],
) -> tuple[Float[Array, "B H W 3"], Float[Array, "B 4"], Int[Array, "B T"]]:
    """The training view: cropped or zoomed out, flipped, recoloured, blurred, partly hidden.

    Args:
        image: pixels of the pictures.
        box_cxcywh: what the crop must keep; NO_BOX for rows without one.
        text: token ids, of which some are others under a mirror.
        rng: the step's key for this.
        config: `augment` of the config: strengths, 0 = off (zooms and aspect: 1 = off).
        strength: 0 to 1, multiplies all of them but `focus`, the share of close-ups, which fades
            as they grow: grounding is learnt sooner if it begins easily.
        swap_table: token id → token id under a mirror ("left" ↔ "right").

    Returns:
        `(image, box_cxcywh, text)`, the image normalised.
    """
    view, window, flip = _random_picture(image, box_cxcywh, rng, strengths(config, strength))
    # A box moves with its picture, and words that would be wrong in a mirror change.
    text = jnp.where(flip[:, None], swap_table[text], text)
    return view, moved_box(box_cxcywh, window, flip), text


def strengths(config: ConfigDict, strength: Array | float) -> Strengths:
    """The strengths between nothing and those of a config.

    Args:
        config: `augment` of the config.
        strength: 0 to 1, see `random_view`.
    """
    return Strengths(
        **{
            name: neutral + (config[name] - neutral) * strength
            for name, neutral in Strengths._field_defaults.items()
        }
    )._replace(focus=config.focus * (1.0 - strength))


def _random_picture(
    image: UInt8[Array, "B H W 3"],
    box_cxcywh: Float[Array, "B 4"],
    rng: Key[Array, ""],
    strengths: Strengths,
) -> tuple[Float[Array, "B H W 3"], Float[Array, "B 4"], Bool[Array, " B"]]:
    """`(view, window_xyxy, flip)`: random views, normalised, and where they lie in the pictures."""
    window_key, flip_key, blur_key, fill_key, colour_key, erase_key = jax.random.split(rng, 6)
    batch = len(image)

    # What changes the places: all in one resampling, which the box follows.
    window = _random_window(box_cxcywh, window_key, strengths)
    flip = jax.random.bernoulli(flip_key, strengths.flip, (batch,))
    radius = 1.0 + strengths.blur * jax.random.uniform(blur_key, (batch,))
    fill = jax.random.uniform(fill_key, (batch, 3))
    view = resampled_image(image.astype(jnp.float32) / 255.0, window, flip, radius, fill)

    # What changes the colours.
    view = _recoloured_image(view, colour_key, strengths)
    view = _erased_image(view, erase_key, strengths)
    return normalised_pixels(view), window, flip


class FixedView(NamedTuple):
    """Views of pictures that are the same whenever they are asked for.

    Attributes:
        image: `[B H W 3]`, normalised.
        window_xyxy: `[B 4]`, the part of each picture that its view shows, see `resampled_image`.
        flip: `[B]`, whether it is mirrored.
    """

    image: Array
    window_xyxy: Array
    flip: Array


def fixed_view(
    image: UInt8[Array, "B H W 3"],
    place: UInt32[Array, "B 2"],
    number: Int[Array, " B"],
    *,
    config: ConfigDict,
) -> FixedView:
    """View `number` of the `config.data.views` that each picture has.

    The strength of its changes grows from none at number 0 to that of `config.augment` at the last
    one. It depends on nothing else than the arguments: not on boxes, not on other rows and
    not on the seed of the run.

    Args:
        image: pixels of the pictures.
        place: what tells the picture from others, see `pipeline.view_places`.
        number: from 0.
        config: the run's.
    """
    last = max(config.data.views - 1, 1)
    box = jnp.array([NO_BOX])

    # A row at a time, each with a key for itself.
    def view(image: Array, place: Array, number: Array) -> FixedView:
        key = jax.random.key(0)
        for part in (place[0], place[1], number):
            key = jax.random.fold_in(key, part)
        strength = number / last if config.data.views > 1 else 1.0
        options = strengths(config.augment, strength)
        return FixedView(*(x[0] for x in _random_picture(image[None], box, key, options)))

    return jax.vmap(view)(image, place, number)


def seen_share(
    box_cxcywh: Float[Array, "B 4"], window_xyxy: Float[Array, "B 4"]
) -> Float[Array, " B"]:
    """The share of each box's area that a window shows; 1 for a box without an area."""
    low = jnp.maximum(box_cxcywh[:, :2] - box_cxcywh[:, 2:] / 2, window_xyxy[:, :2])
    high = jnp.minimum(box_cxcywh[:, :2] + box_cxcywh[:, 2:] / 2, window_xyxy[:, 2:])
    area = box_cxcywh[:, 2] * box_cxcywh[:, 3]
    overlap = jnp.maximum(high - low, 0.0).prod(axis=1)
    return jnp.where(area > 0, overlap / jnp.where(area > 0, area, 1.0), 1.0)


def strong_view(
    batch: dict[str, Any],
    box_cxcywh: Array,
    *,
    step: Array,
    rng: Array,
    config: ConfigDict,
    swap_table: Array,
) -> tuple[dict[str, Array], Float[Array, "B 4"]]:
    """A strong view of a batch, as the network's arguments, and the box inside it.

    Args:
        batch: has `image`, `text` and `text_mask`.
        box_cxcywh: see `random_view`.
        step: updates done; the strength grows over the first `augment.ramp` of the run's steps.
        rng: the step's key for this.
        config: the run's.
        swap_table: see `random_view`.
    """
    image, box, text = random_view(
        batch["image"],
        box_cxcywh,
        batch["text"],
        rng=rng,
        config=config.augment,
        strength=jnp.clip(step / max(config.augment.ramp * config.steps, 1), 0.0, 1.0),
        swap_table=swap_table,
    )
    return {"image": image, "text": text, "text_mask": batch["text_mask"]}, box
