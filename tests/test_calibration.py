"Promises and what happened: exact decompositions, known posteriors; and two numbers that mend a promise, per ensemble."

import itertools
from math import comb

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from sdfdiff.images.synthetic import tissue
from sdfdiff.uncertainty.calibration import (
    Recalibration,
    band,
    brier,
    calibration_error,
    cross_fitted,
    fit_recalibration,
    recalibrated,
    reliability,
)
from sdfdiff.uncertainty.errors import auroc
from sdfdiff.uncertainty.fields import PLANE, bootstrap, named

MEMBERS = 16
SUMS = ("pixels", "forecast", "squares", "truths", "products")


def line(values):
    "Pixels of one row."
    return named(np.asarray(values)[None])


# ---- what was promised and what happened


@given(st.lists(st.tuples(st.integers(0, 16), st.booleans()), min_size=1, max_size=60), st.sampled_from([1, 3, 16, 64]))
def test_brier_decomposition_is_exact(pixels, bins):
    members, truth = (np.array(values) for values in zip(*pixels))
    p = members / 16
    result = brier(reliability(line(p.astype(np.float32)), line(truth), bins), members=16)
    whole = result["reliability"] - result["resolution"] + result["uncertainty"]
    whole += result["within_variance"] - result["within_covariance"]
    assert float(result["score"]) == pytest.approx(np.mean((p - truth) ** 2)) == float(whole)
    if bins >= 16:  # each value of P has its own bin
        assert float(abs(result["within_variance"])) < 1e-12 and float(abs(result["within_covariance"])) < 1e-12
        happened = np.array([truth[p == value].mean() for value in p])
        assert float(result["reliability"]) == pytest.approx(np.mean((p - happened) ** 2), abs=1e-12)
        assert float(result["resolution"]) == pytest.approx(np.mean((happened - truth.mean()) ** 2), abs=1e-12)
    assert float(result["fair"]) == pytest.approx(np.mean((p - truth) ** 2 - p * (1 - p) / 15))


def test_agrees_with_xskillscore():
    scores = pytest.importorskip("xskillscore")
    generator = np.random.default_rng(7)
    p, truth = named(generator.integers(0, 17, (40, 50)) / 16), named(generator.random((40, 50)) < 0.3)
    table = reliability(p, truth, 16)
    assert float(brier(table)["score"]) == pytest.approx(float(scores.brier_score(truth.astype(float), p, dim=PLANE)))
    edges = (np.arange(18) - 0.5) / 16
    theirs = scores.reliability(truth, p, dim=PLANE, probability_bin_edges=edges)
    np.testing.assert_allclose(table["truths"] / table["pixels"], theirs)
    np.testing.assert_array_equal(table["pixels"], theirs["samples"])
    area = scores.roc(truth, p, bin_edges="continuous", dim=PLANE, return_results="area")
    assert float(auroc(p, truth)) == pytest.approx(float(area))


def test_brier_of_a_coin():
    "Truth Bernoulli(q), promised p: the score is (p - q)^2, its reliability, and q (1 - q), its uncertainty."
    truth = named(np.arange(1000).reshape(20, 50) % 10 < 3)
    result = brier(reliability(xr.full_like(truth, 0.5, float), truth))
    assert float(result["score"]) == pytest.approx(0.04 + 0.21) and float(result["reliability"]) == pytest.approx(0.04)
    assert float(result["resolution"]) == pytest.approx(0) and float(result["uncertainty"]) == pytest.approx(0.21)


def test_fair_brier_does_not_depend_on_the_members():
    "P from M members of a Bernoulli(q) pixel: mean score q (1 - q) (1 + 1 / M), fair score q (1 - q)."
    for members, q in itertools.product((2, 5, 16), (0.5, 0.2)):
        from_members = np.arange(members + 1)
        weights = np.array([comb(members, k) * q**k * (1 - q) ** (members - k) for k in from_members])
        p = from_members / members
        table = {
            "pixels": np.ones_like(p),
            "forecast": p,
            "squares": p**2,
            "truths": q * np.ones_like(p),
            "products": p * q,
        }
        table = xr.Dataset({name: ("bin", value * weights) for name, value in table.items()})
        result = brier(table, members)
        assert float(result["score"]) == pytest.approx(q * (1 - q) * (1 + 1 / members))
        assert float(result["fair"]) == pytest.approx(q * (1 - q))


