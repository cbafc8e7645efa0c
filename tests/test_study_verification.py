"From maps to numbers: the same as by hand, lazily, whatever the padding, and as known where the truth is known."

import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.stats import norm
from scipy.stats import t as student
from small_studies import case_of, drawn_from, padded, study_of

from sdfdiff.files import write_dataset
from sdfdiff.images.synthetic import tissue
from sdfdiff.study import verification
from sdfdiff.study.verification import headline, read_verified, verify
from sdfdiff.uncertainty.calibration import brier, calibration_error, cross_fitted, reliability
from sdfdiff.uncertainty.errors import (
    augrc,
    aurc,
    auroc,
    ause,
    mutual_information,
    sparsification,
    uncertainty_maps,
)
from sdfdiff.uncertainty.fields import mask_distance
from sdfdiff.uncertainty.forecasts import spread_skill, spread_skill_ratio
from sdfdiff.uncertainty.margins import growing_fields, margin_curve, needed_margin
from sdfdiff.uncertainty.objects import object_scores, object_table

HERE = Path(__file__).parent


@cache
def case(seed, members=(8, 5), shape=(40, 48), patient=None):
    "A scene whose members are raters: drawn from the exact posterior. The second method has a spread of its own."
    scene = tissue(seed, shape)
    drawn = np.stack([scene.rate(np.random.default_rng((seed, k))) > 0 for k in range(max(members) + 4)])
    raters = drawn[-4:]
    ensembles = {"perfect": drawn_from(drawn[: members[0]])}
    if len(members) > 1:
        ensembles["few"] = drawn_from(drawn[: members[1]] & drawn[0])
    return case_of(
        f"scene {seed}", ensembles, raters[0], raters, scene.probability(), patient and f"patient {seed % patient}"
    )


@cache
def many(count=14):
    return study_of([case(seed, (16,)) for seed in range(count)])


@cache
def verified_many(count=14):
    return verify(many(count), 20, progress=False)


def blank(shape=(24, 30), wrong=False):
    "A case without object; `wrong`: one that members saw all the same."
    masks = np.zeros((4, *shape), bool)
    masks[:, 5:12, 5:12] = wrong
    masks[0, 9:] = False
    return case_of(
        "blank",
        {"perfect": drawn_from(masks), "few": drawn_from(masks)},
        np.zeros(shape, bool),
        np.zeros((4, *shape), bool),
        np.zeros(shape),
    )


def sure(shape=(24, 30)):
    "A case that all members and raters agree on."
    mask = np.zeros(shape, bool)
    mask[5:12, 6:20] = True
    masks = np.repeat(mask[None], 4, 0)
    return case_of("sure", {"perfect": drawn_from(masks), "few": drawn_from(masks)}, mask, masks, mask.astype(float))


# ---- by hand


