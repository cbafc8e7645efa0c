"Competitors: a fair clock, the same edges, the same levels, and what averaging finished tiles does to a posterior."

import subprocess
import sys
from configparser import ConfigParser
from dataclasses import replace
from importlib.metadata import packages_distributions
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_networks import one_call_network, random_network

from benchmarks import competitors
from benchmarks.competitors import (
    DRIVERS,
    OPTIONAL,
    SCHEDULERS,
    STATISTICS,
    TILINGS,
    drivers,
    finished_tiles,
    interleaved,
    race_drivers,
    race_tiles,
    scheduled,
    versions,
)
from benchmarks.distances import LIBRARIES, blobs, framed, race_distances, transforms
from sdfdiff.diffusion.model import Model
from sdfdiff.diffusion.network import Features
from sdfdiff.diffusion.oracle import GaussianField
from sdfdiff.diffusion.sampling import SAMPLERS, gaussian, geometric_levels, karras_levels, last, member_generators
from sdfdiff.distance import signed_distance
from sdfdiff.ensembles.members import Denoiser, draw_members, tile_windows
from sdfdiff.ensembles.method import METHODS, untuned
from sdfdiff.images.cases import Prepared

ROOT = Path(__file__).resolve().parents[1]
SMALL = {"sizes": (32, 48), "truncations": (5, 10), "batches": (1, 3), "boundaries": ("inner",), "seconds": 0.02}
find_spec = competitors.find_spec


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    "As if no competitor were installed: what is tested is ours."
    monkeypatch.setattr(competitors, "find_spec", lambda name: None)


@pytest.fixture
def installed(monkeypatch):
    "The competitor itself, for the tests that compare with it; they are skipped where it is missing."

    def needed(module):
        pytest.importorskip(module)
        monkeypatch.setattr(competitors, "find_spec", lambda name: find_spec(name) if name == module else None)

    return needed


# ---- the clock


def test_calls_take_turns_and_the_first_round_does_not_count():
    now, order, cost = [0.0], [], {"a": iter([100.0, 3.0, 1.0, 2.0]), "b": iter([50.0, 5.0, 4.0, 9.0])}

    def run(name):
        order.append(name)
        now[0] += next(cost[name])

    seen = interleaved({name: lambda name=name: run(name) for name in "ab"}, rounds=3, clock=lambda: now[0])
    assert order == list("abababab")
    assert seen == {"a": (1.0, 2.0), "b": (4.0, 5.0)} and len(STATISTICS) == 2


def test_the_clock_stops_when_time_is_spent_but_not_before_one_round():
    now, runs = [0.0], []

    def slow():
        runs.append(0)
        now[0] += 10.0

    assert interleaved({"slow": slow}, rounds=50, seconds=1.0, clock=lambda: now[0]) == {"slow": (10.0, 10.0)}
    assert len(runs) == 2


# ---- what is installed


def test_competitors_are_an_optional_group():
    "settings.ini names each of them in `bench`, and none in what users need."
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf8")
    about, packages = settings["DEFAULT"], packages_distributions()
    for module in OPTIONAL.values():
        names = [name.lower() for name in packages.get(module, [])]
        assert not names or any(f"{name}>=" in about["bench_requirements"] for name in names), module
    for word in ("monai", "edt", "opencv", "diffusers"):
        assert word in about["bench_requirements"] and word not in about["requirements"]
        assert (word in about["lab_requirements"]) == (word in about["comparisons_requirements"]) == (word == "monai")


def test_no_competitor_is_imported_before_it_is_asked_for():
    names = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if not path.stem.startswith("__"))
    code = f"import sys\nfor name in {names}: __import__('benchmarks.' + name)\nimport benchmarks.__main__\n"
    code += f"print(sorted({set(OPTIONAL.values())} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


def test_missing_libraries_are_named_and_leave_nan():
    assert versions() == dict.fromkeys(OPTIONAL, "not installed")
    assert list(transforms()) == ["SciPy"] and set(drivers(True)) == set(DRIVERS) - set(SCHEDULERS)
    raced = race_distances(**SMALL)
    assert list(raced.library.values) == list(LIBRARIES)
    assert raced.sel(library=["OpenCV", "edt", "MONAI"]).isnull().all()
    assert raced.sel(library=["sdfdiff", "SciPy"]).notnull().all()
    two = replace(METHODS["default"], members=2)
    tiles = race_tiles(white(), np.zeros((1, 96, 96), np.float32), two, tile=64, overlap=32, rounds=1)
    assert tiles.spread_overlap.isnull().values.tolist() == [False, False, True]


