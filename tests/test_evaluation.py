"A study of one method: counts by other means, both rules, every average, and a table that says which is which."

import json
from dataclasses import replace

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from small_networks import random_network
from small_studies import folder as plain_folder

from sdfdiff.command import main
from sdfdiff.diffusion.model import Model, load_model, save_weights
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.method import Method, untuned
from sdfdiff.ensembles.objects import objects_of
from sdfdiff.ensembles.segmentation import segment
from sdfdiff.files import write_dataset
from sdfdiff.images.cases import find_cases, hold_out, read_case
from sdfdiff.images.preparation import NUCLEI, TISSUE, prepare_image, prepare_labels
from sdfdiff.images.synthetic import tissue
from sdfdiff.study import evaluation
from sdfdiff.study.evaluation import (
    evaluate,
    evaluate_objects,
    object_summary,
    scores_by_convention,
    summary,
    unseen,
)
from sdfdiff.study.schema import COUNTS, MASKS, THRESHOLDS
from sdfdiff.study.plan import case_seed
from sdfdiff.study.store import open_study
from sdfdiff.uncertainty.calibration import (
    Recalibration,
    calibration_error,
    cross_fitted,
    fit_recalibration,
    reliability,
)
from sdfdiff.uncertainty.instances import instance_scores, instance_sums

TCGA = [f"TCGA-AA-000{k}-01Z-00-DX1" for k in range(3)]
SHAPES = ((48, 64), (52, 64), (56, 64), (60, 64))


def tiny_file(path, preparation=TISSUE, **about):
    "A small network with random weights, as a file: what it finds does not matter here."
    channels = 3 if preparation.colour == "rgb" else 1
    save_weights(path, Model(random_network(channels), preparation=preparation, about={"name": "tiny"} | about))
    return str(path)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "A plain folder of four images with masks."
    return plain_folder(tmp_path_factory.mktemp("data"), SHAPES)


@pytest.fixture(scope="module")
def method(tmp_path_factory):
    "Three members of two steps, from a small network."
    weights = tiny_file(tmp_path_factory.mktemp("weights") / "tiny.safetensors", held_out=["1", "3", "elsewhere"])
    return untuned("dpm_sde", 2, members=3, seed=4, weights=weights, name="quick")


@pytest.fixture(scope="module")
def whole(root, method):
    return evaluate("folder", root, "test", method, progress=False)


def counted(tables):
    "A study with these counts for all masks and thresholds, one triple per case."
    table = np.broadcast_to(np.array(tables)[:, None, None, None], (len(tables), 1, len(MASKS), len(THRESHOLDS), 3))
    labels = {"mask": list(MASKS), "threshold": list(THRESHOLDS), "count": list(COUNTS), "method": ["ours"]}
    labels |= {"held_out": ("case", [False] * len(tables)), "weights": ("method", ["tiny"])}
    data = {"counts": (("case", "method", "mask", "threshold", "count"), table.astype(float))}
    data |= {"drawn": (("case", "method"), np.full((len(tables), 1), 3.0))}
    return xr.Dataset(data, labels, {"dataset": "folder", "split": "test"})


# ---- counts


@pytest.mark.parametrize("preparation", [TISSUE, NUCLEI], ids=["as it is", "half the size, grey"])
def test_counts_by_other_means(root, tmp_path, preparation):
    "Every pixel looked at on its own, in the ensemble drawn anew."
    weights = tiny_file(tmp_path / "own.safetensors", preparation)
    method = untuned("dpm_sde", 2, members=3, seed=4, weights=weights)
    table = evaluate("folder", root, "test", method, cases=2, progress=False)["counts"].isel(case=1, method=0)
    case, model = read_case(find_cases("folder", root, "test")[1]), load_model(weights)
    truth = case.labels > 0
    if preparation.scale == 0.5:
        truth = prepare_labels(truth, model.preparation) > 0
        quarters = (case.labels > 0).reshape(len(truth), 2, -1, 2).sum(axis=(1, 3))
        assert (truth[quarters > 2]).all() and not truth[quarters < 2].any()
    seed = case_seed(method.seed, case.name)
    fields = ensemble(model, prepare_image(case.image, model.preparation), method, seed=seed, progress=False)
    members, mean, initial = (fields[name].values.tolist() for name in ("distance", "mean", "initial_estimate"))
    for threshold, limit in (("paper", 0.15), ("half_pixel", 0.5)):
        found = np.zeros((len(MASKS), 3), int)
        for row, column in np.ndindex(truth.shape):
            inside = [member[row][column] <= limit for member in members]
            answers = inside[0], mean[row][column] <= limit, 2 * sum(inside) >= 3, initial[row][column] <= limit
            for m, answer in enumerate(answers):
                found[m, 0 if answer and truth[row, column] else 1 if answer else 2] += answer or truth[row, column]
        assert table.sel(threshold=threshold).transpose("mask", "count").values.tolist() == found.tolist()


