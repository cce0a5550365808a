"""sim.model: bad input gets one sentence."""

import re

import numpy as np
import pytest

from sim.model import (
    add,
    attention,
    convolution,
    digits,
    dropout,
    embedding,
    initialise,
    noise,
    order,
    pool,
    relu,
    requantise,
    rounding,
    softmax,
    sparse,
)
from sim.model.checks import ModelError, check_within, largest_magnitude, whole
from sim.model.gemm import gemm
from sim.model.norm import (
    follow,
    l1_backward,
    l1_forward,
    layer_backward,
    layer_forward,
    normalise,
)
from sim.model.quantise import (
    divide_by_mantissa,
    fold,
    normalise_columns,
    quantise,
    quantise_gradient,
    quantise_weights,
)
from sim.model.update import sgd

ONES = np.ones((2, 3), np.int64)
HALVES, NAN = ONES * 0.5, ONES * np.nan
BATCH, LAYER = l1_forward(ONES, 1, 1)[1], layer_forward(ONES, 1, 1)
HEADS = np.ones((1, 1, 2, 2), np.int64)
IMAGE = np.ones((1, 1, 2, 2), np.int64)
BIG = ONES << 60
KEY = (1, 2, 3, 4)


def step(*arrays, rate=1, shift=2, **options):
    """The update of one element each."""
    return sgd(*arrays[:3], rate, shift, *arrays[3:], **options)


def context():
    return attention.attend(HEADS, HEADS, HEADS, 4)[1]


