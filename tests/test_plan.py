"Plans: the same after any journey through JSON, and one sentence for everything that cannot be meant."

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_studies import folder

from sdfdiff.diffusion.sampling import SAMPLERS
from sdfdiff.ensembles.method import METHODS, Method, method_of, untuned
from sdfdiff.images.cases import find_cases, prepare_case
from sdfdiff.images.preparation import NUCLEI, TISSUE
from sdfdiff.study.plan import StudyPlan, cropped, from_json, read_plan, study_cases, to_json

ONE = (method_of("default", name="ours", weights="tissue", members=32),)
GOOD = {"dataset": "tissue", "methods": [{"name": "ours", "weights": "tissue"}]}

texts = st.text(min_size=1, max_size=9)
others = {
    "name": texts,
    "weights": texts,
    "members": st.integers(2, 10**6),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "rule": st.sampled_from(["half_pixel", "paper", "zero"]),
    "reach": st.none() | st.floats(0.1, 9),
    "tolerance": st.none() | st.floats(0.1, 9),
}
samplers = {
    "sampler": st.sampled_from(sorted(SAMPLERS)),
    "steps": st.integers(1, 500),
    "spacing": st.sampled_from(["karras", "geometric"]),
    "highest": st.none() | st.floats(1, 9),
    "ratio": st.floats(0, 1),
    "final": st.booleans(),
    "corrections": st.integers(0, 3),
    "start": st.sampled_from(["initial_estimate", "zero"]),
}
methods = st.builds(method_of, st.sampled_from(sorted(METHODS)), **others) | st.builds(Method, **samplers | others)
plans = st.builds(
    StudyPlan,
    st.sampled_from(["tissue", "folder", "raters", "glas", "monuseg"]),
    st.lists(methods, min_size=1, max_size=3, unique_by=lambda one: one.name).map(tuple),
    st.sampled_from(["train", "validation", "test", "all"]),
    st.none() | st.integers(1, 99) | st.lists(texts, min_size=1, unique=True).map(tuple),
    st.integers(0, 2),
    st.lists(st.floats(0.001, 0.999), unique=True).map(sorted).map(tuple),
    st.booleans(),
    st.none() | st.integers(1, 999),
)


@given(plans)
def test_there_and_back(plan):
    assert from_json(to_json(plan)) == plan and to_json(from_json(to_json(plan))) == to_json(plan)
    again = from_json(json.dumps(json.loads(to_json(plan)), indent=None, sort_keys=True))
    assert again == plan and hash(again) == hash(plan)


