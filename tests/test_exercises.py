"The judge of the exercises is itself judged."

import itertools
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdfdiff.exercises import check

numbers = st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1e-3)


@given(numbers)
def test_the_right_number_is_right_and_others_are_not(truth):
    assert check(truth, truth) and check(np.float64(truth), lambda: truth)
    for wrong in (-truth, 2 * truth, truth / 100, truth + 1):
        verdict = check(wrong, truth)
        assert verdict.right is False and not verdict


@pytest.mark.parametrize(
    "answer, said",
    [
        (-3.0, "wrong sign"),
        (300.0, "per cent"),
        (6.0, "twice"),
        (1.5, "half"),
        (9.0, "square"),
        (3**0.5, "root"),
        (1 / 3, "reciprocal"),
        (2.9, "too small"),
        (3.1, "too large"),
        (float("nan"), "NaN"),
    ],
)
def test_slips_are_named(answer, said):
    assert said in repr(check(answer, 3.0))


@given(numbers, st.floats(0.01, 10), st.floats(-3, 3))
def test_tolerance_is_in_the_answers_unit(truth, within, off):
    assert bool(check(truth + off * within, truth, within)) == (
        abs(truth + off * within - truth) <= within + 1e-9 * abs(truth)
    )


def test_no_answer_is_neither_right_nor_wrong():
    assert check(None, 1).right is None
    assert check(lambda x: None, abs, cases=[(1,)]).right is None
    assert check(None, lambda: 1 / 0).right is None  # the truth is not computed before there is an answer


def test_arrays_words_functions():
    truth = np.arange(6.0).reshape(2, 3)
    assert check(truth.tolist(), truth) and check(truth > 2, truth > 2)
    assert "shape" in repr(check(truth.T, truth)) and "bool" in repr(check(truth, truth > 2))
    wrong = truth.copy()
    wrong[1, 0] = 9
    assert "1 of 6" in repr(check(wrong, truth)) and "[1, 0]" in repr(check(wrong, truth))
    assert check(" Inner ", "inner") and not check("outer", "inner")
    assert check(["a", "b"], ["a", "b"]) and not check(["a", "c"], ["a", "b"])
    assert check(True, np.bool_(True)) and not check(1, True)
    assert check(lambda a, b: b + a, lambda a, b: a + b, cases=[(1, 2), (0.5, 3)])
    assert "for 1, 2" in repr(check(lambda a, b: a, lambda a, b: a + b, cases=[(1, 2)])).lower()


def test_an_answer_that_raises_is_wrong_and_the_hint_is_said():
    verdict = check(lambda x: 1 / 0, abs, cases=[(1,)], hint="Look again.")
    assert verdict.right is False and "ZeroDivisionError" in repr(verdict) and "Look again." in repr(verdict)
    assert check("three", 3).right is False
    assert "Look again" not in repr(check(3, 3, hint="Look again."))


# ---- answers of every kind: never an error's name where a sentence is due, never right when it is wrong


def said(answer, truth, *rest, **how):
    "The sentence on a wrong answer."
    verdict = check(answer, truth, *rest, **how)
    assert verdict.right is False, verdict
    return repr(verdict)


def test_tensors_are_judged_like_arrays():
    torch = pytest.importorskip("torch")
    cases = [(torch.ones(3),)]
    assert "wrong sign" in said(lambda x: -x, lambda x: x, cases=cases)
    assert check(lambda x: 1 * x, lambda x: x, cases=cases)
    truth = torch.arange(6.0).reshape(2, 3)
    for answer in (truth, truth.bfloat16(), truth.clone().requires_grad_(), truth.int(), list(truth), truth.numpy()):
        assert check(answer, truth), answer
    wrong = truth.clone()
    wrong[1, 0] = 9
    assert "1 of 6 values is off, by up to 6; at [1, 0] it is 9" in said(wrong.requires_grad_(), truth)
    assert "(3, 2)" in said(truth.T, truth) and "bool" in said(truth, truth > 2)
    for scalar in (torch.tensor(0.5), torch.tensor(0.5, requires_grad=True), torch.tensor([0.5]).bfloat16()):
        assert check(scalar, 0.5) and check(0.5, scalar) and "per cent" in said(100 * scalar, 0.5)
    assert check([torch.tensor(1.0, requires_grad=True), torch.tensor(2.0)], (1, 2))
    assert "complex" in said(torch.tensor(1j), 1.0)