def test_every_number_is_that_of_its_notebook():
    "Called here directly, one method at a time."
    found = verification._verified_case(case(1).copy(), 30)
    for k in (0, 1):
        one, ours = case(1).isel(method=k), found.isel(method=k)
        truth, mask = one["truth"], one["mean"] <= one["threshold_px"]
        wrong, p = mask != truth, one["probability"]
        maps = uncertainty_maps(one)
        for which in maps:
            here = ours.sel(map=which)
            for number, function in (("auroc", auroc), ("ause", ause), ("aurc", aurc), ("augrc", augrc)):
                assert float(here[number]) == float(function(maps[which], wrong)), (which, number)
            np.testing.assert_array_equal(
                here["sparsification"], sparsification(maps[which], wrong, verification._REMOVED)
            )
            told = mutual_information(maps[which], wrong, verification._BINS, 30)
            for number in ("share", "null_95", "p_value"):
                assert float(here[f"information_{number}"]) == float(told[number])
        near = (-maps["nearness"] < 10).reset_coords(drop=True)
        for region, where in (("image", None), ("band", near)):
            table = reliability(
                p.reset_coords(drop=True), truth.reset_coords(drop=True), verification._BINS, where=where
            )
            for number in table:
                np.testing.assert_array_equal(ours[number].sel(region=region), table[number])
        distance = mask_distance(truth, 10.0)
        differ = (one["std"] > 0) | (abs(one["mean"] - distance) > 1e-6)
        sums = spread_skill(one["mean"], one["std"], distance, int(one["members"]), where=differ)
        for number, theirs in (("disputed", "pixels"), ("variance", "variance"), ("squared_error", "squared_error")):
            assert float(ours[number]) == pytest.approx(float(sums[theirs]), rel=1e-12)
        fields = growing_fields(one["mean"], one["std"], float(one["threshold_px"]), reach=float(one["reach_px"]))
        for field in fields:
            for missed in verification._MISSED:
                assert float(ours["needed_margin"].sel(field=field, may_miss=missed)) == pytest.approx(
                    float(needed_margin(fields[field], truth, missed)), abs=1e-5
                )
            curve = margin_curve(fields[field], truth, verification._MARGINS)
            if field != "edge":
                curve = curve.where(curve["margin"] < float(one["reach_px"]) - float(one["threshold_px"]))
            for number in curve:
                np.testing.assert_allclose(ours[number].sel(field=field), curve[number], atol=1e-12)
        scores = object_scores(object_table(p, mask, truth))
        for number in scores:
            np.testing.assert_array_equal(ours[f"objects_{number}"], scores[number])
        assert float(ours["wrong"]) == pytest.approx(wrong.values.mean()) and float(
            ours["uncertainty"]
        ) == pytest.approx(np.sqrt(p * (1 - p)).values.mean())
        assert float(ours["posterior_gap"]) == pytest.approx(abs(p - one["posterior"]).values.mean())
        chance = np.where(mask, 1 - one["posterior"], one["posterior"])
        assert float(ours["auroc_best"]) == float(
            auroc(xr.DataArray(chance, dims=("row", "column")), wrong.reset_coords(drop=True))
        )
        for number in verification._KEPT:
            np.testing.assert_array_equal(ours[number], one[number])


def test_what_verify_returns(tmp_path):
    "One row per case and method; no pixels; labels and plan stay; it can be written and read."
    study = study_of([case(1), case(2)]).assign_attrs(plan="{}", dataset="tissue", split="all")
    found = verify(study, 20, progress=False)
    assert not {"row", "column", "member"} & set(found.dims) and found["case"].values.tolist() == ["scene 1", "scene 2"]
    assert (
        found["method"].values.tolist() == ["perfect", "few"]
        and found["members"].values.tolist() == [8, 5]
        and found["group"].values.tolist() == ["scene 1", "scene 2"]
    )
    assert found.attrs["plan"] == "{}" and found.attrs["permutations"] == 20
    xr.testing.assert_equal(
        found["auroc"].isel(case=1),
        verification._verified_case(study.isel(case=1), 20)["auroc"].assign_coords(found["auroc"].isel(case=1).coords),
    )
    write_dataset(found, tmp_path / "a.nc")
    again = read_verified(tmp_path / "a.nc")
    xr.testing.assert_equal(again, found)
    xr.testing.assert_equal(headline(again, 20), headline(found, 20))
    write_dataset(xr.Dataset({"a": ("b", [1, 2])}), tmp_path / "b.nc")
    with pytest.raises(
        ValueError, match="b.nc is not what is needed here .*title.* expected what sdfdiff report writes"
    ):
        read_verified(tmp_path / "b.nc")
    with pytest.raises(FileNotFoundError, match="c.nc does not exist"):
        read_verified(tmp_path / "c.nc")


def test_padding_changes_nothing():
    "Not a bit of any number."
    alone = verify(study_of([case(1)]), 20, progress=False)
    for rows, columns in ((40, 48), (53, 48), (97, 130)):
        xr.testing.assert_identical(verify(study_of([padded(case(1), rows, columns)]), 20, progress=False), alone)
    both = verify(study_of([padded(case(2, shape=(64, 32)), 64, 48), padded(case(1), 64, 48)]), 20, progress=False)
    for name in (
        "auroc",
        "ause",
        "pixels",
        "truths",
        "needed_margin",
        "spread" if "spread" in both else "variance",
        "objects_auroc",
        "posterior_gap",
    ):
        np.testing.assert_array_equal(both[name].isel(case=1), alone[name].isel(case=0), err_msg=name)