# ---- signed distances


@pytest.mark.parametrize("name", LIBRARIES[1:])
@pytest.mark.parametrize("boundary", ["inner", "half_pixel"])
def test_framed_transforms_are_the_signed_distance(boundary, name, installed):
    if name in OPTIONAL:
        installed(OPTIONAL[name])
    masks = np.concatenate([blobs(2, 40), np.eye(40, dtype=bool)[None]])
    ours = np.stack([signed_distance(mask, 7, boundary) for mask in masks])
    np.testing.assert_allclose(framed(name, transforms()[name], masks, 7, boundary), ours, atol=1e-5)


def test_blobs():
    assert blobs(2, 33).shape == (2, 33, 33) and blobs(2, 33).dtype == bool
    assert np.array_equal(blobs(1, 50), blobs(1, 50)) and not np.array_equal(blobs(1, 50), blobs(1, 50, seed=1))
    large = blobs(1, 600)[0]
    assert np.array_equal(large[512:], large[:88]) and 0.1 < large.mean() < 0.4


def test_too_large_batches_are_left_out():
    raced = race_distances(**SMALL | {"largest": 32**2 * 3})
    ours = raced.sel(library="sdfdiff", statistic="minimum", boundary="inner", truncation=5)
    assert np.isnan(ours.sel(size=48, batch=3)) and ours.sel(size=48, batch=1) > 0
    least, median = (raced.sel(statistic=name, drop=True) for name in STATISTICS)
    assert ((least <= median) | least.isnull()).all()


# ---- diffusers


@pytest.mark.parametrize("spaced", [geometric_levels, karras_levels])
@pytest.mark.parametrize("ours, theirs", list(zip(("ddim", "dpm", "dpm_sde"), SCHEDULERS)))
def test_diffusers_reproduces_our_samplers(ours, theirs, spaced, installed):
    installed("diffusers")
    field, levels = GaussianField((16, 16), length=2.0), spaced(0.01, 5, 9)
    noisy = levels[0] * gaussian((3, 1, 16, 16), member_generators(0, range(3)))
    states = list(scheduled(theirs, field, noisy, levels, member_generators(1, range(3))))
    mine = list(SAMPLERS[ours](field, noisy, levels, member_generators(1, range(3)), final=True))
    assert len(states) == len(mine) == 10
    torch.testing.assert_close(states[-1], mine[-1], atol=1e-5, rtol=0)
    torch.testing.assert_close(states[4], mine[4], atol=1e-4, rtol=0)


def test_unipc_is_another_method_with_the_same_aim(installed):
    installed("diffusers")
    field, levels = GaussianField((16, 16), length=2.0), geometric_levels(0.01, 5, 9)
    noisy = levels[0] * gaussian((64, 1, 16, 16), member_generators(0, range(64)))
    sample = last(scheduled("diffusers UniPC", field, noisy, levels))
    assert abs(float(sample.std()) / field.deviation - 1) < 0.15
    fine = last(SAMPLERS["dpm"](field, noisy, geometric_levels(0.01, 5, 200), final=True))
    assert np.corrcoef(sample.flatten(), fine.flatten())[0, 1] > 0.99


def judged(rounds=1, network=None):
    "All drivers of a small network on one image of random pixels."
    model = Model(network or one_call_network(), about={"name": "tiny"})
    image, truth = np.random.default_rng(0).random((1, 64, 64), dtype=np.float32), blobs(1, 64)[0]
    case = Prepared(image, truth, truth.shape, None, truth * 0.8)
    return race_drivers(model, [case], members=3, reference_members=3, rounds=rounds)


