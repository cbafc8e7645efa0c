"The frontier: judgements with known answers, methods that cost what they say, a study of them and its numbers."

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from small_studies import UNITS as ABOUT
from small_studies import folder, tiny_weights

from benchmarks.frontier import (
    CALLS,
    REFERENCE,
    UNITS,
    frontier_plan,
    judge,
    judge_case,
    methods,
    scenes,
    side_by_side,
    unbiased_variance,
)
from sdfdiff.diffusion.model import load_model
from sdfdiff.diffusion.sampling import SAMPLERS, flow_levels
from sdfdiff.ensembles.collection import ensemble, label
from sdfdiff.ensembles.method import METHODS, QUALITIES, SAMPLER_FIELDS, untuned
from sdfdiff.files import read_dataset, write_dataset
from sdfdiff.images.preparation import TISSUE
from sdfdiff.images.synthetic import tissue
from sdfdiff.images.cases import Prepared, prepare_case
from sdfdiff.provenance import weights_header
from sdfdiff.study.plan import case_seed, from_json, study_cases, to_json
from sdfdiff.study.store import finish, open_study, run_study

ROOT = Path(__file__).resolve().parents[1]

# ---- judgements


def made(distance, threshold=0.5):
    "An ensemble of given members, (member, row, column)."
    distance = np.asarray(distance, np.float32)
    inside = distance <= threshold
    fields = {
        "distance": (("member", "row", "column"), distance),
        "area": (("every_member",), inside.sum((1, 2))),
        "mean": distance.mean(axis=0),
        "std": distance.std(axis=0, ddof=1),
        "probability": inside.mean(axis=0).astype(np.float32),
        "initial_estimate": distance[0],
    }
    return label(fields, ABOUT | {"threshold_px": threshold, "members": len(distance)}, distance.shape[1:])


def drawn_from(probability, members, seed=0):
    "Members whose pixels are drawn on their own: -1 with the given probability, else +2."
    return made(np.where(np.random.default_rng(seed).random((members, *probability.shape)) < probability, -1.0, 2.0))


def case_of(probability, truth=None):
    truth = probability >= 0.5 if truth is None else truth
    return Prepared(np.zeros((1, *truth.shape), np.float32), truth, truth.shape, None, probability)


def without(truth):
    "A case whose posterior nobody knows."
    return Prepared(np.zeros((1, *truth.shape), np.float32), truth, truth.shape)


def judged(one, reference, case):
    "Numbers of the first ensemble, by name."
    found = judge_case(side_by_side({"own": one, REFERENCE: reference}, case))
    assert dict(found.sizes) == {"method": 2} and set(found) == set(UNITS)
    return {name: float(found[name].sel({"method": "own"})) for name in found}


def test_perfect_raters_are_judged_perfect():
    "Whole masks of synthetic tissue's own raters, against the posterior that they are drawn from."
    scene, generator = tissue(1000), np.random.default_rng(0)
    one, other = (made([np.where(scene.rate(generator) > 0, -1.0, 2.0) for _ in range(400)]) for _ in range(2))
    exact = scene.probability()
    found = judged(one, other, case_of(exact))
    assert found["raters"] == pytest.approx(1, abs=0.05) and found["disagreement"] == pytest.approx(1, abs=0.08)
    assert found["spread_ratio"] == pytest.approx(1, abs=0.05) and found["spread_correlation"] > 0.99
    by_chance = np.sqrt(2 / np.pi) * np.sqrt(exact * (1 - exact) / 400).mean()
    assert by_chance / 2 < found["miscalibration"] < 1.5 * by_chance


@pytest.mark.parametrize("members", [2, 3, 10])
def test_disagreement_has_no_bias(members):
    "On average right, also with two members."
    probability = np.random.default_rng(1).random((150, 150))
    found = judged(drawn_from(probability, members), drawn_from(probability, 150, 1), case_of(probability))
    assert found["raters"] == pytest.approx(1, abs=0.03) and found["disagreement"] == pytest.approx(1, abs=0.03)
    one = xr.DataArray(np.array([[0.5, 0.0], [1.0, 0.5]]), dims=("row", "column"))
    assert float(unbiased_variance(one, members)) == pytest.approx(0.125 * members / (members - 1))


def test_an_ensemble_agrees_with_itself():
    one = made(np.random.default_rng(0).normal(0, 2, (9, 20, 24)))
    found = judged(one, one, case_of(np.random.default_rng(1).random((20, 24))))
    same = ("spread_ratio", "spread_correlation", "disagreement")
    assert all(found[name] == pytest.approx(1, rel=1e-6) for name in same)
    assert found["spread"] == pytest.approx(float(one["std"].mean()), rel=1e-6)


