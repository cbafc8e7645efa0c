"Which mask to show: the best expected F1 by brute force, and what a mean of distances holds in worlds known exactly."

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks import mask_choice
from benchmarks.mask_choice import (
    FIXED,
    MAJORITY,
    MEMBERS,
    MEAN,
    Drawn,
    all_masks,
    dice_mask,
    exact_world,
    left_out,
    needed_share,
    sample_dice_mask,
    soft_majority,
)
from sdfdiff.distance import signed_distance
from sdfdiff.uncertainty.metrics import scores


def worth(mask, probability):
    return 2 * probability[mask].sum() / (mask.sum() + probability.sum())


@settings(max_examples=60, deadline=None)
@given(arrays(float, (2, 4), elements=st.sampled_from([0, 0.1, 0.25, 0.4, 0.5, 0.8, 1])))
def test_dice_mask_is_the_best_of_all_masks(probability):
    found = dice_mask(probability)
    if not probability.any():
        assert not found.any()
        return
    every = [np.reshape(bits, (2, 4)) for bits in product((False, True), repeat=8)]
    best = max(worth(mask, probability) for mask in every)
    assert worth(found, probability) == pytest.approx(best)
    assert probability[found].min() >= best / 2 - 1e-12  # it ends at half of the F1 that it expects
    assert probability[~found].max(initial=0) <= best / 2 + 1e-12


def test_dice_mask_by_hand():
    probability = np.array([[1.0, 0.9, 0.45], [0.3, 0.1, 0.0]])  # sum 2.75: 2 px 0.80, 3 px 0.8174, 4 px 0.785
    assert dice_mask(probability).tolist() == [[True, True, True], [False, False, False]]
    assert dice_mask(probability.astype(np.float32)).tolist() == dice_mask(probability).tolist()


def test_sample_dice_mask_is_the_best_threshold():
    members = exact_world(100, 1.0).members
    found, share = scores(sample_dice_mask(members), members)["f1"].mean(), members.mean(axis=0)
    assert found == max(scores(share >= count / MEMBERS, members)["f1"].mean() for count in range(1, MEMBERS + 1))


def disputed(count, reach):
    "A disc of radius 14 that `count` of the members see, all with the same outline."
    row, column = np.ogrid[-20:21, -20:21]
    disc = row**2 + column**2 <= 14**2
    seen = [disc if k < count else np.zeros_like(disc) for k in range(MEMBERS)]
    return disc, Drawn(np.stack([signed_distance(one, 20) for one in seen]), disc[None], "", 0.5, reach)


@pytest.mark.parametrize("count", range(MEMBERS + 1))
def test_cut_at_one_pixel_a_quarter_of_the_members_holds_an_object_without_its_outline(count):
    disc, one = disputed(count, 1.0)
    inner = disc & (signed_distance(disc, 20) <= -1)
    shown = FIXED[MEAN](one)
    assert (needed_share(1, 1), needed_share(0, 1)) == (0.25, 0.5)
    assert shown[inner].all() == shown[inner].any() == (count / MEMBERS >= 0.25)
    assert shown[disc & ~inner].all() == shown[disc & ~inner].any() == (count / MEMBERS >= 0.5)
    assert not shown[~disc].any()
    assert np.array_equal(soft_majority(one), disc & (count / MEMBERS >= 0.5))


def test_uncut_an_object_that_most_members_see_is_shown_too_small():
    disc, one = disputed(12, 20.0)
    depth = -signed_distance(disc, 20)
    shown = FIXED[MEAN](one)
    assert np.array_equal(FIXED[MAJORITY](one), disc)
    assert 0 < shown.sum() < 0.7 * disc.sum()
    assert np.array_equal(shown[disc], 12 / MEMBERS >= needed_share(depth[disc], 20))


def test_where_members_are_raters_the_cut_decides_on_the_area():
    for reach, low, high in ((1.0, 1.05, 1.25), (10.0, 0.7, 0.95)):
        cases = [exact_world(seed, reach) for seed in (100, 101, 102)]
        area = np.array([one.members.sum(axis=(1, 2)).mean() for one in cases])
        found = all_masks(cases)
        ratio = {name: np.mean([mask.sum() for mask in masks] / area) for name, masks in found.items()}
        assert low < ratio[MEAN] < high
        assert abs(ratio[MAJORITY] - 1) < 0.1 and abs(ratio["soft majority"] - 1) < 0.1


def test_a_threshold_is_chosen_on_other_patients():
    f1 = np.array([[9.0, 0, 1], [9, 0, 1], [0, 5, 1], [0, 4, 1]])  # the first patient has two images
    assert left_out(f1, np.array(["a", "a", "b", "c"])).tolist() == [1, 1, 0, 0]


def test_tables_name_every_mask(capsys, monkeypatch):
    monkeypatch.setattr(mask_choice, "SCENES", range(100, 102))
    mask_choice.print_table("two scenes", [exact_world(seed, 1.0) for seed in mask_choice.SCENES])
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*FIXED, *mask_choice.CHOSEN, *mask_choice.EXACT, "beyond the majority"))