def test_scores_follow_from_counts(whole):
    found = scores_by_convention(whole)
    assert all(one.attrs == {"units": "1"} for one in found.data_vars.values())
    hit, extra, missed = (whole["counts"].sel(count=name) for name in COUNTS)
    assert (hit > 0).any() and ((hit + missed) == (hit + missed).isel(mask=0)).all()
    exact = {"f1": 2 * hit / (2 * hit + extra + missed), "iou": hit / (hit + extra + missed)}
    exact |= {"precision": hit / (hit + extra), "recall": hit / (hit + missed)}
    for name, value in exact.items():
        for rule in ("zero", "one"):
            np.testing.assert_allclose(found[name].sel(zero_hit=rule).where(hit > 0), value.where(hit > 0), rtol=1e-12)
    assert ((hit + extra).sel(threshold="half_pixel") >= (hit + extra).sel(threshold="paper")).all()
    assert whole["case"].values.tolist() == ["0", "1", "2", "3"] and "row" not in whole.dims
    for name in ("mmse", "majority", "initial_estimate"):
        own = found["f1"].sel(mask=name, threshold="half_pixel", zero_hit="zero", drop=True)
        np.testing.assert_allclose(whole["f1"].sel(estimator=name, drop=True), own)


def test_zero_hit_rules():
    "No hit is worth 0 or 1; nothing to find and nothing found is worth 1 in both."
    found = scores_by_convention(counted([(0, 5, 7), (0, 0, 9), (0, 0, 0), (6, 2, 4)]))
    found = found.isel(method=0).sel(mask="mmse", threshold="paper")
    assert found["f1"].sel(zero_hit="zero").values.tolist() == [0, 0, 1, pytest.approx(2 / 3)]
    assert found["f1"].sel(zero_hit="one").values.tolist() == [1, 1, 1, pytest.approx(2 / 3)]
    assert found["iou"].sel(zero_hit="zero").values.tolist() == [0, 0, 1, 0.5]
    assert found["iou"].sel(zero_hit="one").values.tolist() == [1, 1, 1, 0.5]


# ---- the table


def rows_of(text):
    "The numbers of the table, by mask and threshold: F1, IoU, both under `one`, both pooled."
    lines = [line.split() for line in text.splitlines()]
    found = [words for words in lines if len(words) == 8 and words[0] in MASKS and words[1] in THRESHOLDS]
    return {tuple(words[:2]): [float(word) for word in words[2:8]] for words in found}


def test_the_table_names_its_averages():
    "Per image: the mean of the scores. Pooled: the score of all pixels. They differ, and so do the rules."
    tables = np.array([(90, 10, 10), (0, 5, 5), (1, 1, 2), (0, 0, 0)])
    text = summary(counted(tables))
    hit, extra, missed = tables.sum(axis=0)
    f1, iou = 0.9 + 0.4 + 1, 90 / 110 + 0.25 + 1  # sums over the images, but for the one without a hit
    expected = [f1 / 4, iou / 4, (f1 + 1) / 4, (iou + 1) / 4, 2 * hit / (2 * hit + extra + missed)]
    expected += [hit / (hit + extra + missed)]
    rows = rows_of(text)
    assert len(rows) == len(MASKS) * len(THRESHOLDS)
    for row in rows.values():
        np.testing.assert_allclose(row, 100 * np.array(expected), atol=0.005001)
    assert "4 images" in text and "3 members" in text and "tiny" in text and "nan" not in text


def test_held_out_cases_are_marked(whole):
    assert whole["held_out"].values.tolist() == [False, True, False, True]
    f1 = whole["f1"].sel(estimator="mmse").values[:, 0]
    line = next(line for line in summary(whole).splitlines() if "held out" in line)
    assert f"{100 * f1[[1, 3]].mean():.2f}" in line and f"{100 * f1[[0, 2]].mean():.2f}" in line and "2 images" in line
    assert "held out" not in summary(counted([(1, 1, 1)]))


def of_training(*names):
    return Model(random_network(3), preparation=TISSUE, about={"held_out": list(names)})


