"The scores against formulas and loops, what they prefer, and the noise that members are made of."

import math

import numpy as np
import pytest
import torch

from sdfdiff.diffusion import one_call as module
from sdfdiff.diffusion.network import Architecture
from sdfdiff.diffusion.one_call import block_means, fair_crps, fair_energy, noise_maps, score_terms, soft_mask
from sdfdiff.diffusion.oracle import GaussianField
from sdfdiff.diffusion.sampling import member_generators
from sdfdiff.uncertainty.forecasts import crps

NOISE = Architecture(cells=(8, 32, 128), unshuffle=2)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


def gaussian_crps(shift, spread):
    "Expected CRPS of N(shift, spread^2) for a truth from N(0, 1): E |x - y| - E |x - x'| / 2."
    s = math.sqrt(1 + spread**2)
    far = s * math.sqrt(2 / math.pi) * math.exp(-((shift / s) ** 2) / 2) + shift * math.erf(shift / s / math.sqrt(2))
    return far - spread / math.sqrt(math.pi)


# Fair CRPS -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 7, 40])
def test_the_crps_is_that_of_the_sorted_members(count):
    "With the members in order, the sum over pairs needs one pass: the k-th of n has the weight 2 k - n - 1."
    members, truth = 3 * normal(count, 2, 5, 6), normal(2, 5, 6, seed=1)
    ordered, place = np.sort(members.numpy(), 0), np.arange(1, count + 1).reshape(-1, 1, 1, 1)
    apart = ((2 * place - count - 1) * ordered).sum(0) / (count * (count - 1))
    expected = np.abs(members.numpy() - truth.numpy()).mean(0) - apart
    assert fair_crps(members, truth).item() == pytest.approx(expected.mean(), abs=1e-12)


def test_the_crps_is_the_judge_s():
    members, truth = normal(5, 8, 8), normal(8, 8, seed=1)
    assert fair_crps(members, truth).item() == pytest.approx(float(crps(members.numpy(), truth.numpy())), rel=1e-9)


@pytest.mark.parametrize("shift, spread", [(0.0, 1.0), (0.0, 0.4), (0.0, 2.0), (0.7, 1.0), (-1.5, 0.3)])
@pytest.mark.parametrize("count", [2, 6])
def test_the_expected_crps_of_gaussians_is_the_formula_for_any_number_of_members(shift, spread, count):
    "40 000 truths; the tolerance is five standard errors."
    members, truth = shift + spread * normal(count, 40_000), normal(40_000, seed=1)
    each = torch.stack([fair_crps(members[:, k], truth[k]) for k in range(400)])  # for the standard error
    error = 5 * each.std().item() / math.sqrt(40_000)
    assert fair_crps(members, truth).item() == pytest.approx(gaussian_crps(shift, spread), abs=error)


def test_the_crps_has_the_unit_of_the_members_and_no_place():
    members, truth = normal(3, 4, 4), normal(4, 4, seed=1)
    value = fair_crps(members, truth)
    assert torch.allclose(fair_crps(5 * members + 2, 5 * truth + 2), 5 * value)
    assert torch.allclose(fair_crps(members[[2, 0, 1]], truth), value)  # members have no order
    assert fair_crps(truth.expand(3, 4, 4), truth) == 0


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("score", [fair_crps, lambda members, truth: fair_energy(members, truth, 2)])
def test_one_member_is_refused_in_one_sentence(count, score):
    with pytest.raises(ValueError, match=f"^{count} member.*at least 2") as caught:
        score(normal(count, 4, 4), normal(4, 4))
    assert "\n" not in str(caught.value)