def test_drivers_are_judged_side_by_side():
    raced = judged()
    assert list(raced.driver.values) == list(DRIVERS)
    ours = raced.sel(driver=[name for name in DRIVERS if name not in SCHEDULERS])
    for one in (ours.seconds, ours.miscalibration, ours.raters, ours.f1_mean, ours.spread_correlation):
        assert one.notnull().all()
    assert (ours.spread_ratio > 0).all() and raced.sel(driver=list(SCHEDULERS)).isnull().all().to_array().all()
    reference = raced.seconds.sel(driver="sdfdiff reference", statistic="minimum")
    assert reference > raced.seconds.sel(driver="sdfdiff draft", statistic="minimum")
    assert list(judged(network=random_network()).driver.values) == list(DRIVERS)[1:], "no generator, no one call"


def test_diffusers_drives_our_network(installed):
    installed("diffusers")
    raced = judged()
    assert raced.sel(driver=list(SCHEDULERS)).notnull().all().to_array().all()


# ---- tiles

DEVIATION = 0.04  # far below where distances are cut


class White:
    "Stands in for a network whose posterior is known: independent Gaussian pixels."

    architecture, weight = SimpleNamespace(multiple=16, probability=False, one_call=()), torch.zeros(1)

    def encode(self, image):
        return Features(image, 0 * image)

    def __call__(self, noisy, noise_level, features):
        return noisy * (DEVIATION**2 / (DEVIATION**2 + noise_level**2))


def white():
    return Model(White())


def parts(side, tile, overlap):
    "Masks of the cross where tiles overlap, of its centre, and of the rest."
    band = np.zeros(side, bool)
    band[tile - overlap : tile] = True
    cross = band[:, None] ^ band
    return cross, band[:, None] & band, ~(band[:, None] | band)


def spread(state, where):
    return float(state[:, 0].std(0)[torch.from_numpy(where)].mean())


def test_joint_tiles_keep_the_spread_and_averaged_ones_lose_it():
    "No MONAI needed: finished tiles, each with its own noise, averaged with equal weights."
    model, image, sampling = white(), np.zeros((1, 96, 96), np.float32), METHODS["default"]
    cross, centre, rest = parts(96, 64, 32)
    total, count = torch.zeros(200, 1, 96, 96), torch.zeros(96, 96)
    windows, _ = tile_windows(96, 64, 32, 16)
    for number, (r, c) in enumerate((r, c) for r in windows for c in windows):
        total[:, :, r, c] += last(
            draw_members(Denoiser(model, image[:, r, c]), model, replace(sampling, seed=number), range(200))
        )
        count[r, c] += 1
    finished, joint = (
        total / count,
        last(draw_members(Denoiser(model, image, tile=64, overlap=32), model, sampling, range(200))),
    )
    whole = spread(joint, rest)
    assert abs(whole / DEVIATION - 1) < 0.05
    for where, right, averaged in ((cross, 1, 2**-0.5), (centre, 1, 0.5), (rest, 1, 1)):
        assert abs(spread(joint, where) / whole - right) < 0.02
        assert abs(spread(finished, where) / whole - averaged) < 0.02


def test_monai_averages_finished_tiles(installed):
    installed("monai")
    cross, centre, rest = parts(96, 64, 32)
    finished = finished_tiles(white(), np.zeros((1, 96, 96), np.float32), untuned("ddim", 12, members=150), 64, 32)
    assert finished.shape == (150, 1, 96, 96)
    assert abs(spread(finished, cross) / spread(finished, rest) - 2**-0.5) < 0.02
    assert abs(spread(finished, centre) / spread(finished, rest) - 0.5) < 0.02
    method = replace(METHODS["default"], members=60)
    raced = race_tiles(white(), np.zeros((1, 96, 96), np.float32), method, tile=64, overlap=32, rounds=1)
    by_name = dict(zip(TILINGS, raced.spread_overlap.values))
    assert (
        abs(by_name["joint tiles"] - 1) < 0.01
        and abs(by_name["MONAI's sliding window"] - (0.8 * 2**-0.5 + 0.2 * 0.5)) < 0.05
    )
    assert np.abs(raced.spread_elsewhere - 1).max() < 0.05


def test_race_of_tiles_needs_two_by_two():
    with pytest.raises(ValueError, match="2 x 2 tiles of 64 px that overlap by 32 need 96 pixels a side"):
        race_tiles(white(), np.zeros((1, 128, 128), np.float32), METHODS["default"], tile=64, overlap=32)
