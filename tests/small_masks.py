"Masks for tests of distances."

import numpy as np
import pytest

from sdfdiff.fast_distance import BOUNDARIES

each_boundary = pytest.mark.parametrize("boundary", BOUNDARIES)


def blobs(shape=(40, 50), seed=0, wavelength=14.0):
    "A mask of smooth random blobs: a sum of plane waves above its mean."
    generator = np.random.default_rng(seed)
    row, column = np.indices(shape)
    waves = generator.normal(size=(30, 2)) / wavelength
    return sum(np.cos(2 * np.pi * (a * row + b * column) + generator.uniform(0, 7)) for a, b in waves) > 1