def test_by_default_no_image_is_measured_that_the_weights_were_trained_on(tmp_path):
    root = plain_folder(tmp_path / "data", [(32, 32)] * 5)
    today = [case.name for case in hold_out(find_cases("folder", root, "train"), "folder")[1]]
    other = [name for name in "01234" if name not in today][:2]
    assert unseen("folder", root, of_training(*today)) == ("validation", None)
    assert unseen("folder", root, of_training(*other)) == ("train", other)  # images were added since
    assert unseen("folder", root, of_training("TCGA-1", "TCGA-2")) == ("test", None)  # trained on something else
    assert unseen("folder", root, of_training()) == ("test", None)
    assert unseen("folder", root.rename(tmp_path / "train"), of_training(*other)) == ("train", other)
    for dataset, split in (("raters", "validation"), ("glas", "test"), ("monuseg", "test")):
        assert unseen(dataset, tmp_path, of_training(*today)) == (split, None)
    assert unseen("folder", tmp_path / "nowhere", of_training("1")) == ("test", None)  # refused where it is read


def test_a_folder_for_testing_is_taken_whole(tmp_path):
    "Its images are others than those of the same names that were held out."
    plain_folder(tmp_path / "both" / "train", [(32, 32)] * 4)
    plain_folder(tmp_path / "both" / "test", [(32, 32)] * 3)
    assert unseen("folder", tmp_path / "both", of_training("2")) == ("test", None)
    assert unseen("folder", tmp_path / "both" / "test", of_training("2")) == ("test", None)


def test_validation_is_what_training_held_out(root, method):
    fitted, held_out = hold_out(find_cases("folder", root, "train"), "folder")
    names = [case.name for case in held_out]
    found = evaluate("folder", root, "validation", method, progress=False)
    assert found["case"].values.tolist() == names and not set(names) & {case.name for case in fitted} and names


# ---- on disk


def test_a_store_that_stays_is_the_same(root, method, whole, tmp_path):
    "And it is a study like any other: it continues, it can be opened."
    first = evaluate("folder", root, "test", method, out=tmp_path / "a.zarr", progress=False)
    again = evaluate("folder", root, "test", method, out=tmp_path / "a.zarr", resume=True, progress=False)
    xr.testing.assert_identical(first, whole)
    xr.testing.assert_identical(again, whole)
    study = open_study(tmp_path / "a.zarr")
    assert study["mean"].dims == ("case", "method", "row", "column") and "image" not in study


def test_same_names_in_several_folders_stay_apart(tmp_path, method):
    root = plain_folder(tmp_path / "data", SHAPES[:3])
    for part in ("images", "masks"):
        (root / "more" / part).mkdir(parents=True)
        (root / part / "0.png").rename(root / "more" / part / "1.png")
    found = evaluate("folder", root, "test", method, progress=False)
    assert found.sizes["case"] == 3 and len(set(found["case"].values.tolist())) == 3


# ---- official layouts, through the command


def scenes(count):
    "Images as uint8 with their masks, all of different sizes."
    made = [tissue(k, shape) for k, shape in zip(range(count), SHAPES)]
    return [(np.round(one.image * 255).astype(np.uint8), one.rate(np.random.default_rng(0)) > 0) for one in made]


def aperio(corners):
    vertices = "".join(f'<Vertex X="{column}" Y="{row}"/>' for row, column in corners)
    regions = f"<Regions><Region><Vertices>{vertices}</Vertices></Region></Regions>"
    return f"<Annotations><Annotation>{regions}</Annotation></Annotations>"


@pytest.fixture
def weights(tmp_path):
    for name, preparation in (("grey", NUCLEI), ("colour", TISSUE)):
        tiny_file(tmp_path / f"{name}.safetensors", preparation)
    return tmp_path


def measured(capsys, weights, dataset, root, name, *more):
    code = main(
        [
            "evaluate",
            dataset,
            "--root",
            str(root),
            "--weights",
            str(weights / f"{name}.safetensors"),
            "--members",
            "2",
            "--sampler",
            "dpm_sde",
            "--steps",
            "2",
            "--out",
            str(weights / "numbers.zarr"),
            "--force",
            *more,
        ]
    )
    assert code == 0
    return capsys.readouterr().out, open_study(weights / "numbers.zarr")


def test_monuseg_test_layout(weights, capsys):
    "NAME.tif beside NAME.xml, flat: a square drawn as a polygon has a known area."
    root = weights / "MoNuSegTestData"
    root.mkdir()
    for name, (image, _) in zip(TCGA, scenes(3)):
        Image.fromarray(image).save(root / f"{name}.tif")
        (root / f"{name}.xml").write_text(aperio([(10, 20), (10, 39), (29, 39), (29, 20)]))
    out, result = measured(capsys, weights, "monuseg", root, "grey")
    assert result["case"].values.tolist() == TCGA and "3 images" in out and len(rows_of(out)) == 8
    assert result["group"].values.tolist() == [name[:12] for name in TCGA]
    assert (result["counts"].sel(count=["true_positive", "false_negative"]).sum("count") == 10 * 10).all()
    assert "numbers.zarr" in out


