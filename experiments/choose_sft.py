"""The SFT baseline's epoch, chosen by reward on validation prompts (InstructGPT, App. C.1), once there is a reward model.

python experiments/choose_sft.py configs/tiny.toml
"""

import json
import math
from pathlib import Path

from experiments.decoder import language_model
from experiments.recipe import Config, material, prompts_that_fit, role_key, tokenizer
from experiments.reward_model import AS_IS, reward_params, reward_stage, score_rows
from experiments.sft import fine_tuned, sft_stage
from rlhf_jax.config import load_config
from rlhf_jax.data import encode_prompts
from rlhf_jax.evals import answer, scores
from rlhf_jax.runtime import run, say, write_atomically


def choose_sft(config: Config) -> None:
    """Writes sft/chosen.json: the step with the highest mean reward, and every epoch's reward and validation loss."""
    path = Path(config.out) / "sft" / "chosen.json"
    if path.exists() and json.loads(path.read_text())["reward_model"] == reward_stage(config).sha256:
        return
    t, c, checkpoints = tokenizer(config), config.evaluate, sft_stage(config, "sft").checkpoints
    given = [material(config).prompts["valid"][i] for i in prompts_that_fit(config, "valid")]
    prompts = encode_prompts(given, t, config.model.prompt_tokens)
    epochs = {}
    for step in checkpoints.steps():
        if not math.isfinite(checkpoints.record(step)["valid"]):
            continue  # no epoch's end, but where the run was stopped
        written = answer(
            language_model(config),
            fine_tuned(config, "sft", step),
            prompts,
            role_key(config, "choose_sft"),
            batch=c.batch,
            max_tokens=config.model.answer_tokens,
            sampling=AS_IS,
            eos=t.eos,
            pad=t.pad,
        )
        reward = scores(score_rows(config), reward_params(config), *written.concat(), batch=c.batch)
        epochs[step] = {"reward": float(reward.mean()), "loss": checkpoints.record(step)["valid"]}
    best = max(epochs, key=lambda step: epochs[step]["reward"])
    say(f"sft: step {best} has the best reward on validation prompts, {epochs[best]['reward']:.2f}")
    write_atomically(path, json.dumps({"step": best, "epochs": epochs, "reward_model": reward_stage(config).sha256}))


if __name__ == "__main__":
    run(lambda: choose_sft(load_config(Config)))
