"""Shapes that the shop's products are drawn from: sixteen silhouettes and eight printed marks.

Everything is a polygon around the origin, x to the right, y down, within [-1, 1], so that one
matrix turns, stretches and scales a product without resampling a pixel.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "N 2"]
Number = float | int


class Part(NamedTuple):
    """One polygon of a silhouette and what it is painted with.

    Attributes:
        paint: "body" carries the product's colour and pattern, "trim" a darker shade of it,
            "accent" its second colour; any other name is a fixed colour.
        points: corners of the polygon.
    """

    paint: str
    points: Points


class Silhouette(NamedTuple):
    """Parts from back to front, and the disk (x, y, radius) where the mark is printed."""

    parts: tuple[Part, ...]
    mark: tuple[Number, Number, Number]


def polygon(*corners: tuple[Number, Number]) -> Points:
    """The corners as an array, in their order."""
    return np.array(corners, np.float32)


def oval(
    x: Number, y: Number, rx: Number, ry: Number, start: Number = 0, end: Number = 360
) -> Points:
    """An ellipse, or the piece of it from angle `start` to `end` (degrees, clockwise from +x)."""
    angles = np.radians(np.linspace(start, end, max(6, int(28 * (end - start) / 360)) + 1))
    return np.stack([x + rx * np.cos(angles), y + ry * np.sin(angles)], -1).astype(np.float32)


def band(
    x: Number,
    y: Number,
    rx: Number,
    ry: Number,
    width: Number,
    start: Number = 0,
    end: Number = 360,
) -> Points:
    """An arc of the given width, its middle line on the ellipse: handles, hooks, collars."""
    half = width / 2
    outer = oval(x, y, rx + half, ry + half, start, end)
    inner = oval(x, y, rx - half, ry - half, start, end)
    return np.concatenate([outer, inner[::-1]])


def block(x0: Number, y0: Number, x1: Number, y1: Number, radius: Number = 0.0) -> Points:
    """A rectangle with rounded corners."""
    if not radius:  # a quarter of an oval with radius 0 would repeat its corner
        return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    corners = ((x1, y1, 0), (x0, y1, 90), (x0, y0, 180), (x1, y0, 270))
    return np.concatenate(
        [
            oval(
                x + (radius if x == x0 else -radius),
                y + (radius if y == y0 else -radius),
                radius,
                radius,
                start,
                start + 90,
            )
            for x, y, start in corners
        ]
    )


def spline(*corners: tuple[Number, Number], steps: int = 5) -> Points:
    """A closed Catmull-Rom curve through the corners."""
    # A piece between two corners depends on them and on one more to each side.
    p1 = np.array(corners, np.float32)
    p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    t = (np.arange(steps, dtype=np.float32) / steps)[:, None, None]
    curve = 0.5 * (
        2 * p1
        + (p2 - p0) * t
        + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2
        + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    return curve.transpose(1, 0, 2).reshape(-1, 2)


def leaf(x: Number, y: Number, angle: Number, length: Number, width: Number) -> Points:
    """A leaf that starts at (x, y) and points to `angle` (degrees, clockwise from +x)."""
    # Both edges of a leaf that points to the right, out and back again; then it is turned.
    t = np.linspace(0, 1, 9)
    side = width * np.sin(np.pi * t**0.8)
    along = np.concatenate([t * length, t[::-1] * length])
    across = np.concatenate([side, -side[::-1]])
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    return np.stack([x + along * c - across * s, y + along * s + across * c], -1).astype(np.float32)


def star(points: int = 5, inner: Number = 0.45) -> Points:
    """A star of so many points, one of them upwards; `inner` is the radius between two points."""
    angles = np.pi * np.arange(2 * points) / points - np.pi / 2
    radius = np.where(np.arange(2 * points) % 2, inner, 1.0)
    return np.stack([radius * np.cos(angles), radius * np.sin(angles)], -1).astype(np.float32)


def heart() -> Points:
    """A heart, by its well-known parametric curve."""
    t = np.linspace(0, 2 * np.pi, 25)[:-1]
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x / 17, y / 17], -1).astype(np.float32)


def moon() -> Points:
    """A crescent that is open to the right."""
    return np.concatenate([oval(0, 0, 0.95, 0.95, 60, 300), oval(0.36, 0, 0.72, 0.82, 270, 90)])


# What is printed on products, by its name in titles and sentences.
MARKS: dict[str, Points] = {
    "star": star(),
    "heart": heart(),
    "ring": band(0, 0, 0.72, 0.72, 0.42),
    "cross": polygon(
        (-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3), (0.95, 0.3), (0.3, 0.3),
        (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3), (-0.95, -0.3), (-0.3, -0.3),
    ),
    "bolt": polygon((0.25, -1), (-0.6, 0.2), (-0.05, 0.2), (-0.3, 1), (0.6, -0.3), (0.05, -0.3)),
    "moon": moon(),
    "leaf": leaf(-0.75, 0.75, -45, 2.1, 0.52),
    "diamond": polygon((0, -1), (0.7, 0), (0, 1), (-0.7, 0)),
}  # fmt: skip

# The shop's categories. Suites keep the last few for evaluation, see `post_pictures.shelf`.
CATEGORIES: dict[str, Silhouette] = {
    "mug": Silhouette(
        (
            Part("trim", band(0.55, 0.05, 0.3, 0.36, 0.17, -95, 95)),  # handle
            Part("body", spline((-0.82, -0.75), (0.5, -0.75), (0.52, 0.1), (0.44, 0.72),
                                (0.25, 0.9), (-0.57, 0.9), (-0.76, 0.72), (-0.84, 0.1))),  # wall
            Part("trim", oval(-0.16, -0.74, 0.69, 0.18)),  # rim
            Part("coffee", oval(-0.16, -0.72, 0.58, 0.12)),
        ),
        (-0.16, 0.16, 0.4),
    ),
    "teapot": Silhouette(
        (
            Part("trim", band(-0.6, 0.12, 0.3, 0.36, 0.13, 80, 280)),  # handle
            Part("trim", spline((0.3, 0.05), (0.62, -0.05), (0.78, -0.4), (1.0, -0.45),
                                (0.92, -0.2), (0.78, 0.25), (0.4, 0.55))),  # spout
            Part("trim", block(-0.36, 0.62, 0.36, 0.86, 0.08)),  # foot
            Part("body", oval(0, 0.2, 0.66, 0.56)),  # belly
            Part("trim", oval(0, -0.28, 0.36, 0.2)),  # lid
            Part("accent", oval(0, -0.56, 0.13, 0.13)),  # knob
        ),
        (0, 0.24, 0.34),
    ),
    "bottle": Silhouette(
        (
            Part("body", spline((-0.14, -0.74), (0.14, -0.74), (0.16, -0.45), (0.38, -0.15),
                                (0.42, 0.2), (0.42, 0.85), (0.3, 0.98), (-0.3, 0.98), (-0.42, 0.85),
                                (-0.42, 0.2), (-0.38, -0.15), (-0.16, -0.45))),  # glass
            Part("dark", block(-0.2, -1, 0.2, -0.72, 0.06)),  # cap
        ),
        (0, 0.36, 0.32),
    ),
    "plant": Silhouette(
        (
            Part("leaf_dark", leaf(0, 0.1, -155, 0.95, 0.17)),  # leaves, the outer ones behind
            Part("leaf_dark", leaf(0, 0.1, -25, 0.95, 0.17)),
            Part("leaf", leaf(0, 0.1, -122, 1.05, 0.18)),
            Part("leaf", leaf(0, 0.1, -58, 1.05, 0.18)),
            Part("leaf_dark", leaf(0, 0.1, -90, 1.1, 0.18)),
            Part("body", polygon((-0.56, 0.1), (0.56, 0.1), (0.4, 0.98), (-0.4, 0.98))),  # pot
            Part("trim", block(-0.64, -0.02, 0.64, 0.22, 0.05)),  # the pot's rim
        ),
        (0, 0.58, 0.3),
    ),
    "lamp": Silhouette(
        (
            Part("metal", block(-0.06, -0.2, 0.06, 0.85)),  # pole
            Part("metal", oval(0, 0.86, 0.42, 0.13)),  # foot
            Part("light", oval(0, 0.02, 0.3, 0.14)),  # bulb
            # shade
            Part("body", polygon((-0.38, -0.98), (0.38, -0.98), (0.78, 0.02), (-0.78, 0.02))),
        ),
        (0, -0.42, 0.32),
    ),
    "clock": Silhouette(
        (
            Part("dark", block(-0.62, 0.8, -0.3, 1.0, 0.04)),  # feet
            Part("dark", block(0.3, 0.8, 0.62, 1.0, 0.04)),
            Part("trim", oval(0, -0.88, 0.16, 0.13)),  # bell
            Part("body", np.concatenate([oval(0, -0.15, 0.72, 0.72, 180, 360),
                                         polygon((0.72, 0.88), (-0.72, 0.88))])),  # case
            Part("dark", oval(0, -0.2, 0.51, 0.51)),  # ring
            Part("light", oval(0, -0.2, 0.44, 0.44)),  # face
            # hour hand
            Part("dark", polygon((-0.05, -0.17), (-0.04, -0.56), (0.04, -0.56), (0.05, -0.17))),
            # minute hand
            Part("dark", polygon((-0.03, -0.25), (0.3, -0.1), (0.27, -0.02), (-0.05, -0.15))),
        ),
        (0, 0.58, 0.25),
    ),
    "watch": Silhouette(
        (
            Part("body", block(-0.27, -1, 0.27, 1, 0.1)),  # strap
            Part("metal", block(0.5, -0.09, 0.66, 0.09)),  # crown
            Part("metal", oval(0, 0, 0.56, 0.56)),  # case
            Part("trim", oval(0, 0, 0.47, 0.47)),  # face
        ),
        (0, 0, 0.36),
    ),
    "shoe": Silhouette(
        (
            Part("light", spline((-1, 0.3), (-0.4, 0.36), (0.4, 0.34), (0.98, 0.3), (1, 0.5),
                                 (0.9, 0.6), (-0.9, 0.6), (-1, 0.5))),  # sole
            Part("body", spline((-0.95, -0.55), (-0.72, -0.48), (-0.38, -0.62), (-0.18, -0.56),
                                (0.05, -0.22), (0.45, -0.02), (0.85, 0.08), (0.98, 0.38), (0, 0.42),
                                (-0.96, 0.4), (-0.92, 0))),  # upper
            # toe cap
            Part("trim", spline((0.62, 0.06), (0.86, 0.1), (0.98, 0.38), (0.6, 0.4), (0.54, 0.2))),
            # laces
            Part("light", polygon((-0.1, -0.2), (0.1, -0.34), (0.16, -0.26), (-0.04, -0.12))),
            Part("light", polygon((0.1, -0.04), (0.3, -0.18), (0.36, -0.1), (0.16, 0.04))),
        ),
        (-0.5, 0.0, 0.3),
    ),
    "hat": Silhouette(
        (
            Part("trim", spline((-1, 0.42), (-0.6, 0.3), (0.6, 0.3), (1, 0.42), (0.55, 0.68),
                                (-0.55, 0.68))),  # brim
            Part("body", spline((-0.6, 0.42), (-0.54, -0.3), (-0.35, -0.62), (0, -0.5),
                                (0.35, -0.62), (0.54, -0.3), (0.6, 0.42), (0, 0.54))),  # crown
            Part("dark", spline((-0.6, 0.42), (-0.58, 0.22), (0, 0.34), (0.58, 0.22), (0.6, 0.42),
                                (0, 0.54))),  # ribbon
        ),
        (0, -0.1, 0.3),
    ),
    "shirt": Silhouette(
        (
            # sleeves and body
            Part("body", polygon((-0.3, -0.85), (-0.52, -0.78), (-1, -0.3), (-0.74, 0.02),
                                 (-0.54, -0.16), (-0.54, 0.88), (0.54, 0.88), (0.54, -0.16),
                                 (0.74, 0.02), (1, -0.3), (0.52, -0.78), (0.3, -0.85))),
            Part("dark", oval(0, -0.85, 0.3, 0.24, 0, 180)),  # neck
        ),
        (0, -0.08, 0.32),
    ),
    "bag": Silhouette(
        (
            Part("trim", band(0, -0.3, 0.42, 0.58, 0.14, 180, 360)),  # handle
            Part("body", spline((-0.7, -0.3), (-0.35, -0.34), (0.35, -0.34), (0.7, -0.3),
                                (0.82, 0.2), (0.9, 0.75), (0.7, 0.86), (-0.7, 0.86), (-0.9, 0.75),
                                (-0.82, 0.2))),  # body
            # flap
            Part("trim", polygon((-0.7, -0.32), (0.7, -0.32), (0.76, -0.06), (-0.76, -0.06))),
            Part("metal", block(-0.1, -0.16, 0.1, 0.04, 0.04)),  # clasp
        ),
        (0, 0.42, 0.34),
    ),
    "umbrella": Silhouette(
        (
            Part("metal", block(-0.04, -1, 0.04, 0.8)),  # pole
            Part("wood", band(0.16, 0.78, 0.16, 0.16, 0.1, 0, 180)),  # handle
            Part("body", np.concatenate([
                oval(0, 0, 1, 0.88, 180, 360), oval(0.75, 0, 0.25, 0.12, 0, -180),
                oval(0.25, 0, 0.25, 0.12, 0, -180), oval(-0.25, 0, 0.25, 0.12, 0, -180),
                oval(-0.75, 0, 0.25, 0.12, 0, -180)])),  # canopy, its lower edge of four arcs
        ),
        (0, -0.42, 0.3),
    ),
    "chair": Silhouette(
        (
            # back legs
            Part("wood", polygon((-0.5, -0.1), (-0.38, -0.1), (-0.36, 0.7), (-0.46, 0.7))),
            Part("wood", polygon((0.38, -0.1), (0.5, -0.1), (0.46, 0.7), (0.36, 0.7))),
            Part("wood", polygon((-0.66, 0.3), (-0.52, 0.3), (-0.54, 1), (-0.68, 1))),  # front legs
            Part("wood", polygon((0.52, 0.3), (0.66, 0.3), (0.68, 1), (0.54, 1))),
            Part("body", block(-0.56, -1, 0.56, -0.12, 0.16)),  # back
            Part("trim", spline((-0.56, 0.02), (0, 0.0), (0.56, 0.02), (0.74, 0.3), (0.68, 0.42),
                                (0, 0.44), (-0.68, 0.42), (-0.74, 0.3))),  # seat
        ),
        (0, -0.55, 0.32),
    ),
    "guitar": Silhouette(
        (
            Part("wood", block(-0.07, -0.86, 0.07, 0.1)),  # neck
            Part("dark", polygon((-0.13, -1), (0.13, -1), (0.1, -0.74), (-0.1, -0.74))),  # head
            # body
            Part("body", spline((0, -0.14), (0.28, -0.12), (0.36, 0.08), (0.28, 0.28), (0.46, 0.52),
                                (0.46, 0.82), (0.26, 0.98), (0, 1.0), (-0.26, 0.98), (-0.46, 0.82),
                                (-0.46, 0.52), (-0.28, 0.28), (-0.36, 0.08), (-0.28, -0.12))),
            Part("dark", oval(0, 0.2, 0.16, 0.16)),  # hole
            Part("wood", block(-0.07, -0.3, 0.07, 0.1)),  # the neck's end, over the body
        ),
        (0, 0.68, 0.27),
    ),
    "camera": Silhouette(
        (
            Part("dark", block(-0.78, -0.7, -0.46, -0.4, 0.06)),  # shutter release
            # finder
            Part("trim", polygon((-0.24, -0.74), (0.44, -0.74), (0.6, -0.45), (-0.4, -0.45))),
            Part("body", block(-1, -0.52, 1, 0.66, 0.16)),  # case
            Part("dark", oval(0.14, 0.08, 0.5, 0.5)),  # lens barrel
            Part("glass", oval(0.14, 0.08, 0.36, 0.36)),  # lens
            Part("light", oval(0.02, -0.06, 0.1, 0.1)),  # glint
            Part("light", block(0.68, -0.42, 0.92, -0.24, 0.04)),  # flash
        ),
        (-0.67, 0.18, 0.27),
    ),
    "car": Silhouette(
        (
            Part("body", spline((-0.98, 0.3), (-0.96, -0.02), (-0.68, -0.1), (-0.42, -0.48),
                                (0, -0.56), (0.36, -0.5), (0.62, -0.1), (0.92, -0.02), (1, 0.3),
                                (0.8, 0.42), (0, 0.42), (-0.8, 0.42))),  # body
            # left window
            Part("glass", polygon((-0.52, -0.12), (-0.36, -0.38), (-0.06, -0.43), (-0.06, -0.12))),
            # right window
            Part("glass", polygon((0.04, -0.12), (0.04, -0.43), (0.3, -0.38), (0.48, -0.12))),
            Part("dark", oval(-0.55, 0.4, 0.25, 0.25)),  # tyres
            Part("dark", oval(0.55, 0.4, 0.25, 0.25)),
            Part("metal", oval(-0.55, 0.4, 0.12, 0.12)),  # hubs
            Part("metal", oval(0.55, 0.4, 0.12, 0.12)),
        ),
        (0, 0.14, 0.25),
    ),
}  # fmt: skip
