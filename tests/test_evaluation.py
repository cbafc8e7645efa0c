"Scores of a data set: counts by other means, both rules, every average, and interruptions that leave no trace."

import errno
from functools import cache
from shutil import copytree

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from small_networks import random_network

from sdfdiff.command import main
from sdfdiff.diffusion.fitting import training_split
from sdfdiff.diffusion.network import Model, save_weights
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.members import Sampling
from sdfdiff.files import write_dataset
from sdfdiff.images.layouts import find_cases, read_case
from sdfdiff.images.preparation import NUCLEI, TISSUE, prepare_image
from sdfdiff.images.synthetic import tissue
from sdfdiff.study import evaluation
from sdfdiff.study.evaluation import (
    COUNTS,
    ESTIMATORS,
    THRESHOLDS,
    estimates,
    evaluate,
    evaluate_case,
    find_split,
    summary,
)

QUICK = {"members": 3, "quality": Sampling(steps=2), "progress": False}
TCGA = [f"TCGA-AA-000{k}-01Z-00-DX1" for k in range(3)]


def tiny(preparation=TISSUE, **about):
    "A small network with random weights, in float32: what it finds does not matter here."
    channels = 3 if preparation.colour == "rgb" else 1
    return Model(random_network(channels), preparation=preparation, about={"name": "tiny", "checksum": "1"} | about)


@cache
def scenes(count):
    "Images as uint8 with their masks, all of different sizes."
    made = [tissue(k, (48 + 4 * k, 64)) for k in range(count)]
    masks = [scene.rate(np.random.default_rng(k)) > 0 for k, scene in enumerate(made)]
    return [(np.round(scene.image * 255).astype(np.uint8), mask) for scene, mask in zip(made, masks)]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "A plain folder of four images with masks."
    folder = tmp_path_factory.mktemp("data")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    for k, (image, mask) in enumerate(scenes(4)):
        Image.fromarray(image).save(folder / "images" / f"{k}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{k}.png")
    return folder


@pytest.fixture(scope="module")
def whole(root):
    "Its scores."
    return evaluated(root)


MODEL = tiny()


def evaluated(root, model=MODEL, split="test", **options):
    return evaluate("folder", root, split, model, **QUICK | options)


def designed(monkeypatch, tables):
    "Let each case have the given counts, one triple for all estimators and thresholds."
    left = iter(tables)

    def evaluate_case(*arguments):
        table = np.broadcast_to(next(left), (len(ESTIMATORS), len(THRESHOLDS), 3))
        return table, {"seconds": 0.0, "uncertainty": 0.1, "object_fraction": 0.2}

    monkeypatch.setattr(evaluation, "evaluate_case", evaluate_case)


# ---- counts


def test_four_estimates_by_hand():
    "Three members of three pixels: one sample, mean, majority and initial estimate all differ."
    distance = np.array([[[-1.0, 3.0, -1.0]], [[-1.0, -2.0, -1.0]], [[5.0, -2.0, 0.4]]], np.float32)
    dataset = xr.Dataset(
        {
            "distance": (("member", "row", "column"), distance),
            "mean": (("row", "column"), distance.mean(axis=0)),
            "initial_estimate": (("row", "column"), np.array([[9.0, 9.0, 0.3]], np.float32)),
        }
    )
    masks = dict(zip(ESTIMATORS, estimates(dataset, 0.0).astype(int).tolist()))
    assert masks == {
        "one_sample": [[1, 0, 1]],
        "mmse": [[0, 1, 1]],
        "majority": [[1, 1, 1]],
        "initial_estimate": [[0, 0, 0]],
    }
    assert estimates(dataset, 0.5)[ESTIMATORS.index("initial_estimate")].tolist() == [[False, False, True]]
    two = dataset.isel(member=slice(0, 2))
    assert estimates(two, 0.0)[ESTIMATORS.index("majority")].all(), "an even vote counts as object"


