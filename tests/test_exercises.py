"The judge of the exercises is itself judged."

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
        (-3.0, "sign"),
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
