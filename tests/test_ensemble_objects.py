"Objects of an ensemble: by hand, against loops over masks, with members that are raters, and degenerate cases."

import json
import warnings

import numpy as np
import pytest
from skimage.color.colorconv import rgb_from_hed
from skimage.measure import regionprops_table
from small_networks import CALIBRATION

from sdfdiff.distance import signed_distance
from sdfdiff.ensembles.collection import label
from sdfdiff.ensembles.objects import objects_of
from sdfdiff.files import read_dataset, write_dataset
from sdfdiff.images.synthetic import tissue
from sdfdiff.uncertainty.calibration import Recalibration, calibration_error, reliability
from sdfdiff.uncertainty.instances import split
from sdfdiff.uncertainty.objects import match_objects

UNSURE = ("exists", "area_std", "split", "merged", "margin")


def made(distances, estimate=None, scale=1, **about):
    "An ensemble with these members, px; its initial estimate is their mean unless given."
    distances = np.asarray(distances, np.float32)
    share, mean = (distances <= 0).mean(0), distances.mean(0)
    fields = {
        "image": (("channel", "row", "column"), np.zeros((1, *mean.shape), np.float32)),
        "distance": (("member", "row", "column"), distances),
        "area": (("every_member",), (distances <= 0).sum((1, 2))),
        "mean": mean,
        "probability": share.astype(np.float32),
        "initial_estimate": mean if estimate is None else np.asarray(estimate, np.float32),
    }
    about = {"threshold_px": 0.0, "members": len(distances), "weights": "made", "stain": "none"} | about
    return label(fields, about, tuple(scale * n for n in mean.shape))


def squares(*boxes, shape=(40, 60)):
    "Labels of rectangles: (row, column, rows, columns)."
    labels = np.zeros(shape, np.int32)
    for k, (row, column, rows, columns) in enumerate(boxes, start=1):
        labels[row : row + rows, column : column + columns] = k
    return labels


def distances(*labels):
    return [signed_distance(one, 10, "half_pixel") for one in labels]


def test_by_hand():
    "One object is in every member; one in half of them, larger once; a pair is one object in a quarter of them."
    left, right = (5, 40, 10, 8), (5, 48, 10, 8)
    sure, unsure, larger = (20, 5, 12, 12), (20, 30, 8, 8), (20, 30, 8, 10)
    whole = squares(sure, unsure, left, right)
    members = [whole] * 3 + [squares(sure, larger, left, right)]
    members += [squares(sure, left, right)] * 2 + [squares(sure, (5, 40, 10, 16))] * 2
    dataset = made(distances(*members), distances(whole)[0])
    labels, table = objects_of(dataset)
    assert (
        labels.dtype == np.int32 and ((labels > 0) == (whole > 0)).all() and table["id"].values.tolist() == [1, 2, 3, 4]
    )
    order = [whole[labels == k][0] for k in (1, 2, 3, 4)]
    assert order == [3, 4, 1, 2], "reading order"
    value = {name: dict(zip(order, table[name].values.tolist())) for name in table}
    assert value["exists"][1] == 1 and np.isclose(value["exists"][2], 4 / 8)
    half = (0.5 - 0.2) / 0.6  # the IoU of a square with a pair of such squares
    assert np.allclose([value["exists"][3], value["exists"][4]], (6 + 2 * half) / 8)
    assert [value["merged"][k] for k in (1, 2, 3, 4)] == [0, 0, 0.25, 0.25] and not table["split"].any()
    assert value["area"] == {1: 144, 2: 64, 3: 80, 4: 80} and value["area_std"][1] == 0
    assert np.isclose(value["area_std"][2], np.std([64, 64, 64, 80], ddof=1)) and value["area_std"][3] == 0
    assert np.isclose(value["margin"][1], 5.5) and value["margin"][2] < -3
    assert np.isclose(value["row"][1], 25.5) and np.isclose(value["column"][2], 33.5)
    assert np.isclose(value["probability"][2], 0.5) and value["probability"][1] == 1


