"Margins: by hand, against a search, guarantees by simulation with known answers, tied values, too few images."

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage, stats

from sdfdiff.uncertainty.fields import named
from sdfdiff.uncertainty.margins import (
    conformal_margin,
    coverage_interval,
    growing_fields,
    grown,
    margin_curve,
    margin_price,
    margin_trade_off,
    needed_margin,
    risk_controlled_margin,
)


def cases(values):
    return xr.DataArray(np.asarray(values, float), dims=("case",) if np.ndim(values) == 1 else ("repetition", "case"))


def test_grown_and_its_trade():
    mask, truth = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    mask[8:12, 8:12], truth[8:12, 8:14] = True, True
    assert np.array_equal(grown(mask, 0), mask) and grown(mask, 0.9).sum() == 16 + 4 * 4
    assert margin_trade_off(mask, truth, 0) == (16 / 24, 0.0) and margin_trade_off(mask, truth, 2)[0] == 1
    assert np.isnan(margin_trade_off(mask, truth & False, 1)).all()
    assert margin_trade_off(mask, np.where(truth, 0.5, 0.0), 0) == pytest.approx((16 / 24, 8 / 12)), (
        "a probability is a weight"
    )


@given(st.integers(0, 1000), st.floats(0, 12))
def test_growing_is_a_dilation(seed, margin):
    mask = ndimage.binary_opening(np.random.default_rng(seed).random((24, 31)) < 0.6)
    rows, columns = np.indices(mask.shape)
    wanted = np.zeros(mask.shape, bool)
    for r, c in np.argwhere(mask):  # half a pixel from the centre of an object pixel to its edge
        wanted |= np.hypot(rows - r, columns - c) <= margin + 0.5 + 1e-6
    np.testing.assert_array_equal(grown(mask, margin) | mask, wanted | mask)


# ---- growing fields


def test_growing_fields():
    generator = np.random.default_rng(0)
    mean, std = named(generator.normal(size=(3, 12, 12)), "case"), named(generator.random((3, 12, 12)), "case")
    inside = named(np.pad(np.ones((3, 9, 10), bool), ((0, 0), (0, 3), (0, 2))), "case")
    found = growing_fields(mean, std, 0.2, 1.5, inside)
    for name in ("edge", "mean"):
        assert np.array_equal(found[name] <= 0, (mean <= 0.2) & inside)
    assert np.allclose(found["uncertainty"], (mean - 1.5 * std - 0.2).where(inside), equal_nan=True)
    assert (found.isnull() == ~inside).to_array().all() and all(one.attrs["units"] == "px" for one in found.values())
    threshold = xr.DataArray([0.0, 0.5], dims="method")
    assert growing_fields(mean, std, threshold)["edge"].sizes["method"] == 2


def test_where_all_members_are_cut_no_margin_reaches():
    "Cut at 3 px, a mean of 3 px says that the edge is 3 px away or more; a needed margin is then infinite."
    mean = named(np.array([[-1.0, 0.5, 2.9, 3.0, 3.0 - 1 / 512]]))
    found = growing_fields(mean, named(np.zeros((1, 5))), 0.5, reach=3.0)
    assert found["mean"].values[0].tolist() == pytest.approx([-1.5, 0.0, 2.4, np.inf, np.inf])
    assert np.isinf(found["uncertainty"].values[0, 3:]).all() and np.isfinite(found["edge"]).all()
    truth = np.ones((1, 5), bool)
    assert float(needed_margin(found["mean"], truth, 0.4)) == pytest.approx(2.4)
    assert float(needed_margin(found["mean"], truth, 0.2)) == np.inf
    assert float(margin_curve(found["mean"], truth & False | (mean < 0), [2.5])["outside"][0]) == 2  # not the image


def test_the_price_of_a_margin_lies_between_its_neighbours():
    outside = xr.DataArray([[0.0, 1.0, 3.0], [0.0, 0.5, 1.5]], dims=("case", "margin")).assign_coords(margin=[0, 1, 3])
    assert margin_price(outside, 2.41).values.tolist() == pytest.approx([1 + 1.41, 0.5 + 0.705])
    assert margin_price(outside, 1.0).values.tolist() == [1.0, 0.5]
    for margin in (3.1, -0.1, np.inf):
        with pytest.raises(ValueError, match="has no price: prices go from 0 to 3 px"):
            margin_price(outside, margin)
    cut = outside.where(outside["margin"] < 2)  # a field that carries less
    assert margin_price(cut, 0.5).values.tolist() == [0.5, 0.25]
    with pytest.raises(ValueError, match="2.5 px has no price: prices go from 0 to 1 px"):
        margin_price(cut, 2.5)


# ---- what one image needs