def test_chunks_change_nothing():
    "From a store read case by case."
    study = study_of([case(1), case(2)])
    lazy = study.chunk(case=1, method=1)
    xr.testing.assert_identical(verify(lazy, 20, progress=False), verify(study, 20, progress=False))
    assert lazy["mean"].chunks is not None, "the study itself is not loaded"


# ---- what is known


def test_perfect_members():
    "Members and truth from one posterior: honest spread and probabilities, and errors found nearly as well as can be."
    found = verified_many()
    sums = found[["disputed", "variance", "squared_error"]].sum("case").rename(disputed="pixels")
    assert float(spread_skill_ratio(sums)["ratio"].item()) == pytest.approx(1, abs=0.25)
    table = found[["pixels", "forecast", "squares", "truths", "products"]].sum("case").isel(method=0)
    assert (
        float(calibration_error(table.sel(region="image"))) < 0.03
        and float(calibration_error(table.sel(region="band"))) < 0.06
    )
    fair = float(brier(table.sel(region="image"), 16)["fair"])
    assert fair == pytest.approx(float(found["posterior_variance"].mean()), rel=0.3)
    best, ours = found["auroc_best"].mean("case").item(), found["auroc"].mean("case").isel(method=0)
    assert best - 0.05 < float(ours.sel(map="entropy")) <= best + 0.01 and float(ours.sel(map="nearness")) < best
    assert float(found["posterior_gap"].mean()) < 0.03
    ranks = found["ranks"].sum("case").isel(method=0).values
    assert abs(ranks / ranks.sum() - 1 / len(ranks)).max() < 0.05
    numbers = headline(found, 200).isel(method=0)
    low, high = (numbers.sel(quantity=["spread_skill", "ged_u"], bound=bound).values for bound in ("low", "high"))
    assert low[0] < 1 and high[0] > 0.9 and low[1] < 0.02 and high[1] > 0
    assert (
        (numbers.sel(bound="low") <= numbers.sel(bound="estimate") + 1e-12)
        .sel(quantity=["auroc_ratio", "f1_mmse", "wrong", "brier"])
        .all()
    )
    assert float(found["raters_truths"].sum()) == pytest.approx(float(many()["raters"].sum()))


def test_believed_auroc():
    "Of a table in which every truth is drawn from P: what a very large sample finds."
    generator = np.random.default_rng(0)
    p = xr.DataArray(generator.integers(0, 9, (400, 500)) / 8, dims=("row", "column"))
    truth = generator.random(p.shape) < p
    table = reliability(p, truth, 8)
    found = auroc(-abs(p - 0.5), (p >= 0.5) != truth)
    assert float(verification._believed_auroc(table)) == pytest.approx(float(found), abs=0.005)
    assert np.isnan(verification._believed_auroc(reliability(p.round(), p.round() > 0, 8))), (
        "without uncertainty, no error is expected"
    )
    half = reliability(xr.full_like(p, 0.5), truth, 8)
    assert float(verification._believed_auroc(half)) == 0.5
    two = xr.Dataset({"pixels": ("bin", [3.0, 0, 5.0]), "forecast": ("bin", [0.3, 0, 2.0])})
    wrong, right = np.array([0.3, 2.0]), np.array([2.7, 3.0])
    exact = (wrong[1] * right[0] + (wrong * right).sum() / 2) / (wrong.sum() * right.sum())
    assert float(verification._believed_auroc(two)) == pytest.approx(exact)


# ---- what is not defined


