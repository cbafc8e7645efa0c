"Does the spread know the error? Every measure on cases whose answer is known."

import itertools

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from sdfdiff.distance import signed_distance
from sdfdiff.images.synthetic import tissue
from sdfdiff.uncertainty.calibration import band, brier, calibration_error, reliability
from sdfdiff.uncertainty.errors import (
    augrc,
    aurc,
    auroc,
    ause,
    mutual_information,
    retained_error,
    sparsification,
    tied_shares,
    uncertainty_maps,
)
from sdfdiff.uncertainty.fields import PLANE, named


def line(values):
    "Pixels of one row."
    return named(np.asarray(values)[None])


pairs = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30)


def orders(uncertainty):
    "Every order from certain to uncertain in which equals may come."
    places = range(len(uncertainty))
    return [
        order for order in itertools.permutations(places) if (np.diff(np.asarray(uncertainty)[list(order)]) >= 0).all()
    ]


# ---- finding errors


@given(pairs)
def test_auroc_counts_pairs(pixels):
    uncertainty, wrong = (np.array(values) for values in zip(*pixels))
    difference = uncertainty[wrong][:, None] - uncertainty[~wrong][None]
    expected = np.mean((difference > 0) + 0.5 * (difference == 0)) if difference.size else np.nan
    np.testing.assert_allclose(auroc(line(uncertainty.astype(np.float32)), line(wrong)), expected)


def test_auroc_of_two_normal_distributions():
    "Uncertainty N(d, 1) where wrong and N(0, 1) where right: AUROC = Phi(d / sqrt 2); here at exact quantiles."
    quantiles = ndtri((np.arange(2000) + 0.5) / 2000)
    for distance in (0.0, 0.7, 2.0):
        uncertainty, wrong = np.concatenate([quantiles, quantiles + distance]), np.arange(4000) >= 2000
        assert float(auroc(line(uncertainty), line(wrong))) == pytest.approx(ndtr(distance / 2**0.5), abs=1e-4)


def test_auroc_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(0)
    for levels in (3, 17, 10**6):
        uncertainty, wrong = generator.integers(0, levels, 5000) / levels, generator.random(5000) < 0.1
        ours = float(auroc(line(uncertainty), line(wrong)))
        assert ours == pytest.approx(metrics.roc_auc_score(wrong, uncertainty), abs=1e-12)


def test_auroc_is_not_defined_without_both_kinds():
    for wrong in (np.zeros(4, bool), np.ones(4, bool)):
        assert np.isnan(auroc(line(np.arange(4.0)), line(wrong)))
        assert all(one.isnull() for one in mutual_information(line(np.arange(4.0)), line(wrong)).values())


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_curves_are_means_over_the_orders_of_ties(pixels):
    uncertainty, wrong = (np.array(values) for values in zip(*pixels))
    size = len(uncertainty)
    curves = np.array([np.cumsum(wrong[list(order)]) for order in orders(uncertainty)]).mean(
        axis=0
    )  # errors among the first n
    kept = np.arange(1, size + 1)
    np.testing.assert_allclose(retained_error(wrong, uncertainty, kept / size), curves / kept, atol=1e-9)
    shown = sparsification(line(uncertainty), line(wrong), removed=1 - kept / size)
    np.testing.assert_allclose(shown, curves / kept, atol=1e-9)
    assert float(aurc(line(uncertainty), line(wrong))) == pytest.approx((curves / kept).mean())
    best = np.cumsum(np.sort(wrong)) / kept
    assert float(ause(line(uncertainty), line(wrong))) == pytest.approx((curves / kept - best).mean(), abs=1e-12)
    area = np.trapezoid([0, *curves], dx=1 / size) / size
    assert float(augrc(line(uncertainty), line(wrong))) == pytest.approx(area, abs=1e-12)


@given(pairs)
def test_augrc_is_auroc_and_accuracy(pixels):
    "Traub et al. 2024: AUGRC = (1 - AUROC) a (1 - a) + (1 - a)^2 / 2 with the accuracy a, ties included."
    uncertainty, wrong = (line(values) for values in zip(*pixels))
    right = 1 - float(wrong.mean())
    found = auroc(uncertainty, wrong).fillna(0.5)
    assert float(augrc(uncertainty, wrong)) == pytest.approx(
        float((1 - found) * right * (1 - right) + (1 - right) ** 2 / 2)
    )


