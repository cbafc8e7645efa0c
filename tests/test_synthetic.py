"The tissue's one promise: the probability of each pixel is known. And that scenes are reproducible and honest."

import math
import time

import numpy as np
import pytest
from scipy.ndimage import label

from sdfdiff.images import synthetic
from sdfdiff.images.synthetic import Nucleus, Settings, tissue
from sdfdiff.shapes import distance_to_points


@pytest.mark.parametrize(("seed", "shape"), [(371, (64, 64)), (5, (40, 72))])
def test_probability_is_the_mean_of_the_raters(seed, shape):
    scene, count, generator = tissue(seed, shape), 4000, np.random.default_rng(seed)
    share = np.zeros(shape)
    for _ in range(count):
        share += scene.rate(generator) > 0
    share /= count
    probability = scene.probability()
    clear = (probability > 0.005) & (probability < 0.995)
    z = (share - probability)[clear] / np.sqrt(probability * (1 - probability) / count)[clear]
    assert clear.sum() > 300
    assert np.abs(z).max() < 5 and 0.3 < np.mean(z**2) < 2.5
    assert np.abs(share - probability).max() < 0.04
    assert (share[probability < 1e-7] == 0).all() and (share[probability > 1 - 1e-7] == 1).all()


normal = np.vectorize(lambda value: 0.5 * math.erfc(-value / math.sqrt(2)))


def test_probability_by_hand():
    scene = tissue(3)
    row, column = np.mgrid[:64, :64].astype(float)
    escape = np.ones((64, 64))
    for one in scene.nuclei:
        distance = synthetic._nucleus_distance([one], (row - one.row)[None], (column - one.column)[None])[0]
        escape *= 1 - one.accepted * normal(-distance / scene.settings.jitter)
    assert np.abs(1 - escape - scene.probability()).max() < 1e-5  # windows lose nothing


def test_acceptance_follows_from_darkness_alone():
    settings = Settings()
    for seed in range(20):
        for one in tissue(seed).nuclei:
            low, high = synthetic._KINDS[one.kind]
            assert low <= one.contrast <= high
            assert one.accepted == pytest.approx(synthetic._acceptance(one.contrast, settings))
            lowest, highest = {"dark": (1, 1), "pale": (0.79, 0.97), "ambiguous": (0.29, 0.71)}[one.kind]
            assert lowest <= one.accepted <= highest


def test_darkness_can_be_seen():
    contrast, seen = [], []
    for seed in range(12):
        scene = tissue(seed)
        crowd = scene.rate(np.random.default_rng(0))
        for one in scene.nuclei:
            inside = crowd == one.label
            if inside.sum() > 60:
                contrast.append(one.contrast)
                seen.append(-np.log(scene.image[..., 0][inside].clip(0.02)).mean())
    assert len(seen) > 50 and np.corrcoef(contrast, seen)[0, 1] > 0.9


def test_dark_nuclei_are_in_every_mask_and_distractors_in_none():
    scene = tissue(8, shares=(1, 0, 0))
    masks = np.stack([scene.rate(np.random.default_rng(number)) for number in range(20)])
    visible = [one.label for one in scene.nuclei if 0 < one.row < 63 and 0 < one.column < 63]
    assert visible and all((masks == number).any((1, 2)).all() for number in visible)
    crowded = tissue(8, density=0.0, distractors=0.02, fibres=0.02)
    assert crowded.nuclei == [] and crowded.probability().max() == 0
    assert crowded.rate(np.random.default_rng(0)).max() == 0
    assert crowded.image.std() > 0.02


def test_same_seed_same_scene_and_raters_are_the_generator():
    one, two = tissue(4, (48, 64)), tissue(4, (48, 64))
    assert np.array_equal(one.image, two.image) and one.nuclei == two.nuclei
    assert not np.array_equal(one.image, tissue(5, (48, 64)).image)
    first = one.rate(np.random.default_rng(1))
    assert np.array_equal(first, two.rate(np.random.default_rng(1)))
    assert not np.array_equal(first, one.rate(np.random.default_rng(2)))


