"""sim.model: bad input gets one sentence."""

import re

import numpy as np
import pytest

from sim.model.checks import ModelError
from sim.model.gemm import gemm
from sim.model.norm import l1_backward, l1_forward, layer_backward, layer_forward
from sim.model.quantise import quantise
from sim.model.softmax import cross_entropy
from sim.model.update import sgd

ONES = np.ones((2, 3), np.int64)
BATCH, LAYER = l1_forward(ONES, 1, 1)[1], layer_forward(ONES, 1, 1)


@pytest.mark.parametrize(("act", "words"), [
    (lambda: quantise(ONES, bits=1, signed=True), "bits must be a whole number from 2 to 8, got 1"),
    (lambda: quantise(ONES, bits=4.0, signed=True), "got 4.0"),
    (lambda: quantise(ONES, bits=4, signed=True, groups=(3, 4)), "1, 2, 4, 8, 16, 32, got (3, 4)"),
    (lambda: quantise(ONES * np.inf, bits=4, signed=True), "x must hold finite whole numbers"),
    (lambda: quantise(ONES * 0.5, bits=4, signed=True), "finite whole numbers, got 0.5"),
    (lambda: quantise([["a"]], bits=4, signed=True), "x must hold numbers"),
    (lambda: quantise(np.ones((0, 3)), bits=4, signed=True), "and an element, got (0, 3)"),
    (lambda: quantise(ONES, bits=4, signed=True, noise=np.ones(3)), "got (2, 3) and (3,)"),
    (lambda: gemm(ONES, ONES), "as many columns of A as rows of B, got (2, 3) and (2, 3)"),
    (lambda: gemm(ONES, ONES.T * 2.5), "B must hold finite whole numbers, got 2.5"),
    (lambda: gemm(ONES << 17, ONES.T << 17), "a sum over 3 products needs an accumulator of 37 "
     "bits, more than its 36"),
    (lambda: l1_forward(ONES * np.nan, 1, 1), "x must hold finite whole numbers, got nan"),
    (lambda: l1_backward(ONES[:1], BATCH, 1, ONES[0]), "forward pass's shape, got (1, 3)"),
    (lambda: layer_backward(ONES[:1], LAYER[1], 1, LAYER[2]), "got (1, 3) and (2, 3)"),
    (lambda: cross_entropy(ONES, [0, 3]), "labels must lie between 0 and 2, got 0 to 3"),
    (lambda: cross_entropy(ONES, [0]), "need m labels, at least one, got (2, 3) and (1,)"),
    (lambda: sgd(ONES, ONES, ONES[0], 1, 2, ONES), "must have one shape, got (2, 3) and (2, 3)"),
])
def test_bad_input_gets_a_sentence(act, words):
    with pytest.raises(ModelError, match=re.escape(words)):
        act()


def test_the_widest_sums_that_fit_pass():
    a, b = np.array([[2**17, 2**17 - 1]]), np.array([[2**17], [2**17]])
    assert gemm(a, b)[0] == 2**31 - 1
    assert gemm(a, b, shift=10)[0] == (2**34 + 2**34 - 2**17) >> 10