def test_the_order_of_the_errors_is_the_best_and_a_constant_keeps_the_error():
    generator = np.random.default_rng(1)
    for error in (generator.random((9, 11)) < 0.2, generator.random((9, 11)) ** 3):
        error = named(error).assign_attrs(units="px")
        assert float(ause(error.astype(float), error)) == pytest.approx(0, abs=1e-15)
        assert float(ause(-error.astype(float), error)) > float(ause(error * 0.0, error)) > 0
        assert float(aurc(error * 0.0, error)) == pytest.approx(float(error.mean()))
        np.testing.assert_allclose(sparsification(error * 0.0, error), error.mean())
        assert aurc(error * 0.0, error).attrs["units"] == "px"
    assert float(augrc(line([1.0, 2.0]), line([True, True]))) == pytest.approx(0.5), (
        "all wrong: half of them, at any order"
    )


@given(st.lists(st.integers(0, 4), min_size=1, max_size=20))
def test_tied_shares_count(values):
    fewer, upto = tied_shares(np.array(values))
    assert fewer == pytest.approx([np.mean(np.array(values) < value) for value in values])
    assert upto == pytest.approx([np.mean(np.array(values) <= value) for value in values])


# ---- information


def test_information_of_a_channel():
    "A symmetric channel, error with chance f in one half of the pixels, 1 - f in the other: 1 - H(f) bits of 1."
    size, flipped = 4000, 440
    uncertainty = np.repeat([0.0, 1.0], size)
    wrong = np.concatenate([np.arange(size) < flipped, np.arange(size) >= flipped])
    f = flipped / size
    exact = 1 + f * np.log2(f) + (1 - f) * np.log2(1 - f)
    result = mutual_information(line(uncertainty), line(wrong))
    correction = (2 + 2 - 4 - 1) / (2 * 2 * size) / np.log(2)
    assert float(result["information"]) == pytest.approx(exact + correction, abs=1e-12)
    assert float(result["entropy"]) == pytest.approx(1 + 1 / (2 * 2 * size * np.log(2)), abs=1e-12)
    assert float(result["bins"]) == 2, "equals stay together"
    assert float(result["p_value"]) == pytest.approx(1 / 201) and float(result["share"]) > float(result["null_95"])


def test_equal_values_lie_in_the_bin_of_their_middle():
    uncertainty, wrong = np.repeat([0.0, 1.0], [40, 60]), np.arange(100) >= 40
    assert float(mutual_information(line(uncertainty), line(wrong), bins=2)["share"]) == pytest.approx(1)
    assert float(mutual_information(line(uncertainty), line(wrong), bins=1)["share"]) == pytest.approx(0)


def test_information_of_a_gaussian_channel():
    "Error where a hidden normal exceeds 0, uncertainty correlated with it by rho: known by integration, but for bins."
    generator, rho, size = np.random.default_rng(3), 0.8, 200_000
    uncertainty = generator.standard_normal(size)
    wrong = rho * uncertainty + np.sqrt(1 - rho**2) * generator.standard_normal(size) > 0
    grid = ndtri((np.arange(100_000) + 0.5) / 100_000)
    chance = ndtr(rho * grid / np.sqrt(1 - rho**2))
    exact = 1 + np.mean(chance * np.log2(chance) + (1 - chance) * np.log2(1 - chance))
    found = [float(mutual_information(line(uncertainty), line(wrong), bins, 5)["information"]) for bins in (16, 64)]
    assert found[1] == pytest.approx(exact, abs=0.004) and found[0] == pytest.approx(exact, abs=0.006)
    whole = mutual_information(line(wrong.astype(float)), line(wrong))
    assert float(whole["share"]) == pytest.approx(1)


