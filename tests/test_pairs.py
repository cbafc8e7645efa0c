"The pair network and what is drawn from it, on small untrained networks: no weights are needed."

import numpy as np
import pytest
import torch

from sdfdiff.beyond.generated_pairs import (
    Mixed,
    PairPanel,
    fit_segmenter,
    images_of_mask,
    mask_f1,
    nearest_differences,
)
from sdfdiff.beyond.joint import Pair
from sdfdiff.beyond.pairs import (
    PairArchitecture,
    PairNetwork,
    architecture_for,
    draw_given,
    load_pairs,
    pair_loss,
    sample_pairs,
    save_pairs,
    tissue_pairs,
    training_noise_levels,
)
from sdfdiff.beyond.plain_classes import PlainNetwork
from sdfdiff.images.training_data import TrainingData

SMALL = PairArchitecture(width=8, multipliers=(1, 1))


def small(seed=0):
    "A network whose last layer answers, too."
    network, generator = PairNetwork(SMALL, seed), torch.Generator().manual_seed(seed)
    network.leave.weight.data = 0.1 * torch.randn(network.leave.weight.shape, generator=generator)
    return network.eval().requires_grad_(False)


def noise(count=3, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Pair(*(torch.randn(count, depth, size, size, generator=generator) for depth in (3, 1)))


def test_units_go_there_and_back():
    data = tissue_pairs(6)
    a = architecture_for(data)
    pair = a.standardised(torch.stack(data.images), torch.stack(data.distances)[:, None])
    assert abs(pair.distance.mean()) < 1e-3 and abs(pair.distance.std() - 1) < 1e-3
    assert abs(pair.image.mean()) < 1e-3 and abs(pair.image.square().mean() - 1) < 1e-2
    images, distances = a.natural(pair)
    assert torch.allclose(images, torch.stack(data.images), atol=1e-6)
    assert torch.allclose(distances[:, 0], torch.stack(data.distances).clamp(-10, 10), atol=1e-5)


def test_a_known_part_comes_back():
    pair = noise()
    network = small()
    assert torch.equal(network(pair, 0.0, 1.0).image, pair.image)
    assert torch.equal(network(pair, 1.0, 0.0).distance, pair.distance)
    other = network(Pair(pair.image + 1, pair.distance), 0.0, 1.0)
    assert not torch.allclose(other.distance, network(pair, 0.0, 1.0).distance)  # the image is read


def test_each_pair_has_its_own_levels():
    "A batch with a level per pair is the pairs one by one."
    pair, network = noise(), small()
    levels = torch.tensor([[0.0, 2.0], [0.4, 0.1], [50.0, 1.0]])
    together = network(pair, *levels.T)
    for k, (image_level, distance_level) in enumerate(levels.tolist()):
        alone = network(Pair(*(part[k : k + 1] for part in pair)), image_level, distance_level)
        assert all(torch.allclose(one[k], two[0], atol=1e-5) for one, two in zip(together, alone))


def test_training_levels_lie_where_they_are_said_to():
    levels = training_noise_levels(20_000, SMALL, torch.Generator().manual_seed(0))
    known = levels == 0
    assert not known.all(1).any()
    assert abs(known[:, 0].float().mean() - 0.3) < 0.02 and abs(known[:, 1].float().mean() - 0.2) < 0.02
    inside = levels[~known.any(1)]
    assert inside.min() >= SMALL.sigma_min and inside.max() == SMALL.sigma_max
    logs = inside[(inside < SMALL.sigma_max).all(1)].log()
    assert abs(torch.corrcoef(logs.T)[0, 1]) < 0.03  # the two levels are independent


def test_loss_of_a_network_that_knows_nothing():
    "F = 0 has an error of one for each part that is noisy: 0.7 and 0.8 of all."
    network, generator = PairNetwork(SMALL), torch.Generator().manual_seed(0)
    a, losses = SMALL, []
    for _ in range(40):
        pair = Pair(*(torch.randn(64, depth, 8, 8, generator=generator) for depth in (3, 1)))
        images = torch.tensor(a.image_mean).view(-1, 1, 1) + a.image_deviation * pair.image
        distances = a.mean + a.deviation * pair.distance.clamp(-3, 1)
        with torch.no_grad():
            losses.append(pair_loss(network, images, distances, generator).item())
    assert abs(np.mean(losses) - 1.5) < 0.12


def test_weights_come_back_and_others_are_refused(tmp_path):
    network, path = small(), tmp_path / "pairs.safetensors"
    save_pairs(path, network, {"data": "none", "seed": 3})
    again = load_pairs(path, torch.float32)
    assert again.architecture == SMALL and again.about["seed"] == 3
    found, wanted = again(noise(), 0.5, 0.7), network(noise(), 0.5, 0.7)
    assert torch.allclose(found.image, wanted.image, atol=1e-2)
    with pytest.raises(FileExistsError):
        save_pairs(path, network, {})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="no pair network that can be read"):
        load_pairs(path)
    with pytest.raises(FileNotFoundError, match="benchmarks.pairs"):
        load_pairs(tmp_path / "none.safetensors")