@pytest.mark.parametrize("model", [MODEL, tiny(NUCLEI)])
def test_counts_by_other_means(root, model):
    "Every pixel looked at on its own, in the ensemble drawn anew."
    case = read_case(find_cases("folder", root, "test")[1])
    table, about = evaluate_case(case, model, seed=4, members=3, quality=QUICK["quality"])
    image = prepare_image(case.image, model.preparation)
    truth = case.labels > 0
    if model.preparation.scale == 0.5:
        truth = truth[1::2, 1::2]  # the pixel at, or right below, the centre of each new one
    fields = ensemble(model, image, 3, QUICK["quality"], 4, progress=False)
    members, mean, initial_estimate = (
        fields[name].values.tolist() for name in ("distance", "mean", "initial_estimate")
    )
    assert table.shape == (len(ESTIMATORS), len(THRESHOLDS), len(COUNTS)) and truth.shape == fields["mean"].shape
    for t, limit in enumerate((0.15, 0.5)):
        found = np.zeros((len(ESTIMATORS), 3), int)
        for row, column in np.ndindex(truth.shape):
            inside = [member[row][column] <= limit for member in members]
            answers = (
                inside[0],
                mean[row][column] <= limit,
                2 * sum(inside) >= 3,
                initial_estimate[row][column] <= limit,
            )
            for e, answer in enumerate(answers):
                found[e, 0 if answer and truth[row, column] else 1 if answer else 2] += answer or truth[row, column]
        assert table[:, t].tolist() == found.tolist()
    assert about["object_fraction"] == pytest.approx(truth.mean()) and about["seconds"] > 0
    assert about["uncertainty"] == pytest.approx(float(fields["mask_std"].mean()))


def test_scores_follow_from_counts(whole):
    result = whole
    hit, extra, missed = (result["counts"].sel(count=name) for name in COUNTS)
    assert (hit > 0).all() and ((hit + missed) == (hit + missed).isel(estimator=0)).all()
    exact = {
        "f1": 2 * hit / (2 * hit + extra + missed),
        "iou": hit / (hit + extra + missed),
        "precision": hit / (hit + extra),
        "recall": hit / (hit + missed),
    }
    for name, value in exact.items():
        for rule in ("zero", "one"):
            np.testing.assert_allclose(result[name].sel(zero_hit=rule), value, rtol=1e-12)
    object_pixels = (hit + extra).sel(threshold="half_pixel") >= (hit + extra).sel(threshold="paper")
    assert object_pixels.all(), "the half-pixel mask contains the paper's"
    assert result["case"].values.tolist() == ["0", "1", "2", "3"]
    assert {result[name].attrs["units"] for name in result.data_vars} == {"px", "1", "s"}


def test_zero_hit_rules(root, monkeypatch):
    "No hit is worth 0 or 1; nothing to find and nothing found is worth 1 in both."
    designed(monkeypatch, [(0, 5, 7), (0, 0, 9), (0, 0, 0), (6, 2, 4)])
    result = evaluated(root).sel(estimator="mmse", threshold="paper")
    assert result["f1"].sel(zero_hit="zero").values.tolist() == [0, 0, 1, pytest.approx(2 / 3)]
    assert result["f1"].sel(zero_hit="one").values.tolist() == [1, 1, 1, pytest.approx(2 / 3)]
    assert result["iou"].sel(zero_hit="zero").values.tolist() == [0, 0, 1, 0.5]
    assert result["iou"].sel(zero_hit="one").values.tolist() == [1, 1, 1, 0.5]


def rows_of(text):
    "The numbers of the table, by estimator and threshold: F1, IoU, both under `one`, both pooled."
    lines = [line.split() for line in text.splitlines()]
    return {
        tuple(words[:2]): [float(word) for word in words[2:8]]
        for words in lines
        if len(words) == 8 and words[0] in ESTIMATORS and words[1] in THRESHOLDS
    }


def test_the_table_names_its_averages(root, monkeypatch):
    "Per image: the mean of the scores. Pooled: the score of all pixels. They differ, and so do the rules."
    tables = np.array([(90, 10, 10), (0, 5, 5), (1, 1, 2), (0, 0, 0)])
    designed(monkeypatch, tables)
    text = summary(evaluated(root))
    hit, extra, missed = tables.sum(axis=0)
    f1, iou = 0.9 + 0.4 + 1, 90 / 110 + 0.25 + 1  # sums over the images, but for the one without a hit
    expected = [
        f1 / 4,
        iou / 4,
        (f1 + 1) / 4,
        (iou + 1) / 4,
        2 * hit / (2 * hit + extra + missed),
        hit / (hit + extra + missed),
    ]
    rows = rows_of(text)
    assert len(rows) == len(ESTIMATORS) * len(THRESHOLDS)
    for row in rows.values():
        np.testing.assert_allclose(row, 100 * np.array(expected), atol=0.005001)
    assert "4 images" in text and "3 members" in text and "tiny" in text and "nan" not in text


