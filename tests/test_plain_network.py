"The plain network and what it is compared by: losses, masks made of probabilities, parts of a variance, commands."

import json
from dataclasses import asdict
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks import epoch_choice, plain_network, two_kinds
from benchmarks.__main__ import main
from benchmarks.plain_network import (
    area_scores,
    independent_pixels,
    judge_masks,
    mask_loss,
    one_threshold,
    probabilities,
    raters_of,
    torn_share,
    train_plain,
)
from benchmarks.two_kinds import KindsPlan, parts_of_variance, seen
from sdfdiff.files import read_dataset
from sdfdiff.images.synthetic import tissue
from sdfdiff.uncertainty.metrics import scores, scores_from_counts


def discs(batch, generator):
    "Bright discs on a dark ground with the distance to their edge."
    row, column = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    centre = 8 + 16 * torch.rand(batch, 2, 1, 1, generator=generator)
    distance = torch.hypot(row - centre[:, 0], column - centre[:, 1])[:, None] - 6
    return (distance <= 0.5).float().repeat(1, 3, 1, 1) * 0.8 + 0.1, distance


DISCS = SimpleNamespace(draw=discs)

# ---- the loss and the training


@pytest.mark.parametrize("dice", [0.0, 1.0])
def test_only_cross_entropy_asks_for_the_frequency(dice):
    "Three in ten pixels are object and look alike: the best answer is 0.3 for a proper rule, and less with Dice."
    truth = torch.tensor([1.0] * 300 + [0.0] * 700)
    levels = torch.linspace(0.02, 0.98, 97)
    losses = torch.stack([mask_loss(torch.full_like(truth, float(p.logit())), truth, dice) for p in levels])
    best = float(levels[losses.argmin()])
    assert (abs(best - 0.3) < 0.006) == (dice == 0) and 0.25 < best < 0.6


def test_loss_of_a_perfect_mask_is_nothing():
    truth = (torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.4).float()
    assert float(mask_loss(40 * truth - 20, truth)) < 1e-6
    assert float(mask_loss(20 - 40 * truth, truth)) > 10


def test_it_learns_and_repeats():
    runs = []
    for _ in range(2):
        network = plain_network.plain_network(3, width=8)
        *_, kept = train_plain(network, DISCS, 40, batch=4, learning_rate=0.003, decay=False, seed=5)
        runs.append(kept)
    images, distance = discs(6, torch.Generator().manual_seed(9))
    p = probabilities(kept, np.moveaxis(images.numpy(), 1, -1))
    truth = (distance[:, 0] <= 0.5).numpy()
    assert p.shape == truth.shape and scores(p >= 0.5, truth)["f1"].min() > 0.8
    pairs = zip(runs[0].state_dict().values(), runs[1].state_dict().values())
    assert all(torch.equal(one, other) for one, other in pairs)


def test_without_decay_it_is_adamw_at_a_constant_rate():
    "The same steps, written out; with decay what is kept is an average."
    network, own = (plain_network.plain_network(0, width=8) for _ in range(2))
    *_, kept = train_plain(network, DISCS, 4, batch=2, dice=0.0, learning_rate=0.01, decay=False, seed=3)
    optimiser, source = torch.optim.AdamW(own.parameters(), 0.01, weight_decay=1e-3), torch.Generator().manual_seed(3)
    for _ in range(4):
        images, distances = discs(2, source)
        truth = (distances <= 0.5).float()
        optimiser.zero_grad()
        logits = own.encode(images).initial_estimate
        torch.nn.functional.binary_cross_entropy_with_logits(logits, truth).backward()
        torch.nn.utils.clip_grad_norm_(own.parameters(), 1.0)
        optimiser.step()
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(kept.parameters(), own.parameters()))
    *_, averaged = train_plain(network, DISCS, 3, batch=2)
    assert not torch.equal(averaged.encoders[0].guess.weight, network.encoders[0].guess.weight)


def test_the_plain_network_is_as_large_as_the_encoder(monkeypatch):
    from sdfdiff.diffusion.model import load_model

    shipped = load_model("tissue", dtype=torch.float32).network
    plain = plain_network.plain_network(0)
    assert plain_network.encoder_size(plain) == plain_network.encoder_size(shipped) > 500_000


# ---- masks made of probabilities


def test_masks_have_the_frequencies_that_were_promised():
    p = np.array([[0.0, 0.25, 0.5, 1.0]])
    generator = np.random.default_rng(0)
    assert np.allclose(independent_pixels(p, 4000, generator).mean(0), p, atol=0.03)
    nested = one_threshold(p, 64, generator)
    assert np.abs(nested.mean(0) - p).max() < 1 / 64
    area = nested.sum((1, 2))
    assert all((nested[k] <= nested[j]).all() for k, j in product(range(64), repeat=2) if area[k] <= area[j])


def test_area_scores_by_hand():
    def masks(*areas):
        return np.arange(16).reshape(1, 4, 4) < np.array(areas)[:, None, None]

    std, crps = area_scores(masks(2, 4, 9), masks(5, 6))
    assert std == pytest.approx(np.std([2, 4, 9], ddof=1))
    far = np.mean([3, 1, 4, 4, 2, 3])
    assert crps == pytest.approx(far - (2 + 7 + 5) / 3 / 2)


def test_half_a_nucleus_is_torn():
    scene = next(one for one in map(tissue, range(2000, 2020)) if torn_share(np.ones((1, 64, 64), bool), one) == 0)
    whole = np.ones((2, 64, 64), bool)
    checks = np.indices((64, 64)).sum(0) % 2 == 0
    assert torn_share(np.stack([checks, checks]), scene) == 1
    assert torn_share(np.stack([checks, whole[0]]), scene) == 0.5
    assert torn_share(~whole, scene) == 0