# Block means and patches ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 12), (3, 8, 12), (2, 3, 1, 9, 14)])
def test_block_means_are_means_of_blocks(shape):
    fields = normal(*shape)
    found, rows, columns = block_means(fields, 4), shape[-2] // 4, shape[-1] // 4
    assert found.shape == (*shape[:-2], rows, columns)
    for row in range(rows):
        for column in range(columns):
            block = fields[..., 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert torch.allclose(found[..., row, column], block.mean((-2, -1)))


def patches(field, side, corner):
    "All whole squares from a corner on, one after another."
    rows, columns = (range(start, size - side + 1, side) for start, size in zip(corner, field.shape))
    return [field[row : row + side, column : column + side] for row in rows for column in columns]


@pytest.mark.parametrize("side, corner", [(3, (0, 0)), (3, (2, 1)), (4, (0, 3)), (9, (0, 1))])
def test_the_energy_score_is_that_of_loops(side, corner):
    members, truth = normal(4, 2, 1, 9, 11), normal(2, 1, 9, 11, seed=1)

    def apart(one, other):
        return math.sqrt(((one - other) ** 2).mean().item() + 1e-6)

    found = []
    for image in range(2):
        drawn = [patches(members[k, image, 0], side, corner) for k in range(4)]
        for place, true in enumerate(patches(truth[image, 0], side, corner)):
            near = np.mean([apart(drawn[k][place], true) for k in range(4)])
            pairs = [apart(drawn[j][place], drawn[k][place]) for j in range(4) for k in range(4) if j != k]
            found.append(near - np.mean(pairs) / 2)
    assert fair_energy(members, truth, side, corner).item() == pytest.approx(np.mean(found), rel=1e-9)


def test_the_energy_score_of_one_pixel_is_the_crps():
    members, truth = 3 * normal(4, 6, 6), normal(6, 6, seed=1)
    assert fair_energy(members, truth, 1).item() == pytest.approx(fair_crps(members, truth).item(), abs=1e-3)


def test_equal_members_have_a_finite_slope():
    "The root has none at 0; one NaN would end a training."
    members = torch.zeros(3, 1, 8, 8, requires_grad=True)
    fair_energy(members, torch.zeros(1, 8, 8), 4).backward()
    assert members.grad.isfinite().all()


# What the scores prefer ----------------------------------------------------------------------------------------------

SHAPE = (32, 32)


def laws(fields, count, generator):
    "The true law, and wrong ones that keep something of it; each (member, field, 1, row, column)."
    field = GaussianField(SHAPE, 5.0, 4.0)
    true = field.sample(fields * count, generator).unflatten(0, (count, fields))
    alone = 5 * torch.randn(true.shape, generator=generator)
    tiles = true.clone()
    for row in range(0, SHAPE[0], 4):
        for column in range(0, SHAPE[1], 4):
            other = field.sample(fields * count, generator).unflatten(0, (count, fields))
            tiles[..., row : row + 4, column : column + 4] = other[..., row : row + 4, column : column + 4]
    return {
        "true": true,
        "independent": alone,
        "narrow": true / 2,
        "wide": 1.5 * true,
        "shifted": true + 2,
        "tiles": tiles,
    }


@pytest.fixture(scope="module")
def excess():
    "Mean and standard error, over 2000 truths, of each term of each law beyond that of the true law; two members."
    generator, rows = seeded(3), {}
    for _ in range(40):
        truth = GaussianField(SHAPE, 5.0, 4.0).sample(50, generator)
        drawn = laws(50, 2, generator)
        state = generator.get_state()
        terms = {}
        for name, members in drawn.items():
            generator.set_state(state)  # the same corners for all
            terms[name] = {key: one.item() for key, one in score_terms(members, truth, 0.5, generator).items()}
        for name in drawn:
            for key, value in terms[name].items():
                rows.setdefault((name, key), []).append(value - terms["true"][key])
            rows.setdefault((name, "sum"), []).append(sum(terms[name].values()) - sum(terms["true"].values()))
    return {key: (np.mean(values), np.std(values, ddof=1) / math.sqrt(40)) for key, values in rows.items()}


def test_no_law_beats_the_true_one_in_any_term(excess):
    assert len(excess) == 6 * 9  # eight terms and their sum: blocks of 64 px do not fit
    for (name, key), (mean, error) in excess.items():
        assert mean > -4 * error - 1e-9, f"{name} beats the true law in {key} by {-mean:.3f} +- {error:.3f}"


@pytest.mark.parametrize("name", ["independent", "narrow", "wide", "shifted", "tiles"])
def test_the_sum_tells_each_wrong_law(excess, name):
    mean, error = excess[name, "sum"]
    assert mean > 5 * error


def test_pixels_alone_cannot_tell_independent_pixels_or_tiles(excess):
    for name in ("independent", "tiles"):
        blocks = ("blocks of 4 px", "mask blocks of 4 px") if name == "tiles" else ()
        for key in ("pixels", "mask pixels", *blocks):
            mean, error = excess[name, key]
            assert abs(mean) < 4 * error
    for name, key in (
        ("independent", "blocks of 4 px"),
        ("independent", "mask blocks of 16 px"),
        ("independent", "patches of 8 px"),
        ("tiles", "blocks of 16 px"),
        ("tiles", "patches of 8 px"),
    ):
        mean, error = excess[name, key]
        assert mean > 5 * error


@pytest.mark.parametrize("score", [lambda m, t: fair_crps(block_means(m, 4), block_means(t, 4)), None])
def test_the_expectation_does_not_depend_on_the_number_of_members(score):
    "2 and 6 members of a law that is wrong."
    score = score or (lambda members, truth: fair_energy(members, truth, 8))
    field, values = GaussianField(SHAPE, 5.0, 4.0), {2: [], 6: []}
    for seed in range(60):
        generator = seeded(seed)
        truth = field.sample(10, generator)
        for count, found in values.items():
            members = 0.6 * field.sample(10 * count, generator).unflatten(0, (count, 10))
            found.append(score(members, truth).item())
    difference = np.subtract(values[2], values[6])
    assert abs(difference.mean()) < 4 * difference.std(ddof=1) / math.sqrt(60)
    assert np.std(values[2]) > np.std(values[6])  # more members: less chance in each value


def test_score_terms_are_what_their_names_say():
    members, truth = 4 * normal(3, 2, 1, 64, 68), 4 * normal(2, 1, 64, 68, seed=1)
    terms = score_terms(members, truth, 0.5, seeded(5))
    masks, mask = torch.sigmoid((0.5 - members) / 0.25), torch.sigmoid((0.5 - truth) / 0.25)
    assert torch.equal(soft_mask(members, 0.5), masks) and soft_mask(torch.tensor(0.5), 0.5) == 0.5
    expected = {"pixels": fair_crps(members, truth), "mask pixels": 2 * fair_crps(masks, mask)}
    for side in (4, 16, 64):
        expected[f"blocks of {side} px"] = fair_crps(block_means(members, side), block_means(truth, side))
        expected[f"mask blocks of {side} px"] = 4 * fair_crps(block_means(masks, side), block_means(mask, side))
    generator = seeded(5)
    for side in (8, 16):
        corner = torch.randint(0, side, (2,), generator=generator).tolist()
        expected[f"patches of {side} px"] = fair_energy(members, truth, side, corner)
    assert [*terms] == [*expected] and all(torch.equal(terms[name], expected[name]) for name in terms)


@pytest.mark.parametrize("shape", [(4, 4), (8, 12), (16, 16), (20, 40)])
def test_small_images_have_the_terms_that_fit(shape):
    "Also when the corner of the patches is drawn unluckily."
    for seed in range(20):
        terms = score_terms(normal(2, 1, 1, *shape), normal(1, 1, *shape, seed=1), 0.5, seeded(seed))
        assert all(math.isfinite(one.item()) for one in terms.values())
    assert ("patches of 16 px" in terms) == (min(shape) >= 16) and ("patches of 8 px" in terms) == (min(shape) >= 8)


# Noise ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 7, 33, 45])
@pytest.mark.parametrize("cell", [1, 4, 5, 16, 64])
def test_smooth_noise_has_variance_one_at_every_place(length, cell):
    "Linear in the nodes, so its variance is a sum of squares: that of what each node does."
    nodes = math.ceil(length / cell) + 2
    places = (np.arange(length) + cell // 2 + 0.5) / cell - 0.5  # in nodes
    assert places.min() >= 0 and places.max() <= nodes - 1
    weights = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(nodes)))
    factor = module._evening(length, cell).double().numpy()
    assert np.allclose(factor**2 * (weights**2).sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6), (34, 50), (66, 18)])