def test_spread_is_compared_in_size_and_in_place():
    members = np.random.default_rng(0).normal(0, 1, (50, 16, 16)) * np.linspace(0.1, 2, 16)
    one, half, turned = made(members), made(members / 2), made(members[:, :, ::-1])
    case = without(np.ones((16, 16), bool))
    assert judged(half, one, case)["spread_ratio"] == pytest.approx(0.5, rel=1e-6)
    assert judged(half, one, case)["spread_correlation"] == pytest.approx(1, rel=1e-6)
    assert judged(turned, one, case)["spread_ratio"] == pytest.approx(1, rel=1e-6)
    assert judged(turned, one, case)["spread_correlation"] < -0.9


def test_scores_by_hand():
    "All members one by one, and the mask of the mean, at the ensemble's own threshold."
    truth = np.array([[True, True, False, False]])
    right, half = [[-1.0, 0.2, 1.0, 1.0]], [[-1.0, 5.0, 1.0, 1.0]]  # F1 1 and 2/3
    wrong = [[1.0, 1.0, -1.0, -1.0]]
    one = made([right] * 4 + [half] * 4 + [wrong] * 32, threshold=0.3)
    found = judged(one, one, without(truth))
    assert found["f1_one"] == pytest.approx((4 + 4 * 2 / 3) / 40) and found["f1_mean"] == 0
    assert np.isnan(found["raters"]) and np.isnan(found["miscalibration"]), "nothing is known of raters"
    few = made([right, half], threshold=0.3)  # means -1 and 2.6
    assert judged(few, few, without(truth))["f1_mean"] == pytest.approx(2 / 3)
    known = judged(few, few, case_of(np.array([[0.5, 0.5, 0.0, 0.0]]), truth))
    assert known["miscalibration"] == pytest.approx((0.5 + 0) / 4)


def test_fragments_are_counted():
    "Parts that touch at a corner only are two; compared with the parts of the reference's majority."
    picture = np.full((9, 9), 3.0)
    two, four, nothing = picture.copy(), picture.copy(), picture.copy()
    two[1:4, 1:4] = two[5:8, 5:8] = -1
    four[0, 0] = four[1, 1] = four[4:6, 4:6] = four[8, 0] = -1
    reference = made([two, two, nothing])
    for members, expected in (([two, two], 1), ([four, four], 2), ([two, four, nothing], 1), ([nothing, nothing], 0)):
        assert judged(made(members), reference, without(two < 0))["fragments"] == expected
    empty = made([two, nothing, nothing])  # no majority for anything
    assert judged(made([four, four]), empty, without(two < 0))["fragments"] == 4


@pytest.mark.filterwarnings("error")
def test_nothing_uncertain_is_no_error():
    "A certain reference, a certain posterior: no ratio can be told."
    certain, open_ = made(np.full((3, 6, 6), 2.0)), made(np.random.default_rng(0).normal(0, 2, (3, 6, 6)))
    found = judged(open_, certain, case_of(np.zeros((6, 6))))
    assert all(np.isnan(found[name]) for name in ("spread_ratio", "spread_correlation", "disagreement", "raters"))
    found = judged(certain, open_, case_of(np.full((6, 6), 0.5)))
    assert found["spread_ratio"] == found["disagreement"] == found["raters"] == 0
    assert np.isnan(found["spread_correlation"])


def test_pixels_outside_the_image_do_not_count():
    "A case of a study of larger images is padded with NaN."
    probability = np.random.default_rng(0).random((12, 10))
    one = side_by_side(
        {"own": drawn_from(probability, 5), REFERENCE: drawn_from(probability, 9, 1)}, case_of(probability)
    )
    more = {"row": (0, 4), "column": (0, 7)}
    wide = one.drop_vars("inside").pad(more).assign(inside=one["inside"].pad(more, constant_values=False))
    xr.testing.assert_allclose(judge_case(wide), judge_case(one))


# ---- methods and plans


def test_methods_cost_what_their_names_say():
    found = {one.name: one for one in methods("tissue", members=7, seed=3)}
    assert {(one.weights, one.members, one.seed) for one in found.values()} == {("tissue", 7, 3)}
    assert [one.calls for one in found.values()] == sorted(one.calls for one in found.values()), "the cheapest first"
    for name, one in found.items():
        family, _, number = name.rpartition(" ")
        if number.isdecimal():
            assert one.calls == int(number) and family in (one.sampler, "tuned", "flow")
            assert one.final != (family == "flow") and one.start == "initial_estimate" and one.highest is None
    families = {re.sub(r" \d+$", "", name) for name in found if re.search(r" \d+$", name)}
    assert families == set(SAMPLERS) | {"tuned", "flow"} and found["one call"].calls == 1
    assert "fast" not in found and "fast" in {
        one.name for one in methods("tissue_fast")
    }  # only for weights made for it
    for name in QUALITIES[1:]:
        assert found[name].sampling == METHODS[name].sampling
    for which, calls in (("nuclei", 1500), ("glands", 400)):
        paper = METHODS[f"paper-{which}"].sampling
        assert found[f"paper's {which}"].sampling == paper and found[f"paper's {which}"].calls == calls
        assert found[f"authors' {which}"].sampling == paper | {"sampler": "authors"}