def test_labelled_arrays_fractions_and_iterators_are_judged_like_arrays():
    xr = pytest.importorskip("xarray")
    assert check(xr.DataArray([1.0, 2.0]), (1, 2)) and check(xr.DataArray(3.0), 3) and check(3, xr.DataArray(3.0))
    assert "Dataset" in said(xr.Dataset({"a": 1}), (1, 2))
    assert check(Fraction(1, 2), 0.5) and check([Fraction(1, 2), 1], (0.5, 1)) and check(Decimal("0.5"), 0.5)
    assert check((k for k in (1, 2)), [1, 2]) and check(map(abs, (-1, 2)), [1, 2]) and check(range(3), [0, 1, 2])
    assert check({"a": 1, "b": 2}.values(), [1, 2]) and "2 values are asked for" in said(itertools.count(1), [1, 2])
    assert "set" in said({1, 2}, [1, 2]) and "dict" in said({"a": 1}, 1.0)


@pytest.mark.parametrize("factor, slip", [(-1, "wrong sign"), (100, "per cent"), (0.01, "per cent"), (2, "twice")])
@pytest.mark.parametrize("kind", [tuple, list, np.array])
def test_a_slip_common_to_all_values_is_named(factor, slip, kind):
    assert slip in said(kind([0.25 * factor, 0.7 * factor]), (0.25, 0.7))
    assert slip not in said(kind([0.25 * factor, 0.7]), (0.25, 0.7))
    assert slip in said(factor * np.linspace(0, 1, 50).reshape(5, 10), np.linspace(0, 1, 50).reshape(5, 10))


def test_a_slip_is_named_only_when_it_is_one():
    assert "per cent" in said(33.3, 1 / 3) and "per cent" in said(15.3, 0.1534, within=0.002)
    assert "too large" in said(0.34, 0.15, within=0.06)  # about twice: not "twice"
    assert "too large" in said(0.5, 0.0, within=0.01)  # nothing is a multiple of 0
    assert "too large" in said(1.0005, 1.0) and "root" not in said(1.0005, 1.0)
    assert "another order" in said((2, 1), (1, 2)) and "opposite" in said([True, False], [False, True])


def test_a_choice_is_neither_twice_nor_too_large():
    for answer in (32, 128):
        sentence = said(answer, 64, choices=(32, 64, 128))
        assert "is not it" in sentence and not any(word in sentence for word in ("twice", "half", "too"))
    assert "32, 64, 128" in said(65, 64, choices=(32, 64, 128)) and "32, 64, 128" in said(
        "64", 64, choices=(32, 64, 128)
    )
    assert check(64, lambda: 64, choices=(32, 64, 128)) and check(" Share", "share", choices=("median", "share"))
    assert "median, share" in said("mean", "share", choices=("median", "share"))
    assert "is not it" in said("median", "share", choices=("median", "share"))
    assert check(None, 64, choices=(32, 64)).right is None
    verdict = check(32, 64, choices=(32, 128))  # the exercise is wrong, not the answer
    assert verdict.right is None and "not among the choices" in repr(verdict)


@pytest.mark.parametrize("answer", ["1/2", "0.5", "3 px", "50 %", "", "half", pytest.param("x" * 10_000, id="long")])
def test_text_where_a_number_is_asked(answer):
    for sentence in (said(answer, 0.5), said((answer, 0.5), (0.5, 0.5))):
        assert "number" in sentence and "quotation marks" in sentence and "Error" not in sentence
        assert len(sentence) < 200


@pytest.mark.parametrize(
    "answer, truth, words",
    [
        (True, 1, "True"),  # a yes or no is no number
        (1, True, "True or False"),
        ("yes", True, "True or False"),
        (1j, 1, "complex"),
        ([1j, 2], (1, 2), "complex"),
        (["1", "2"], (1, 2), "text"),
        ((1, 2), 3, "one number is asked for"),
        (3, (1, 2), "2 values are asked for"),
        ((1, 2, 3), (1, 2), "2 values are asked for"),
        ([], (1, 2), "2 values are asked for"),
        ([[1], [1, 2]], (1, 2), "value 2 of 2"),
        (("a", "b"), "a", "one word is asked for"),
        (("a", 0.5), ("a", 0.25), "twice"),
        (("b", 0.25), ("a", 0.25), "value 1 of 2"),
        (1.0, ("a", "b"), "2 values are asked for"),
        (lambda: 3, 3, "function"),
        (abs, (1, 2), "function"),
        (0.30000001, 0.3, "0.30000001"),  # not "0.3 is too large"
    ],
)
def test_an_answer_of_another_kind_is_told_what_is_asked(answer, truth, words):
    sentence = said(answer, truth)
    assert words.lower() in sentence.lower() and "Error" not in sentence