def test_calibration_error_of_the_right_probability_is_its_sampling_error():
    "10 bins of n pixels each, P = q in each: the mean gap is sqrt(2 / pi) sqrt(q (1 - q) / n)."
    generator = np.random.default_rng(2)
    q = (np.arange(10) + 0.5) / 10
    p = named(np.repeat(q[:, None], 400, 1))
    truth = named(generator.random((100, 10, 400)) < q[:, None], "case")
    table = reliability(p + xr.zeros_like(truth, float), truth, bins=20)
    expected = np.mean(np.sqrt(2 / np.pi * q * (1 - q) / 400))
    for equal in ("width", "mass"):
        found = calibration_error(table, equal=equal)
        assert found.dims == ("case",) and float(found.mean()) == pytest.approx(expected, rel=0.03)
    pooled = calibration_error(table.sum("case"))
    assert float(pooled) == pytest.approx(expected / 10, rel=0.5), "a hundred times the pixels, a tenth of the error"


def test_calibration_error_by_hand():
    p, truth = line([0.1, 0.1, 0.1, 0.1, 0.9, 0.9]), line([False, False, False, True, True, False])
    table = reliability(p, truth, bins=10)
    assert float(calibration_error(table)) == pytest.approx((4 * 0.15 + 2 * 0.4) / 6)
    assert float(calibration_error(table, bins=1)) == pytest.approx(abs(p.mean() - 2 / 6))
    assert float(calibration_error(table, 2, "mass")) == pytest.approx((4 * 0.15 + 2 * 0.4) / 6), "ties stay together"
    edge = reliability(line([0.05, 0.1]), line([False, True]), bins=20)
    assert float(calibration_error(edge)) == pytest.approx((0.05 + 0.9) / 2), "0.1 begins the second of ten bins"
    with pytest.raises(ValueError, match="equal is 'size'"):
        calibration_error(table, equal="size")


def test_the_posterior_of_the_tissue_is_calibrated_and_a_sharper_one_is_not():
    p, truth = [], []
    for seed in range(30):
        scene = tissue(seed, (64, 64))
        p.append(scene.probability())
        truth.append(scene.rate(np.random.default_rng(seed)) > 0)
    p, truth = (named(values, "case") for values in (p, truth))
    sharp = p**3 / (p**3 + (1 - p) ** 3)
    uncertain = (p > 0.05) & (p < 0.95)
    exact, sharper = (reliability(one, truth, where=uncertain) for one in (p, sharp))
    low, high = bootstrap(exact, calibration_error, resamples=300).sel(bound=["low", "high"]).values
    assert float(calibration_error(exact.sum("case"))) < 0.05 and low < 0.05
    assert float(calibration_error(sharper.sum("case"))) > 0.08
    scores = [float(brier(table.sum("case"))["score"]) for table in (exact, sharper)]
    assert scores[0] < scores[1], "the score is proper"


def test_each_fraction_of_the_members_has_its_bin():
    for members in (7, 10, 16, 30):
        p = (np.arange(members + 1) / members).astype(np.float32)
        table = reliability(line(p), line(p > 2), members)
        assert (table["pixels"] == 1).all()
        np.testing.assert_allclose(table["bin"], table["forecast"], rtol=1e-6)


def test_band():
    distance = line([-9.0, -1.9, 0.0, 2.0, 5.0, np.nan])
    assert band(distance, 2.0).values.tolist() == [[False, True, True, False, False, False]]
    assert band(distance, 2.0, 4.0).values.tolist() == [[False, False, False, False, True, False]]


def test_reliability_refuses():
    truth = line([True, False])
    with pytest.raises(ValueError, match="between 0 and 1"):
        reliability(line([0.5, 1.5]), truth)
    with pytest.raises(ValueError, match="`probability` is NaN at 1 of 2 values"):
        reliability(line([0.5, np.nan]), truth)
    with pytest.raises(ValueError, match="2 members on"):
        brier(reliability(line([0.5, 1.0]), truth), 1)