def test_a_calibration_adds_a_column_and_changes_no_other():
    "The log odds of P(exists), times the slope, plus the offset; the column says whose objects it was fitted to."
    sure, unsure = (20, 5, 12, 12), (20, 30, 8, 8)
    members = distances(squares(sure, unsure), squares(sure), squares(sure))
    dataset = made(members, calibration=json.dumps(CALIBRATION | {"data": "glas validation"}))
    dataset["probability"][:] = squares(sure, unsure) > 0
    plain, table = objects_of(dataset.assign_attrs(calibration="none"))[1], objects_of(dataset)[1]
    assert {*table} == {*plain} | {"exists_calibrated"} and table.sizes["object"] == 2
    assert table.drop_vars("exists_calibrated").drop_attrs().identical(plain.drop_attrs())
    odds = np.log((3 * table["exists"] + 0.5) / (3 * (1 - table["exists"]) + 0.5))
    assert np.allclose(table["exists_calibrated"], 1 / (1 + np.exp(1 - 0.5 * odds)))
    assert (
        np.ptp(table["exists"].values) > 0.5
        and (table["exists_calibrated"] == Recalibration(3, 0.5, -1)(table["exists"])).all()
    )
    words = table["exists_calibrated"].attrs["long_name"]
    assert "70 objects on 4 images of 3 patients (glas validation)" in words and "calibration" in table.attrs


def test_split_in_members():
    "Shown is one object; in three members of four a line cuts it."
    one, two = squares((10, 10, 12, 24)), squares((10, 10, 12, 12), (10, 22, 12, 12))
    dataset = made(distances(one, two, two, two), distances(one)[0])
    labels, table = objects_of(dataset)
    assert labels.max() == 1 and table["split"].item() == 0.75 and table["merged"].item() == 0
    dust = squares((10, 10, 12, 22), (10, 32, 12, 2))  # a tenth of it is no second object
    assert objects_of(made(distances(one, dust), distances(one)[0]), least=1)[1]["split"].item() == 0


def loop(labels, members, threshold):
    "The five uncertainties from masks, object after object, member after member."
    rows = []
    for k in range(1, labels.max() + 1):
        mine, exists, areas, several, merged, deepest = labels == k, [], [], 0, 0, []
        for distance in members:
            own = split(distance, None, 0.25, 0.3, 16, threshold=threshold)
            others = [own == j for j in range(1, own.max() + 1)]
            ious = [(mine & b).sum() / (mine | b).sum() for b in others] or [0]
            exists.append(min(max((max(ious) - 0.2) / 0.6, 0), 1))
            areas += [others[j].sum() for j in range(len(others)) if ious[j] > 0.5]
            within = [b for b in others if (mine & b).sum() > b.sum() / 2 and (mine & b).sum() >= mine.sum() / 5]
            several += len(within) >= 2
            for b in others:
                if (mine & b).sum() > mine.sum() / 2:
                    held = [(b & (labels == j)).sum() > (labels == j).sum() / 2 for j in range(1, labels.max() + 1)]
                    merged += sum(held) >= 2
            deepest.append((threshold - distance[mine]).max())
        std = np.std(areas, ddof=1) if len(areas) > 1 else np.nan
        rows.append((np.mean(exists), std, several / len(members), merged / len(members), min(deepest)))
    return np.transpose(rows)


def test_against_a_loop():
    scene = tissue(3, (90, 100))
    raters = [scene.rate(np.random.default_rng(k)) for k in range(6)]
    members = distances(*[np.roll(one, k, 1) for k, one in enumerate(raters)], raters[0] > 0)
    dataset = made(members)
    labels, table = objects_of(dataset)
    right = loop(labels, dataset["distance"].values, 0.0)
    assert labels.max() > 6 and (table["merged"].any() or table["split"].any())
    for name, values in zip(UNSURE, right):
        assert np.allclose(table[name], values, equal_nan=True, atol=1e-4), name


