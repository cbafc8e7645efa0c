"The frontier: judgements with known answers, ways that cost what they say, and measurements that go on where they stopped."

import re
from dataclasses import asdict, replace
from functools import cache

import numpy as np
import pytest
import xarray as xr
from PIL import Image
from small_networks import random_network

from benchmarks import frontier
from benchmarks.frontier import CALLS, UNITS, examples, judge, measure, ways
from sdfdiff.diffusion.model import Model
from sdfdiff.diffusion.sampling import SAMPLERS
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.method import METHODS, QUALITIES, untuned
from sdfdiff.images.cases import Prepared, find_cases
from sdfdiff.images.preparation import NUCLEI, TISSUE
from sdfdiff.images.synthetic import tissue
from sdfdiff.uncertainty.metrics import counts

SETTINGS = {
    "one call": untuned("dpm_sde", 0),
    "ancestral 3": untuned("ancestral", 2),
    "ddim 4": untuned("ddim", 3),
    "own": untuned("dpm", 2),
}


# ---- judgements


def made(distance, threshold=0.5):
    "An ensemble of given members, (member, row, column), as `judge` needs it."
    distance = np.asarray(distance, np.float32)
    fields = {"distance": distance, "mean": distance.mean(axis=0), "std": distance.std(axis=0, ddof=1)}
    named = {name: (("member", "row", "column")[-field.ndim :], field) for name, field in fields.items()}
    return xr.Dataset(named, attrs={"threshold_px": threshold})


def drawn_from(probability, members, seed=0):
    "Members whose pixels are drawn on their own: -1 with the given probability, else +2."
    return made(np.where(np.random.default_rng(seed).random((members, *probability.shape)) < probability, -1.0, 2.0))


def example(probability, truth=None):
    truth = probability >= 0.5 if truth is None else truth
    return Prepared(np.zeros((1, *probability.shape), np.float32), truth, truth.shape, posterior=probability)


def test_perfect_raters_are_judged_perfect():
    "Whole masks of synthetic tissue's own raters, against the posterior that they are drawn from."
    scene, generator = tissue(1000), np.random.default_rng(0)
    one, other = (made([np.where(scene.rate(generator) > 0, -1.0, 2.0) for _ in range(400)]) for _ in range(2))
    exact = scene.probability()
    found = judge(one, other, example(exact))
    assert found["raters"] == pytest.approx(1, abs=0.05) and found["disagreement"] == pytest.approx(1, abs=0.08)
    assert found["spread_ratio"] == pytest.approx(1, abs=0.05) and found["spread_correlation"] > 0.99
    by_chance = np.sqrt(2 / np.pi) * np.sqrt(exact * (1 - exact) / 400).mean()
    assert by_chance / 2 < found["miscalibration"] < 1.5 * by_chance


@pytest.mark.parametrize("members", [2, 3, 10])
def test_disagreement_has_no_bias(members):
    "On average right, also with two members."
    probability = np.random.default_rng(1).random((150, 150))
    found = judge(drawn_from(probability, members), drawn_from(probability, 500, 1), example(probability))
    assert found["raters"] == pytest.approx(1, abs=0.03) and found["disagreement"] == pytest.approx(1, abs=0.03)


def test_an_ensemble_agrees_with_itself():
    one = made(np.random.default_rng(0).normal(0, 2, (9, 20, 24)))
    found = judge(one, one, example(np.random.default_rng(1).random((20, 24))))
    assert all(
        found[name] == pytest.approx(1, rel=1e-6) for name in ("spread_ratio", "spread_correlation", "disagreement")
    )
    assert found["spread"] == pytest.approx(float(one["std"].mean()), rel=1e-6)
    assert list(found) and set(found) == set(UNITS) and all(isinstance(value, float) for value in found.values())


def test_spread_is_compared_in_size_and_in_place():
    members = np.random.default_rng(0).normal(0, 1, (50, 16, 16)) * np.linspace(0.1, 2, 16)
    one, half, turned = made(members), made(members / 2), made(members[:, :, ::-1])
    case = Prepared(None, np.ones((16, 16), bool), (16, 16))
    assert judge(half, one, case)["spread_ratio"] == pytest.approx(0.5, rel=1e-6)
    assert judge(half, one, case)["spread_correlation"] == pytest.approx(1, rel=1e-6)
    assert judge(turned, one, case)["spread_ratio"] == pytest.approx(1, rel=1e-6)
    assert judge(turned, one, case)["spread_correlation"] < -0.9


