"""Compiled and an operation at a time, an equation gives the same closed form."""

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import parameterized

from rlhf_jax import equations


def softplus(x: float) -> float:
    """−log σ(−x)"""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


X = [[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]
MASK = [[True, True, False], [True, False, False]]  # 1, 2, 8: their mean is 11/3, their variance 86/9
STD = math.sqrt(86 / 9)
ONE, ALL = [[1.0]], [[True]]
P, Q = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]
FORMS = {
    "masked_sum": (equations.masked_sum, (X, MASK), 11.0),
    "masked_mean": (equations.masked_mean, (X, MASK), (11.0, 3.0)),
    "masked_variance": (partial(equations.masked_variance, unbiased=False), (X, MASK), 86 / 9),
    "unbiased": (partial(equations.masked_variance, unbiased=True), (X, MASK), 86 / 6),
    "row_sums": (equations.row_sums, (X, MASK), [3.0, 8.0]),
    "whiten": (equations.whiten, (X, MASK), [[-8 / 3 / STD, -5 / 3 / STD, 0.0], [13 / 3 / STD, 0.0, 0.0]]),
    "token_logps": (equations.token_logps, ([np.log(P)], [2]), [math.log(0.25)]),
    "entropy": (equations.entropy, ([np.log(P)],), [1.5 * math.log(2)]),
    "kl_exact": (equations.kl_exact, ([np.log(P)], [np.log(Q)]), [0.25 * math.log(2)]),
    "kl_k1": (equations.kl_k1, ([np.log(0.5)], [np.log(0.25)]), [math.log(2)]),
    "kl_k2": (equations.kl_k2, ([np.log(0.5)], [np.log(0.25)]), [math.log(2) ** 2 / 2]),
    "kl_k3": (equations.kl_k3, ([np.log(0.5)], [np.log(0.25)]), [0.5 - 1 + math.log(2)]),
    "adapted_scale": (equations.adapted_scale, (1.5, 30.0, 6.0, 256.0, 1e4), 1.5 * (1 + 0.2 * 0.0256)),
    "token_rewards": (
        equations.token_rewards,
        ([0.5, -0.25], [[1.0, -2.0, 4.0], [4.0, 9.0, 9.0]], 0.5, [[True] * 3, [True, False, False]]),
        [[-0.5, 1.0, -1.5], [-2.25, 0.0, 0.0]],
    ),
    "gae": (equations.gae, ([[1.0, 4.0]], [[3.0, 2.0]], [[True, True]], 0.5, 0.5), ([[-0.5, 2.0]], [[2.5, 4.0]])),
    "clipped_policy_loss": (  # a ratio of 3/2, held at 6/5
        equations.clipped_policy_loss,
        ([[math.log(1.5)]], [[0.0]], [[2.0]], ALL, 0.2, 0.2),
        (
            [[-2.4]],
            {
                "policy/approxkl_avg": (0.5 * math.log(1.5) ** 2, 1.0),
                "policy/clipfrac_avg": (1.0, 1.0),
                "val/ratio": (1.5, 1.0),
            },
        ),
    ),
    "clipped_value_loss": (  # V = 1.6 held at 1.2, R = 2
        equations.clipped_value_loss,
        ([[1.6]], ONE, [[2.0]], ALL, 0.2),
        ((0.5 * 0.8**2, 1.0), {"val/clipfrac_avg": (1.0, 1.0)}),
    ),
    "ranking_loss": (  # of 3 comparisons one is a tie
        lambda *arguments: equations.ranking_loss(*arguments).value,
        ([[1.0, 2.0, 4.0]], [[1, 1, 2]]),
        (softplus(3.0) + softplus(2.0)) / 3,
    ),
    "pair_accuracy": (lambda *arguments: equations.pair_accuracy(*arguments).value, ([[2.0, 1.0]], [[1, 2]]), 1.0),
    "plackett_luce_loss": (
        lambda *arguments: equations.plackett_luce_loss(*arguments).value,
        ([[1.0, 2.5]], [[1, 2]]),
        softplus(1.5),
    ),
    "label_loss": (
        equations.label_loss,
        ([[2.0, -1.0, 9.0]], [[True, True, False]], [[True, True, False]]),
        (softplus(-2.0) + softplus(1.0), 2.0),
    ),
    "label_accuracy": (
        equations.label_accuracy,
        ([[2.0, -1.0, 9.0]], [[True, True, False]], [[True, True, False]]),
        (1.0, 2.0),
    ),
    "dpo_loss": (equations.dpo_loss, ([2.0, -1.0], 0.5), (softplus(-1.0) + softplus(0.5), 2.0)),
    "ipo_loss": (equations.ipo_loss, ([2.0, -1.0], 0.5), (5.0, 2.0)),
    "simpo_loss": (
        equations.simpo_loss,
        ([2.0, -1.0], [0.0, 0.0], 0.5, 0.25),
        (softplus(0.25 - 1.0) + softplus(0.25 + 0.5), 2.0),
    ),
    "odds_ratio_loss": (equations.odds_ratio_loss, ([math.log(0.8)], [math.log(0.5)]), (math.log(1.25), 1.0)),
    "kto_loss": (  # at r = z each answer costs half its weight
        equations.kto_loss,
        ([0.25, 0.25], [True, False], 0.25, 0.5, 1.0, 3.0),
        (2.0, 2.0),
    ),
    "leave_one_out": (equations.leave_one_out, ([[1.0, 2.0, 6.0]],), [[-3.0, -1.5, 4.5]]),
    "ensemble_score": (
        lambda scores, doubt: equations.ensemble_score(scores, "mean", doubt),
        ([[1.0, 2.0], [3.0, 2.0]], 0.5),
        [1.5, 2.0],
    ),
}


def array(x):
    x = np.asarray(x)
    return jnp.asarray(x.astype({"f": np.float32, "i": np.int32, "b": bool}[x.dtype.kind]))


class ClosedForms(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.named_parameters((name, *form) for name, form in FORMS.items())
    def test(self, equation, arguments, expected):
        """A Mean is its numerator and denominator."""
        found = jax.tree.leaves(self.variant(equation)(*map(array, arguments)))
        expected = [np.float32(x) for x in jax.tree.leaves(expected, is_leaf=lambda x: isinstance(x, list))]
        chex.assert_trees_all_close(found, expected, rtol=2e-6, atol=1e-7)
