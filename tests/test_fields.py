"The wrapper and the input checks of all measures, distances of padded masks, intervals over images."

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import sdfdiff.uncertainty as wing
from sdfdiff.distance import checked_mask, signed_distance
from sdfdiff.uncertainty.calibration import brier, reliability
from sdfdiff.uncertainty.fields import PLANE, as_field, bootstrap, checked, mask_distance, measured, named

# ---- what a mask is, and where it is asked for

GENERATOR = np.random.default_rng(0)
SHAPE = (2, 9, 11)  # (case, row, column)
MASK, OTHER = GENERATOR.random((2, *SHAPE)) < 0.4
FIELD = GENERATOR.normal(size=SHAPE)
P = GENERATOR.integers(0, 5, SHAPE) / 4
MASKS = GENERATOR.random((2, 4, 9, 11)) < 0.5  # (case, member, row, column)
DISTANCES = np.stack([[signed_distance(one, 5, "half_pixel") for one in case] for case in MASKS])

PLAIN = {  # functions of one image's arrays: called with a mask that may be wrong
    "boundary": wing.boundary,
    "boundary_distances": lambda mask: wing.boundary_distances(mask, OTHER[0]),
    "boundary_distances, truth": lambda mask: wing.boundary_distances(OTHER[0], mask),
    "grown": lambda mask: wing.grown(mask, 1.0),
    "margin_trade_off": lambda mask: wing.margin_trade_off(mask, OTHER[0], 1.0),
}
ASKING = {  # every other function that takes a mask: called with one, shape (case, row, column), that may be wrong
    "counts": lambda mask: wing.counts(mask, OTHER),
    "counts, truth": lambda mask: wing.counts(OTHER, mask),
    "scores": lambda mask: wing.scores(mask, OTHER),
    "patch_counts": lambda mask: wing.patch_counts(mask, OTHER, 4),
    "mask_distance": wing.mask_distance,
    "mask_distance, inside": lambda mask: wing.mask_distance(OTHER, inside=mask),
    "auroc": lambda mask: wing.auroc(FIELD, mask),
    "mutual_information": lambda mask: wing.mutual_information(FIELD, mask, permutations=2),
    "reliability": lambda mask: wing.reliability(P, mask),
    "energy_distance": lambda mask: wing.energy_distance(as_member(mask), named(MASKS, "case", "rater")),
    "energy_distance, raters": lambda mask: wing.energy_distance(MASKS, as_member(mask, "rater")),
    "hungarian_iou": lambda mask: wing.hungarian_iou(as_member(mask), named(MASKS, "case", "rater")),
    "needed_margin": lambda mask: wing.needed_margin(FIELD, mask),
    "margin_curve": lambda mask: wing.margin_curve(FIELD, mask, [0, 1]),
    "growing_fields": lambda mask: wing.growing_fields(FIELD, FIELD, inside=mask),
    "uncertainty_maps": lambda mask: wing.uncertainty_maps(
        {"mean": FIELD, "std": abs(FIELD), "probability": P, "threshold_px": 0, "inside": mask}
    ),
}
WHERE = {  # every function that takes `where`
    "auroc": lambda where: wing.auroc(FIELD, MASK, where=where),
    "aurc": lambda where: wing.aurc(FIELD, MASK, where=where),
    "ause": lambda where: wing.ause(FIELD, MASK, where=where),
    "augrc": lambda where: wing.augrc(FIELD, MASK, where=where),
    "sparsification": lambda where: wing.sparsification(FIELD, MASK, where=where),
    "mutual_information": lambda where: wing.mutual_information(FIELD, MASK, permutations=2, where=where),
    "reliability": lambda where: wing.reliability(P, MASK, where=where),
    "spread_skill": lambda where: wing.spread_skill(FIELD, abs(FIELD), FIELD, 4, where=where),
    "rank_histogram": lambda where: wing.rank_histogram(DISTANCES, FIELD, where=where),
    "crps": lambda where: wing.crps(DISTANCES, FIELD, where=where),
    "energy_distance": lambda where: wing.energy_distance(MASKS, named(MASKS, "case", "rater"), where=where),
    "hungarian_iou": lambda where: wing.hungarian_iou(MASKS, named(MASKS, "case", "rater"), where=where),
    "needed_margin": lambda where: wing.needed_margin(FIELD, MASK, where=where),
    "margin_curve": lambda where: wing.margin_curve(FIELD, MASK, [0, 1], where=where),
    "object_table": lambda where: wing.object_table(P, MASK, OTHER, where=where),
}
WRONG = {
    "fractions": (lambda mask: np.where(mask, 0.3, 0.0), "holds fractions, like a probability"),
    "fractions everywhere": (lambda mask: np.full(mask.shape, 0.3), "holds fractions, like a probability"),
    "labels": (lambda mask: np.where(mask, 7, 0), "numbers up to 7, like labels: a mask is needed, labels > 0"),
    "labels in floats": (lambda mask: np.where(mask, 7.0, 0.0), "labels > 0"),
    "NaN": (lambda mask: np.where(mask, 1.0, np.nan), "holds NaN or infinite values"),
    "infinity": (lambda mask: np.where(mask, np.inf, 0.0), "holds NaN or infinite values"),
    "a distance": (lambda mask: np.where(mask, -1.5, 2.0), "holds negative values, like a signed distance"),
    "negative integers": (lambda mask: np.where(mask, 1, -1), "holds negative values"),
    "words": (lambda mask: np.where(mask, "object", ""), "holds <U6"),
}