def test_scores_by_hand():
    "Single members, the first eight only; and the mask of the mean, at the ensemble's own threshold."
    truth = np.array([[True, True, False, False]])
    right, half = [[-1.0, 0.2, 1.0, 1.0]], [[-1.0, 5.0, 1.0, 1.0]]  # F1 1 and 2/3
    wrong = [[1.0, 1.0, -1.0, -1.0]]
    one = made([right] * 4 + [half] * 4 + [wrong] * 30, threshold=0.3)
    found = judge(one, one, Prepared(None, truth, truth.shape))
    assert found["f1_one"] == pytest.approx((1 + 2 / 3) / 2) and found["f1_mean"] == 0
    assert np.isnan(found["raters"]) and np.isnan(found["miscalibration"]), "nothing is known of raters"
    few = made([right, half], threshold=0.3)  # means -1 and 2.6
    assert judge(few, few, Prepared(None, truth, truth.shape))["f1_mean"] == pytest.approx(2 / 3)
    assert judge(few, few, example(np.array([[0.5, 0.5, 0.0, 0.0]]), truth))["miscalibration"] == pytest.approx(
        (0.5 + 0) / 4
    )


def test_fragments_are_counted():
    "Parts that touch at a corner only are two; compared with the parts of the reference's majority."
    picture = np.full((9, 9), 3.0)
    two, four, nothing = picture.copy(), picture.copy(), picture.copy()
    two[1:4, 1:4] = two[5:8, 5:8] = -1
    four[0, 0] = four[1, 1] = four[4:6, 4:6] = four[8, 0] = -1
    reference = made([two, two, nothing])
    for members, expected in (([two, two], 1), ([four, four], 2), ([two, four, nothing], 1), ([nothing, nothing], 0)):
        assert judge(made(members), reference, Prepared(None, two < 0, two.shape))["fragments"] == expected
    empty = made([two, nothing, nothing])  # no majority for anything
    assert judge(made([four, four]), empty, Prepared(None, two < 0, two.shape))["fragments"] == 4


@pytest.mark.filterwarnings("error")
def test_nothing_in_doubt_is_no_error():
    "A certain reference, a certain posterior: no ratio can be told."
    certain, open_ = made(np.full((3, 6, 6), 2.0)), made(np.random.default_rng(0).normal(0, 2, (3, 6, 6)))
    found = judge(open_, certain, example(np.zeros((6, 6))))
    assert all(np.isnan(found[name]) for name in ("spread_ratio", "spread_correlation", "disagreement", "raters"))
    found = judge(certain, open_, example(np.full((6, 6), 0.5)))
    assert found["spread_ratio"] == found["disagreement"] == found["raters"] == 0 and np.isnan(
        found["spread_correlation"]
    )


# ---- ways


def test_ways_cost_what_their_names_say():
    found = ways()
    for name, one in found.items():
        family, _, number = name.rpartition(" ")
        if number.isdecimal():
            assert one.calls == int(number) and family in (one.sampler, "tuned")
            assert one.final and one.start == "initial_estimate" and one.highest is None
    families = {re.sub(r" \d+$", "", name) for name in found if re.search(r" \d+$", name)}
    assert families == {
        "ancestral",
        "ddim",
        "dpm",
        "dpm_sde",
        "heun",
        "euler_maruyama",
        "paper",
        "score_sde",
        "authors",
        "tuned",
    }
    assert found["one call"].calls == 1 and {name: found[name] for name in QUALITIES} == METHODS
    assert (found["paper's nuclei"], found["paper's glands"]) == (METHODS["paper-nuclei"], METHODS["paper-glands"])
    assert (
        found["authors' nuclei"] == replace(METHODS["paper-nuclei"], sampler="authors")
        and found["authors' glands"].calls == 400
    )


def test_no_way_is_there_twice():
    "But for the default, which is also the point of its family."
    found = ways()
    names = {}
    for name, one in found.items():
        names.setdefault(one, []).append(name)
    assert [same for same in names.values() if len(same) > 1] == [["tuned 10", "default"]]


@pytest.mark.parametrize("numbers", [CALLS, (2, 3), (7,), (5, 4, 5)])
def test_every_way_of_one_call_per_step_has_every_number(numbers):
    found = ways((), numbers)
    assert not [name for name in found if "'" in name]
    costs = {
        family: [one.calls for name, one in found.items() if name == f"{family} {one.calls}"] for family in SAMPLERS
    }
    for family in ("ancestral", "ddim", "dpm", "dpm_sde", "euler_maruyama"):
        assert costs[family] == sorted(set(numbers))
    for family in ("heun", "paper", "score_sde", "authors"):  # two calls per step and one at the end, at most so many
        assert costs[family] == sorted({number - 1 + number % 2 for number in numbers if number > 2})


# ---- images


