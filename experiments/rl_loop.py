"""PPO-ptx on a reward that is a Python function of the text: InstructGPT's algorithm, nothing hidden.

    python rl_loop.py                                              a tiny model is trained first; 75 seconds on two cores
    python rl_loop.py --start runs/tiny/sft --out runs/from_sft    from any trained model, or a Hugging Face folder

Copy this file and change `reward`, or any line of the algorithm (Ouyang et al. 2022, arXiv:2203.02155, §3.5 and App. C.4).
Ctrl-C saves, and the same command continues. out/ppo_ptx gets metrics.jsonl, curve.png and checkpoints. One device.

GRPO (arXiv:2402.03300): run with --answers 4, without the lines that say `# value`, and in the place of GAE's in `learn`
    adv = jnp.where(mask, equations.group_relative(r.sum(1).reshape(-1, c.answers), "group").reshape(-1, 1), 0.0)

Differences from the paper: the value network starts as π_SFT below a fresh projection, Â is whitened, lr does not warm up.
"""

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import tyro
from matplotlib.figure import Figure

from rlhf_jax import config, data, equations, evals, models, runtime, stages, steps
from rlhf_jax.types import Experience, PPOState, PromptBatch, TextBatch

ADAM = steps.adam()  # β₁ = 0.9, β₂ = 0.95, the gradient clipped to a norm of 1; without a learning rate


@dataclass(frozen=True)
class Settings(config.Checked):
    start: str = ""  # a stage's folder, such as runs/tiny/sft, or a Hugging Face folder; "" trains a tiny model first
    out: str = "runs/rl_loop"  # the folder that everything is written into
    tokens: tuple[int, int] = (20, 18)  # of a prompt and of an answer at most; a stage's folder has its own
    anew: str = ""  # a folder of out, such as ppo_ptx, that is set aside with all that was made from it, and made again
    seed: config.Seed = 0  # of every use of chance
    fresh_steps: config.Count = 400  # of pretraining, and as many of fine-tuning, where start is ""
    iterations: config.Count = 50  # of RL; every tenth is saved
    batch: config.Count = 64  # answers an iteration
    answers: config.DividesBatch = 1  # to each prompt; GRPO compares several
    minibatches: config.DividesBatch = 4  # updates an iteration
    beta: config.NotNegative = 0.05  # β of the KL, per nat
    gamma: config.NotNegative = 1.0  # γ of the pretraining loss, per nat a token
    clip: config.NotNegative = 0.2  # ε: how far from 1 the ratio counts
    lr: config.Positive = 1e-4  # of the policy
    lam: config.Share = 0.95  # value: λ of GAE
    value_lr: config.Positive = 1e-3  # value: learning rate of the network


def reward(prompts: list[data.Prompt], answers: list[str], rows: list[data.Columns]) -> list[float]:
    """1 for as many sentences, or items of a list, as the prompt asks for: one where it names no number; else 0."""
    asked = [next((n for word, n in ((" two ", 2), (" three ", 3)) if word in x.text), 1) for x in prompts]
    written = [(y.count("."), y.count(".") + y.count(",")) for y in answers]
    return [float(n in counts) for n, counts in zip(asked, written, strict=True)]


def sample(state: PPOState, x: PromptBatch, sft, *, c: Settings, m: stages.Trained) -> steps.Rollout:
    """Answers to prompts, with log π_old as `update` will read it, and how far each token is from what π_SFT would say."""
    model, T, t = models.LanguageModel(m.decoder), m.format.answer_tokens, m.tokenizer
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), steps.SAMPLE)
    y = models.generate(model, state.policy, x, key, T, models.Sampling(1.0, 0, 1.0), t.ends, t.pad)  # y ~ π(·|x)
    ended, (xy, mask) = jnp.any(y.mask & jnp.isin(y.tokens, jnp.array(t.ends)), axis=1), steps.join(x, y)
    read = steps.reading(state.policy, xy, mask, y, model=models.in_parts(model, c.minibatches), reference=sft)
    return steps.Rollout(xy, mask, replace(y, logp=read.logp), ended, steps.divergences(read, y.mask), read.logp_ref)


def learn(state: PPOState, a: steps.Rollout, scores, text: TextBatch, *, c: Settings, m: stages.Trained):
    """From answers and their scores: a reward for each token, advantages, and the updates."""
    mask, T, key = a.y.mask, m.format.answer_tokens, jax.random.fold_in(state.key, state.step)
    # rₜ = −β·KLₜ, where KLₜ = log π(yₜ) − log π_SFT(yₜ), and the score on top at the answer's last token (Eq. 2)
    r = equations.token_rewards(scores, a.kl["k1"], c.beta, mask)
    V = steps.response_values(state.value, a.tokens, a.mask, T, model=models.ScalarModel(m.decoder))  # value
    adv, returns = equations.gae(r, V, mask, 1.0, c.lam)  # value: Âₜ = δₜ + λ·Âₜ₊₁, δₜ = rₜ + V(sₜ₊₁) − V(sₜ)
    adv = equations.whiten(adv, mask)  # value: (Â − mean) / deviation, over the batch
    batch = Experience(a.tokens, a.mask, a.y, a.logp_sft, None, adv, None, text)
    batch = replace(batch, values=V, returns=returns)  # value: Rₜ = Âₜ + V(sₜ)
    parts = steps.minibatches(jax.random.fold_in(key, steps.SHUFFLE), batch, 1, c.minibatches)  # in a new order
    state, seen = jax.lax.scan(partial(update, c=c, m=m), state, parts)
    return replace(state, step=state.step + 1), equations.summed(seen) | steps.rollout_metrics(a, scores[None], scores)