@given(
    arrays(np.int8, (4, 5), elements=st.integers(-5, 5)),
    arrays(bool, (4, 5)),
    st.sampled_from([0, 0.05, 0.29, 0.5, 0.9]),
)
def test_needed_margin_is_the_smallest(field, truth, missed):
    found = float(needed_margin(named(field.astype(float)), named(truth), missed))
    if not truth.any():
        assert np.isnan(found)
        return
    enough = [margin for margin in range(-5, 6) if (truth & (field > margin)).sum() <= missed * truth.sum() + 1e-9]
    assert found == min(enough)


def test_needed_margin_allows_whole_pixels():
    field, truth = named([np.arange(100.0)]), named(np.ones((1, 100), bool))
    assert [float(needed_margin(field, truth, share)) for share in (0, 0.05, 0.29, 0.58)] == [99, 94, 70, 41]


def test_needed_margin_of_an_empty_mask_and_where():
    field = growing_fields(named(np.full((5, 5), 3.0)), named(np.ones((5, 5))))["edge"]
    truth = named(np.eye(5, dtype=bool))
    assert float(needed_margin(field, truth)) == np.inf
    with pytest.raises(ValueError, match="`field` is NaN at 5 of 25 values"):
        needed_margin(field.where(field.row > 0), truth)
    part = field.where(field.row > 0, np.nan)
    assert float(needed_margin(part, truth, where=(truth.row > 0).broadcast_like(truth))) == np.inf
    with pytest.raises(ValueError, match="`truth` holds fractions"):
        needed_margin(field, truth * 0.5)
    assert float(needed_margin(field, truth * 1.0)) == np.inf, "numbers that are 0 and 1 make a mask"
    with pytest.raises(ValueError, match="missed is 5"):
        needed_margin(field, truth, 5)


def test_margin_curve_by_hand():
    field, truth = named([[-2.0, -1.0, 0.0, 1.0, 2.0]]), named([[True, False, True, False, True]])
    curve = margin_curve(field, truth, [-3, -1, 0, 5])
    assert np.allclose(curve["missed"], [1, 2 / 3, 1 / 3, 0]) and np.allclose(
        curve["outside"], [0, 1 / 3, 1 / 3, 2 / 3]
    )
    assert curve["margin"].values.tolist() == [-3, -1, 0, 5] and curve["missed"].attrs["units"] == "1"
    assert float(margin_curve(field, truth, 0)["missed"][0]) == pytest.approx(1 / 3)
    assert np.isnan(margin_curve(field, truth & False, [0, 1])["missed"]).all()
    with pytest.raises(ValueError, match="rising"):
        margin_curve(field, truth, [1, 0])


def test_curve_and_needed_margin_agree():
    generator = np.random.default_rng(1)
    field, truth = (
        named(generator.normal(size=(20, 9, 9)), "case"),
        named(generator.random((20, 9, 9)) < 0.3, "case"),
    )
    for missed in (0.0, 0.05, 0.3):
        needed = needed_margin(field, truth, missed)
        for k in range(20):
            exact = float(needed[k])
            below, at = margin_curve(field[k], truth[k], [np.nextafter(exact, -9), exact])["missed"].values
            assert at <= missed + 1e-9 < below


def test_lazy_studies():
    generator = np.random.default_rng(2)
    field, truth = generator.normal(size=(6, 2, 9, 9)), generator.random((6, 9, 9)) < 0.3
    field, truth = named(field, "case", "method"), named(truth, "case")
    lazy = field.chunk(case=1, method=1), truth.chunk(case=1)
    needed, curve = needed_margin(*lazy), margin_curve(*lazy, [0, 1])
    assert needed.chunks and curve["missed"].chunks and needed.dims == ("case", "method")
    xr.testing.assert_identical(needed.compute(), needed_margin(field, truth))
    xr.testing.assert_identical(curve.compute(), margin_curve(field, truth, [0, 1]))
    margin = conformal_margin(needed, 0.2)
    assert margin.dims == ("method",) and needed.chunks, "the input stays lazy"
    fields = growing_fields(field.chunk(case=1), abs(field).chunk(case=1))
    assert fields["edge"].chunks
    xr.testing.assert_identical(fields.compute(), growing_fields(field, abs(field)))


# ---- one margin for those to come


def test_conformal_margin_by_hand():
    assert float(conformal_margin(cases(np.arange(1, 20)), 0.1)) == 18
    assert float(conformal_margin(cases(np.arange(1, 10)), 0.1)) == 9
    assert float(conformal_margin(cases([3.0] * 30), 0.1)) == 3
    assert float(conformal_margin(cases([1.0, 2.0, np.inf]), 0.25)) == np.inf