def as_member(mask, name="member"):
    "Four equal masks per case."
    mask = mask if isinstance(mask, xr.DataArray) else named(mask, "case")
    return mask.expand_dims({name: 4}, 1)


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("name", [*PLAIN, *ASKING, *(f"{name}, where" for name in WHERE)])
def test_what_is_no_mask_is_refused(name, kind):
    "By every function that takes one, from plain and from labelled arrays, with one sentence."
    make, message = WRONG[kind]
    if kind == "words" and name not in ("counts", "boundary"):
        message = "holds (<U6|object)"
    one = name in PLAIN
    function = PLAIN.get(name) or ASKING.get(name) or WHERE[name.removesuffix(", where")]
    mask = MASK[0] if one else MASK
    for wrap in (lambda values: values, lambda values: named(values, *([] if one else ["case"]))):
        with pytest.raises(ValueError, match=message):
            function(wrap(make(mask)))


@pytest.mark.parametrize("name", [*ASKING, *(f"{name}, where" for name in WHERE)])
def test_zeros_and_ones_of_any_kind_are_a_mask(name):
    function = ASKING.get(name) or WHERE[name.removesuffix(", where")]
    mask = MASK | True if name in ("mask_distance, inside", "growing_fields") else MASK  # an image is a rectangle
    expected = function(mask)
    for kind in (np.uint8, np.int64, np.float32):
        found = function(mask.astype(kind))
        if isinstance(expected, xr.DataArray | xr.Dataset):
            xr.testing.assert_identical(found, expected)
        else:
            np.testing.assert_equal(found, expected)


def test_lazy_masks_are_checked_when_they_are_computed():
    lazy = named(np.where(MASK, 7, 0), "case").chunk(case=1)
    found = wing.auroc(named(FIELD, "case").chunk(case=1), lazy)
    with pytest.raises(ValueError, match="labels > 0"):
        found.compute()


def test_checked_mask():
    mask = np.eye(3, dtype=bool)
    assert checked_mask(mask) is mask, "booleans are passed on as they are"
    for kind in (np.uint8, np.int32, float):
        found = checked_mask(mask.astype(kind))
        assert found.dtype == bool and (found == mask).all()
    assert checked_mask(np.zeros((0, 4))).shape == (0, 4)
    with pytest.raises(ValueError, match="`nuclei` holds complex128"):
        checked_mask(mask * 1j, "nuclei")
    for make, _ in WRONG.values():  # what is no mask has no distance either, but for labels, whose edges are known
        values = make(mask)
        if values.dtype.kind in "iu" and values.min() >= 0:
            assert np.array_equal(signed_distance(values), signed_distance(mask))
        else:
            with pytest.raises(ValueError):
                signed_distance(values)


# ---- plain and labelled arrays