def tiny(preparation=TISSUE, **about):
    channels = 3 if preparation.colour == "rgb" else 1
    return Model(random_network(channels), preparation=preparation, about={"name": "tiny", "checksum": "1"} | about)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    "A folder of images with masks, one smaller than the crop and one larger in one direction only."
    folder = tmp_path_factory.mktemp("data")
    for part in ("images", "masks"):
        (folder / part).mkdir()
    shapes = [(48, 64), (80, 40), (96, 101), (40, 40), (77, 64), (64, 99), (90, 91), (34, 95), (64, 64), (50, 50)]
    for k, shape in enumerate(shapes):
        scene = tissue(k, shape)
        Image.fromarray(np.round(scene.image * 255).astype(np.uint8)).save(folder / "images" / f"{k}.png")
        Image.fromarray(scene.rate(np.random.default_rng(k)) > 0).save(folder / "masks" / f"{k}.png")
    return folder


def test_tissue_scenes_come_with_their_posterior():
    found = examples("tissue", tiny(), 3)
    for seed, one in enumerate(found, start=1000):
        scene = tissue(seed)
        assert one.name == f"scene {seed}" and np.array_equal(one.image, np.moveaxis(scene.image, -1, 0))
        assert np.array_equal(one.posterior, scene.probability()) and np.array_equal(one.truth, one.posterior >= 0.5)


@pytest.mark.parametrize("size", [20, 64, 1000])
@pytest.mark.parametrize("preparation", [TISSUE, NUCLEI])
def test_crops_of_the_validation_images(root, preparation, size):
    "Around the centre, never larger than the image; truth and image stay on top of each other; no training image."
    model = tiny(preparation)
    validation = find_cases("folder", root, "validation")
    assert len(validation) >= 2
    whole = examples("folder", model, 100, root, 10**6)
    assert [one.name for one in whole] == [case.name for case in validation]
    for one, all_of_it in zip(examples("folder", model, 100, root, size), whole):
        rows, columns = all_of_it.truth.shape
        assert one.image.shape[1:] == one.truth.shape == (min(rows, size), min(columns, size)) and one.posterior is None
        up, left = ((n - min(n, size)) // 2 for n in (rows, columns))
        window = slice(up, up + size), slice(left, left + size)
        assert np.array_equal(one.truth, all_of_it.truth[window]) and np.array_equal(
            one.image, all_of_it.image[:, *window]
        )
    assert len(examples("folder", model, 1, root)) == 1


@pytest.mark.parametrize("dataset", ["monuseg", "glas", "folder"])
def test_a_data_set_needs_its_folder(dataset):
    with pytest.raises(ValueError, match=f"^The data set {dataset} needs its folder: [^\n]*\\.$"):
        examples(dataset, tiny(), 1)


# ---- measurements


@cache
def cases():
    return examples("tissue", tiny(), 2)


@pytest.fixture(autouse=True)
def short_reference(monkeypatch):
    monkeypatch.setitem(METHODS, "reference", untuned("dpm_sde", 4, "geometric"))


@pytest.fixture
def asked(monkeypatch):
    "What was drawn: (members, quality, seed, kept)."
    found = []

    def counted(model, image, members, quality, seed, keep, **options):
        found.append((members, quality, seed, keep))
        return ensemble(model, image, quality, members=members, seed=seed, keep=keep, **options)

    monkeypatch.setattr(frontier, "ensemble", counted)
    return found


def measured(settings=SETTINGS, model=None, images=None, **options):
    options = {"members": 3, "reference_members": 4, "seed": 2, "progress": False} | options
    return measure(model or tiny(), cases() if images is None else images, settings, **options)


@pytest.fixture(scope="module")
def whole():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "reference", untuned("dpm_sde", 4, "geometric"))
        return measured()


def test_measure_is_judge_of_every_way_and_case(whole):
    assert whole["way"].values.tolist() == sorted(SETTINGS, key=lambda name: SETTINGS[name].calls), "the cheapest first"
    assert whole["case"].values.tolist() == ["scene 1000", "scene 1001"]
    for name, one in SETTINGS.items():
        part = whole.sel(way=name)
        assert part["calls"] == one.calls
        assert {key: str(part[key].item()) for key in asdict(one)} == {
            key: str(value) for key, value in asdict(one).items()
        }
    for case in cases():
        reference = ensemble(tiny(), case.image, "reference", members=4, seed=3, progress=False)
        own = ensemble(tiny(), case.image, SETTINGS["own"], members=3, seed=2, progress=False)
        for key, value in judge(own, reference, case).items():
            assert whole[key].sel(way="own", case=case.name).item() == pytest.approx(value, nan_ok=True), key
            assert (whole[key].attrs["units"], whole[key].attrs["long_name"]) == UNITS[key]
        hit, extra, missed = counts(own["initial_estimate"].values <= own.attrs["threshold_px"], case.truth)
        assert whole["f1_initial_estimate"].sel(case=case.name).item() == pytest.approx(
            2 * hit / max(1, 2 * hit + extra + missed)
        )
    expected = {
        "members": 3,
        "reference_members": 4,
        "seed": 2,
        "weights": "tiny",
        "weights_checksum": "1",
        "reference_steps": 4,
    }
    assert expected.items() <= whole.attrs.items()