CASES = {
    "whole": [
        (lambda: whole([[1], [1, 2]]), "x must hold numbers in rows of one length"),
        (lambda: whole([1e19]), "x must hold numbers of at most 63 bits, got 1e+19"),
        (lambda: whole(np.array([2**63], np.uint64)), "at most 63 bits, got 9223372036854775808"),
        (lambda: whole(["a"]), "x must hold numbers, got an array of <U1")],
    "add": [
        (lambda: add.add(NAN, ONES), "a must hold finite whole numbers, got nan"),
        (lambda: add.add(ONES, HALVES), "b must hold finite whole numbers, got 0.5"),
        (lambda: add.add(ONES, ONES[0]), "a and b must have one shape, got (2, 3) and (3,)")],
    "add_gradients": [
        (lambda: add.add_gradients([(NAN, 0)]), "a gradient must hold finite whole numbers"),
        (lambda: add.add_gradients([(ONES, 0), (ONES[0], 0)]), "must have one shape, got (2, 3)"),
        (lambda: add.add_gradients([(BIG, 0)]), "at most 53 bits, got one of 61"),
        (lambda: add.add_gradients([]), "gradients must be at least one, got none")],
    "average": [
        (lambda: pool.average(NAN, 4), "x must hold finite whole numbers, got nan"),
        (lambda: pool.average(ONES, 0), "count must be a whole number from 1 to 2147483647, got 0"),
        (lambda: pool.average(ONES, 2.5), "got 2.5")],
    "average_gradient": [
        (lambda: pool.average_gradient(HALVES, 0, 4), "finite whole numbers, got 0.5"),
        (lambda: pool.average_gradient(ONES, 0, 0), "count must be a whole number from 1")],
    "sums": [
        (lambda: pool.sums(NAN, (1, 2), (1, 1)), "x must hold finite whole numbers, got nan"),
        (lambda: pool.sums(ONES, (1, 3), (1, 1)), "a multiple of 3 rows, got (2, 3)"),
        (lambda: pool.sums(ONES, (1, 256), (1, 1)), "a side of an image must be a whole number "
         "from 1 to 255, got 256"),
        (lambda: pool.sums(ONES, (1, 2), (1, 0)), "a side of a window must be a whole "
         "number from 1 to 255, got 0")],
    "spread": [
        (lambda: pool.spread(HALVES, (1, 2), (1, 1)), "y must hold finite whole numbers, got 0.5"),
        (lambda: pool.spread(ONES, (1, 3), (1, 1)), "a multiple of 3 rows, got (2, 3)"),
        (lambda: pool.spread(ONES, (1, 2), (2, 1)), "a multiple of 0 rows, got (2, 3)"),
        (lambda: pool.spread(ONES, (1, 2), (1, 1), ONES[0] > 0), "one shape, got (2, 3) and (3,)")],
    "relu": [(lambda: relu.relu(NAN), "y must hold finite whole numbers, got nan")],
    "relu_gradient": [
        (lambda: relu.relu_gradient(NAN, ONES > 0), "dy must hold finite numbers, got nan"),
        (lambda: relu.relu_gradient(ONES, ONES[0] > 0), "one shape, got (2, 3) and (3,)")],
    "unclipped": [
        (lambda: relu.unclipped(ONES, 9), "bits must be a whole number from 2 to 8, got 9"),
        (lambda: relu.unclipped(NAN, 4), "codes must hold finite whole numbers, got nan")],
    "rounding": [
        (lambda: rounding.saturate(NAN, 8), "x must hold finite whole numbers, got nan"),
        (lambda: rounding.rescale(NAN, 1, 8), "x must hold finite whole numbers, got nan"),
        (lambda: rounding.round_shift(NAN, 1), "x must hold finite whole numbers, got nan")],
    "requantise": [
        (lambda: requantise.requantise(NAN, 1), "x must hold finite whole numbers, got nan"),
        (lambda: requantise.requantise(ONES, -1), "shift must be a whole number from 0 to 62, "
         "got -1"),
        (lambda: requantise.safe_shift(9, 64), "bits must be a whole number from 2 to 8, got 9"),
        (lambda: requantise.safe_shift(4, 0), "k must be a whole number from 1")],
    "quantise": [
        (lambda: quantise(ONES, bits=1, signed=True), "bits must be a whole number from 2 to 8, "
         "got 1"),
        (lambda: quantise(ONES, bits=4.0, signed=True), "got 4.0"),
        (lambda: quantise(ONES, bits=4, signed=True, groups=(3, 4)),
         "1, 2, 4, 8, 16, 32, got (3, 4)"),
        (lambda: quantise(ONES, bits=4, signed=True, groups=4), "16, 32, got 4"),
        (lambda: quantise(ONES, bits=4, signed=True, groups=(4, 4), per_column=True),
         "groups need one scale for the tensor, got per_column=True"),
        (lambda: quantise(ONES * np.inf, bits=4, signed=True), "x must hold finite whole numbers"),
        (lambda: quantise(HALVES, bits=4, signed=True), "finite whole numbers, got 0.5"),
        (lambda: quantise([["a"]], bits=4, signed=True), "x must hold numbers"),
        (lambda: quantise(np.ones((0, 3)), bits=4, signed=True), "and an element, got (0, 3)"),
        (lambda: quantise(BIG, bits=4, signed=True), "x must add up to less than 2**51, got 6 of"),
        (lambda: quantise(ONES, bits=4, signed=True, noise=np.ones(3)), "got (2, 3) and (3,)"),
        (lambda: quantise(ONES, bits=4, signed=True, noise=ONES << 16),
         "noise must lie between 0 and 65535, got 65536"),
        (lambda: quantise(ONES, bits=4, signed=True, clip=-3), "from 0 to 255, got -3"),
        (lambda: quantise(ONES, bits=4, signed=True, clip=np.nan), "from 0 to 255, got nan"),
        (lambda: quantise(ONES, bits=4, signed=True, groups=(4, 4), span=0), "from 1 to 2, got 0"),
        (lambda: quantise(np.ones((3, 2)), bits=4, signed=True, groups=(4, 4), span=2),
         "span must divide the 3 rows, got 2")],
    "quantise_gradient": [
        (lambda: quantise_gradient(NAN, bits=4, groups=(4, 4), noise=ONES), "got nan"),
        (lambda: quantise_gradient(ONES, bits=0, groups=(4, 4), noise=ONES), "got 0")],
    "normalise_columns": [
        (lambda: normalise_columns(NAN, 4), "masters must hold finite whole numbers, got nan"),
        (lambda: normalise_columns(ONES, 9), "bits must be a whole number from 2 to 8, got 9"),
        (lambda: normalise_columns(ONES[0], 4), "two axes and an element, got (3,)"),
        (lambda: normalise_columns(BIG, 4), "masters must add up to less than 2**51"),
        (lambda: normalise_columns(ONES, 4, 256), "clip must be a whole number from 0 to 255")],
    "quantise_weights": [
        (lambda: quantise_weights(NAN, 4), "masters must hold finite whole numbers, got nan"),
        (lambda: quantise_weights(ONES, 9), "bits must be a whole number from 2 to 8, got 9")],
    "divide_by_mantissa": [
        (lambda: divide_by_mantissa(ONES, 0), "mantissa must lie between 4 and 7, got 0"),
        (lambda: divide_by_mantissa(ONES, np.full(2, 4)), "one for each column, got (2, 3) and"),
        (lambda: divide_by_mantissa(ONES << 40, 4), "x must lie between -1099511627775 and")],
    "fold": [
        (lambda: fold(NAN, ONES[0], np.full(3, 4)), "gradient must hold finite whole numbers"),
        (lambda: fold(ONES, ONES[0, :2], np.full(3, 4)), "got (2, 3) and (2,) and (3,)"),
        (lambda: fold(ONES, ONES[0], ONES[0]), "mantissa must lie between 4 and 7, got 1"),
        (lambda: fold(ONES, np.array([0, 0, 90]), np.full(3, 4)), "exponents from 0 to 90 that may "
         "need 94")],
    "gemm": [
        (lambda: gemm(ONES, ONES), "as many columns of A as rows of B, got (2, 3) and (2, 3)"),
        (lambda: gemm(ONES, ONES.T * 2.5), "B must hold finite whole numbers, got 2.5"),
        (lambda: gemm(ONES << 17, ONES.T << 17), "a sum over 3 products needs an accumulator of 37 "
         "bits, more than its 36"),
        # Terms that cancel: a float's sum of these would be 1024.
        (lambda: gemm([[2**50, 1 - 2**50]], [[1025], [1025]]),
         "a sum over 2 products must stay below 2**53 whatever their signs, got operands of which "
         f"it may reach {2 * 1025 * 2**50}"),
        (lambda: gemm(ONES, ONES.T, inner=ONES[0, :2], inner_groups=4), "inner must be (3,), got"),
        (lambda: gemm(ONES, ONES.T, inner=[0, 5, 0], inner_groups=2),
         "inner must lie between 0 and 1, got 0 to 5"),
        (lambda: gemm(ONES, BIG.T, inner=[0, 0, 0], inner_groups=32), "must stay below 2**53"),
        (lambda: gemm(ONES, ONES.T, inner=[0, 0, 0], inner_groups=0), "the groups of inner must"),
        (lambda: gemm(ONES, ONES.T, rows=[0, 0, 0], row_groups=4), "rows must be (2,), got (3,)"),
        (lambda: gemm(ONES, ONES.T, cols=[0, -1], col_groups=4), "cols must lie between 0 and 3"),
        (lambda: gemm(ONES << 16, ONES.T << 16, rows=[0, 0], row_groups=32),
         "a sum of 34 bits may be shifted left by 28 at most, got groups of rows and columns that "
         "shift it by 31"),
        (lambda: gemm(ONES, ONES.T, shift=-3), "shift must be a whole number from 0 to 62, got -3"),
    ],
    "sparse_gemm": [
        (lambda: sparse.sparse_gemm([0], [0], [np.nan], ONES, 2), "value must hold finite"),
        (lambda: sparse.sparse_gemm([0], [0.5], [1], ONES, 2), "column must hold finite whole"),
        (lambda: sparse.sparse_gemm([0], [9], [1], ONES, 2), "column must lie between 0 and 1"),
        (lambda: sparse.sparse_gemm([0], [-1], [1], ONES, 2), "column must lie between 0 and 1, "
         "got -1"),
        (lambda: sparse.sparse_gemm([5], [0], [1], ONES, 2), "row must lie between 0 and 1, got 5"),
        (lambda: sparse.sparse_gemm([0, 1], [0], [1, 2], ONES, 2), "lists of one length, got (2,)"),
        (lambda: sparse.sparse_gemm([0], [0], [1], ONES[0], 2), "B must have two axes, got (3,)"),
        (lambda: sparse.sparse_gemm([0], [0], [1], ONES, 0), "rows must be a whole number from 1"),
        (lambda: sparse.sparse_gemm([0], [0], [2**40], ONES, 2),
         "a sum over 1 entries may need an accumulator of 42 bits, more than its 36"),
        (lambda: sparse.sparse_gemm([0], [0], [2**40], BIG, 2), "an accumulator of 102 bits")],
    "l1_forward": [
        (lambda: l1_forward(NAN, 1, 1), "x must hold finite whole numbers, got nan"),
        (lambda: l1_forward(ONES, ONES[0, :2], 1), "gamma must be (3,), got (2,)"),
        (lambda: l1_forward(ONES, NAN[0], 1), "gamma must hold finite whole numbers, got nan"),
        (lambda: l1_forward(ONES, 2**15, 1), "gamma must lie between -32768 and 32767, got 32768"),
        (lambda: l1_forward(ONES, 1, HALVES[0]), "beta must hold finite whole numbers, got 0.5"),
        (lambda: l1_forward(ONES, 1, 1, mean=ONES[0], deviation=ONES), "deviation must be (3,)"),
        (lambda: normalise(ONES, mean=ONES[0]), "both be given or neither, got only the mean")],
    "l1_backward": [
        (lambda: l1_backward(NAN, BATCH, 1, ONES[0]), "dy must hold finite whole numbers, got nan"),
        (lambda: l1_backward(ONES[:1], BATCH, 1, ONES[0]), "forward pass's shape, got (1, 3)"),
        (lambda: l1_backward(ONES, BATCH, ONES[0, :2], ONES[0]), "gamma must be (3,), got (2,)"),
        (lambda: l1_backward(ONES, BATCH, 1, ONES[:, 0]), "deviation must be one for each column"),
        (lambda: l1_backward(BIG, BATCH, 1, ONES[0]), "dy must lie between -2147483648 and")],
    "layer_forward": [
        (lambda: layer_forward(NAN, 1, 1), "x must hold finite whole numbers, got nan"),
        (lambda: layer_forward(HALVES, 1, 1), "x must hold finite whole numbers, got 0.5"),
        (lambda: layer_forward(ONES, ONES[0, :2], 1), "gamma must be (3,), got (2,)"),
        (lambda: layer_forward(ONES[:0], 1, 1), "two axes and an element")],
    "layer_backward": [
        (lambda: layer_backward(ONES[:1], LAYER[1], 1, LAYER[2]), "got (1, 3) and (2, 3)"),
        (lambda: layer_backward(ONES, LAYER[1], 1, ONES[0]), "one for each row of dy, got (2, 3)")],
    "exponential": [
        (lambda: softmax.exponential(-ONES), "t must lie between 0 and 70368744177663, got -1"),
        (lambda: softmax.exponential(HALVES), "t must hold finite whole numbers, got 0.5")],
    "logarithm": [(lambda: softmax.logarithm(0 * ONES), "x must lie between 1 and")],
    "softmax": [
        (lambda: softmax.softmax(NAN), "logits must hold finite whole numbers, got nan"),
        (lambda: softmax.softmax(ONES[:, :0]), "an axis and an element, got (2, 0)"),
        (lambda: softmax.softmax(BIG), "logits must lie between -8388608 and 8388607")],
    "softmax_gradient": [
        (lambda: softmax.softmax_gradient(NAN, ONES), "dp must hold finite whole numbers, got nan"),
        (lambda: softmax.softmax_gradient(ONES, ONES[:, :2]), "one shape, with an axis and an "
         "element, got (2, 3) and (2, 2)"),
        (lambda: softmax.softmax_gradient(ONES, -ONES), "p must lie between 0 and 4194304, got -1"),
        (lambda: softmax.softmax_gradient(BIG, ONES), "dp must lie between -8388608 and")],
    "cross_entropy": [
        (lambda: softmax.cross_entropy(NAN, [0, 0]), "logits must hold finite whole numbers"),
        (lambda: softmax.cross_entropy(BIG, [0, 0]), "logits must lie between -8388608 and"),
        (lambda: softmax.cross_entropy(ONES, [0, 3]), "labels must lie between 0 and 2, got 0 to "
         "3"),
        (lambda: softmax.cross_entropy(ONES, [0]), "need m labels, at least one, got (2, 3) and "
         "(1,)")],
    "attend": [
        (lambda: attention.attend(HEADS * np.nan, HEADS, HEADS, 4), "q must hold finite whole"),
        (lambda: attention.attend(HEADS, HEADS, HEADS, 9), "bits must be a whole number from 2 to "
         "8, got 9"),
        (lambda: attention.attend(HEADS, HEADS[..., :1], HEADS, 4), "agree in all but the tokens "
         "of q, got (1, 1, 2, 2) and (1, 1, 2, 1) and (1, 1, 2, 2)"),
        (lambda: attention.attend(HEADS[:, :, :1], HEADS, HEADS, 4, causal=True), "agree in all "
         "four because the attention is causal"),
        (lambda: attention.attend(HEADS[0], HEADS[0], HEADS[0], 4), "must be [n, heads, tokens, "
         "width]"),
        (lambda: attention.inverse_root(0), "width must be a whole number from 1")],
    "attend_gradient": [
        (lambda: attention.attend_gradient(HEADS[0], context(), 4, (4, 4), HEADS, HEADS),
         "dy must have the shape of q and k, got (1, 2, 2)"),
        (lambda: attention.attend_gradient(HEADS, context(), 4, (5, 4), HEADS, HEADS),
         "got (5, 4)")],
    "digits": [
        (lambda: digits.streamed(NAN, 4, 2), "x must hold finite whole numbers, got nan"),
        (lambda: digits.streamed([5000], 4, 2), "numbers of 2 digits must lie between -128 and "
         "255, got 5000"),
        (lambda: digits.streamed([5], 0, 2), "bits must be a whole number from 1 to 8, got 0"),
        (lambda: digits.streamed([5], 4, 0), "count must be a whole number from 1 to 15, got 0"),
        (lambda: digits.stationary([-57], 4, 2), "numbers of 2 digits must lie between -56 and 63"),
        (lambda: digits.stationary([1], 1, 2), "bits must be a whole number from 2 to 8, got 1"),
        (lambda: digits.join([ONES, ONES[0]], 4), "digits must have one shape, got (2, 3) and"),
        (lambda: digits.join([], 4), "digits must be at least one, got none")],
    "patches": [
        (lambda: convolution.patches(IMAGE * np.nan, (2, 2), 1, 0), "x must hold finite whole"),
        (lambda: convolution.patches(IMAGE, (2, 5), 1, 0), "the kernel's width must be a whole "
         "number from 1 to 2, got 5"),
        (lambda: convolution.patches(IMAGE, 2, 1, 0), "kernel must be (height, width), got 2"),
        (lambda: convolution.patches(IMAGE, (2, 2), 0, 0), "stride must be a whole number from 1"),
        (lambda: convolution.patches(IMAGE, (2, 2), 1, -1), "padding must be a whole number from "
         "0"),
        (lambda: convolution.patches(ONES, (2, 2), 1, 0), "four axes and an element, got (2, 3)")],
    "convolution.fold": [
        (lambda: convolution.fold(ONES, (1, 1, 4, 4), (2, 2), 1, 0), "columns must be (9, 4), got "
         "(2, 3)"),
        (lambda: convolution.fold(NAN, (1, 1, 4, 4), (2, 2), 1, 0), "columns must hold finite"),
        (lambda: convolution.fold(ONES, (4, 4), (2, 2), 1, 0), "shape must be (n, c, h, w)")],
    "sgd": [
        (lambda: step(ONES, ONES, ONES[0], ONES), "must have one shape, got (2, 3) and (2, 3)"),
        (lambda: step(NAN, ONES, ONES, ONES), "weight must hold finite whole numbers, got nan"),
        (lambda: step(ONES, ONES, ONES, ONES, rate=5000), "rate must be a whole number from 0 to "
         "4095, got 5000"),
        (lambda: step(ONES, ONES, ONES, ONES, shift=18), "rate_shift must be a whole number from 0 "
         "to 17, got 18"),
        (lambda: step(ONES, ONES, ONES, ONES, momentum=257), "momentum must be a whole number"),
        (lambda: step(ONES, ONES, ONES, ONES, decay=-1), "decay must be a whole number from 0"),
        (lambda: step(ONES, ONES, ONES, -ONES), "noise must lie between 0 and 65535, got -1"),
        (lambda: step(BIG, ONES, ONES, ONES), "weight must lie between -8388608 and 8388607"),
        (lambda: step(ONES, ONES << 7, ONES, ONES, speed=(8, 6)), "velocity must lie between -128"),
        (lambda: step(ONES, ONES, BIG, ONES), "gradient must lie between -8388608 and"),
        (lambda: step(ONES, ONES, ONES, ONES, master=(60, 50)), "the width of master must be"),
        (lambda: step(ONES, ONES, ONES, ONES, master=24), "master must be (bits, fraction bits)"),
        (lambda: step(ONES, ONES, ONES, ONES, master=(24, 4)), "the fraction bits of master must"),
        (lambda: step(ONES, ONES, ONES, ONES, speed=(24, 5)), "the fraction bits of speed must be "
         "a whole number from 6 to 28, got 5"),
        (lambda: step(ONES, ONES, ONES, ONES, speed=(24, 8)), "the width of speed must be a whole "
         "number from 2 to 22, got 24")],
    "uniform_weights": [
        (lambda: initialise.uniform_weights(KEY, 0, 3), "fan_in must be a whole number from 1"),
        (lambda: initialise.uniform_weights(KEY, 2**20, 2**13), "fan_out must be a whole number "
         "from 1 to 4096, got 8192")],
    "noise": [
        (lambda: noise.key(-1, 0, 0), "seed must be a whole number from 0 to 4294967295, got -1"),
        (lambda: noise.key(0, 2**30, 0), "step must be a whole number from 0 to 1073741823"),
        (lambda: noise.key(0, 0, 0.5), "tensor must be a whole number from 0 to 1073741823"),
        (lambda: noise.key_words((1, 2, 3)), "a key must be four words from 0 to 65535, got"),
        (lambda: noise.bits16((1, 2, 3, -4), [0]), "a key must be four words from 0 to 65535"),
        (lambda: noise.bits16(KEY, [2**32]), "index must lie between 0 and 4294967295"),
        (lambda: noise.element_noise(KEY, -1, 3), "rows must be a whole number from 0"),
        (lambda: noise.permutation(KEY, -1), "count must be a whole number from 0")],
    "follow": [
        (lambda: follow(None, NAN[0], np.full(3, 4), -3), "statistic must hold finite whole"),
        (lambda: follow(None, ONES[0], ONES[0], -3), "mantissa must lie between 4 and 7, got 1"),
        (lambda: follow(None, ONES[0], np.full(2, 4), -3), "needs n mantissas, and n exponents or "
         "one, got (3,) and (2,) and ()"),
        (lambda: follow(ONES, ONES[0], np.full(3, 4), -3), "running must have the statistic's "
         "shape, got (2, 3) and (3,)"),
        (lambda: follow(BIG[0], ONES[0], np.full(3, 4), -3), "running must lie between")],
    "dropout": [
        (lambda: dropout.dropout(NAN, ONES), "x must hold finite whole numbers, got nan"),
        (lambda: dropout.dropout(ONES, ONES[0]), "noise must have x's shape, got (2, 3) and (3,)"),
        (lambda: dropout.dropout(ONES, -ONES), "noise must lie between 0 and 65535, got -1"),
        (lambda: dropout.dropout_gradient(HALVES, 0, ONES > 0), "dy must hold finite whole"),
        (lambda: dropout.dropout_gradient(ONES, 0, ONES[0] > 0), "dy and its mask must have one")],
    "embedding": [
        (lambda: embedding.lookup([2], ONES), "index must lie between 0 and 1, got 2"),
        (lambda: embedding.lookup([0], ONES[0]), "a table must have two axes and an element"),
        (lambda: embedding.lookup([0], NAN), "table must hold finite whole numbers, got nan"),
        (lambda: embedding.lookup_gradient(ONES, 0, [0, -1], 2), "index must lie between 0 and 1"),
        (lambda: embedding.lookup_gradient(ONES, 0, [0], 2), "dy [..., width] needs an index for "
         "every row, got (2, 3) and (1,)"),
        (lambda: embedding.lookup_gradient(BIG, 0, [0, 1], 2), "dy must lie between")],
    "order": [
        (lambda: order.order([0, 9], 4, 2), "groups_of must lie between 0 and 3, got 0 to 9"),
        (lambda: order.order(ONES, 4, 2), "groups_of must be a list, got (2, 3)"),
        (lambda: order.schedule_rows(3, 0), "depth must be a whole number from 1"),
        (lambda: order.inner_tiles(3, 1, 0), "rows must be a whole number from 1")],
}


