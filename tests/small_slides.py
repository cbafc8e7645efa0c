"A rendered H&E slide with nuclei and glands, and what spoils slides: black, ink, dirt, glass."

from functools import cache

import numpy as np
from scipy.ndimage import gaussian_filter

DYES = np.array([[0.5122, 0.7574, 0.4049], [0.2794, 0.8158, 0.5064]])  # haematoxylin and eosin
INKS = {"black": (0, 0, 0), "blue": (20, 50, 170), "green": (20, 120, 60), "red": (200, 30, 40), "dark": (30, 30, 35)}


def photograph(blue, pink, seed):
    "Light through amounts of two dyes, with noise, in 8 bits."
    light = np.exp(-np.stack([blue, pink], axis=2) @ DYES) + 0.01 * np.random.default_rng(seed).normal(
        size=(*blue.shape, 3)
    )
    return (np.clip(np.round(255 * light), 0, 255) / 255).astype(np.float32)


@cache
def nuclei(side=288, seed=0):
    "Dark nuclei, as a slide at 40x shows them, between pink fibres."
    generator = np.random.default_rng(seed)
    rows, columns = np.indices((side, side))
    blue = np.zeros((side, side))
    for row, column, long, short, turn in generator.uniform(
        [0, 0, 9, 7, 0], [side, side, 16, 11, 3.1], (side * side // 2200, 5)
    ):
        across = (rows - row) * np.cos(turn) + (columns - column) * np.sin(turn)
        along = (columns - column) * np.cos(turn) - (rows - row) * np.sin(turn)
        blue = np.maximum(blue, np.clip(4 - 4 * np.hypot(across / short, along / long), 0, 1))
    texture = gaussian_filter(generator.normal(size=(2, side, side)), (0, 2, 5))
    texture /= texture.std(axis=(1, 2), keepdims=True)
    return photograph(
        blue * (2.4 + 0.3 * texture[0]) + 0.25, np.clip(0.7 + 0.2 * texture[1], 0.1, None) * (1 - 0.6 * blue), seed
    )


@cache
def glands(side=128, seed=0):
    "Rings of dark cells around a light hole, in pink tissue."
    generator = np.random.default_rng(seed)
    rows, columns = np.indices((side, side))
    blue, hole = np.zeros((side, side)), np.zeros((side, side))
    for row in range(20, side, 44):
        for column in range(20, side, 44):
            distance = np.hypot(rows - row - generator.normal(0, 3), columns - column - generator.normal(0, 3))
            radius = generator.uniform(13, 18)
            blue = np.maximum(blue, np.clip(radius - distance, 0, 1))
            hole = np.maximum(hole, np.clip(0.4 * radius - distance, 0, 1))
    texture = gaussian_filter(generator.normal(size=(2, side, side)), (0, 1, 1))
    texture /= texture.std(axis=(1, 2), keepdims=True)
    tissue = 1 - 0.95 * hole
    return photograph(
        (blue * (1.5 + 0.4 * texture[0]) + 0.2) * tissue, np.clip(0.8 + 0.2 * texture[1], 0.1, None) * tissue, seed
    )


def spoilt(image, what, share, ink="black"):
    "An image with rows, corners, a line or specks that are no tissue; and where they are, with their edges."
    (rows, columns), shape = np.indices(image.shape[:2]), image.shape[:2]
    if what == "rows":
        depth = rows
    elif what == "corners":  # of a turned crop
        depth = np.minimum.reduce(
            [rows + columns, rows - columns + shape[1], shape[0] - rows + columns, sum(shape) - rows - columns]
        )
    elif what == "line":
        depth = np.abs(0.8 * (rows - shape[0] / 2) - 0.6 * (columns - shape[1] / 2) + 9 * np.sin(columns / 25))
    else:
        depth = -gaussian_filter(np.random.default_rng(5).normal(size=shape), 2)
    where = depth <= np.quantile(depth, share)
    soft = where.astype(float) if what in ("rows", "corners") else gaussian_filter(where.astype(float), 0.6)
    mixed = image * (1 - soft[..., None]) + np.array(INKS[ink]) / 255 * soft[..., None]
    return (np.round(255 * mixed) / 255).astype(np.float32), soft > 0.01


SPOILS = [
    ("rows", 4 / 320, "black"),
    ("rows", 0.1, "black"),
    ("corners", 0.08, "black"),
    ("line", 0.03, "blue"),
    ("line", 0.03, "green"),
    ("line", 0.03, "red"),
    ("line", 0.03, "dark"),
    ("line", 0.1, "blue"),
    ("specks", 0.01, "black"),
    ("specks", 0.01, "dark"),
]