def test_pixels_of_the_image_and_micrometres():
    "At half the resolution: the image's pixels count, and um beside them; uncertainty is scaled as well."
    whole = squares((5, 5, 12, 12), (20, 30, 8, 9))
    members = distances(whole, whole, squares((5, 5, 12, 14), (20, 30, 8, 9)))
    small, (labels, table) = objects_of(made(members))[1], objects_of(made(members, scale=2), microns=0.25)
    assert labels.shape == (80, 120) and table.attrs["microns"] == 0.25 and small.sizes == table.sizes
    assert np.allclose(table["area"] / small["area"], 4, rtol=0.05)
    assert np.allclose(table["row"], 2 * small["row"] + 0.5, atol=0.2)
    for name, factor in {"area_std": 4, "margin": 2, "exists": 1, "split": 1}.items():
        assert np.allclose(table[name], factor * small[name]), name
    for name, power in {"row": 1, "column": 1, "area": 2, "perimeter": 1, "area_std": 2, "margin": 1}.items():
        assert np.allclose(table[f"{name}_um"], table[name] * 0.25**power)
        assert table[f"{name}_um"].attrs["units"] == "um²" * (power == 2) + "um" * (power == 1)
    assert not [name for name in small if name.endswith("_um")] and "eccentricity_um" not in table
    assert objects_of(made(members, microns=0.5))[1].attrs["microns"] == 0.5
    sizes = {"height": 2.0, "least": 200.0, "opening": 2.0, "holes": 4.0}
    own = objects_of(made(members, scale=2), **sizes)[1]
    assert own.sizes["object"] == 2 and {**sizes}.items() <= own.attrs.items()
    assert objects_of(made(members, scale=2), least=400)[1].sizes["object"] == 1


def test_touching_objects_are_split_by_the_estimate():
    "The mask of touching objects is one piece; the initial estimate knows the line between them."
    two = squares((10, 10, 12, 12), (10, 22, 12, 12))
    blind = distances(two > 0)[0]
    assert objects_of(made([blind] * 2, distances(two)[0]))[0].max() == 2
    assert objects_of(made([blind] * 2, blind))[0].max() == 1


def test_raters_as_members_keep_their_word():
    "If the truth is one more member, P(exists) is calibrated and finds false objects: 30 scenes, 16 members."
    promised, iou = [], []
    for seed in range(30):
        scene = tissue(seed, (72, 72))
        raters = [scene.rate(np.random.default_rng((seed, k))) for k in range(17)]
        dataset = made(distances(*raters[1:]))
        labels, table = objects_of(dataset)
        promised.append(table["exists"].values)
        iou.append(match_objects(dataset["probability"].values, labels, raters[0])[0]["iou"])
    promised, right = np.concatenate(promised)[None], np.concatenate(iou)[None] > 0.5
    assert calibration_error(reliability(promised, right), 5) < 0.08 and right.size > 150
    assert promised[right].mean() > promised[~right].mean() + 0.1


def test_shapes_are_those_of_regionprops():
    scene = tissue(7, (128, 128))
    parts = distances(scene.rate(np.random.default_rng(0)))
    labels, table = objects_of(made(parts * 2), least=1)
    assert labels.max() > 10
    right = regionprops_table(labels, properties=("centroid", "area", "perimeter", "eccentricity"))
    for name, values in zip(("row", "column", "area", "perimeter", "eccentricity"), right.values()):
        assert np.allclose(table[name], values), name


def test_one_member_says_nothing_about_uncertainty():
    with pytest.warns(UserWarning, match="1 member: how sure an object is needs at least 2"):
        labels, table = objects_of(made(distances(squares((5, 5, 12, 12)))))
    assert labels.max() == 1 and table["area"].item() == 144
    assert all(np.isnan(table[name]).all() and table[name].attrs["units"] for name in UNSURE)