BOTH = {  # name: function of plain or labelled arrays, and what it is called with
    "mask_distance": (wing.mask_distance, {"mask": MASK}),
    "uncertainty_maps": (
        lambda **fields: wing.uncertainty_maps(fields | {"threshold_px": 0.5}),
        {"mean": FIELD, "std": abs(FIELD), "probability": P},
    ),
    "auroc": (wing.auroc, {"uncertainty": FIELD, "wrong": MASK, "where": OTHER}),
    "aurc": (wing.aurc, {"uncertainty": FIELD, "error": MASK}),
    "ause": (wing.ause, {"uncertainty": FIELD, "error": P}),
    "augrc": (wing.augrc, {"uncertainty": FIELD, "error": MASK}),
    "sparsification": (wing.sparsification, {"uncertainty": FIELD, "error": MASK, "where": OTHER}),
    "mutual_information": (wing.mutual_information, {"uncertainty": FIELD, "wrong": MASK}),
    "reliability": (wing.reliability, {"probability": P, "truth": MASK, "where": OTHER}),
    "band": (lambda distance: wing.band(distance, 1.0), {"distance": FIELD}),
    "spread_skill": (lambda **fields: wing.spread_skill(**fields, members=4),
                     {"mean": FIELD, "std": abs(FIELD), "truth": FIELD + 1}),
    "rank_histogram": (wing.rank_histogram, {"members": DISTANCES, "truth": FIELD, "where": OTHER}),
    "untied": (wing.untied, {"members": DISTANCES, "truth": DISTANCES[:, 0]}),
    "crps": (wing.crps, {"members": DISTANCES, "truth": FIELD, "where": OTHER}),
    "energy_distance": (wing.energy_distance, {"members": MASKS, "raters": MASKS[:, :3]}),
    "hungarian_iou": (wing.hungarian_iou, {"members": MASKS, "raters": MASKS[:, :2], "where": OTHER}),
    "growing_fields": (wing.growing_fields, {"mean": FIELD, "std": abs(FIELD)}),
    "needed_margin": (wing.needed_margin, {"field": FIELD, "truth": MASK}),
    "margin_curve": (lambda field, truth: wing.margin_curve(field, truth, [0, 1]), {"field": FIELD, "truth": MASK}),
    "object_table": (wing.object_table, {"probability": P, "predicted": MASK, "truth": OTHER}),
}  # fmt: skip


def with_names(fields):
    beside = {"members": ["member"], "raters": ["rater"]}
    return {name: named(values, *["case", *beside.get(name, [])][: values.ndim - 2]) for name, values in fields.items()}


@pytest.mark.parametrize("name", BOTH)
def test_plain_and_labelled_arrays_give_the_same(name):
    "With and without a case; a mixture of both; and one number is for `float`."
    function, fields = BOTH[name]
    labelled, plain = function(**with_names(fields)), function(**fields)
    xr.testing.assert_identical(plain, labelled)
    first, *others = fields
    xr.testing.assert_identical(function(**with_names({first: fields[first]}), **{k: fields[k] for k in others}), plain)
    one = function(**{key: values[1] for key, values in fields.items()})
    assert isinstance(one, xr.DataArray | xr.Dataset) and "case" not in one.dims
    if name != "object_table":  # filled up where a case has fewer objects
        xr.testing.assert_allclose(one, plain.isel(case=1))
    if isinstance(one, xr.DataArray) and not one.dims:
        assert isinstance(float(one), float)


@pytest.mark.parametrize("name", [name for name in BOTH if name != "object_table"])
def test_lazy_arrays_give_the_same_and_compute_late(name):
    function, fields = BOTH[name]
    lazy = function(**{key: values.chunk(case=1) for key, values in with_names(fields).items()})
    variables = list(lazy.data_vars.values()) if isinstance(lazy, xr.Dataset) else [lazy]
    assert all(one.chunks for one in variables), "nothing is loaded before it is asked for"
    xr.testing.assert_allclose(lazy.compute(), function(**fields))


def test_axes_without_names():
    assert as_field(MASK, "truth").dims == ("case", *PLANE) and as_field(MASK[0], "truth").dims == PLANE
    assert as_field(MASKS, "members").dims == ("case", "member", *PLANE)
    assert as_field(MASKS[0], "raters").dims == ("rater", *PLANE)
    for values, name in ((MASKS, "truth"), (MASK[0, 0], "truth"), (MASK[0], "members"), (MASKS[None], "members")):
        with pytest.raises(ValueError, match=f"`{name}` has shape .*: an array without names is"):
            as_field(values, name)
    with pytest.raises(ValueError, match="`raters` needs the dimension rater"):
        as_field(named(MASK, "case"), "raters")
    with pytest.raises(ValueError, match="it cannot be .case, member, row, column."):
        named(MASK, "case", "member")