def test_cases_in_which_something_is_missing():
    "NaN in that case, for what has no meaning there, and only for that."
    found = verify(
        study_of([padded(one, 40, 48) for one in (case(1), blank(), blank(wrong=True), sure())]).assign_coords(
            case=["whole", "blank", "seen", "sure"]
        ),
        20,
        progress=False,
    )
    assert found["auroc"].sel(case="whole").notnull().all()
    for name in ("blank", "sure"):
        here = found.sel(case=name)
        assert (here["wrong"] == 0).all() and here[
            ["auroc", "auroc_best", "information_share", "crps"]
        ].isnull().all().to_array().all()
        assert (here[["ause", "aurc", "augrc"]] == 0).all().to_array().all() and (
            here["pixels"].sum("bin").sel(region="image") == 24 * 30
        ).all()
    for name in ("blank", "seen"):
        here = found.sel(case=name)
        assert (
            here["needed_margin"].isnull().all()
            and here["missed"].isnull().all()
            and (here["f1"].sel(estimator="mmse") == (name == "blank")).all()
        )
    assert (found["objects_false_objects"].sel(case="seen") == 1).all() and found["auroc"].sel(
        case="seen", map="entropy"
    ).notnull().all()
    assert (found["pixels"].sel(case="blank", region="band") == 0).all(), "without an edge there is no band"
    assert (found["squared_error"].sel(case="sure") == 0).all()
    numbers = headline(found, 50)
    assert numbers.sel(quantity=["f1_mmse", "wrong", "auroc_ratio"], bound="estimate").notnull().all()
    np.testing.assert_allclose(
        numbers.sel(quantity="auroc_ratio", bound="estimate"),
        found["auroc"].sel(map="ratio", case=["whole", "seen"]).mean("case"),
    )


HOLES = ["mean", "std", "probability", "initial_estimate", "posterior"]


@pytest.mark.parametrize("name", HOLES)
@pytest.mark.parametrize("size", ["one", "all"])
def test_a_hole_is_named(name, size):
    "One pixel, or the whole map of a case."
    study = study_of([case(1), case(2)]).copy(deep=True)
    study[name][1, ..., 3 if size == "one" else slice(None), 4 if size == "one" else slice(None)] = np.nan
    with pytest.raises(ValueError, match="^case scene 2: .*NaN"):
        verify(study, 20, progress=False)


@pytest.mark.parametrize("name", verification._KEPT)
def test_a_missing_number_is_named(name):
    "Nothing is averaged over it."
    study = study_of([case(1), case(2)]).copy(deep=True)
    study[name][1, 1] = np.nan
    with pytest.raises(ValueError, match=f"^case scene 2: `{name}` is NaN: a part of the store is missing."):
        verify(study, 20, progress=False)


def test_missing_truth_and_place():
    "Chunks of booleans that are missing read as False: that is noticed."
    study = study_of([case(1), case(2)]).copy(deep=True).assign_coords(fragments_truth=("case", [3, 4]))
    lost = study.copy(deep=True)
    lost["truth"][1] = False
    with pytest.raises(ValueError, match="^case scene 2: `truth` is empty although it had objects"):
        verify(lost, 20, progress=False)
    for rows in (slice(None), slice(0, 9)):
        lost = study.copy(deep=True)
        lost["inside"][1, rows] = False
        with pytest.raises(ValueError, match="^case scene 2: `inside` covers"):
            verify(lost, 20, progress=False)


def test_one_member():
    study = study_of([case(1)])
    study["drawn"][0, 1] = 1
    with pytest.raises(ValueError, match="case scene 1: .*a spread needs at least 2"):
        verify(study, 20, progress=False)


def test_drawn_not_planned_members_count():
    "A tolerance drew 8 and 5 of 16: verified as if 8 and 5 had been planned, recalibrated too."
    fewer = study_of([case(k) for k in range(1, 5)])
    planned = fewer.assign_coords(members=("method", [16, 16]))
    first, second = (verify(study, 20, progress=False) for study in (fewer, planned))
    assert second["drawn"].values.tolist() == [[8, 5]] * 4
    xr.testing.assert_identical(first.drop_vars("members"), second.drop_vars("members"))
    numbers = [headline(one, 20).drop_vars("members", errors="ignore") for one in (first, second)]
    xr.testing.assert_identical(*numbers)


# ---- the headline