def test_infinite_and_missing_values():
    assert "too large" in said(10**400, 3) and "too small" in said(-(10**400), 3)
    inf, nan = float("inf"), float("nan")
    assert check(inf, inf) and check(nan, nan) and check([inf, nan, 1], [inf, nan, 1])
    assert not check(3, inf) and not check(-inf, inf) and not check(inf, 3) and not check(nan, inf)
    assert "at [1] it is 7" in said([inf, 7, nan], [inf, 2, nan])
    assert "at [0] it is nan" in said([nan, 1, 2], [0, 1, 2])


def test_an_answer_with_none_in_it_is_unfinished():
    for answer in ((None, 2), [1, None], ((1, None), (2, 3))):
        verdict = check(answer, (1, 2))
        assert verdict.right is None and "None" in repr(verdict)


def test_functions():
    half = lambda x: x if x > 0 else None  # noqa: E731
    assert "for -2" in said(half, lambda x: x, cases=[(1,), (-2,)]).lower()
    assert "None" in said(half, lambda x: x, cases=[(-2,), (1,)])  # the first case is not all cases
    assert "function is asked for" in said(3, abs, cases=[(1,)])
    assert "for 1" in said(lambda x: 1 / 0, abs, cases=[(1,)]).lower()
    assert "3 × 7" in said(lambda x: -x - 1, lambda x: x, cases=[(np.ones((3, 7)),)])  # not "for All 21 values."
    assert len(said(lambda x: x + 1, len, cases=[("word " * 1000,)])) < 200
    assert "All 2 cases" in repr(check(abs, abs, cases=[(-1,), (2,)]))
    assert "lambda" not in repr(check(lambda x: abs(x), abs, cases=[(-1,)]))


def test_a_function_that_writes_into_its_argument_does_not_change_the_case():
    def clipped(x):
        x[x > 1] = 1
        return x

    case = np.array([0.5, 3.0])
    assert check(clipped, lambda x: x.clip(max=1), cases=[(case,)]) and case[1] == 3
    assert not check(clipped, lambda x: x, cases=[(case,)])  # its own argument is not what it is compared with


def test_when_the_right_answer_cannot_be_computed_nobody_is_wrong():
    for verdict in (check(1, lambda: not_defined), check(abs, lambda x: not_defined, cases=[(1,)])):  # noqa: F821
        assert verdict.right is None and "not_defined" in repr(verdict) and "cells above" in repr(verdict)


def test_a_long_right_answer_is_counted():
    assert repr(check(np.zeros((3, 7)), np.zeros((3, 7)))) == "✓ Right. All 21 values."


def test_an_answer_of_any_kind_gets_a_sentence():
    class Broken:
        def __array__(self, *_, **__):
            raise RuntimeError("no array")

    def failing():
        yield 1
        raise KeyError("gone")

    for answer in (Broken(), failing(), object(), int, ..., b"3", {1: 2}, [[[]]], np.ma.masked, slice(3)):
        for truth in (3, "three", True, (1, 2), ("a", 1), np.zeros((2, 2)), {3: 4}):
            verdict = check(answer, truth)
            assert verdict.right is False and len(repr(verdict)) < 300, verdict
    assert check([1, "a", (1, 2, 3)], [1, "A", (1, 2, 3)]) and check({1: 2}, {1: 2})


def test_an_answer_is_as_exact_as_its_kind_of_numbers():
    torch = pytest.importorskip("torch")
    for answer in (np.float32(0.15), np.float16(0.15), torch.tensor(0.15), torch.tensor(0.15, dtype=torch.float16)):
        assert check(answer, 0.15) and check([answer, answer], (0.15, 0.15)) and check(1 - answer, 0.85)
    assert not check(0.15 + 1e-8, 0.15) and not check(np.float32(0.15 + 1e-6), 0.15)
