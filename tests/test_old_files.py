"""Files that the package wrote before its rebuilding are read today: weights, a result, an evaluation, a plan.

`tests/data/*_old.*` came from commit c779f39: a small random network (seed 0), `sdfdiff segment` and `sdfdiff evaluate`
of one synthetic slide (`tissue(3, (48, 64))`) with `--members 2 --sampler dpm_sde --steps 2`, and `sdfdiff study
--example tissue`. Old studies and frontiers are read in test_files.
"""

from pathlib import Path
from shutil import copy2

import numpy as np
import pytest
import torch

from sdfdiff.diffusion.model import load_model
from sdfdiff.ensembles.collection import ensemble
from sdfdiff.ensembles.method import METHODS, untuned
from sdfdiff.ensembles.segmentation import read_result
from sdfdiff.files import read_dataset
from sdfdiff.panels import EnsemblePanel
from sdfdiff.study.plan import read_plan, to_json
from sdfdiff.uncertainty.metrics import scores_from_counts

OLD = Path(__file__).parent / "data"
METHOD = untuned("dpm_sde", 2)


def test_weights_say_what_they_said():
    "Null as reach means the truncation; the checksum over all numbers holds."
    model = load_model(OLD / "weights_old.safetensors")
    assert (model.reach, model.truncation, model.boundary) == (10.0, 10.0, "inner")
    assert model.about["name"] == "old" and model.preparation.colour == "rgb"
    assert model.preparation.microns is None


def test_a_result_is_opened_shown_and_enlarged():
    "What the encoder guessed has today's name, and the members are those that today's functions draw."
    old = read_result(OLD / "ensemble_old.nc")
    model = load_model(OLD / "weights_old.safetensors", dtype=getattr(torch, old.attrs["number_format"]))
    image = old["image"].values
    new = ensemble(model, image, METHOD, members=4, progress=False)
    for name in ("distance", "initial_estimate"):
        found, expected = old[name].values, new[name].values
        np.testing.assert_allclose(found, expected[:2] if name == "distance" else expected, atol=1e-3)  # px
    assert "prior" not in old and old.attrs["start"] == "initial_estimate"
    more = ensemble(model, image, METHOD, members=4, previous=old, source_shape=(48, 64), progress=False)
    np.testing.assert_array_equal(more["distance"][:2], old["distance"])
    np.testing.assert_array_equal(more["distance"][2:], new["distance"][2:])
    panel = EnsemblePanel(OLD / "ensemble_old.nc")
    assert not panel.message


def test_an_evaluation_has_the_scores_of_its_counts():
    old = read_dataset(OLD / "evaluation_old.nc")
    names = ["one_sample", "mmse", "majority", "initial_estimate"]
    assert old["estimator"].values.tolist() == names and "uncertainty" in old
    for rule in ("zero", "one"):
        found = scores_from_counts(old["counts"].values, rule)
        np.testing.assert_allclose(old["f1"].sel(zero_hit=rule), found["f1"])


def test_a_plan_is_todays_plan():
    plan = read_plan(OLD / "plan_old.json")
    default, draft = (METHODS[name] for name in ("default", "draft"))
    assert [one.calls for one in plan.methods] == [default.calls, draft.calls] and plan.crop is None
    settings = {"members": 32, "weights": "tissue"}
    assert plan.methods == tuple(one.__class__(**vars(one) | settings) for one in (default, draft))
    assert '"quality": "default"' in to_json(plan)


def test_a_damaged_old_file_is_named(tmp_path):
    path = copy2(OLD / "ensemble_old.nc", tmp_path / "a.nc")
    Path(path).write_bytes(Path(path).read_bytes()[:5000])
    with pytest.raises(ValueError, match="a.nc"):
        read_result(path)