def test_measurement_goes_on_where_it_stopped(whole, tmp_path, asked, monkeypatch):
    "Interrupted after each way in turn; no way is measured twice; the file is at every moment whole."
    out, calls, real = tmp_path / "frontier.nc", [], frontier.write_dataset

    def written(dataset, *arguments, **options):
        real(dataset, *arguments, **options)
        calls.append(dataset.sizes["way"])
        raise KeyboardInterrupt

    monkeypatch.setattr(frontier, "write_dataset", written)
    for done in range(1, len(SETTINGS) + 1):
        with pytest.raises(KeyboardInterrupt):
            measured(out=out)
        assert calls[-1] == xr.load_dataset(out).sizes["way"] == done
    each = [(one, sum(quality == one for _, quality, _, _ in asked)) for one in SETTINGS.values()]
    assert all(count == len(cases()) for _, count in each), "every way once for every image"
    assert {call for call in asked if call[1] == "reference"} == {(4, "reference", 3, 4)}
    assert {call[::2] + call[3:] for call in asked if call[1] != "reference"} == {(3, 2, 3)}
    asked.clear()
    result = measured(out=out)
    assert not asked, "nothing is missing, not even a reference is drawn"
    xr.testing.assert_identical(result, whole)
    xr.testing.assert_identical(xr.load_dataset(out, engine="h5netcdf"), whole)


def test_more_ways_can_be_added(whole, tmp_path):
    out = tmp_path / "frontier.nc"
    measured({name: SETTINGS[name] for name in ("own", "one call")}, out=out)
    result = measured(out=out, workers=2)
    assert sorted(result["way"].values.tolist()) == sorted(SETTINGS)
    xr.testing.assert_identical(result.sel(way=whole["way"]), whole)
    few = measured({"own": SETTINGS["own"]}, out=out)
    assert few.sizes["way"] == len(SETTINGS), "what was measured earlier stays"


@pytest.mark.parametrize(("change", "words"), [
    ({"members": 4}, "members"), ({"reference_members": 5}, "reference_members"), ({"seed": 1}, "seed"),
    ({"images": "fewer"}, "case"), ({"model": tiny(checksum="2")}, "weights_checksum"),
    ({"model": replace(tiny(), reach=1.0)}, "reach_px"),
    ({"settings": SETTINGS | {"own": untuned("dpm", 2, stochasticity=0.5)}}, "own"),
])  # fmt: skip
def test_a_file_of_other_settings_is_refused(change, words, tmp_path, asked):
    out = tmp_path / "frontier.nc"
    measured({"own": SETTINGS["own"]}, out=out)
    before = out.read_bytes()
    asked.clear()
    if change.get("images") == "fewer":
        change = {"images": cases()[:1]}
    with pytest.raises(ValueError) as problem:
        measured(out=out, **change)
    sentence = str(problem.value)
    assert f"({words})" in sentence and str(out) in sentence and "\n" not in sentence and sentence.endswith(".")
    assert out.read_bytes() == before and not asked


def test_another_reference_is_refused(tmp_path, monkeypatch):
    measured({"own": SETTINGS["own"]}, out=tmp_path / "frontier.nc")
    monkeypatch.setitem(METHODS, "reference", untuned("dpm_sde", 5, "geometric"))
    with pytest.raises(ValueError, match="reference_steps"):
        measured(out=tmp_path / "frontier.nc")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"members": 1}, "1 members"),
        ({"reference_members": 1}, "2 for the reference"),
        ({"images": []}, "0 images"),
        ({"settings": {}}, "0 ways"),
    ],
)
def test_what_cannot_be_judged_is_not_begun(options, words, asked):
    with pytest.raises(ValueError) as problem:
        measured(**options)
    assert words in str(problem.value) and str(problem.value).endswith(".") and not asked


def test_a_damaged_file_and_a_wrong_place_are_named(tmp_path, asked):
    (tmp_path / "frontier.nc").write_bytes(b"not a dataset")
    with pytest.raises(ValueError, match="no netCDF file"):
        measured(out=tmp_path / "frontier.nc")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="name a folder"):
        measured(out=tmp_path / "file" / "frontier.nc")
    assert not asked, "before anything is drawn"


def test_progress_counts_calls(capsys):
    measured(progress=True)
    assert f"{sum(one.calls for one in SETTINGS.values())}/" in capsys.readouterr().err