def update(state: PPOState, b, *, c: Settings, m: stages.Trained):
    """A minibatch's step of policy and value network; the result is θ̄, the mean of θ₁ … θₜ in which θₛ weighs 0.992ᵗ⁻ˢ."""
    model, y, T = models.LanguageModel(m.decoder), b.response, m.format.answer_tokens

    def policy_loss(params):
        # E max(−Âₜρₜ, −Âₜ·clip(ρₜ, 1 ± ε)) + γ·E(−log π(x_pretrain)), where ρₜ = π(yₜ) / π_old(yₜ)
        logp = steps.reading(params, b.tokens, b.mask, y, model=model).logp
        ppo, metrics = equations.clipped_policy_loss(logp, y.logp, b.advantages, y.mask, c.clip, c.clip)
        ptx = equations.masked_mean(-steps.text_logps(params, b.pretrain, model=model), b.pretrain.predict[:, 1:])
        return equations.masked_mean(ppo, y.mask).value + c.gamma * ptx.value, metrics | {"loss/pretrain": ptx}

    def value_loss(params):  # value
        V = steps.response_values(params, b.tokens, b.mask, T, model=models.ScalarModel(m.decoder))  # value
        return 0.5 * equations.masked_mean((V - b.returns) ** 2, y.mask).value  # value: ½·E(V(sₜ) − Rₜ)²

    grads, metrics = jax.grad(policy_loss, has_aux=True)(state.policy)
    policy, policy_opt, _ = steps.descend(ADAM, grads, state.policy_opt, state.policy, c.lr)
    grads = jax.grad(value_loss)(state.value)  # value
    value, value_opt, _ = steps.descend(ADAM, grads, state.value_opt, state.value, c.value_lr)  # value
    state = replace(state, value=value, value_opt=value_opt)  # value
    average, weight = equations.ema(state.ema, policy, 0.992, state.ema_weight)
    return replace(state, policy=policy, policy_opt=policy_opt, ema=average, ema_weight=weight), metrics


def starting_model(c: Settings, world: stages.DataSets, run: stages.Run) -> stages.Trained:
    """What RL starts from, and π_SFT: the model of a folder, or a tiny one that is trained on the built-in world."""
    if c.start:
        return stages.model_in(c.start, stages.Format(*c.tokens))
    out, shape = Path(c.out), stages.Decoder(width=128, layers=2, heads=4, kv_heads=4, hidden=512, position="rope")
    tokenizer = stages.run_tokenizer(stages.TokenizerSettings(vocab_size=1000), out, world.tokenizer_text)
    random = stages.described(shape, tokenizer, stages.Format(*c.tokens))
    how = stages.Pretrain(steps=c.fresh_steps, batch=28, lr=3e-3, warmup=20)
    base = stages.pretrain(out / "pretrain", random, world.text.train, how, run)
    return stages.supervised(out / "sft", base, world.demonstrations, stages.Supervised(2, 8, lr=1.5e-3), run)


def main(c: Settings) -> None:
    run, world = stages.Run(c.seed), stages.from_world(stages.World(demonstrations=4 * c.fresh_steps), c.seed)
    if c.anew:
        runtime.set_aside(Path(c.out), c.anew)
    m = starting_model(c, world, run)
    prompts = stages.prompts_that_fit(world.prompts.train, m, "train")  # your own: data.read_prompts("prompts.jsonl")
    x, text = data.encode_prompts(prompts, m.tokenizer, m.format.prompt_tokens), stages.packed(world.text.train, m)
    inputs = stages.parents(start=m) | {"data": data.content_sha256([*prompts, *world.text.train])}
    settings = asdict(replace(c, start="", out="", anew="", fresh_steps=1, iterations=1))  # what matters to RL
    code = {"sample": sample, "reward": reward, "learn": learn}
    stage = stages.open_stage(Path(c.out) / "ppo_ptx", c.iterations, m, settings, inputs, code, run, part="ema")
    sft, value = m.params(), None
    value = models.scalar_from_language_model(sft, models.scalar_head(m.decoder, run.key("value")))  # value
    state = stage.resume(steps.initial_state(sft, value, steps.Optimisers(ADAM, ADAM), run.key("ppo_ptx")))
    draw, train = jax.jit(partial(sample, c=c, m=m)), jax.jit(partial(learn, c=c, m=m))
    for i in stage.steps(int(state.step)):
        rows = data.batch_indices(len(prompts), c.batch // c.answers, run.numpy_seed("prompts"), i).repeat(c.answers)
        answers = draw(state, data.take(x, rows), sft)
        texts = stages.decoded(m, evals.Answers(data.take(x, rows), answers.y))
        scores = jnp.asarray(stages.scores_by(reward, [prompts[row] for row in rows], texts))
        mix = data.take(text, data.batch_indices(len(text.tokens), c.batch, run.numpy_seed("text"), i))
        state, metrics = train(state, answers, scores, mix)
        stage.log(i, equations.values(metrics))
        stage.save(i, state, every=10)
    figure, curves = Figure(figsize=(8, 3), layout="constrained"), runtime.read_metrics(stage.folder)
    for axes, name in zip(figure.subplots(1, 2), ("objective/scores", "objective/kl"), strict=True):
        axes.plot([row["step"] for row in curves], [row[name] for row in curves])
        axes.set(title=name, xlabel="iteration")
    figure.savefig(stage.folder / "curve.png")


if __name__ == "__main__":
    runtime.run(lambda: main(tyro.cli(Settings, description=__doc__)))
