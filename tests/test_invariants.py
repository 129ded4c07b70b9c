"""Where each hole that was seen in other PPO loops is shown to be closed: what goes wrong there → the tests of ours.

The tests stand beside what they test; this list is their index, and fails where one of them is gone.
"""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
INVARIANTS = {
    "fractional rewards survive": ["steps/test_ppo_iteration.py::test_fractional_rewards_survive"],
    "a policy has no KL to itself, at every temperature, top-k, top-p, min-p and penalty": [
        "steps/test_ppo_iteration.py::test_a_policy_has_no_kl_to_itself",
        "steps/test_ppo_options.py::test_the_ratio_is_1_and_a_policy_has_no_kl_to_itself",
    ],
    "rollout keys advance, and across a resume too": [
        "steps/test_ppo_iteration.py::test_keys_advance_and_a_restored_state_continues_bit_for_bit"
    ],
    "the ratio is 1 on the first minibatch and not after it; clipping acts": [
        "steps/test_ppo_step.py::test_the_ratio_is_1_before_the_first_update_and_not_after_it",
        "steps/test_ppo_step.py::test_clipping_acts",
    ],
    "a config key that nothing reads is an error": [
        "test_rooms.py::test_every_option_is_read_somewhere",
        "test_experiments.py::test_an_unknown_key_is_named_with_the_nearest_one",
    ],
    "results do not depend on the number of devices": [
        "steps/test_mappings.py::test_the_same_parameters_after_five_iterations",
    ],
    "metrics are masked like the loss": [
        "steps/test_ppo_step.py::test_padding_is_without_influence_on_losses_and_metrics"
    ],
    "the EOS is trained and scored, and is not the padding": [
        "steps/test_ppo_step.py::test_the_eos_is_trained_and_the_padding_is_not",
        "data/test_tokenizer.py::test_special_pieces",
    ],
    "left, right and extra padding give the same score": [
        "models/test_heads.py::test_padding_moves_no_score",
        "steps/test_mappings.py::test_the_same_parameters_after_five_iterations",
    ],
    "everything resumes, bit for bit": [
        "test_experiments.py::test_ctrl_c_and_then_a_kill_in_ppo_change_no_bit",
        "test_experiments.py::test_killed_in_any_stage_it_ends_bit_for_bit_the_same",
        "test_kills.py::test_killed_at_a_random_moment_it_ends_bit_for_bit_the_same",
        "test_kills.py::test_two_processes_killed_at_a_random_moment",
    ],
    "losses do not depend on the split into micro-batches": [
        "equations/test_masked.py::test_a_mean_does_not_depend_on_the_split_into_micro_batches",
        "equations/test_masked.py::test_each_of_them_splits_into_micro_batches",
    ],
    "GAE with λ = 0, λ = 1 and worked by hand": [
        "equations/test_gae.py::test_by_hand",
        "equations/test_gae.py::test_lambda_0_is_the_one_step_error",
        "equations/test_gae.py::test_lambda_1_is_the_discounted_return",
    ],
}


@pytest.mark.parametrize("invariant", INVARIANTS)
def test_each_invariant_has_its_test(invariant):
    for where in INVARIANTS[invariant]:
        path, name = where.split("::")
        functions = {n.name for n in ast.parse((TESTS / path).read_text()).body if isinstance(n, ast.FunctionDef)}
        assert name in functions, f"{where} is gone"