def test_raters_leave_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    tissue(0).rate(np.random.default_rng(0))
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (33, 150), (512, 512)])
def test_any_shape(shape):
    scene = tissue(1, shape)
    labels, probability = scene.rate(np.random.default_rng(0)), scene.probability()
    assert scene.image.shape == (*shape, 3) and scene.image.dtype == np.float32
    assert scene.image.min() >= 0 and scene.image.max() <= 1
    assert labels.shape == probability.shape == shape and labels.dtype == np.int32
    assert probability.min() >= 0 and probability.max() <= 1
    assert set(np.unique(labels)) <= {0, *(one.label for one in scene.nuclei)}


def test_density_does_not_depend_on_the_size():
    fraction = {
        side: np.mean([tissue(seed, (side, side)).probability().mean() for seed in range(2560 // side)])
        for side in (32, 128, 256)
    }
    assert max(fraction.values()) - min(fraction.values()) < 0.05 and 0.1 < fraction[128] < 0.3


def test_nuclei_cross_the_border_and_overlap_little():
    scenes = [tissue(seed) for seed in range(30)]
    assert any(one.row < 0 or one.column > 63 for scene in scenes for one in scene.nuclei)
    covered, shared = 0, 0
    for scene in scenes[:10]:
        row, column = np.mgrid[:64, :64].astype(float)
        inside = sum(
            (synthetic._nucleus_distance([one], (row - one.row)[None], (column - one.column)[None])[0] < 0).astype(int)
            for one in scene.nuclei
        )
        covered, shared = covered + (inside > 0).sum(), shared + (inside > 1).sum()
    assert shared < 0.02 * covered


def test_labels_keep_touching_nuclei_apart():
    scene = tissue(371, shares=(1, 0, 0))
    labels = scene.rate(np.random.default_rng(0))
    for number in np.unique(labels[labels > 0]):
        assert label(labels == number)[1] <= 2  # a neighbour may cut off a sliver
    assert label(labels > 0)[1] < len(np.unique(labels)) - 1  # some do touch, and still have two labels


def test_distance_of_an_outline():
    angle = np.linspace(0, 2 * np.pi, 6000)
    row, column = np.mgrid[-20:21, -20:21].astype(float)
    for one in tissue(6).nuclei + tissue(7).nuclei:
        waves = zip(one.amplitudes, (2, 3, 5), one.phases, strict=True)
        radius = one.radius * np.exp(sum(a * np.cos(k * angle - phase) for a, k, phase in waves))
        true = distance_to_points((41, 41), np.stack([20 + radius * np.sin(angle), 20 + radius * np.cos(angle)], 1))
        wrong = np.abs(np.abs(synthetic._nucleus_distance([one], row[None], column[None])[0]) - true)
        assert wrong[true < 1].max() < 0.06
    circle = Nucleus(1, "dark", 0.0, 0.0, 6.0, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 1.0, 1.0)
    assert np.allclose(synthetic._nucleus_distance([circle], row[None], column[None])[0], np.hypot(row, column) - 6)


def test_smooth_noise_has_unit_variance_and_the_right_length():
    generator = np.random.default_rng(0)
    fields = np.stack([synthetic._smooth_noise((40, 50), 4.0, generator) for _ in range(300)])
    assert abs(fields.mean()) < 0.05 and abs(fields.var() - 1) < 0.05
    for axis in (1, 2):
        first, second = np.moveaxis(fields, axis, 0)[:-4], np.moveaxis(fields, axis, 0)[4:]
        assert abs((first * second).mean() - np.exp(-0.5)) < 0.05


def test_jitter_sets_the_width_of_the_edge():
    narrow, wide = tissue(371, jitter=0.3), tissue(371, jitter=1.5)
    width = [((scene.probability() > 0.05) & (scene.probability() < 0.3)).sum() for scene in (narrow, wide)]
    assert width[1] > 2 * width[0]


@pytest.mark.parametrize(
    "wrong", [{"jitter": 0}, {"radius": (5, 4)}, {"shares": (1, 1, 1)}, {"acceptance": (0.5, 0.5)}, {"density": -1.0}]
)
def test_bad_settings(wrong):
    with pytest.raises(ValueError, match=r"\.$"):
        tissue(0, **wrong)


@pytest.mark.parametrize("shape", [(16, 64), (64,), (64, 64, 3)])
def test_bad_shape(shape):
    with pytest.raises(ValueError, match="at least 32"):
        tissue(0, shape)


def test_a_scene_is_cheap():
    tissue(0)
    start = time.process_time()
    for seed in range(30):
        tissue(seed)
    assert (time.process_time() - start) / 30 < 0.02  # about 3 ms on an idle core; generous for a busy one