@pytest.mark.parametrize("function", CASES)
def test_bad_input_gets_a_sentence(function):
    for act, words in CASES[function]:
        with pytest.raises(ModelError, match=re.escape(words)) as found:
            act()
        assert "\n" not in str(found.value), words


def test_the_widest_sums_that_fit_pass():
    a, b = np.array([[2**17, 2**17 - 1]]), np.array([[2**17], [2**17]])
    assert gemm(a, b)[0] == 2**31 - 1
    assert gemm(a, b, shift=10)[0] == (2**34 + 2**34 - 2**17) >> 10
    y, _ = sparse.sparse_gemm([0, 0], [0, 1], a[0], b, 1, shift=10)
    assert y == (2**34 + 2**34 - 2**17) >> 10
    # Terms of 52 bits together, of which the sum is one of 26, shifted left by 34.
    a, b = np.array([[2**25, 1 - 2**25]]), np.array([[2**26 - 1], [2**26 - 1]])
    y, _ = gemm(a, b, rows=[0], row_groups=32, cols=[0], col_groups=4, shift=34)
    assert y == 2**26 - 1


def test_extremes_are_those_of_any_integer():
    assert largest_magnitude(np.array([3, -2**63])) == 2**63
    assert largest_magnitude(np.array([], np.int64)) == 0
    check_within(np.array([], np.int64), "x", 0, 1)
    assert whole(np.array([2**32 - 1], np.uint32)).dtype == np.int64