def test_tables_say_what_they_hold():
    table = reliability(line([0.5, 1.0]), line([True, False]))
    found = [*table.values(), calibration_error(table), *brier(table, 2).values()]
    assert all({"units", "long_name"} <= set(one.attrs) for one in found)


def table_of(pixels, truths, members=MEMBERS):
    "A table of one bin per possible share of the members."
    pixels, truths = np.asarray(pixels, float), np.asarray(truths, float)
    p = np.arange(members + 1) / members
    values = {
        "pixels": pixels,
        "forecast": p * pixels,
        "squares": p * p * pixels,
        "truths": truths,
        "products": p * truths,
    }
    return xr.Dataset({name: ("bin", value) for name, value in values.items()}, {"bin": p})


def odds(members=MEMBERS):
    return logit((np.arange(members + 1) + 0.5) / (members + 1))


PIXELS = np.array([4000, *[300] * (MEMBERS - 1), 2000.0])
HONEST = table_of(PIXELS, PIXELS * (np.arange(MEMBERS + 1) + 0.5) / (MEMBERS + 1))


def log_loss(table, how):
    q = how(table["bin"].values)
    return -(table["truths"] * np.log(q) + (table["pixels"] - table["truths"]) * np.log1p(-q)).sum().item()


# ---- the two numbers


@pytest.mark.parametrize(
    ("slope", "offset"), [(1.0, 0.0), (0.5, 0.0), (0.3, -1.0), (2.0, 0.7), (0.0, 0.4), (-0.5, 0.2)]
)
def test_what_was_put_in_is_found(slope, offset):
    found = fit_recalibration(table_of(PIXELS, PIXELS * expit(slope * odds() + offset)), MEMBERS)
    assert (found.slope, found.offset) == pytest.approx((slope, offset), abs=2e-3) and found.members == MEMBERS


def test_slope_and_offset_from_pixels():
    "Drawn pixel by pixel: within the error of maximum likelihood."
    generator = np.random.default_rng(0)
    p = xr.DataArray(
        generator.binomial(MEMBERS, generator.beta(0.6, 0.9, (200, 200))) / MEMBERS, dims=("row", "column")
    )
    true = expit(0.6 * logit((p * MEMBERS + 0.5) / (MEMBERS + 1)) - 0.3)
    truth = generator.random(true.shape) < true
    found = fit_recalibration(reliability(p, truth, MEMBERS), MEMBERS)
    q = true.values.ravel()
    design = np.stack([logit((p.values.ravel() * MEMBERS + 0.5) / (MEMBERS + 1)), np.ones(q.size)])
    error = np.sqrt(np.diag(np.linalg.inv((design * q * (1 - q)) @ design.T)))
    assert abs(found.slope - 0.6) < 4 * error[0] and abs(found.offset + 0.3) < 4 * error[1]
    theirs = LogisticRegression(C=1e10, tol=1e-10).fit(design[:1].T, truth.values.ravel())
    assert (found.slope, found.offset) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), abs=1e-3)


shares = st.lists(st.floats(0.02, 0.98), min_size=MEMBERS + 1, max_size=MEMBERS + 1)
counts = st.lists(st.integers(1, 10**6), min_size=MEMBERS + 1, max_size=MEMBERS + 1)


@given(counts, shares)
def test_no_other_numbers_are_better(pixels, share):
    "The loss is convex: where its gradient is zero, it is least."
    table = table_of(pixels, np.multiply(pixels, share))
    found = fit_recalibration(table, MEMBERS)
    gap = (expit(found.slope * odds() + found.offset) * table["pixels"] - table["truths"]).values / np.sum(pixels)
    assert abs(gap.sum()) < 1e-4 and abs(gap @ odds()) < 1e-4
    least = log_loss(table, found)
    for slope, offset in ((0.05, 0), (-0.05, 0), (0, 0.05), (0, -0.05), (0.1, 0.1), (1 - found.slope, -found.offset)):
        assert log_loss(
            table, Recalibration(MEMBERS, found.slope + slope, found.offset + offset)
        ) >= least - 1e-6 * np.sum(pixels)


