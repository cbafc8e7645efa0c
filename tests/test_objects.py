"Objects: matching by hand and against an independent loop, rules, pooling, the perfect posterior, bad input."

import numpy as np
import pytest
import xarray as xr
from scipy import ndimage
from skimage.measure import label

from sdfdiff.images.synthetic import tissue
from sdfdiff.uncertainty.fields import PLANE, bootstrap, named
from sdfdiff.uncertainty.objects import match_objects, object_scores, object_table


def test_match_by_hand():
    truth, predicted = np.zeros((10, 20), int), np.zeros((10, 20), bool)
    truth[2:6, 2:6], truth[2:6, 12:16] = 7, 3  # numbers of instances need not be consecutive
    predicted[2:6, 4:8], predicted[8, 18] = True, True
    probability = np.where(predicted, 0.75, 0.25)
    probability[3, 13] = 0.5
    found, true = match_objects(probability, predicted, truth)
    assert (
        found["area"].tolist() == [16, 1]
        and np.allclose(found["iou"], [8 / 24, 0])
        and np.allclose(found["mean"], 0.75)
    )
    assert true["area"].tolist() == [16, 16] and np.allclose(true["iou"], [0, 8 / 24])
    assert np.allclose(true["largest"], [0.5, 0.75])
    found, _ = match_objects(probability, predicted, truth, least=2)
    assert found["area"].tolist() == [16]


@pytest.mark.parametrize("connectivity", [1, 2])
def test_match_against_a_loop(connectivity):
    generator = np.random.default_rng(0)
    predicted, truth = (ndimage.gaussian_filter(generator.normal(size=(60, 60)), 1.5) > 0.1 for _ in range(2))
    probability = generator.random((60, 60))
    found, true = match_objects(probability, predicted, truth, connectivity=connectivity)
    for own, other, result in ((predicted, truth, found), (truth, predicted, true)):
        pieces, others = label(own, connectivity=connectivity), label(other, connectivity=connectivity)
        rows = []
        for k in range(1, pieces.max() + 1):
            one = pieces == k
            iou = max((one & (others == j)).sum() / (one | (others == j)).sum() for j in range(1, others.max() + 1))
            rows.append((one.sum(), iou, probability[one].mean(), probability[one].max()))
        mine = np.transpose([result[name] for name in ("area", "iou", "mean", "largest")])
        assert np.allclose(sorted(map(tuple, mine)), sorted(rows))


def test_padding_and_nan():
    mask, inside = np.zeros((8, 8), bool), np.ones((8, 8), bool)
    mask[2:5, 2:5], inside[:, 4:] = True, False
    probability = np.where(inside, 0.9, np.nan)
    found, true = match_objects(probability, mask, mask, inside)
    assert found["area"].tolist() == [6] and np.allclose(found["mean"], 0.9) and np.allclose(true["largest"], 0.9)
    with pytest.raises(ValueError, match="`probability` is NaN or infinite at 32 of 64 values"):
        match_objects(probability, mask, mask)
    with pytest.raises(ValueError, match="`predicted` holds fractions"):
        match_objects(probability, mask * 0.5, mask, inside)
    with pytest.raises(ValueError, match="give one image"):
        match_objects(*(np.stack([one, one]) for one in (mask * 0.5, mask, mask)))


def test_zeros_and_ones_are_a_mask_and_larger_numbers_are_instances():
    mask = np.zeros((6, 12), bool)
    mask[1:4, 1:4] = mask[1:4, 8:11] = True
    for values in (mask, mask.astype(np.uint8), mask.astype(float)):
        assert len(match_objects(mask * 0.5, values, mask)[0]["area"]) == 2, "two pieces, also when both are called 1"
    one_instance = np.where(mask, 2, 0)
    assert match_objects(mask * 0.5, one_instance, mask)[0]["area"].tolist() == [18]
    with pytest.raises(ValueError, match="`truth` holds negative values"):
        match_objects(mask * 0.5, mask, np.where(mask, 2, -1))