@pytest.mark.parametrize("suffix", [".bmp", ".png"])
def test_glas_test_layout(weights, capsys, suffix):
    "testA_N and testB_N beside testA_N_anno; training images in the same folder do not count."
    root = weights / "glas"
    root.mkdir()
    for name, (image, mask) in zip(("testA_1", "testB_2", "train_1"), scenes(3)):
        Image.fromarray(image).save(root / f"{name}{suffix}")
        Image.fromarray(mask.astype(np.uint8) * 3).save(root / f"{name}_anno{suffix}")
    out, result = measured(capsys, weights, "glas", root, "colour", "--limit", "5")
    assert result["case"].values.tolist() == ["testA_1", "testB_2"] and "2 images" in out
    assert result["truth"].sum(("row", "column")).values.tolist() == [mask.sum() for _, mask in scenes(2)]


# ---- objects


@pytest.fixture
def one_by_one(tmp_path):
    "Three images with masks; of two of them the objects are known one by one, in a folder of label images."
    for k in range(3):
        scene = tissue(k, (64, 72))
        labels = scene.rate(np.random.default_rng(k))
        for part, picture in {"images": np.round(scene.image * 255).astype(np.uint8), "masks": labels > 0}.items():
            (tmp_path / "data" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(tmp_path / "data" / part / f"{k}.png")
        if k:
            (tmp_path / "instances").mkdir(exist_ok=True)
            Image.fromarray(labels.astype(np.uint16)).save(tmp_path / "instances" / f"{k}.png")
    return tmp_path


def test_objects_are_measured_where_they_are_known(one_by_one):
    "The sums are those of the label image that `objects_of` gives; what has a mask only is left out, aloud."
    method = Method(weights="tissue", members=4)
    options = {"instances": one_by_one / "instances", "progress": False}
    found = evaluate_objects("folder", one_by_one / "data", "test", method, **options)
    assert found["case"].values.tolist() == ["1", "2"] and found.attrs["without_instances"] == "0"
    for case in find_cases("folder", one_by_one / "data", instances=one_by_one / "instances")[1:]:
        read = read_case(case)
        labels, table = objects_of(segment(read.image, "tissue", method, progress=False))
        own = instance_sums(labels, read.labels, hausdorff=True)
        assert all(own[name] == found[name].sel(case=case.name) for name in own)
        mine = found.isel(object=found["case_name"].values == case.name)
        assert mine["exists"].values.tolist() == table["exists"].values.tolist() and mine["iou"].max() > 0.5
    words = object_summary(found)
    for word in ("2 images", "4 members", "left out, as their objects are not known one by one: 0", "as one set"):
        assert word in words
    pooled = instance_scores(found.drop_dims("object").sum("case"))
    assert f"{float(pooled['aji']):.3f}" in words.split("as one set")[1]
    first = evaluate_objects("folder", one_by_one / "data", "test", method, 1, **options)
    assert first["case"].values.tolist() == ["1"]
    with pytest.raises(ValueError, match="no image whose objects are known one by one"):
        evaluate_objects("folder", one_by_one / "data", "test", method, progress=False)
    with pytest.raises(ValueError, match="needs 2"):
        evaluate_objects("folder", one_by_one / "data", "test", replace(method, members=1), **options)


def measured_objects(cases, groups, held, split="validation", exists=None):
    "Twenty objects a case; P(exists) promises more than it keeps."
    generator = np.random.default_rng(0)
    promised = generator.integers(0, 5, (len(cases), 20)) / 4 if exists is None else np.full((len(cases), 20), exists)
    there = generator.random(promised.shape) < 0.1 + 0.7 * promised
    data = {"exists": ("object", promised.ravel()), "iou": ("object", 0.8 * there.ravel())}
    data["case_name"] = "object", np.repeat(cases, 20)
    coords = {"case": cases, "group": ("case", groups), "held_out": ("case", held)}
    about = {"dataset": "folder", "split": split, "weights": "made", "members": 4}
    return xr.Dataset(data, coords, about)


def test_p_exists_is_calibrated_on_patients_that_are_new():
    "The fit is that of all objects of new patients; its error is that of each patient by a fit to the others."
    method, model = Method(members=4), Model(random_network(), about={"checksum": "c", "chosen_on": ["e"]})
    found = measured_objects(list("abcdef"), list("PPQRRS"), [True] * 5 + [False])
    said = json.loads(evaluation._calibration(found, model, method)["calibration"])
    own = found.isel(object=slice(80))  # e was chosen on, f was learned from
    table = reliability(own["exists"], own["iou"] > 0.5, dim="object")
    how = fit_recalibration(table, 4)
    assert (said["slope"], said["offset"], said["members"]) == (how.slope, how.offset, 4) and 0 < how.slope < 1
    assert (said["objects"], said["images"], said["patients"], said["data"]) == (80, 4, 3, "folder validation")
    names = ("weights", "weights_checksum", "sampler", "calls_per_member", "views")
    assert [said[name] for name in names] == ["made", "c", "dpm", 10, 1]
    each = [own.isel(object=slice(20 * k, 20 * k + 20)) for k in range(4)]
    each = xr.concat([reliability(one["exists"], one["iou"] > 0.5, dim="object") for one in each], "case")
    assert said["error"] == float(calibration_error(cross_fitted(each, 4, list("PPQR"))[0].sum("case")))
    assert said["error"] < said["error_before"] == float(calibration_error(table)), "on patients left out of the fit"
    seen = measured_objects(list("ab"), list("PQ"), [False] * 2)
    assert evaluation._calibration(seen, model, method) == {}, "all were learned from"
    assert "calibration" in evaluation._calibration(seen.assign_attrs(split="test"), model, method)
    for none in (measured_objects(["a"], ["P"], [True]), measured_objects(["a", "b"], ["P", "P"], [True] * 2)):
        assert evaluation._calibration(none, model, method) == {}, "one patient says nothing of others"
    right = found.assign(iou=0 * found["iou"] + 1)
    assert evaluation._calibration(right, model, method) == {}, "no false object: nothing to correct"


def test_a_calibration_is_used_by_segment_and_judged_by_evaluate(tmp_path):
    method = Method("one_call", 0, members=3, weights="tissue_fast", name="fast")
    found = evaluate_objects("tissue", None, "test", method, 3, progress=False)
    said = json.loads(found.attrs["calibration"])
    assert said["patients"] == 3 and said["objects"] == found.sizes["object"] and said["data"] == "tissue test"
    words = object_summary(found)
    assert f"calibrated on {said['objects']} objects on 3 images of 3 patients: {said['error']:.3f}, each" in words
    write_dataset(found, tmp_path / "a.nc")
    drawn = segment(tissue(9, (64, 64)).image, "tissue_fast", method, calibration=tmp_path / "a.nc", progress=False)
    table = objects_of(drawn)[1]
    how = Recalibration(3, said["slope"], said["offset"])
    assert (table["exists_calibrated"] == how(table["exists"])).all() and json.loads(table.attrs["calibration"]) == said
    again = evaluate_objects("tissue", None, "test", method, 2, progress=False, calibration=tmp_path / "a.nc")
    assert (again["exists_calibrated"] == how(again["exists"])).all()
    assert "P(exists) as calibrated before: calibration error" in object_summary(again)
    again.attrs.pop("calibration")
    assert "no calibration of P(exists): it needs right and false objects of 2 patients" in object_summary(again)
    with pytest.warns(UserWarning, match=r"a.nc: P\(exists\) was calibrated for something else \(members 3, now 2\)"):
        segment(
            tissue(9, (64, 64)).image, "tissue_fast", method, members=2, calibration=tmp_path / "a.nc", progress=False
        )
    with pytest.raises(ValueError, match=r"a.nc was measured with other weights \(tissue_fast\): measure with those"):
        segment(tissue(9, (64, 64)).image, "tissue", calibration=tmp_path / "a.nc")
    write_dataset(found.drop_attrs().assign_attrs(title="other"), tmp_path / "b.nc")
    for name, error, why in (
        ("b.nc", ValueError, "holds no calibration"),
        ("c.nc", FileNotFoundError, "does not exist"),
    ):
        with pytest.raises(error, match=f"{name} {why}.*`sdfdiff evaluate --objects --out` writes") as problem:
            segment(tissue(9, (64, 64)).image, "tissue_fast", calibration=tmp_path / name)
        assert "\n" not in str(problem.value)


def test_the_size_of_pixels_counts_for_objects_too(one_by_one, monkeypatch):
    seen = []
    measure = evaluation._measured_objects
    monkeypatch.setattr(
        evaluation, "_measured_objects", lambda case, *a, **b: seen.append(case.microns) or measure(case, *a, **b)
    )
    method = Method(weights="tissue", members=2, steps=1)
    options = {"instances": one_by_one / "instances", "progress": False, "microns": 0.31}
    evaluate_objects("folder", one_by_one / "data", "test", method, 1, **options)
    assert seen == [0.31]