def test_more_pixels_of_the_same_kind_change_nothing():
    one = fit_recalibration(HONEST, MEMBERS)
    many = fit_recalibration(HONEST * 1000, MEMBERS)
    assert (one.slope, one.offset) == pytest.approx((many.slope, many.offset), abs=1e-6)
    assert (one.slope, one.offset) == pytest.approx((1, 0), abs=1e-3)


def test_the_other_side_of_the_mask():
    "Object and background change places: the same slope, the offset with the other sign."
    table = table_of(PIXELS, PIXELS * expit(0.7 * odds() - 0.4))
    mirrored = table_of(PIXELS[::-1], (PIXELS - table["truths"].values)[::-1])
    one, other = (fit_recalibration(which, MEMBERS) for which in (table, mirrored))
    assert (one.slope, one.offset) == pytest.approx((other.slope, -other.offset), abs=2e-3)


def test_members_that_are_always_right():
    "Separable: the best slope is infinite; a finite one is given, and it is hardly ever unsure."
    table = table_of(PIXELS, np.where(np.arange(MEMBERS + 1) > 8, PIXELS, 0))
    found = fit_recalibration(table, MEMBERS)
    q = found(np.arange(MEMBERS + 1) / MEMBERS)
    assert 1 < found.slope < np.inf and (q[:9] < 0.01).all() and (q[9:] > 0.99).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table * 0, "0 of 0 pixels are object"),
        (lambda table: table.assign(truths=table["truths"] * 0), "0 of 10500 pixels are object"),
        (lambda table: table.assign(truths=table["pixels"]), "10500 of 10500 pixels are object"),
        (lambda table: table.expand_dims(case=2), "sum it over all but `bin` first"),
    ],
)
def test_tables_that_teach_nothing(change, words):
    with pytest.raises(ValueError, match=words):
        fit_recalibration(change(HONEST), MEMBERS)


@pytest.mark.parametrize("numbers", [(1, 1.0, 0.0), (0, 1.0, 0.0), (4, np.nan, 0.0), (4, 1.0, np.inf)])
def test_numbers_that_mean_nothing(numbers):
    with pytest.raises(ValueError, match="at least 2 members and finite numbers are needed"):
        Recalibration(*numbers)


# ---- what is promised then


@given(st.integers(2, 64), st.floats(-3, 3), st.floats(-3, 3))
def test_recalibrated_probabilities(members, slope, offset):
    "Never sure, rising with the slope's sign, and for slope 1 and offset 0 half a member is added on each side."
    p = np.arange(members + 1) / members
    q = Recalibration(members, slope, offset)(p)
    assert ((q > 0) & (q < 1)).all() and (np.diff(q) * np.sign(slope) >= 0).all()
    np.testing.assert_allclose(Recalibration(members)(p), (p * members + 0.5) / (members + 1), rtol=1e-12)


def test_arrays_of_every_kind():
    how = Recalibration(MEMBERS, 0.5, -0.2)
    p = xr.DataArray(np.linspace(0, 1, 6).reshape(2, 3), dims=("row", "column"))
    assert isinstance(how(p), xr.DataArray)
    np.testing.assert_allclose(how(p).values, how(p.values))
    assert float(how(0.25)) == pytest.approx(expit(0.5 * logit(4.5 / 17) - 0.2))


def test_the_table_is_that_of_the_recalibrated_map():
    "Bin by bin, as if each pixel had been recalibrated first."
    generator, how = np.random.default_rng(1), Recalibration(MEMBERS, 0.6, 0.3)
    p = xr.DataArray(generator.integers(0, MEMBERS + 1, (3, 30, 40)) / MEMBERS, dims=("case", "row", "column"))
    truth = xr.DataArray(generator.random(p.shape) < 0.4, dims=p.dims)
    ours, direct = recalibrated(reliability(p, truth, 64), how), reliability(how(p), truth, 64)
    for name in SUMS:
        np.testing.assert_allclose(
            ours[name].transpose("case", "bin"), direct[name].transpose("case", "bin"), atol=1e-8
        )
        assert ours[name].attrs["units"] == "1" and ours[name].attrs["long_name"]
    assert float(calibration_error(ours.sum("case"))) == pytest.approx(
        float(calibration_error(direct.sum("case"))), abs=1e-12
    )
    assert float(brier(ours.sum("case"))["score"]) == pytest.approx(float(((how(p) - truth) ** 2).mean()), abs=1e-12)