@pytest.mark.parametrize("first", [None, "image", "distance"])
def test_pairs_depend_on_the_seed_only(first):
    network = small()
    images, distances = sample_pairs(network, 3, (16, 24), seed=1, calls=4, first=first)
    again = sample_pairs(network, 3, (16, 24), seed=1, calls=4, first=first)
    assert images.shape == (3, 3, 16, 24) and distances.shape == (3, 1, 16, 24)
    assert torch.equal(images, again[0]) and 0 <= images.min() and images.max() <= 1
    assert not torch.equal(images, sample_pairs(network, 3, (16, 24), seed=2, calls=4, first=first)[0])


def test_given_parts_are_used():
    network, images = small(), torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    masks = draw_given(network, "image", images, seed=1, calls=4)
    assert masks.shape == (2, 1, 16, 16)
    assert not torch.equal(masks, draw_given(network, "image", 1 - images, seed=1, calls=4))
    assert draw_given(network, "distance", masks, seed=1, calls=4, held=2.0).shape == images.shape


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (lambda: small()(noise(), 0.0, 60.0), "distance is 60: levels from 0 to 50"),
        (lambda: small()(noise(), -1.0, 1.0), "image is -1"),
        (lambda: small()(noise(), torch.tensor([0.1, float("nan"), 1.0]), 1.0), "nan"),
        (lambda: small()(noise(size=18), 0.0, 1.0), "multiples of 4"),
        (lambda: draw_given(small(), "colour", torch.rand(1, 3, 16, 16)), "image or distance"),
        (lambda: draw_given(small(), "image", torch.rand(1, 1, 16, 16)), "1 channels"),
        (lambda: SMALL.standardised(torch.zeros(1, 3, 16, 16), torch.zeros(1, 1, 8, 8)), "8 x 8"),
        (lambda: sample_pairs(small(), 1, (16, 16), calls=2), "at least 3"),
        (lambda: PairArchitecture(deviation=0.0), "positive"),
        (lambda: images_of_mask(small(), np.zeros((16, 18))), "multiples of 4"),
        (lambda: images_of_mask(small(), np.zeros((16, 16)), blend=-0.5), "0 to 1"),
        (lambda: images_of_mask(small(), np.zeros((16, 16)), held=51.0), "levels from 0 to 50"),
        (lambda: nearest_differences(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 4)), "one shape"),
    ],
)
def test_what_is_refused(wrong, word):
    with pytest.raises(ValueError, match=word) as error:
        wrong()
    assert "\n" not in str(error.value)


def test_copies_are_found_in_any_flip_and_turn():
    generator = torch.Generator().manual_seed(0)
    training, fresh = torch.rand(5, 3, 8, 8, generator=generator), torch.rand(4, 3, 8, 8, generator=generator)
    for k in range(4):
        for turned in (torch.rot90(training, k, (-2, -1)), torch.rot90(training, k, (-2, -1)).flip(-2)):
            assert nearest_differences(turned + 0.01, training) == pytest.approx(0.01, abs=2e-3)
    by_hand = min((fresh[0] - torch.rot90(v, k, (-2, -1))).square().mean().sqrt().item()
                  for one in training for v in (one, one.flip(-1)) for k in range(4))  # fmt: skip
    assert nearest_differences(fresh[:1], training)[0] == pytest.approx(by_hand, rel=1e-4)


def test_a_mix_draws_equal_parts():
    dark, light = (TrainingData([torch.full((3, 8, 8), tone)], [torch.zeros(8, 8)], 8) for tone in (0.0, 1.0))
    images, _ = Mixed((dark, light)).draw(7, torch.Generator().manual_seed(0))
    assert (images.mean((1, 2, 3)) < 0.5).sum() == 4


def test_a_segmenter_learns_dark_discs():
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    distances = [torch.hypot(row - r, column - c) - 6.0 for r, c in ((10, 12), (20, 18), (14, 22))]
    images = [(0.5 + 0.3 * one.sign()).clamp(0, 1).expand(3, -1, -1).contiguous() for one in distances]
    data = TrainingData(images, distances, 32)
    fitted = fit_segmenter(data, steps=40)
    stacked = torch.stack(images), torch.stack(distances)[:, None]
    assert (
        mask_f1(fitted, *stacked).min()
        > 0.8
        > mask_f1(PlainNetwork(1, width=24, blocks=1, unshuffle=2), *stacked).mean()
    )


def test_panel_follows_its_controls():
    "The end of a blend is the next seed; another mask, or a looser one, gives other images."
    row, column = np.mgrid[:16, :16]
    panel = PairPanel(small(), np.hypot(row - 8, column - 8) < 4)
    first, shown = panel.images, panel.picture.value
    assert first.shape == (3, 16, 16, 3)
    panel.blend.value = 1.0
    end = panel.images
    panel.blend.value, panel.seed.value = 0.0, 1
    assert np.allclose(panel.images, end, atol=1e-5) and not np.allclose(end, first, atol=1e-3)
    panel.seed.value = 0
    assert np.array_equal(panel.images, first) and panel.picture.value == shown
    panel.painter.mask = np.zeros((16, 16), bool)
    assert not np.allclose(panel.images, first, atol=1e-3)
    without = panel.images
    panel.held.value = 3.0
    assert not np.allclose(panel.images, without, atol=1e-3)