def test_no_object_and_all_object(tmp_path):
    far, deep = np.full((20, 30), 5.0), np.full((20, 30), -5.0)
    image = np.full((20, 30, 3), 0.5, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels, none = objects_of(made([far, far]), image, microns=0.5)
        assert labels.max() == 0 and none.sizes["object"] == 0
        labels, one = objects_of(made([deep, deep]), image, microns=0.5)
    assert (labels == 1).all() and one["exists"].item() == 1 and one["area"].item() == 600
    assert list(none) == list(one), "the same columns"
    write_dataset(none, tmp_path / "none.nc")
    write_dataset(one, tmp_path / "one.nc")
    assert read_dataset(tmp_path / "one.nc", "sdfdiff objects", ("area",), "sdfdiff segment").identical(one)
    assert all(one[name].attrs["long_name"] for name in one)


def test_small_objects_are_kept_if_asked():
    "An object that no pixel of the network shows: nothing is known of it, and nothing fails."
    speck = squares((4, 4, 1, 1), (10, 10, 8, 8), shape=(24, 24))
    dataset = made(distances(speck, speck), scale=1)
    table = objects_of(dataset, least=1)[1]
    assert table.sizes["object"] == 2 and table["exists"].values.tolist() == [1, 1]
    assert np.isnan(objects_of(dataset, least=1)[1]["eccentricity"]).sum() == 0


@pytest.mark.parametrize("stain", ["haematoxylin", "none"])
def test_dyes(stain):
    "Known amounts of two dyes in two objects come back; without dyes it is the optical density."
    whole = squares((5, 5, 12, 12), (20, 30, 8, 8))
    colours = rgb_from_hed[[0, 2]] / np.linalg.norm(rgb_from_hed[[0, 2]], axis=1, keepdims=True)
    amounts = np.zeros((*whole.shape, 2))
    amounts[whole == 1], amounts[whole == 2] = (1.2, 0.1), (0.3, 0.8)
    image = np.exp(-amounts @ colours)
    table = objects_of(made(distances(whole, whole), stain=stain), image)[1]
    if stain == "haematoxylin":
        assert np.allclose(table["haematoxylin"], [1.2, 0.3], atol=1e-3)
        assert np.allclose(table["dab"], [0.1, 0.8], atol=1e-3)
    else:
        density = -np.log(image).mean(2)
        assert np.allclose(table["density"], [density[whole == k].mean() for k in (1, 2)], atol=1e-3)
        assert "haematoxylin" not in table
    grey = objects_of(made(distances(whole, whole), stain=stain), image.mean(2))[1]
    assert np.allclose(grey["density"][0], -np.log(image.mean(2)[whole == 1][0]), atol=1e-3)


def test_haematoxylin_and_eosin_are_told_apart():
    "Dyes of H&E are fitted to the image: nuclei have more haematoxylin than what is around them has."
    scene = tissue(5)
    nuclei = scene.rate(np.random.default_rng(0))
    rest = np.where(nuclei > 0, 0, 1)
    tables = [objects_of(made(distances(part, part), stain="vahadane"), scene.image)[1] for part in (nuclei, rest)]
    largest = [table.isel(object=int(table["area"].values.argmax())) for table in tables]
    ratio = [float(one["haematoxylin"] / one["eosin"]) for one in largest]
    assert ratio[0] > 1.5 * ratio[1]


def test_refusals():
    dataset = made(distances(*[squares((5, 5, 12, 12))] * 2))
    with pytest.raises(ValueError, match="microns is 0"):
        objects_of(dataset, microns=0)
    with pytest.raises(ValueError, match="20 x 60 pixels.*40 x 60"):
        objects_of(dataset, np.zeros((20, 60)))
    with pytest.raises(ValueError, match="`least` is -1"):
        objects_of(dataset, least=-1)


def test_a_table_is_a_data_frame():
    pytest.importorskip("pandas")
    frame = objects_of(made(distances(*[squares((5, 5, 12, 12), (20, 30, 8, 8))] * 2)))[1].to_dataframe()
    assert len(frame) == 2 and {"id", "row", "column", "area", *UNSURE} <= {*frame.columns}