def test_what_happened_stays():
    after = recalibrated(HONEST, Recalibration(MEMBERS, 0.2, 1.0))
    assert float(after["pixels"].sum()) == pytest.approx(PIXELS.sum()) and float(
        after["truths"].sum()
    ) == pytest.approx(float(HONEST["truths"].sum()))


def test_an_overconfident_ensemble_becomes_honest():
    wrong = table_of(PIXELS, PIXELS * expit(0.4 * odds() - 0.2))
    better = recalibrated(wrong, fit_recalibration(wrong, MEMBERS))
    assert float(calibration_error(wrong)) > 0.05 and float(calibration_error(better)) < 0.001


# ---- never by itself


def cases(count=4, seed=0):
    generator = np.random.default_rng(seed)
    return xr.concat(
        [
            table_of(PIXELS, generator.binomial(PIXELS.astype(int), expit(0.5 * odds() + generator.normal(0, 0.3))))
            for _ in range(count)
        ],
        "case",
    )


def test_own_truths_do_not_matter():
    "The truths of one group are changed at will: its own numbers stay, those of all others change."
    table, groups = cases(5), np.array(["a", "b", "a", "c", "b"])
    _, before = cross_fitted(table, MEMBERS, groups)
    for group in "abc":
        other = table.copy(deep=True)
        other["truths"][groups == group] = other["truths"][groups == group][:, ::-1].values.clip(0, PIXELS)
        _, after = cross_fitted(other, MEMBERS, groups)
        for one, two, label in zip(before, after, groups):
            assert (one == two) == (label == group)


def test_each_group_uses_the_others():
    table, groups = cases(5), np.array(["a", "b", "a", "c", "b"])
    found, ways = cross_fitted(table, MEMBERS, groups)
    assert len(ways) == 5 and ways[0] == ways[2] and ways[1] == ways[4] and ways[0] != ways[3]
    assert ways[3] == fit_recalibration(table.isel(case=[0, 1, 2, 4]).sum("case"), MEMBERS)
    for k in range(5):
        xr.testing.assert_allclose(found.isel(case=k), recalibrated(table.isel(case=k), ways[k]))
    alone, _ = cross_fitted(table, MEMBERS)
    assert alone.sizes["case"] == 5 and set(alone) == set(SUMS)


def test_case_names_stay():
    table = cases(3).assign_coords(case=["x", "y", "z"])
    assert cross_fitted(table, MEMBERS)[0]["case"].values.tolist() == ["x", "y", "z"]


def test_cross_fitting_helps_new_cases():
    table = cases(12, seed=3)
    found, ways = cross_fitted(table, MEMBERS)
    assert float(calibration_error(found.sum("case"))) < 0.3 * float(calibration_error(table.sum("case")))
    assert np.mean([how.slope for how in ways]) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("groups", [["a"] * 4, ["a", "b"], np.arange(5)])
def test_groups_that_do_not_fit(groups):
    with pytest.raises(ValueError, match="one label for each case, and two groups, are needed"):
        cross_fitted(cases(4), MEMBERS, groups)


def test_one_bin_has_an_exact_answer():
    "All pixels promise the same: only its own log odds count, and q is what happened."
    table = table_of(np.where(np.arange(MEMBERS + 1) == 4, 1000, 0), np.where(np.arange(MEMBERS + 1) == 4, 370, 0))
    assert float(fit_recalibration(table, MEMBERS)(0.25)) == pytest.approx(0.37, abs=1e-4)
    assert brentq(lambda q: 370 / q - 630 / (1 - q), 0.01, 0.99) == pytest.approx(0.37)
