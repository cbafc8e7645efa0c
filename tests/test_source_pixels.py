"Answers of networks with pixels of their own, judged in those of the image: right there, and in micrometres."

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from small_networks import one_call_network, random_network

from benchmarks import source_pixels
from benchmarks.source_pixels import (
    CALLS,
    ESTIMATORS,
    QUANTITIES,
    ceiling,
    differences,
    judged,
    measured,
    small_glands,
    text,
)
from sdfdiff.diffusion.fitting import SETTINGS
from sdfdiff.diffusion.model import Model, save_weights
from sdfdiff.distance import signed_distance
from sdfdiff.images.cases import Case
from sdfdiff.images.preparation import Preparation, prepare_labels

TRUTH = np.zeros((24, 36), bool)
TRUTH[2:12, 8:32] = True


def drawn(masks, shape=TRUTH.shape):
    "An ensemble of these masks, for a source of this shape."
    distance = np.stack([signed_distance(one, 10.0, "half_pixel") for one in masks])
    planes = {"mean": distance.mean(0), "initial_estimate": distance[0], "probability": (distance <= 0).mean(0)}
    data = {name: (("row", "column"), one) for name, one in planes.items()}
    about = {"threshold_px": 0.0, "source_rows": shape[0], "source_columns": shape[1]}
    return xr.Dataset(data | {"distance": (("member", "row", "column"), distance)}, attrs=about)


def test_members_that_are_right_have_no_error():
    found = measured(drawn([TRUTH, TRUTH]), TRUTH, 1.24)
    assert (found["f1"][1] == 1).all() and (found["iou"][1] == 1).all()
    assert found["crps"][1] == found["variance"][1] == found["squared_error"][1] == 0
    assert np.isnan(found["auroc"][1])  # nothing to find
    assert dict(zip(("pixels", "truths"), (found[f"p_{name}"][1].sum() for name in ("pixels", "truths")))) == {
        "pixels": TRUTH.size,
        "truths": TRUTH.sum(),
    }


def test_distances_are_in_micrometres_of_the_image():
    "Pixels twice as large: the same masks, twice the CRPS, four times the squares."
    wrong = [np.roll(TRUTH, 3, axis=1), np.roll(TRUTH, 1, axis=0)]
    small, large = (measured(drawn(wrong), TRUTH, microns, reach=10 * microns) for microns in (1.0, 2.0))
    np.testing.assert_array_equal(small["f1"][1], large["f1"][1])
    np.testing.assert_allclose(
        [large["crps"][1], large["variance"][1]], [2 * small["crps"][1], 4 * small["variance"][1]]
    )
    np.testing.assert_allclose(large["squared_error"][1], 4 * small["squared_error"][1])
    assert small["crps"][1] > 0 and small["f1"][1][0] < 1


def test_a_stretched_answer_is_judged_unstretched():
    "The truth at half the rows, and at a third of the columns: brought back, it lies where it was."
    seen = prepare_labels(TRUTH, Preparation("none", "rgb", 1.0, (12, 12))) > 0
    found = measured(drawn([seen, seen], TRUTH.shape), TRUTH, 1.0)
    assert (found["f1"][1] > 0.93).all()
    other = measured(drawn([seen.T, seen.T], TRUTH.shape), TRUTH, 1.0)
    assert (other["f1"][1] < 0.8).all()


def test_the_ceiling_falls_with_the_pixels():
    assert ceiling(TRUTH, TRUTH) == 1
    fine = np.indices(TRUTH.shape).sum(0) % 4 < 2
    coarse = [prepare_labels(fine, Preparation("none", "rgb", 1.0, size)) > 0 for size in ((18, 27), (6, 9))]
    assert 1 > ceiling(fine, coarse[0]) > ceiling(fine, coarse[1])


@pytest.fixture(scope="module")
def table():
    "Two small networks that see an image at half its size, and at 16 by 16 pixels."
    rng = np.random.default_rng(0)
    image = rng.random((*TRUTH.shape, 3), dtype=np.float32)
    network = one_call_network(3)
    models = {
        name: Model(network, preparation=Preparation("none", "rgb", 0.5, size))
        for name, size in (("glands", None), ("glands_paper", (16, 16)), ("glands_small", None))
    }
    models["glands_earlier"] = Model(random_network(3), preparation=models["glands_paper"].preparation)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_pixels, "MEMBERS", 3)
        cases = [Case(name, image, TRUTH.astype(np.int32), name, microns=1.24) for name in ("one", "two")]
        return xr.concat([judged(case, models) for case in cases], "case")


def test_each_way_is_a_row_with_noise_of_its_own(table):
    assert table["f1"].dims == ("case", "way", "estimator") and table.sizes["way"] == 3 * len(CALLS) + 1
    assert table["estimator"].values.tolist() == list(ESTIMATORS) and set(QUANTITIES) <= set(table.data_vars)
    np.testing.assert_array_equal(table["p_truths"].sum("bin"), TRUTH.sum())
    ceilings = table["ceiling"].isel(case=0).values
    assert ceilings[0] == ceilings[1] == ceilings[4] == ceilings[5] != ceilings[2] == ceilings[3] == ceilings[6]
    initial = table["f1"].sel(estimator="initial_estimate").values
    np.testing.assert_array_equal(initial[:, :6:2], initial[:, 1:6:2])  # one call or ten: the same encoder
    member = table["crps"].values
    assert (member[0] != member[1]).all()  # the same image under another name


def test_differences_are_paired_and_of_the_same_calls(table):
    "Two names for one network differ in nothing; the others by the mean of what they differ in each image."
    same = differences(table, "glands_small", "glands", "ten calls")
    assert all(not value.any() for name, value in same.items() if name != "auroc")
    crps = table["crps"].sel(way=["glands_paper, one call", "glands, one call"]).values
    np.testing.assert_allclose(
        differences(table, "glands_paper", "glands", "one call")["crps"][0], -np.diff(crps).mean()
    )


def test_what_is_printed_says_how_many(table):
    lines = text(table).splitlines()
    assert lines[0] == "2 images of 2 patients" and sum("spread/error" in line for line in lines) == 3 * len(CALLS) + 1
    assert sum("[" in line for line in lines) == 5 * (len(ESTIMATORS) + 3)
    without = text(table.isel(way=slice(4))).splitlines()
    assert sum("[" in line for line in without) == 2 * (len(ESTIMATORS) + 3)


def test_the_control_differs_in_its_preparation_only(tmp_path, monkeypatch):
    asked = {}

    def trained(*words, **settings):
        asked.update(settings, words=words)
        save_weights(words[2], Model(one_call_network(3)))

    monkeypatch.setattr(source_pixels, "fit", trained)
    out = tmp_path / "glands_small.safetensors"
    first = small_glands(tmp_path, out).about["checksum"]
    paper = SETTINGS["glas_paper"]
    assert asked["setting"] == replace(paper, preparation=SETTINGS["glas"].preparation) != paper
    assert asked["resume"] and not asked["validate"] and asked["words"][:2] == ("glas", tmp_path)
    monkeypatch.setattr(source_pixels, "fit", None)
    assert small_glands(tmp_path, out).about["checksum"] == first  # kept