def test_information_of_chance():
    "Independent: unbiased around 0, p-values uniform, and the null drawn from bins is that of shuffled pixels."
    generator = np.random.default_rng(4)
    uncertainty = named(generator.random((400, 20, 20)), "case")
    wrong = named(generator.random((400, 20, 20)) < 0.3, "case")
    result = mutual_information(uncertainty, wrong, bins=8, permutations=99)
    bits = result["information"].values
    assert abs(bits.mean()) < 4 * bits.std() / 20, "Miller and Madow take the bias away"
    assert 7 / (2 * 400 * np.log(2)) > 3 * abs(bits.mean()), "which would be this much"
    deciles = np.histogram(result["p_value"], np.linspace(0, 1.0001, 11))[0]
    assert deciles.min() > 20 and deciles.max() < 62
    one, labels = uncertainty[0], wrong[0].values.ravel()
    shuffled = [
        float(mutual_information(one, named(generator.permutation(labels).reshape(20, 20)), 8, 1)["share"])
        for _ in range(200)
    ]
    few = mutual_information(one, wrong[0], 8, 2000)
    assert float(few["null_mean"]) == pytest.approx(np.mean(shuffled), abs=4 * np.std(shuffled) / 200**0.5)
    assert float(few["null_95"]) == pytest.approx(np.quantile(shuffled, 0.95), rel=0.25)


# ---- maps


@pytest.fixture(scope="module")
def study():
    "Six scenes of two sizes, padded; sixteen raters as members; two methods with the same mean and other spreads."
    cases = []
    for seed in range(6):
        shape = (48, 56) if seed % 2 else (64, 40)
        scene, generator = tissue(seed, shape), np.random.default_rng(seed)
        members = np.stack([signed_distance(scene.rate(generator), 10, "half_pixel") for _ in range(16)])
        p = (members <= 0).mean(axis=0)
        one = {
            "mean": members.mean(0),
            "std": members.std(0, ddof=1),
            "probability": p,
            "truth": scene.rate(generator) > 0,
        }
        padding = [(0, long - short) for long, short in zip((64, 56), shape)]
        padded = {
            name: np.pad(values.astype(np.float32), padding, constant_values=np.nan) for name, values in one.items()
        }
        cases.append(xr.Dataset({name: (PLANE, values) for name, values in padded.items()}))
    whole = xr.concat(cases, "case")
    inside = whole["truth"].notnull()
    truth = (whole["truth"] == 1).rename("truth")
    sharp = whole.assign(std=whole["std"] * 0.4)
    both = xr.concat([whole, sharp], "method").drop_vars("truth").assign_coords(method=["perfect", "sharp"])
    both = both.assign(truth=truth, inside=inside, threshold_px=("method", [0.0, 0.0]))
    return both.transpose("case", "method", *PLANE)


def test_uncertainty_maps(study):
    maps = uncertainty_maps(study)
    assert list(maps) == ["ratio", "entropy", "mask_std", "sdf_std", "nearness"]
    assert all({"units", "long_name"} <= set(one.attrs) for one in maps.values())
    for one in maps.values():
        assert bool((one.notnull() == study["inside"]).all()), "NaN on padding and nowhere else"
    assert 0 <= float(maps["ratio"].min()) and float(maps["ratio"].max()) <= 1
    away = abs(study["mean"]) / study["std"]
    some = study["std"] > 0
    np.testing.assert_allclose((1 / maps["ratio"] - 1).where(some), away.where(some), rtol=1e-6, atol=1e-12)
    assert float(maps["entropy"].max()) == 1.0 and float(maps["mask_std"].max()) == 0.5
    case = study.isel(case=1, method=0, row=slice(48))
    edge = -np.abs(signed_distance(case["mean"].values <= 0, boundary="half_pixel"))
    np.testing.assert_array_equal(maps["nearness"].isel(case=1, method=0, row=slice(48)), edge, "padding makes no edge")


def test_maps_where_nothing_is_uncertain():
    mean, none = named([[-3.0, 0.0, 4.0]]), named(np.zeros((1, 3)))
    fields = {"mean": mean, "std": none, "probability": none + [1, 1, 0], "initial_estimate": mean + 1}
    alone = xr.Dataset(fields, attrs={"threshold_px": 0.0})
    maps = uncertainty_maps(alone)
    assert maps["ratio"].values.tolist() == [[0, 1, 0]], "without any spread: none, or all at the threshold"
    assert maps["entropy"].values.tolist() == maps["mask_std"].values.tolist() == [[0, 0, 0]]
    assert maps["initial_estimate"].values.tolist() == [[-2, -1, -5]]
    empty = uncertainty_maps(alone.assign(mean=mean * 0 + 9))
    assert np.isfinite(empty["nearness"]).all(), "no object, no edge anywhere"
    for name in ("std", "probability"):
        with pytest.raises(ValueError, match=f"no {name}"):
            uncertainty_maps(alone.drop_vars(name))
    with pytest.raises(ValueError, match="no threshold_px"):
        uncertainty_maps(alone.drop_attrs())