@pytest.mark.parametrize(("count", "alpha", "least"), [(8, 0.1, 9), (12, 0.05, 19), (98, 0.01, 99), (2, 0.3, 3)])
def test_too_few_images(count, alpha, least):
    with pytest.raises(ValueError, match=f"at least {least} images are needed"):
        conformal_margin(cases(np.arange(count)), alpha)
    assert np.isfinite(conformal_margin(cases(np.arange(least)), alpha))
    curve = xr.DataArray(np.zeros((count, 1)), {"margin": [0.0]}, ("case", "margin"))
    with pytest.raises(ValueError, match=f"{count} images cannot support"):
        risk_controlled_margin(curve, alpha)
    with pytest.raises(ValueError, match="between 0 and 1"):
        conformal_margin(cases(np.arange(count)), 0)


def test_cases_without_object_are_refused_unless_told():
    needed = cases([*range(19), np.nan, np.nan])
    with pytest.raises(ValueError, match="2 of 21 images have no object"):
        conformal_margin(needed)
    assert conformal_margin(needed, skipna=True) == conformal_margin(needed[:19])
    curve = xr.DataArray(np.where(np.arange(21)[:, None] < 19, 0.0, np.nan), {"margin": [1.0]}, ("case", "margin"))
    with pytest.raises(ValueError, match="2 of 21 images have no object"):
        risk_controlled_margin(curve)
    assert float(risk_controlled_margin(curve, skipna=True)) == 1


@pytest.mark.parametrize(("count", "alpha"), [(19, 0.1), (50, 0.2), (30, 0.05)])
def test_coverage_is_beta(count, alpha):
    "Coverage of one calibration has the Beta distribution, and the interval holds as often as it says."
    generator = np.random.default_rng(count)
    margin = conformal_margin(cases(generator.exponential(size=(4000, count))), alpha)
    covered = stats.expon.cdf(margin.values)
    allowed = math.floor((count + 1) * alpha + 1e-9)
    assert stats.kstest(covered, stats.beta(count + 1 - allowed, allowed).cdf).pvalue > 1e-3
    low, high = coverage_interval(count, alpha)
    assert abs(np.mean((covered >= low) & (covered <= high)) - 0.95) < 0.015
    counted = generator.binomial(40, covered) / 40
    low, high = coverage_interval(count, alpha, 40)
    inside = np.mean((counted >= low - 1e-12) & (counted <= high + 1e-12))
    assert inside > 0.94  # counts are whole: at least the level


def test_ties_only_cover_more():
    generator = np.random.default_rng(3)
    values = generator.integers(0, 4, (20000, 20)).astype(float)
    covered = (values[:, 19] <= conformal_margin(cases(values[:, :19]), 0.1).values).mean()
    assert covered >= 0.9


def test_coverage_does_not_ask_for_the_distribution():
    generator = np.random.default_rng(4)
    for draw in (generator.normal, generator.standard_cauchy, generator.random):
        values = draw(size=(20000, 20))
        covered = (values[:, 19] <= conformal_margin(cases(values[:, :19]), 0.1).values).mean()
        assert abs(covered - 0.9) < 0.01


def test_margins_are_monotone_in_alpha():
    needed = cases(np.random.default_rng(5).normal(size=200))
    margins = [float(conformal_margin(needed, alpha)) for alpha in (0.01, 0.05, 0.1, 0.3, 0.9)]
    assert margins == sorted(margins, reverse=True)
    widths = [np.diff(coverage_interval(count))[0] for count in (20, 100, 1000)]
    assert widths == sorted(widths, reverse=True)


# ---- risk control


def test_risk_control_by_hand():
    curve = xr.DataArray(np.tile([0.2, 0.05, 0.0], (19, 1)), {"margin": [0.0, 1.0, 2.0]}, ("case", "margin"))
    assert [float(risk_controlled_margin(curve, alpha)) for alpha in (0.05, 0.09, 0.0975, 0.24, 0.5)] == [2, 2, 1, 0, 0]
    assert float(risk_controlled_margin(curve[:, :1], 0.1)) == np.inf
    with pytest.raises(ValueError, match="rises with the margin"):
        risk_controlled_margin(curve[:, ::-1], 0.1)


def test_risk_is_controlled():
    "A new image misses (1 - margin / need)+ of its object; the mean over calibrations and images stays near alpha."
    generator = np.random.default_rng(6)
    needs, margins = generator.uniform(0, 10, (3000, 31)), np.arange(0, 10.05, 0.05)
    lost = (1 - margins / needs[..., None]).clip(0)
    curve = xr.DataArray(lost[:, :30], {"margin": margins}, ("repetition", "case", "margin"))
    chosen = risk_controlled_margin(curve, 0.1).values
    risk = (1 - chosen / needs[:, 30]).clip(0)
    error = risk.std() / np.sqrt(len(risk))
    assert risk.mean() < 0.1 + 3 * error and risk.mean() > 0.05