def test_noise_is_standard_normal_at_every_place(shape):
    noise = noise_maps(4000, shape, NOISE, seeded())
    assert noise.shape == (4000, 4 + 3, shape[0] // 2, shape[1] // 2) and noise.dtype == torch.float32
    assert noise.mean(0).abs().max() < 5.5 / math.sqrt(4000)
    assert (noise.var(0) - 1).abs().max() < 5.5 * math.sqrt(2 / 4000)
    flat = noise[:, :, 0, 0].T
    assert (torch.corrcoef(flat) - torch.eye(7)).abs().max() < 5.5 / math.sqrt(4000)  # channels are independent


def test_white_pixels_become_channels():
    shape, generator = (6, 10), seeded(2)
    noise = noise_maps(3, shape, Architecture(cells=()), seeded(2))
    pixels = torch.randn(3, 1, *shape, generator=generator)
    assert torch.equal(noise[:, 1], pixels[:, 0, 0::2, 1::2]) and noise.shape[1] == 4


def test_the_same_generators_make_the_same_noise_whoever_comes_along():
    shape = (16, 24)
    assert torch.equal(noise_maps(3, shape, NOISE, seeded(1)), noise_maps(3, shape, NOISE, seeded(1)))
    assert not torch.equal(noise_maps(3, shape, NOISE, seeded(1)), noise_maps(3, shape, NOISE, seeded(2)))
    together = noise_maps(4, shape, NOISE, member_generators(7, range(4)))
    alone = noise_maps(1, shape, NOISE, member_generators(7, [2]))
    assert torch.equal(together[2], alone[0])
    with pytest.raises(ValueError, match="2 generators for 3 members"):
        noise_maps(3, shape, NOISE, member_generators(7, range(2)))


@pytest.mark.parametrize("cell", [4, 16])
def test_a_crop_and_a_whole_image_have_the_same_correlations(cell):
    "Between two places, counted from the corner, whatever lies beyond; and far places are independent."

    def correlations(length):
        return torch.corrcoef(module._smooth((4, length), cell, 20_000, seeded(), None)[:, 0, 0].T)

    small, large = correlations(24), correlations(41)
    assert (small - large[:24, :24]).abs().max() < 6 * math.sqrt(2 / 20_000)
    assert large[0, 1] > 1 - 2 / cell and large[0, 2 * cell :].abs().max() < 6 / math.sqrt(20_000)


def test_the_noise_of_an_architecture_without_cells_is_white():
    noise = noise_maps(2000, (8, 8), Architecture(cells=(), unshuffle=1), seeded())[:, 0].flatten(1)
    assert (torch.corrcoef(noise.T) - torch.eye(64)).abs().max() < 6 / math.sqrt(2000)