# ---- labels


def measures(study):
    "Everything, per case and method."
    maps, inside = uncertainty_maps(study), study["inside"]
    wrong = (study["mean"] <= study["threshold_px"]) != study["truth"]
    uncertainty, p = maps["ratio"], study["probability"]
    found = {function.__name__: function(uncertainty, wrong, where=inside) for function in (auroc, aurc, ause, augrc)}
    found["curve"] = sparsification(uncertainty, wrong, np.array([0.0, 0.5]), where=inside)
    table = reliability(p, study["truth"], 16, where=inside & band(study["mean"], 4.0))
    found |= dict(table) | {"ece": calibration_error(table)} | dict(brier(table, 16))
    return xr.Dataset(found | dict(mutual_information(uncertainty, wrong, permutations=20, where=inside)))


def test_dask_gives_the_same_numbers_and_computes_late(study):
    eager, lazy = measures(study), measures(study.chunk({"case": 1, "method": 1}))
    assert all(one.chunks for one in lazy.values()), "nothing is loaded before it is asked for"
    xr.testing.assert_identical(lazy.compute(), eager)


def test_labels_say_what_was_measured(study):
    result = measures(study)
    assert all({"units", "long_name"} <= set(one.attrs) for one in result.values())
    assert result["auroc"].dims == ("case", "method") and result["method"].values.tolist() == ["perfect", "sharp"]
    assert (result["auroc"] > 0.8).all()
    ranks = result["auroc"].sel({"method": "perfect"}).values
    np.testing.assert_allclose(result["auroc"].sel({"method": "sharp"}), ranks, atol=2e-5, err_msg="the same order")
    by_hand = study.isel(case=2, method=1)
    wrong = ((by_hand["mean"] <= 0) != by_hand["truth"]).values[by_hand["inside"].values]
    uncertainty = uncertainty_maps(by_hand)["ratio"].values[by_hand["inside"].values]
    assert float(result["auroc"][2, 1]) == float(auroc(line(uncertainty), line(wrong)))


def test_tables_add_up(study):
    p, truth, inside = study["probability"], study["truth"], study["inside"]
    each = reliability(p, truth, 16, where=inside).sum("case")
    pooled = reliability(
        p, truth.expand_dims(method=p["method"]), 16, ("case", *PLANE), inside.expand_dims(method=p["method"])
    )
    xr.testing.assert_allclose(each, pooled)
    assert int(each["pixels"].sum("bin")[0]) == int(inside.sum())


def test_bad_fields_are_refused(study):
    uncertainty, inside, truth = study["mean"], study["inside"], study["truth"]
    holes, size = 2 * int((~inside).sum()), uncertainty.size
    with pytest.raises(ValueError, match=f"`uncertainty` is NaN at {holes} of {size} values that count: leave such"):
        auroc(uncertainty, truth)
    with pytest.raises(ValueError, match="NaN"):
        auroc(uncertainty.chunk(case=1), truth).compute()
    with pytest.raises(ValueError, match="`wrong` needs the dimensions row, column, and it has case, row."):
        auroc(uncertainty, truth.isel(column=0))
    with pytest.raises(ValueError, match="differ in size or coordinates"):
        aurc(uncertainty, truth.isel(row=slice(8)))
    with pytest.raises(ValueError, match="differ in size or coordinates"):
        aurc(uncertainty.assign_coords(case=range(6)), truth.assign_coords(case=range(1, 7)))
    xr.testing.assert_identical(
        auroc(uncertainty, truth.astype(float), where=inside), auroc(uncertainty, truth, where=inside)
    )


def test_without_any_pixel_nothing_is_defined(study):
    nothing = xr.zeros_like(study["inside"])
    wrong, uncertainty = study["truth"], study["std"].isel(method=0)
    for function in (auroc, aurc, ause, augrc):
        assert function(uncertainty, wrong, where=nothing).isnull().all()
    table = reliability(uncertainty, wrong, where=nothing)
    assert calibration_error(table).isnull().all() and brier(table)["score"].isnull().all()
    assert sparsification(uncertainty, wrong, where=nothing).isnull().all()