def test_the_table_agrees_with_the_dataset(whole):
    for (estimator, threshold), row in rows_of(summary(whole)).items():
        mean = whole.sel(estimator=estimator, threshold=threshold).mean("case")
        values = [float(mean[name].sel(zero_hit=rule)) for rule in ("zero", "one") for name in ("f1", "iou")]
        np.testing.assert_allclose(row[:4], 100 * np.array(values), atol=0.005001)


def test_held_out_cases_are_marked(root, whole):
    result = evaluated(root, tiny(held_out=["1", "3", "elsewhere"]))
    assert result["held_out"].values.tolist() == [False, True, False, True]
    f1 = result["f1"].sel(estimator="mmse", threshold="half_pixel", zero_hit="zero").values
    line = next(line for line in summary(result).splitlines() if "held out" in line)
    assert f"{100 * f1[[1, 3]].mean():.2f}" in line and f"{100 * f1[[0, 2]].mean():.2f}" in line and "2 images" in line
    assert "held out" not in summary(whole)


def test_validation_is_what_training_held_out(root):
    fitted, held_out = training_split(find_cases("folder", root, "train"))
    names = [case.name for case in find_split("folder", root, "validation")]
    assert names == [case.name for case in held_out] and not set(names) & {case.name for case in fitted} and names
    result = evaluated(root, tiny(held_out=names), "validation")
    assert result["case"].values.tolist() == names and result["held_out"].all()


# ---- on disk


def same(one, other):
    "Equal in everything but the time it took."
    xr.testing.assert_identical(one.drop_vars("seconds"), other.drop_vars("seconds"))


def test_numbers_on_disk_are_the_numbers(root, tmp_path):
    result = evaluated(root, tiny(held_out=["2"]), out=tmp_path / "new" / "a.nc", limit=2)
    xr.testing.assert_identical(xr.load_dataset(tmp_path / "new" / "a.nc", engine="h5netcdf"), result)
    assert result.sizes["case"] == 2 and len(list((tmp_path / "new").iterdir())) == 1
    wanted = {"dataset": "folder", "split": "test", "weights": "tiny", "weights_checksum": "1", "members": 3}
    assert {key: result.attrs[key] for key in wanted} == wanted


@pytest.mark.parametrize(("problem", "after"), [(KeyboardInterrupt, 1), (ValueError, 3)])
def test_resume_after_interruption(root, whole, tmp_path, monkeypatch, problem, after):
    out, calls = tmp_path / "a.nc", []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == after + 1:
            raise problem
        return evaluate_case(*arguments)

    monkeypatch.setattr(evaluation, "evaluate_case", interrupted)
    with pytest.raises(problem):
        evaluated(root, out=out)
    assert xr.load_dataset(out, engine="h5netcdf").sizes["case"] == after
    result = evaluated(root, out=out, resume=True)
    assert len(calls) == 5, "cases that were done were measured again"
    same(result, whole)
    same(xr.load_dataset(out, engine="h5netcdf"), whole)
    same(evaluated(root, out=out, resume=True), whole)
    assert len(calls) == 5


def test_limit_then_the_rest(root, whole, tmp_path):
    first = evaluated(root, out=tmp_path / "a.nc", limit=1, resume=True)  # there is nothing to resume yet
    same(first, whole.isel(case=[0]))
    same(evaluated(root, out=tmp_path / "a.nc", limit=9, resume=True), whole)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"members": 2}, "members"),
        ({"seed": 1}, "seed"),
        ({"split": "train"}, "split"),
        ({"quality": Sampling(steps=3)}, "steps"),
        ({"quality": Sampling(steps=2, highest=4.0)}, "highest"),
        ({"model": tiny(checksum="2")}, "weights_checksum"),
    ],
)
def test_other_settings_are_not_mixed(root, whole, tmp_path, change, named):
    write_dataset(whole.isel(case=[0]), tmp_path / "a.nc")
    before = (tmp_path / "a.nc").read_bytes()
    with pytest.raises(ValueError, match=rf"a\.nc was made with other settings \({named}\)"):
        evaluated(root, out=tmp_path / "a.nc", resume=True, **change)
    assert (tmp_path / "a.nc").read_bytes() == before