def test_two_groups():
    "As few as there can be: recalibration learns from the other one, and intervals are those of two groups."
    found = verify(study_of([case(seed, (8, 5), patient=2) for seed in range(4)]), 20, progress=False)
    numbers = headline(found, 60)
    assert numbers.dims == ("quantity", "method", "bound") and numbers["bound"].values.tolist() == [
        "estimate",
        "low",
        "high",
    ]
    estimate = numbers.sel({"method": "few", "bound": "estimate"})  # `method` as a keyword is a setting of sel itself
    one = found.isel(method=1)
    table = one[["pixels", "forecast", "squares", "truths", "products"]].sel(region="band")
    honest, ways = cross_fitted(table, 5, found["group"].values)
    assert ways[0] == ways[2] != ways[1] == ways[3]
    expected = {
        "auroc_ratio": one["auroc"].sel(map="ratio").mean(),
        "ece": calibration_error(table.sum("case")),
        "ace": calibration_error(table.sum("case"), equal="mass"),
        "ece_recalibrated": calibration_error(honest.sum("case")),
        "brier": brier(table.sum("case"))["score"],
        "f1_mmse": one["f1"].sel(estimator="mmse").mean(),
        "spread_skill": np.sqrt(one["variance"].sum() / one["squared_error"].sum()),
        "wrong": one["wrong"].mean(),
        "crps": one["crps"].mean(),
        "loss_correlation": np.corrcoef(one["expected_loss"], 1 - one["f1"].sel(estimator="mmse"))[0, 1],
        "auroc_gain": (one["auroc"].sel(map="ratio") - one["auroc"].sel(map="nearness")).mean(),
    }
    for name, value in expected.items():
        assert float(estimate.sel(quantity=name)) == pytest.approx(float(value), rel=1e-9), name
    halves = [
        float(found["f1"].sel(estimator="mmse").isel(method=1).isel(case=slice(k, None, 2)).mean()) for k in (0, 1)
    ]
    middle = float(numbers.isel(method=1).sel(quantity="f1_mmse", bound="estimate"))
    further = student.ppf(0.975, 1) / norm.ppf(0.975) * 2**0.5  # of two groups
    assert [
        float(numbers.isel(method=1).sel(quantity="f1_mmse", bound=bound)) for bound in ("low", "high")
    ] == pytest.approx([np.clip(middle + further * (half - middle), 0, 1) for half in sorted(halves)])
    xr.testing.assert_identical(headline(found, 60), numbers)
    assert numbers.notnull().all() and numbers.attrs["units"] and "AUROC" not in numbers.attrs["long_name"]


def test_one_group_is_not_enough():
    found = verify(study_of([case(1), case(2)]).assign_coords(group=("case", ["same", "same"])), 20, progress=False)
    with pytest.raises(ValueError, match="two groups"):
        headline(found, 20)


# ---- memory


def test_a_study_larger_than_memory(tmp_path):
    "A study of 370 MB is verified within 140 MB beyond what the program needs anyway."
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"""
import resource, sys
sys.path.insert(0, {str(HERE)!r})
import dask, dask.array, numpy as np, xarray as xr
from sdfdiff.study.verification import verify
from small_studies import padded, study_of
from test_study_verification import case
one = padded(case(1, (4,)), 1060, 1060).drop_vars(["raters", "ged_u", "ged_v", "hungarian_iou"])
small = verify(study_of([one]), 20, progress=False)
cases, parts = 16, {{}}
for name, data in one.data_vars.items():
    if "row" in data.dims:
        block = data.values[None]
        chunks = ((1,) * cases, *((n,) for n in data.shape))
        made = dask.array.map_blocks(lambda whole=block: whole.copy(), dtype=data.dtype, chunks=chunks)
        parts[name] = (("case", *data.dims), made)
    else:
        parts[name] = (("case", *data.dims), np.repeat(data.values[None], cases, 0))
labels = {{name: value.variable for name, value in one.coords.items() if name not in ("case", "group")}}
study = xr.Dataset(parts, labels).assign_coords(case=[str(k) for k in range(cases)])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
with dask.config.set(scheduler="synchronous"):
    found = verify(study, 20, progress=False)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
pairs = [(found[name].isel(case=-1), small[name].isel(case=0)) for name in ("auroc", "variance", "needed_margin")]
same = all(np.array_equal(*pair, equal_nan=True) for pair in pairs)
print("RESULT", study.nbytes / 2**20, grown, same)
""",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "RESULT" in done.stdout, done.stderr[-2000:]
    size, grown, same = done.stdout.split("RESULT")[1].split()
    assert float(size) > 370 and float(grown) < 140 and same == "True"