def test_raters_tear_hardly_any_nucleus_and_independent_pixels_most():
    scene, generator = tissue(2003), np.random.default_rng(1)
    assert torn_share(raters_of(scene, 2003, 16), scene) < 0.1
    assert torn_share(independent_pixels(scene.probability(), 16, generator), scene) > 0.5


def test_the_exact_answer_is_judged_perfect():
    scene = tissue(2000)
    exact, raters = scene.probability(), raters_of(scene, 2000, 6)
    shy = 0.5 + 0.5 * (exact - 0.5)
    answers = {"exact": (exact >= 0.5, exact, -abs(exact - 0.5)), "shy": (shy >= 0.5, shy, -abs(shy - 0.5))}
    found = judge_masks(answers | {"mask": (raters[0], None, np.zeros((64, 64)))}, exact, raters, 16)
    one = {name: found.sel({"method": name}) for name in found["method"].values}
    assert one["exact"]["gap"] == 0 and one["exact"]["f1_majority"] == 1
    assert np.isclose(one["shy"]["gap"], np.abs(shy - exact).mean())
    assert np.isclose(*found["auroc"].values[:2]) and found["auroc"].values[2] == 0.5
    assert one["exact"]["pixels"].sum() == 6 * 64 * 64
    assert one["mask"]["pixels"].isnull().all() and np.isnan(one["mask"]["gap"])


def test_other_streams_have_other_raters():
    scene = tissue(2001)
    one, other = raters_of(scene, 2001, 4), raters_of(scene, 2001, 4, stream=1)
    assert np.array_equal(one, raters_of(scene, 2001, 4)) and (one != other).any((1, 2)).all()


# ---- epochs


def test_counts_of_checkpoints_belong_to_the_same_images():
    plan = epoch_choice.QUICK
    found = epoch_choice.checkpoint_counts(plan, 1)
    assert found.shape == (3, 6, 3) and found.dtype == np.int16
    truth = found[..., 0] + found[..., 2]
    assert (truth == truth[0]).all() and (found[0] != found[2]).any()
    first = plan.first_scene + 1000 + plan.scenes
    images, masks = epoch_choice.annotated(first, 6)
    assert np.array_equal(truth[0], masks.sum((1, 2)))
    untrained = probabilities(plain_network.plain_network(1, plan.width), images) >= 0.5
    assert np.array_equal(found[0][:, 0], (untrained & masks).sum((1, 2)))
    assert plan.scenes + sum(epoch_choice.EpochPlan().images) < 1000  # no scene of one run is in the next


# ---- two kinds


def test_the_law_of_total_variance():
    generator = np.random.default_rng(0)
    p, exact = generator.random((3, 2, 5)), generator.random(5)
    parts = parts_of_variance(p, exact)
    mean = p.mean((0, 1))
    assert np.allclose(parts["within"] + p.var((0, 1)), mean * (1 - mean))
    pairs = [(p[i, k] - p[j, m]) ** 2 / 2 for i, j, k, m in product(range(3), range(3), range(2), range(2)) if i != j]
    assert np.allclose(parts["between_sets"], np.mean(pairs, 0))
    assert np.allclose(parts["between_starts"], ((p[:, 0] - p[:, 1]) ** 2 / 2).mean(0))
    assert np.allclose(parts["error_one"] - p.var((0, 1)), parts["error_mean"])
    alike = parts_of_variance(np.broadcast_to(exact, (3, 2, 5)), exact)
    assert np.allclose(alike["within"], alike["exact"]) and np.allclose(alike["between_sets"], 0)


def test_the_law_changes_the_image_and_not_the_answer():
    plain, exact = seen(3000, "as trained")
    assert np.array_equal(plain, tissue(3000).image)
    for law in two_kinds.LAWS[1:]:
        image, same = seen(3000, law)
        assert np.array_equal(same, exact) and np.abs(image - plain).mean() > 0.02 and image.dtype == np.float32
        assert 0 <= image.min() and image.max() <= 1 and image.flags["C_CONTIGUOUS"]


def test_sets_of_scenes_do_not_meet():
    plan = KindsPlan()
    ranges = [
        range(plan.first_scene + 1000 * k, plan.first_scene + 1000 * k + max(plan.sizes)) for k in range(plan.sets)
    ]
    ranges.append(range(plan.first_held_out, plan.first_held_out + plan.scenes))
    assert sum(map(len, ranges)) == len({seed for one in ranges for seed in one})


# ---- commands


@pytest.mark.parametrize(
    ("command", "plan", "needed"),
    [
        ("plain", plain_network.QUICK, {"f1_rater", "ged", "checkpoint_counts", "sparse_counts"}),
        ("kinds", two_kinds.QUICK, {"within", "between_sets", "exact", "ensemble_error"}),
    ],
)
def test_quick_command(command, plan, needed, tmp_path, capsys):
    out = tmp_path / "numbers.nc"
    assert main([command, "--quick", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"numbers: {out}\n"
    found = read_dataset(out)
    assert needed <= set(found) and json.loads(found.attrs["plan"]) == json.loads(json.dumps(asdict(plan)))
    assert found.attrs["weights_checksum"] and found.sizes["case"] == plan.scenes
    if command == "plain":
        f1 = scores_from_counts(found["sparse_counts"])["f1"]
        assert f1.sizes == {"threshold": len(plain_network.THRESHOLDS), "case": plan.scenes}
    written = out.stat().st_mtime_ns
    assert main([command, "--quick", "--out", str(out)]) == 1 and out.stat().st_mtime_ns == written
    assert "--force" in capsys.readouterr().err