def no_work(*arguments):
    raise AssertionError("work began")


def test_results_that_are_there_are_kept(root, tmp_path, monkeypatch):
    (tmp_path / "a.nc").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "evaluate_case", no_work)
        with pytest.raises(FileExistsError, match="a.nc.*--force.*--resume"):
            evaluated(root, out=tmp_path / "a.nc")
    assert (tmp_path / "a.nc").read_text() == "mine"
    evaluated(root, out=tmp_path / "a.nc", limit=1, force=True)
    assert xr.load_dataset(tmp_path / "a.nc", engine="h5netcdf").sizes["case"] == 1


@pytest.mark.parametrize("damage", ["text", "empty", "cut", "scrambled", "folder", "foreign"])
def test_a_file_that_cannot_be_continued(root, whole, tmp_path, monkeypatch, damage):
    out = tmp_path / "a.nc"
    write_dataset(whole, out)
    data = out.read_bytes()
    if damage == "folder":
        out.unlink()
        out.mkdir()
    elif damage == "foreign":
        xr.Dataset({"a": ("b", [1, 2])}).to_netcdf(out, engine="h5netcdf")
    else:
        scrambled = data[:3000] + b"x" * 5000 + data[8000:]
        out.write_bytes({"text": b"hello", "empty": b"", "cut": data[: len(data) // 2], "scrambled": scrambled}[damage])
    monkeypatch.setattr(evaluation, "evaluate_case", no_work)
    with pytest.raises((ValueError, OSError)) as problem:
        evaluated(root, out=out, resume=True)
    sentence = str(problem.value)
    assert "a.nc" in sentence and "\n" not in sentence and sentence.endswith(".")
    assert len(sentence.replace(str(out), "")) < 300


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_no_place_for_numbers(root, tmp_path, monkeypatch, force):
    (tmp_path / "a.nc").mkdir()
    monkeypatch.setattr(evaluation, "evaluate_case", no_work)
    with pytest.raises((ValueError, OSError), match="a.nc"):
        evaluated(root, out=tmp_path / "a.nc", force=force)


def test_a_full_disk_leaves_the_last_whole_file(root, whole, tmp_path, monkeypatch):
    out = tmp_path / "a.nc"
    write_dataset(whole.isel(case=[0, 1]), out)
    before = out.read_bytes()

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", full)
    with pytest.raises(OSError, match="No space left"):
        evaluated(root, out=out, resume=True)
    assert out.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["a.nc"]


def test_a_mask_of_another_size_names_both_and_keeps_what_is_done(root, tmp_path):
    root = copytree(root, tmp_path / "data")
    Image.fromarray(np.zeros((40, 41), bool)).save(root / "masks" / "1.png")
    with pytest.raises(ValueError, match=r"masks.1\.png has 40 x 41 pixels, but 1\.png 52 x 64"):
        evaluated(root, out=tmp_path / "a.nc")
    assert xr.load_dataset(tmp_path / "a.nc", engine="h5netcdf")["case"].values.tolist() == ["0"]


def test_same_names_in_several_folders_stay_apart(root, tmp_path):
    root = copytree(root, tmp_path / "data")
    for part in ("images", "masks"):
        (root / "more" / part).mkdir(parents=True)
        (root / part / "0.png").rename(root / "more" / part / "1.png")
    result = evaluated(root)
    assert result.sizes["case"] == 4 and len(set(result["case"].values.tolist())) == 4


# ---- official layouts, through the command


def aperio(corners):
    vertices = "".join(f'<Vertex X="{column}" Y="{row}"/>' for row, column in corners)
    regions = f"<Regions><Region><Vertices>{vertices}</Vertices></Region></Regions>"
    return f"<Annotations><Annotation>{regions}</Annotation></Annotations>"


@pytest.fixture
def weights(tmp_path):
    for name, preparation in (("grey", NUCLEI), ("colour", TISSUE)):
        save_weights(tmp_path / f"{name}.safetensors", tiny(preparation))
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
            str(weights / "numbers.nc"),
            *more,
        ]
    )
    assert code == 0
    return capsys.readouterr().out, xr.load_dataset(weights / "numbers.nc", engine="h5netcdf")


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
    assert "numbers.nc" in out


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
    truth = [float(mask.mean()) for _, mask in scenes(2)]
    assert result["object_fraction"].values.tolist() == pytest.approx(truth)