def test_the_grid_of_flow_matching_is_that_of_its_path():
    "Noise levels (1 - t) / t at t = 1/3 and 2/3, and what FlowSDF leaves in at the end."
    (one,) = [each for each in methods("nuclei", ()) if each.name == "flow 1"]
    three = replace(one, steps=3)
    header = weights_header("nuclei")
    unit, highest = header["data_scale"], header["schedule"]["sigma_max"]
    levels = flow_levels(three.lowest, highest, three.steps, unit)
    np.testing.assert_allclose(levels, [highest, 2 * unit + 2e-4, unit / 2 + 2e-4, 1e-3 * unit], rtol=1e-6)
    assert three.calls == 3 and three.sampler == "ddim" and three.sampling == METHODS["flow"].sampling


def test_no_method_is_there_twice():
    "But for the default, which is also the point of its family."
    names = {}
    for one in methods("tissue"):
        names.setdefault(tuple(one.sampling.items()), []).append(one.name)
    assert [same for same in names.values() if len(same) > 1] == [["tuned 10", "default"]]


@pytest.mark.parametrize("numbers", [CALLS, (2, 3), (7,), (5, 4, 5)])
def test_every_sampler_of_one_call_per_step_has_every_number(numbers):
    found = methods("tissue", (), numbers)
    assert not [one.name for one in found if "'" in one.name]
    costs = {name: [one.calls for one in found if one.name == f"{name} {one.calls}"] for name in SAMPLERS}
    for name in ("ancestral", "ddim", "dpm", "dpm_sde", "euler_maruyama"):
        assert costs[name] == sorted(set(numbers))
    for name in ("heun", "paper", "score_sde", "authors"):  # two calls per step and one at the end, at most so many
        assert costs[name] == sorted({number - 1 + number % 2 for number in numbers if number > 2})


@pytest.mark.parametrize(
    ("dataset", "weights", "papers", "cases", "crop"),
    [
        ("tissue", "tissue_fast", ["glands", "nuclei"], 8, None),
        ("monuseg", "nuclei", ["nuclei"], 6, 128),
        ("glas", "glands", ["glands"], 6, 128),
    ],
)
def test_plans_are_as_the_data_set_asks(dataset, weights, papers, cases, crop):
    "Weights, number of images, their size and the paper's setting belong to the data set; the long run comes last."
    plan = frontier_plan(dataset, members=5, reference_members=9, seed=2)
    *ways, long = plan.methods
    assert (plan.dataset, plan.split, plan.cases, plan.crop) == (dataset, "validation", cases, crop)
    assert {one.weights for one in plan.methods} == {weights}
    assert [one.name for one in ways if one.name.startswith("paper's")] == [f"paper's {which}" for which in papers]
    assert {(one.members, one.seed) for one in ways} == {(5, 2)} and (long.members, long.seed) == (9, 3)
    assert long.name == REFERENCE and long.sampling == METHODS["reference"].sampling
    assert from_json(to_json(plan)) == plan
    assert frontier_plan(dataset, "my.safetensors", cases=2).methods[0].weights == "my.safetensors"
    with pytest.raises(ValueError, match="weights"):
        frontier_plan("folder")


def test_scenes_come_with_their_posterior():
    "As in a study, but for the truth: what most raters draw."
    model = load_model("tissue")
    paths = study_cases(frontier_plan("tissue", cases=2))
    for one, path in zip(scenes(model, 2), paths, strict=True):
        scene, read = tissue(path.seed), prepare_case(path, TISSUE)
        np.testing.assert_array_equal(one.image, read.image)
        np.testing.assert_array_equal(one.posterior, scene.probability())
        np.testing.assert_array_equal(one.truth, scene.probability() >= 0.5)


# ---- a study and its numbers

SETTINGS = (untuned("dpm_sde", 0, name="one call"), untuned("ddim", 3, name="ddim 4"), untuned("dpm", 2, name="own"))


def small(plan, weights):
    "Three cheap methods of the plan's kind, and a short long run."
    ways = [replace(one, weights=weights, members=3, seed=2) for one in SETTINGS]
    long = untuned("dpm_sde", 4, "geometric", name=REFERENCE, weights=weights, members=4, seed=3)
    return replace(plan, methods=(*ways, long))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def study(tmp_path_factory, weights):
    store = tmp_path_factory.mktemp("study") / "frontier.zarr"
    finish(run_study(small(frontier_plan("tissue", cases=2), weights), store), progress=False)
    return open_study(store)