def test_fields_must_belong_together():
    field, truth = named(FIELD, "case"), named(MASK, "case")
    with pytest.raises(
        ValueError, match=r"differ in size or coordinates \(field .*; truth .*'row': 5.*\): give the same"
    ):
        checked(None, field=field, truth=truth[:, :5])
    with pytest.raises(ValueError, match="differ in size or coordinates"):
        checked(None, field=field.assign_coords(case=["a", "b"]), truth=truth.assign_coords(case=["b", "a"]))
    with pytest.raises(ValueError, match="`truth` holds complex128: numbers are needed"):
        checked(None, field=field, truth=truth * 1j)
    where, one = checked(None, field=field)
    assert where.all() and one.equals(field)
    holes = field.where(truth)
    with pytest.raises(ValueError, match=f"`field` is NaN or infinite at {int((~MASK).sum())} of {MASK.size} values"):
        checked(None, field=holes)
    _, cleaned = checked(truth, field=holes)
    np.testing.assert_array_equal(cleaned, np.where(MASK, FIELD, 0))
    infinite = field.where(truth, np.inf)
    with pytest.raises(ValueError, match="infinite"):
        checked(None, field=infinite)
    assert np.isinf(checked(None, finite=False, field=infinite)[1]).any()


def test_a_kernel_gets_the_pixels_that_count():
    shapes = []

    def kernel(members, truth):
        shapes.append((members.shape, truth.shape, truth.dtype))
        return np.array([[truth.sum(), members.shape[0]]])

    fields, out = {"members": MASKS, "truth": MASK}, {"a": ["x"], "b": ["sum", "members"]}
    found = measured(kernel, PLANE, OTHER, fields, masks=["truth"], out=out)
    assert found.dims == ("case", "a", "b") and found["b"].values.tolist() == ["sum", "members"]
    assert shapes == [((4, int(one.sum())), (int(one.sum()),), np.dtype(bool)) for one in OTHER]
    np.testing.assert_array_equal(found.sel(a="x", b="sum"), (MASK & OTHER).sum((1, 2)))


def test_coordinates_of_the_cases_stay():
    "So that a bootstrap can resample patients."
    patient = named(FIELD, "case").assign_coords(patient=("case", ["p", "q"]))
    assert wing.auroc(patient, MASK)["patient"].values.tolist() == ["p", "q"]
    assert wing.object_table(patient * 0, MASK, OTHER)["patient"].values.tolist() == ["p", "q"]


