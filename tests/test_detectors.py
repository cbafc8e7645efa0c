"What finds wrong pixels: the maps are what their names say, and the correlation of losses is NumPy's."

import numpy as np
import xarray as xr

from benchmarks.detectors import MEMBERS, WHOLE, at_equal_time, correlation, maps, quarters

DISTANCE = np.random.default_rng(0).normal(0, 4, (MEMBERS, 8, 12)).astype(np.float32)


def fields():
    share = (DISTANCE <= 0.5).mean(0)
    plane = {"probability": (0.4 + share) / 2, "initial_probability": share * 0 + 0.4, "initial_estimate": DISTANCE[0]}
    data = {name: (("row", "column"), value) for name, value in plane.items()}
    return xr.Dataset(data | {"distance": (("member", "row", "column"), DISTANCE)}, attrs={"threshold_px": 0.5})


def test_maps_are_what_their_names_say():
    found = maps(fields())
    np.testing.assert_allclose(found["share of 4 members"], -abs((DISTANCE[:4] <= 0.5).mean(0) - 0.5))
    np.testing.assert_allclose(found["mean, cut at 3 px"], -abs(np.clip(DISTANCE, -3, 3).mean(0) - 0.5), atol=1e-6)
    np.testing.assert_allclose(found["encoder: distance"], -abs(DISTANCE[0] - 0.5))
    assert np.ptp(found["encoder: P"]) == 0 and np.ptp(found[WHOLE]) > 0
    assert all(one.shape == (8, 12) and one.max() <= 0 for one in found.values())
    sharp, hard = maps(fields(), soft=1e-6), found[f"share of {MEMBERS} members"]
    np.testing.assert_allclose(sharp[f"soft share of {MEMBERS}"], hard, atol=1e-9)


def test_quarters_of_members_that_agree_expect_nothing():
    one = fields()
    one["distance"].values[:] = np.where(np.arange(12) < 6, -1, 1)
    one["probability"].values[:] = np.arange(12) < 6
    truth = np.zeros((8, 12), bool)
    truth[:4, :6], truth[4:, :3] = True, True
    found = np.array(quarters(one, truth))
    assert (found[:, 0] == 0).all()
    np.testing.assert_allclose(found[:, 1], [0, 0, 1 - 2 * 12 / (12 + 24), 0], atol=1e-12)


def test_the_correlation_is_that_of_all_quarters_together():
    losses = xr.DataArray(
        np.random.default_rng(1).random((6, 4, 2)),
        {"group": ("case", list("abcdef")), "kind": ["expected", "actual"]},
        ("case", "quarter", "kind"),
    )
    estimate, low, high = correlation(losses)
    np.testing.assert_allclose(estimate, np.corrcoef(losses.values.reshape(-1, 2).T)[0, 1])
    assert low < estimate < high and -1 <= low and high <= 1
    losses.values[..., 1] = losses.values[..., 0]
    np.testing.assert_allclose(correlation(losses), 1, atol=1e-6)


def test_more_members_are_nearer_to_the_exact_answer():
    found = at_equal_time(range(2000, 2003), (("fast", 2), ("fast", 48)))
    few, many = (found[f"fast, {members}"] for members in (2, 48))
    assert few.shape == many.shape == (3, 3) and (many[:, 0] < few[:, 0]).all()
    assert (few[:, 2] > 0).all()  # seconds: measured, not compared