def test_nothing_there():
    empty, some = np.zeros((6, 6), bool), np.eye(6, dtype=bool)
    found, true = match_objects(np.full((6, 6), 0.2), empty, some, connectivity=2)
    assert found["area"].size == 0 and true["iou"].tolist() == [0] and np.allclose(true["largest"], 0.2)
    table = object_table(*(one[None] for one in (np.full((6, 6), 0.2), empty, empty)))
    value = object_scores(table)
    assert value["predicted_objects"].values.tolist() == [0]
    assert all(np.isnan(value[name]).all() for name in ("auroc", "missed_share", "noticed_share"))


@pytest.fixture(scope="module")
def world():
    posterior, truth = [], []
    for seed in range(60):
        scene = tissue(seed, (64, 64))
        posterior.append(scene.probability())
        truth.append(scene.rate(np.random.default_rng(seed)) > 0)
    return named(posterior, "case"), named(truth, "case")


def test_scores_count_and_pool(world):
    posterior, truth = world
    table = object_table(posterior, posterior >= 0.5, truth)
    each, pooled = object_scores(table), object_scores(table, "case")
    for name in ("predicted", "false", "true", "missed", "noticed"):
        assert int(each[f"{name}_objects"].sum()) == int(pooled[f"{name}_objects"])
    assert int(pooled["true_objects"]) == sum(label(one, connectivity=1).max() for one in truth.values)
    sklearn = pytest.importorskip("sklearn.metrics")
    there = (table["predicted_area"] > 0).values
    uncertainty, false = 1 - table["predicted_mean"].values[there], table["predicted_iou"].values[there] < 0.5
    assert np.isclose(pooled["auroc"], sklearn.roc_auc_score(false, uncertainty)) and pooled["auroc"] > 0.7
    loose, strict = object_scores(table, "case", 0), object_scores(table, "case", 1)
    assert loose["false_objects"] < pooled["false_objects"] < strict["false_objects"]
    assert all(one.attrs["units"] and one.attrs["long_name"] for one in [*pooled.values(), *table.values()])
    with pytest.raises(ValueError, match="least_iou"):
        object_scores(table, least_iou=50)


def test_perfect_posterior_knows_the_false_area(world):
    "The expected number of false pixels in the predicted objects is area times uncertainty; each image is one draw."
    posterior, truth = world
    predicted = posterior >= 0.5
    table = object_table(posterior, predicted, truth)
    expected = (table["predicted_area"] * (1 - table["predicted_mean"])).sum("predicted")
    assert np.allclose(expected, (1 - posterior).where(predicted, 0).sum(PLANE))
    _, low, high = bootstrap((predicted & ~truth).sum(PLANE) - expected, level=0.99).values
    assert low < 0 < high


def test_methods_and_lazy_fields(world):
    posterior, truth = (one[:4] for one in world)
    both = xr.concat([posterior, posterior**2], "method").assign_coords(method=["a", "b"])
    table = object_table(both, both >= 0.5, truth)
    assert set(table["predicted_area"].dims) == {"case", "method", "predicted"} and table["method"].values.tolist() == [
        "a",
        "b",
    ]
    lazy = object_table(both.chunk(case=1), (both >= 0.5).chunk(case=1), truth.chunk(case=1))
    assert table.identical(lazy)
    alone = object_table(posterior, posterior >= 0.5, truth)
    assert np.allclose(table["true_iou"].sel({"method": "a"}).transpose(*alone["true_iou"].dims), alone["true_iou"])
    assert object_scores(table, "case")["auroc"].dims == ("method",)
    interval = bootstrap(alone, lambda some: object_scores(some, "case")["false_share"], resamples=20, additive=False)
    assert interval[1] <= interval[0] <= interval[2]


def test_sizes_must_agree(world):
    posterior, truth = world
    with pytest.raises(ValueError, match="same pixels"):
        object_table(posterior, posterior >= 0.5, truth.isel(row=slice(32)))