@pytest.fixture(scope="module")
def result(study):
    return judge(study)


def test_the_judge_of_a_study_is_the_judge_of_its_cases(study, result, weights):
    "Drawn again here, and kept in memory: the same numbers but for the steps in which a store keeps distances."
    model = load_model(weights)
    assert result["way"].values.tolist() == [one.name for one in SETTINGS], "the long run is no candidate"
    assert result["case"].values.tolist() == ["scene 1000", "scene 1001"]
    for path in study_cases(small(frontier_plan("tissue", cases=2), weights)):
        case = prepare_case(path, model.preparation)
        drawn = {
            one.name: ensemble(model, case.image, one, seed=case_seed(one.seed, path.name), progress=False)
            for one in small(frontier_plan("tissue"), weights).methods
        }
        expected = judge_case(side_by_side(drawn, case))
        for name in UNITS:
            found, within = result[name].sel(case=path.name).values, 1 / 256 if name.startswith("spread") else 1e-5
            np.testing.assert_allclose(found, expected[name].values[:-1], atol=within, err_msg=name)
        one = study["f1"].sel(case=path.name, estimator="initial_estimate")
        assert (result["f1_initial_estimate"].sel(case=path.name) == one).all()


def test_numbers_say_what_was_compared(result):
    for k, one in enumerate(SETTINGS):
        assert result["calls"].values[k] == one.calls
        assert {key: str(result[key].values[k]) for key in SAMPLER_FIELDS} == {
            key: str(value) for key, value in one.sampling.items()
        }
    expected = {"title": "sdfdiff frontier", "members": 3, "reference_members": 4, "seed": 2, "weights": "tiny"}
    expected |= {"reference_steps": 4, "reference_sampler": "dpm_sde", "reference_start": "initial_estimate"}
    assert expected.items() <= result.attrs.items() and result.attrs["truth"] == "one simulated rater"
    for name, (unit, meaning) in UNITS.items():
        assert (result[name].attrs["units"], result[name].attrs["long_name"]) == (unit, meaning)


@pytest.mark.parametrize("name", ["tissue", "nuclei", "glands"])
def test_numbers_have_the_form_of_those_that_are_shipped(result, tmp_path, name):
    "What reads one reads the other."
    write_dataset(result, tmp_path / "frontier.nc")
    mine, shipped = read_dataset(tmp_path / "frontier.nc"), read_dataset(ROOT / "data" / f"frontier_{name}.nc")
    xr.testing.assert_identical(mine, result)
    later = {"crps", "group"}  # measured since then
    assert {key: one.dims for key, one in mine.variables.items() if key not in later} == {
        key: one.dims for key, one in shipped.variables.items()
    }
    lost = {"data_scale", "sigma_min", "sigma_max"}  # a study does not keep them
    assert set(shipped.attrs) - set(mine.attrs) <= lost


def test_of_real_images_the_middle_is_drawn(tmp_path, weights):
    "Images of several sizes, one of them smaller than the crop in one direction."
    folder(tmp_path / "data", shapes=((48, 40), (40, 64), (56, 34), (50, 50), (33, 70)))
    plan = replace(small(frontier_plan("folder", weights), weights), split="all", crop=36, cases=3)
    finish(run_study(plan, tmp_path / "a.zarr", tmp_path / "data"), progress=False)
    study = open_study(tmp_path / "a.zarr")
    sizes = list(zip(study["rows"].values.tolist(), study["columns"].values.tolist()))
    assert sizes == [(36, 36), (36, 36), (36, 34)]
    result = judge(study)
    assert result[["spread_ratio", "fragments", "f1_mean"]].notnull().all().to_array().all()
    assert result["raters"].isnull().all() and result.attrs["truth"] == "the annotation"


def test_a_study_without_the_long_run_is_refused(study):
    for part in (study.isel(method=[0, 1]), study.isel(method=[3])):
        with pytest.raises(ValueError, match=r"'long run' and others are needed\.$"):
            judge(part)
    other = judge(study, "own")
    assert other["way"].values.tolist() == ["one call", "ddim 4", "own", REFERENCE]
    assert (other["spread_ratio"].sel(way="own") == 1).all()


def test_a_plan_can_do_without_the_long_run():
    plan = frontier_plan("tissue", only=("flow 3", "default"), against="default")
    assert [one.name for one in plan.methods] == ["flow 3", "default"]
    with pytest.raises(ValueError, match="'flow 3' is not among the ways that are drawn: default"):
        frontier_plan("tissue", only=("default",), against="flow 3")