@given(
    st.dictionaries(
        st.sampled_from(["dataset", "methods", "split", "cases", "keep", "quantiles", "images", "crop", "more"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        ),
    )
)
def test_any_json_is_a_plan_or_one_sentence(values):
    "Never another kind of error."
    for change in (values, GOOD | values, GOOD | {"methods": [GOOD["methods"][0] | values]}):
        try:
            assert from_json(to_json(from_json(json.dumps(change), "my.json"))).methods
        except ValueError as error:
            assert str(error).startswith("my.json") and "\n" not in str(error)


@given(st.text(max_size=30))
def test_any_text_is_a_plan_or_one_sentence(text):
    with pytest.raises(ValueError, match=r"^my.json"):
        from_json(text, "my.json")


def test_few_words_are_enough():
    plan = from_json(json.dumps(GOOD))
    assert (
        plan == StudyPlan("tissue", ONE)
        and plan.methods[0].sampling == METHODS["default"].sampling
        and plan.split == "validation"
    )
    assert StudyPlan("tissue", list(ONE), cases=["scene 1"], quantiles=[0.5]) == StudyPlan(
        "tissue", ONE, cases=("scene 1",), quantiles=(0.5,)
    )


def test_a_sampler_of_ones_own_begins_untuned():
    "What a plan does not say of it is as in `untuned`; plans of earlier versions name the start otherwise."
    quality = {"sampler": "heun", "steps": 3, "start": "prior"}
    plan = from_json(json.dumps(GOOD | {"methods": [GOOD["methods"][0] | {"quality": quality}]}))
    assert plan.methods == (untuned("heun", 3, name="ours", weights="tissue", members=32),)


WRONG = {
    "members": ({"members": 1}, "draws 1 members"),
    "no members": ({"members": 0}, "draws 0 members"),
    "half a member": ({"members": 2.5}, "draws 2.5 members"),
    "members as text": ({"members": "8"}, "draws '8' members"),
    "true members": ({"members": True}, "draws True members"),
    "seed": ({"seed": 2**63}, "whole number of 64 bits"),
    "seed as text": ({"seed": "x"}, "seed 'x'"),
    "true as seed": ({"seed": True}, "seed True"),
    "ratio": ({"quality": {"ratio": "large"}}, "ratio = 'large'"),
    "final": ({"quality": {"final": "yes"}}, "final = 'yes'"),
    "quality": ({"quality": "best"}, "quality 'best' is unknown: choose one of fast"),
    "list as quality": ({"quality": [1]}, "quality [1] is unknown"),
    "sampling": (
        {"quality": {"steps": 3, "speed": 9}},
        "'speed', which is no setting of a sampler; there are sampler",
    ),
    "sampler": ({"quality": {"sampler": "magic"}}, "the sampler 'magic': choose one of paper"),
    "rule": ({"rule": "guess"}, "guess"),
    "name": ({"name": 7}, "name 7"),
    "no name": ({"name": ""}, "name ''"),
    "weights": ({"weights": None}, "weights None"),
    "word": ({"wieghts": "tissue"}, "'wieghts', which is no setting of a Method; there are name, weights"),
    "no view": ({"views": 0}, "reads 0 views"),
    "nine views": ({"views": 9}, "reads 9 views of the image: 1 to 8"),
    "reach": ({"reach": 0}, "reach 0"),
    "negative reach": ({"reach": -1.0}, "reach -1.0"),
    "reach as text": ({"reach": "far"}, "my.json"),
}


@pytest.mark.parametrize("what", WRONG)
def test_methods_that_are_refused(what):
    change, words = WRONG[what]
    with pytest.raises(ValueError) as problem:
        from_json(json.dumps(GOOD | {"methods": [GOOD["methods"][0] | change]}), "my.json")
    assert words in str(problem.value) and str(problem.value).startswith("my.json") and "\n" not in str(problem.value)


BAD = {
    "data set": ({"dataset": "cells"}, "The data set 'cells' is unknown: choose one of tissue"),
    "split": ({"split": "half"}, "The split 'half' is unknown"),
    "a list for a data set": ({"dataset": ["tissue"]}, "The data set ['tissue'] is unknown"),
    "no methods": ({"methods": []}, "The methods are []"),
    "methods": ({"methods": "ours"}, "needs a list of methods"),
    "method": ({"methods": ["ours"]}, "holds 'ours' where a Method"),
    "twice": ({"methods": GOOD["methods"] * 2}, "each with a name of its own"),
    "no cases": ({"cases": 0}, "0 cases"),
    "no names": ({"cases": []}, "0 cases"),
    "negative": ({"cases": -3}, "-3 cases"),
    "a name": ({"cases": "scene 1"}, "The cases are 'scene 1'"),
    "half": ({"cases": 2.5}, "The cases are 2.5"),
    "numbers": ({"cases": [1000]}, "The cases are (1000,)"),
    "the same": ({"cases": ["scene 1", "scene 1"]}, "names that differ"),
    "keep": ({"keep": -1}, "-1 members to keep"),
    "keep all": ({"keep": "all"}, "'all' members to keep"),
    "quantiles": ({"quantiles": [0.5, 0.2]}, "rising numbers between 0 and 1"),
    "the same quantiles": ({"quantiles": [0.5, 0.5]}, "rising"),
    "zero": ({"quantiles": [0.0, 0.5]}, "rising"),
    "one": ({"quantiles": [1.0]}, "rising"),
    "percent": ({"quantiles": [5, 95]}, "rising"),
    "a quantile": ({"quantiles": 0.5}, "The quantiles are 0.5"),
    "texts": ({"quantiles": ["a"]}, "The quantiles are ('a',)"),
    "crop": ({"crop": 0}, "crop is 0: a whole number of pixels"),
    "crop as text": ({"crop": "128"}, "crop is '128'"),
    "true crop": ({"crop": True}, "crop is True"),
    "half a pixel": ({"crop": 64.5}, "crop is 64.5"),
    "word": ({"colour": 1}, "'colour', which is no setting of a StudyPlan; there are dataset, methods"),
    "no data set": ({"dataset": None}, "The data set None"),
}


@pytest.mark.parametrize("what", BAD)
def test_plans_that_are_refused(what):
    change, words = BAD[what]
    with pytest.raises(ValueError) as problem:
        from_json(json.dumps(GOOD | change), "my.json")
    assert words in str(problem.value) and str(problem.value).startswith("my.json") and "\n" not in str(problem.value)


def test_files(tmp_path):
    (tmp_path / "a.json").write_text(to_json(StudyPlan("tissue", ONE)), encoding="utf-8")
    assert read_plan(tmp_path / "a.json") == StudyPlan("tissue", ONE)
    with pytest.raises(FileNotFoundError, match="b.json does not exist; expected the plan of a study"):
        read_plan(tmp_path / "b.json")
    (tmp_path / "c.json").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "d.json").write_text("{")
    (tmp_path / "e.json").write_text("{}")
    for name, words in (("c.json", "is no text file"), ("d.json", "is no JSON"), ("e.json", "needs a list of methods")):
        with pytest.raises(ValueError, match=f"{name} {words}"):
            read_plan(tmp_path / name)
    with pytest.raises(ValueError, match="is no text file"):
        read_plan(tmp_path)