def test_the_wing_works_without_torch():
    "In a process in which torch cannot be imported, from plain arrays; nothing of ours that draws masks is loaded."
    code = """
import sys
class NoTorch:
    def find_spec(self, name, *more):
        assert name.split(".")[0] != "torch"
sys.meta_path.insert(0, NoTorch())
import numpy as np
from sdfdiff.uncertainty.errors import auroc
from sdfdiff.uncertainty.fields import bootstrap, named
from sdfdiff.uncertainty.forecasts import crps
from sdfdiff.uncertainty.objects import object_table
from sdfdiff.uncertainty.calibration import reliability
from sdfdiff.uncertainty.metrics import scores
import sdfdiff.uncertainty as wing
assert set(dir(wing)) == {name for name in dir(wing) if getattr(wing, name) is not None}
generator = np.random.default_rng(0)
masks = generator.random((3, 5, 8, 8)) < 0.5
p, truth = masks[:, 1:].mean(1), masks[:, 0]
assert bootstrap(auroc(p * (1 - p), (p >= 0.5) != truth)).shape == (3,)
assert float(crps(masks[0, 1:].astype(float), truth[0].astype(float))) >= 0
assert int(reliability(p, truth)["pixels"].sum()) == 3 * 64 and scores(p >= 0.5, truth)["f1"].shape == (3,)
assert object_table(p, p >= 0.5, truth).sizes["case"] == 3
parts = ("diffusion", "ensembles", "images", "study", "panels")
print([name for name in sys.modules if name.startswith(tuple(f"sdfdiff.{part}" for part in parts))])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


# ---- distances of padded masks


@pytest.mark.parametrize("boundary", ["inner", "half_pixel"])
def test_padding_makes_no_edge(boundary):
    generator = np.random.default_rng(1)
    mask = generator.random((20, 14)) < 0.5
    padded, inside = np.zeros((2, 25, 25), bool), np.zeros((2, 25, 25), bool)
    padded[:, 3:23, :14], inside[:, 3:23, :14] = mask, True
    found = mask_distance(named(padded, "case"), 4.0, named(inside, "case"), boundary)
    assert found.dtype == np.float32 and found.attrs["units"] == "px"
    assert np.array_equal(found[0, 3:23, :14], signed_distance(mask, 4.0, boundary))
    assert np.array_equal(np.isnan(found), ~inside)


def test_mask_distance_of_members_without_padding_and_lazily():
    mask = named(np.random.default_rng(2).random((2, 3, 9, 9)) < 0.4, "case", "member")
    found = mask_distance(mask, 5)
    assert np.array_equal(found[1, 2], signed_distance(mask[1, 2].values, 5, "half_pixel"))
    lazy = mask_distance(mask.chunk(case=1), 5)
    assert lazy.chunks and lazy.compute().identical(found)
    everything, nothing = (mask_distance(named(np.full((4, 4), value))) for value in (True, False))
    assert (everything == -np.inf).all() and (nothing == np.inf).all()


def test_mask_distance_refuses():
    with pytest.raises(ValueError, match="`mask` holds fractions"):
        mask_distance(np.full((4, 4), 0.5))
    inside = np.ones((4, 4), bool)
    inside[0, 0] = False
    with pytest.raises(ValueError, match="rectangle"):
        mask_distance(np.ones((4, 4), bool), inside=inside)


def test_mask_distance_of_masks_that_are_unknown_on_padding():
    "0, 1 and NaN, as a mask comes out of a concatenation; the NaN does not count."
    mask, inside = np.eye(5), np.ones((5, 5), bool)
    inside[4:] = False
    found = mask_distance(np.where(inside, mask, np.nan), 3, inside)
    np.testing.assert_array_equal(found, mask_distance(mask > 0, 3, inside))


# ---- intervals


def test_bootstrap_of_the_mean_covers_and_is_as_wide_as_theory_says():
    generator, hits, widths = np.random.default_rng(5), 0, []
    for trial in range(300):
        data = generator.standard_normal(40) + 3
        low, high = bootstrap(data, resamples=400, seed=trial).sel(bound=["low", "high"]).values
        hits += low <= 3 <= high
        widths.append(high - low)
    assert 0.88 <= hits / 300 <= 0.98
    assert np.mean(widths) == pytest.approx(2 * 1.96 / 40**0.5, rel=0.06)


def test_bootstrap_resamples_whole_groups():
    "Ten patients with four equal images each: the interval is that of ten images, not of forty."
    patients = np.random.default_rng(6).standard_normal(10)
    images = xr.DataArray(np.repeat(patients, 4), dims="case")
    alone = bootstrap(patients, seed=1)
    grouped = bootstrap(images, seed=1, groups=np.repeat(list("abcdefghij"), 4))
    np.testing.assert_allclose(grouped, alone)
    assert np.ptp(bootstrap(images).values) < 0.7 * np.ptp(grouped.values)


@pytest.mark.parametrize("additive", [True, False])
def test_bootstrap_of_trainings_that_differ_by_a_constant(additive):
    "No patient differs from another: the variance is that of the trainings, the interval Student's for so few."
    patients, trainings = 7, np.array([0.0, 0.3, 0.6])
    data, how = np.repeat(trainings, patients), {"groups": np.tile(np.arange(patients), 3), "resamples": 3000}
    how |= {"additive": additive} | (
        {} if additive else {"statistic": lambda some: some.mean("case"), "resamples": 200}
    )
    data = xr.DataArray(data, dims="case")
    estimate, low, high = bootstrap(data, crossed=np.repeat(list("abc"), patients), **how).values
    further = stats.t.ppf(0.975, 2) / stats.norm.ppf(0.975) * np.sqrt(3 / 2)  # 95 % of the resamples lie in [0, 0.6]
    np.testing.assert_allclose([estimate, low, high], [0.3, 0.3 - further * 0.3, 0.3 + further * 0.3], rtol=1e-6)
    assert np.ptp(bootstrap(data, **how).values) < 1e-9


def test_bootstrap_of_patients_and_trainings_has_the_sum_of_both_variances():
    generator = np.random.default_rng(0)
    first, second = generator.standard_normal(40), generator.standard_normal((30, 1))
    data, patient, training = (second + first).ravel(), np.tile(np.arange(40), 30), np.repeat(np.arange(30), 40)
    _, low, high = bootstrap(data, groups=patient, crossed=training, resamples=8000).values
    expected = first.var(ddof=1) / 40 + second.var(ddof=1) / 30
    assert np.isclose((high - low) / 2, np.sqrt(expected) * stats.t.ppf(0.975, 50), rtol=0.06)
    one = np.zeros(40)  # a single training
    xr.testing.assert_identical(bootstrap(first, crossed=one), bootstrap(first))


def test_bootstrap_of_tables_and_of_any_statistic():
    generator = np.random.default_rng(7)
    p = named(generator.integers(0, 17, (2, 6, 20, 20)) / 16, "method", "case")
    table = reliability(p, generator.random((6, 20, 20)) < p.mean("method").values, 16)
    result = bootstrap(table, lambda total: brier(total)["score"], resamples=200)
    assert result.dims == ("bound", "method") and result["bound"].values.tolist() == ["estimate", "low", "high"]
    np.testing.assert_allclose(result.sel(bound="estimate"), brier(table.sum("case"))["score"])
    slow = bootstrap(table, lambda some: brier(some.sum("case"))["score"], resamples=200, additive=False)
    np.testing.assert_allclose(slow.transpose(*result.dims), result)
    assert (result.sel(bound="low") < result.sel(bound="high")).all()
    median = bootstrap(table["truths"].sum("bin"), lambda some: some.median("case"), resamples=50, additive=False)
    assert (median.sel(bound="estimate") == table["truths"].sum("bin").median("case")).all()


def test_an_interval_is_as_wide_as_the_cases_that_have_a_value_ask_for():
    "A number that three of twelve cases have gets the interval of these three; one that a single case has gets none."
    values = np.random.default_rng(8).standard_normal(12)
    holes = np.where(np.arange(12) < 3, values, np.nan)
    once = np.where(np.arange(12) < 1, values, np.nan)
    both = xr.DataArray([values, holes, once], dims=("number", "case"))
    found = bootstrap(both, skipna=True, resamples=4000).sel(bound=["low", "high"])
    np.testing.assert_allclose(found[:, 0], bootstrap(values, resamples=4000).values[1:])
    three = bootstrap(values[:3], resamples=4000).values[1:]
    np.testing.assert_allclose(found[:, 1], three, atol=0.35 * np.ptp(three))
    assert np.isnan(found[:, 2]).all()


def test_bootstrap_refuses_what_it_would_hide():
    data = xr.DataArray([[1.0, 2.0, np.nan], [4.0, 5.0, 6.0]], dims=("method", "case"))
    data.attrs = {"units": "px", "long_name": "error"}
    with pytest.raises(ValueError, match="1 values are NaN"):
        bootstrap(data)
    result = bootstrap(data, skipna=True, resamples=100)
    assert result.sel(bound="estimate").values.tolist() == [1.5, 5.0] and result.attrs == data.attrs
    whole = data.isel(method=1)
    with pytest.raises(ValueError, match="no dimension patient"):
        bootstrap(whole, dim="patient")
    with pytest.raises(ValueError, match="two groups"):
        bootstrap(whole, groups=["a", "a", "a"])
    with pytest.raises(ValueError, match="2 labels"):
        bootstrap(whole, groups=["a", "b"])
    xr.testing.assert_identical(bootstrap(whole), bootstrap(whole.chunk(case=1)))
    both = bootstrap(xr.Dataset({"a": whole, "b": 2 * whole}))
    np.testing.assert_allclose(both["b"], 2 * both["a"])