# ---- cases


def test_scenes():
    for only in (2, None, ("scene 7", "scene 3")):
        assert study_cases(StudyPlan("tissue", ONE, cases=only)) == find_cases("tissue", only=only)


def test_cases_of_a_folder(tmp_path):
    folder(tmp_path)

    def names(**changes):
        return [case.name for case in study_cases(StudyPlan("folder", ONE, "all", **changes), tmp_path)]

    assert names() == ["0", "1", "2"] and names(cases=2) == ["0", "1"] and names(cases=("2", "0")) == ["2", "0"]
    with pytest.raises(ValueError, match=r"^4 all cases are asked for, but .* has 3\."):
        names(cases=4)
    with pytest.raises(ValueError, match="has no all case '9' that is asked for; there are 0, 1, 2"):
        names(cases=("0", "9"))
    with pytest.raises(ValueError, match="The data set folder needs its folder: give it as root"):
        study_cases(StudyPlan("folder", ONE, "all"))


def test_plans_of_earlier_versions_have_no_crop():
    old = {key: value for key, value in json.loads(to_json(StudyPlan("tissue", ONE))).items() if key != "crop"}
    assert from_json(json.dumps(old)) == StudyPlan("tissue", ONE) and StudyPlan("tissue", ONE).crop is None


@pytest.mark.parametrize("side", [1, 20, 33, 64, 1000, None])
@pytest.mark.parametrize("preparation", [TISSUE, NUCLEI])
def test_the_middle_of_a_case(tmp_path, side, preparation):
    "Never larger than the image; everything that is known of a pixel stays on it, and pixels keep their size."
    folder(tmp_path, shapes=((48, 101), (34, 95)))
    paths = study_cases(StudyPlan("folder", ONE, "all"), tmp_path) + study_cases(StudyPlan("tissue", ONE, cases=1))
    for whole in (prepare_case(path, preparation) for path in paths):
        part = cropped(whole, side)
        rows, columns = (min(n, side or n) for n in whole.truth.shape)
        up, left = (whole.truth.shape[0] - rows) // 2, (whole.truth.shape[1] - columns) // 2
        assert part.truth.shape == (rows, columns) and (part.name, part.group) == (whole.name, whole.group)
        for name in ("image", "truth", "raters", "posterior"):
            one, all_of_it = getattr(part, name), getattr(whole, name)
            assert (one is None) == (all_of_it is None)
            if one is not None:
                np.testing.assert_array_equal(one, all_of_it[..., up : up + rows, left : left + columns])
        for source, now, before, old in zip(part.source_shape, (rows, columns), whole.source_shape, whole.truth.shape):
            assert abs(source - before * now / old) <= 0.5
