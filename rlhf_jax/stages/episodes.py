"""Episodes of several turns: a policy and an environment speak in turn, and the policy learns from what its turns earn.

A row is the first prompt, padded on the left, and behind it what the policy sampled and the environment said, as it came:

    x  y₀  EOS  e₀  y₁  EOS  …        own tokens: y₀ EOS y₁ EOS

The ids of yₙ are those that were sampled; only the environment's text is tokenised, with what the format writes around it
(`encode_reply`). The context of a turn is what the format would write. Where that ends an answer between turns with a token
of its own, as ChatML does, the sampled EOS is that token, and an answer that was cut off gets it without its being its own. A
transcript has none there: EOS is in the loss like any own token, and hidden from what follows.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from rlhf_jax.config import Checked, Count
from rlhf_jax.data import (
    ASSISTANT,
    Conversation,
    Message,
    Messages,
    Prompt,
    Tokenizer,
    by_role,
    encode_prompt,
    encode_reply,
    messages_of,
    text_of,
)
from rlhf_jax.data.world import Question, follow_ups
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.models import LanguageModel, ScalarModel, TransformerConfig, replicate_rows
from rlhf_jax.runtime import ROWS, first_process, of_first_process, place, shard_rows
from rlhf_jax.stages.datasets import Truth
from rlhf_jax.stages.functions import asked, mismatch
from rlhf_jax.stages.iterations import Program, learning, on_host
from rlhf_jax.stages.model import Model, Trained
from rlhf_jax.stages.rewards import (
    Rewards,
    in_float32,
    is_async,
    number_of,
    opinions_for_all,
    part_metrics,
    parts_earned,
    together,
)
from rlhf_jax.stages.rollouts import Drawn, Reading, Told, padded
from rlhf_jax.stages.run import Run
from rlhf_jax.steps import Frozen, Iteration, Models, Plan, PPOCoef, read_episodes, reward_scores, sample, sample_turn
from rlhf_jax.types import PPOBatch, PPOState, PromptBatch, Response

GOES_ON, DONE, LAST, FULL = range(4)  # why an episode is over: the environment says so, it has no turn left, or no room
ENVIRONMENT = "environment"  # what it gives, among the parts of a reward
OVER = ("", "done", "last turn", "full")  # what a record calls that


class Environment(NamedTuple):
    """Whom a policy talks with: a user who asks on, a tool, a checker.

    start(row) → messages: how an episode begins, a transcript or messages of which the last is not the assistant's. row: the
    prompt that the episode is about, with its columns.
    reply(messages, row) → (messages, reward, done): what is said to the answer that the given messages end in, what that
    answer earned, and whether the episode is over, in which case nobody reads what is said. The policy's answers are
    {"role": "assistant", "content": text}.

    Both get copies. An episode is made from a row each time anew: what is drawn at random should be drawn from the row, so
    that a resumed run is the uninterrupted one.
    """

    start: Callable[[Prompt], Conversation | Sequence[Message]]
    reply: Callable[[list[Message], Prompt], tuple[Sequence[Message], float, bool]]


def require_environment(environment: Any) -> None:
    """InputError: it has no start and reply, or they do not take a row, and messages with a row, or are async."""
    if not all(callable(getattr(environment, name, None)) for name in Environment._fields):
        raise InputError(f"the environment is {shortened(environment)}; give a stages.Environment(start, reply)")
    for name, wanted in (("start", "(row)"), ("reply", "(messages, row)")):
        if found := mismatch(getattr(environment, name), 1 + wanted.count(",")):
            signature, error = found
            raise InputError(
                f"environment.{name} takes {signature} ({error}); let it take {wanted} and nothing else without a default"
            )
        if is_async(getattr(environment, name)):
            raise InputError(
                f"environment.{name} is async, and environments cannot be; make it a plain function (asyncio.run inside it)"
            )


@dataclass(frozen=True)
class Episodes(Checked):
    """How long episodes may be. An answer has at most format.answer_tokens in each turn."""

    turns: Count = 2  # answers of the policy at most
    reply_tokens: Count = (
        64  # between two answers at most, with what the format writes around the environment's messages
    )

    def columns(self, model: Model) -> int:
        """Of a row behind its first prompt."""
        return self.turns * model.format.answer_tokens + (self.turns - 1) * self.reply_tokens


def world_dialogue(truth: Truth) -> Environment:
    """A user of the built-in world who asks on about whom a question was about, see `follow_ups`; each turn earns the gold
    preference's score of its answer. A question without a follow-up is an episode of one turn."""

    def asked_of(row: Prompt) -> list[Question]:
        question = truth.question(row)
        return [question, *follow_ups(truth.world, question)]

    def start(row: Prompt) -> Conversation:
        return row.conversation

    def reply(messages: list[Message], row: Prompt) -> tuple[list[Message], float, bool]:
        asked, turn = asked_of(row), sum(m["role"] == "assistant" for m in messages)
        score = truth.gold(asked[turn - 1], messages[-1]["content"])
        on = [{"role": "user", "content": question.text} for question in asked[turn : turn + 1]]
        return on, score, not on

    return Environment(start, reply)


class BrokenEnvironmentError(InputError):
    """The environment did something wrong."""


class Episode(NamedTuple):
    """One row as far as it has come. Only the first of several processes knows its messages."""

    row: Prompt
    messages: tuple[Message, ...]
    opening: int  # how many of them the environment began with
    prompt: tuple[int, ...]  # the first prompt's tokens
    tokens: tuple[int, ...] = ()  # behind it
    own: tuple[bool, ...] = ()  # which of these the policy wrote
    seen: tuple[bool, ...] = ()  # which of these stand in the context of those behind them
    rewards: tuple[float, ...] = ()  # a turn
    ended: bool = True  # the policy ended every turn itself
    over: int = GOES_ON

    def answered(self, ids: Sequence[int], ends: bool, tokenizer: Tokenizer) -> "Episode":
        """With the policy's next turn. ends: whether it ended that itself, by the last of the ids."""
        text = tokenizer.decode(ids[: len(ids) - ends]).strip()
        return self._replace(
            messages=(*self.messages, {"role": "assistant", "content": text}),
            tokens=(*self.tokens, *ids),
            own=(*self.own, *[True] * len(ids)),
            seen=(*self.seen, *[True] * len(ids)),
            ended=self.ended and ends,
        )

    def heard(self, said: "Said", ends: bool) -> "Episode":
        """With what the environment said to that turn, unless it is over."""
        earned = self._replace(rewards=(*self.rewards, said.reward), over=said.over)
        if said.over != GOES_ON:
            return earned
        tokens, seen = said.ids, [*self.seen]
        if ends and tokens[0] == self.tokens[-1]:
            tokens = tokens[1:]  # the policy wrote it
        elif ends:
            seen[-1] = False
        return earned._replace(
            messages=(*self.messages, *said.messages),
            tokens=(*self.tokens, *tokens),
            own=(*self.own, *[False] * len(tokens)),
            seen=(*seen, *[True] * len(tokens)),
        )

    @property
    def begun(self) -> Prompt:
        """The row's prompt in the environment's words."""
        return self.row._replace(conversation=Messages(self.messages[: self.opening]))

    @property
    def told(self) -> Told:
        """For people to look at."""
        said = by_role(Messages(self.messages[self.opening :])).removeprefix("assistant:").strip()
        return Told(self.begun, said, self.rewards, OVER[self.over])

    @property
    def text(self) -> str:
        """The same as a transcript, which reward functions get: all that was said behind the first prompt."""
        return text_of(Messages(self.messages[self.opening :])).removeprefix(ASSISTANT).strip()


def play(
    rows: Sequence[Prompt],
    environment: Environment,
    draw: Callable[[PromptBatch, int], tuple[Int[ndarray, "B R"], Bool[ndarray, "B R"]]],
    model: Model,
    c: Episodes,
    positions: float = np.inf,
) -> list[Episode]:
    """An episode from each row, whose turns are drawn for all rows at a time.

    draw(context, number) → tokens and mask of turn `number`; context: what was said before it, padded on the left, or for an
    episode that is over its first prompt, for which what is drawn is not read. An episode is over where the environment says
    so, after c.turns turns, and where its row is FULL: the reply has more than c.reply_tokens tokens, or behind it there are
    no `positions` for another answer. Nobody reads that reply.

    Of several processes the first asks the environment. BrokenEnvironmentError, on every one: see `begin` and `respond`.
    """
    P, width = model.format.prompt_tokens, model.format.prompt_tokens + c.columns(model) - model.format.answer_tokens
    begun = _first([partial(begin, row, environment, model) for row in rows], P)
    episodes = [
        Episode(row, messages, len(messages), ids) for row, (messages, ids, _, _) in zip(rows, begun, strict=True)
    ]
    for number in range(c.turns):
        if all(episode.over for episode in episodes):
            break
        tokens, mask = draw(_contexts(episodes, model.tokenizer.pad, width if number else P), number)
        drawn = [[int(i) for i in ids[here]] for ids, here in zip(tokens, mask, strict=True)]
        ends = [bool(ids) and ids[-1] in model.tokenizer.ends for ids in drawn]
        live = [i for i, episode in enumerate(episodes) if not episode.over]
        for i in live:
            episodes[i] = episodes[i].answered(drawn[i], ends[i], model.tokenizer)
        more = number + 1 < c.turns
        asks = [partial(respond, episodes[i], environment, model, c, positions, more) for i in live]
        said = _first(asks, c.reply_tokens)
        for i, each in zip(live, said, strict=True):
            episodes[i] = episodes[i].heard(each, ends[i])
    return episodes


class Said(NamedTuple):
    """What the environment answered to one row."""

    messages: tuple[Message, ...]
    ids: tuple[int, ...]
    reward: float = 0.0
    over: int = GOES_ON


def begin(row: Prompt, environment: Environment, model: Model) -> Said:
    """How the row's episode begins. BrokenEnvironmentError: `start` raises; it gives no messages, or such as the format
    cannot write, or more than format.prompt_tokens tokens of them."""
    who, length = f"environment.start on the row {shortened(row.text)}", model.format.prompt_tokens
    with _broken(who):
        given = asked("it", environment.start, copy.deepcopy(row))
        if not isinstance(given, (str, list, tuple)) or not given:
            raise InputError(f"it gave {shortened(given)}; let it give a transcript or a list of messages")
        conversation = given if isinstance(given, str) else Messages(asked("it", copy.deepcopy, given))
        ids = encode_prompt(conversation, model.tokenizer)
        messages = messages_of(conversation)
        if messages[-1]["role"] == "assistant":
            raise InputError("its messages end in the assistant's, whom the policy is; let them end before it")
        if len(ids) > length:
            raise InputError(f"its messages are {len(ids)} tokens and format.prompt_tokens is {length}; raise that")
    return Said(tuple(messages), tuple(ids))


def respond(
    episode: Episode, environment: Environment, model: Model, c: Episodes, positions: float, more: bool
) -> Said:
    """What the environment says to the turn that the episode ends in. more: whether the policy may take another one.

    BrokenEnvironmentError: `reply` raises; it gives something else than (messages, reward, done), a reward that is no finite
    number, alone or with those before, or no messages although the episode goes on; or messages that the format cannot
    write."""
    with _broken(f"environment.reply on the row {shortened(episode.row.text)}"):
        given = asked("it", environment.reply, *copy.deepcopy((list(episode.messages), episode.row)))
        form = "let it give (messages, reward, done), a list, a finite number and True or False"
        if not isinstance(given, tuple) or len(given) != 3:
            raise InputError(f"it gave {shortened(given)}; {form}")
        messages, reward, done = given
        number = number_of(reward)
        if not np.isfinite(number) or not isinstance(done, (bool, np.bool_)) or not isinstance(messages, (list, tuple)):
            raise InputError(f"it gave {shortened(given)}; {form}")
        with np.errstate(over="ignore"):
            earned = np.float32(sum((*episode.rewards, float(reward))))
        if not np.isfinite(earned):
            raise InputError(f"with the reward {number:g} its turns earn more than float32 holds; give smaller rewards")
        said = Said(tuple(asked("it", copy.deepcopy, messages)), (), float(reward))
        if done or not more:
            return said._replace(over=DONE if done else LAST)
        if not messages:
            raise InputError("it gave no messages and the episode is not done; let it say something, or be done")
        ids = encode_reply(episode.messages, messages, model.tokenizer)
    ends = not set(episode.tokens[-1:]).isdisjoint(model.tokenizer.ends)  # hidden, or the reply's first token
    before = len(episode.prompt) + sum(episode.seen) - ends
    if len(ids) > c.reply_tokens or before + len(ids) + model.format.answer_tokens > positions:
        return said._replace(over=FULL)
    return said._replace(ids=tuple(ids))


@contextmanager
def _broken(who: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise BrokenEnvironmentError(f"{who}: {error}") from error


def _first(asks: Sequence[Callable[[], Said]], width: int) -> list[Said]:
    """What the first process's environment says to each; other processes get all but the messages."""
    said, error = [Said((), ()) for _ in asks], None
    if first_process():
        try:
            said = [ask() for ask in asks]
        except BrokenEnvironmentError as found:
            error = found
    ids = np.full((len(asks), width), -1, np.int32)
    for row, each in zip(ids, said, strict=True):
        row[: len(each.ids)] = each.ids
    numbers = np.array([(each.reward, each.over, error is not None) for each in said], np.float64).reshape(-1, 3)
    ids, numbers = of_first_process(ids), of_first_process(numbers)
    if numbers[:, 2].any():
        raise error or BrokenEnvironmentError("the environment went wrong on the first process, which says how")
    return [
        Said(each.messages, tuple(int(i) for i in row[row >= 0]), float(reward), int(over))
        for each, row, (reward, over, _) in zip(said, ids, numbers, strict=True)
    ]


def _contexts(episodes: Sequence[Episode], pad: int, width: int) -> PromptBatch:
    """What the policy reads before its next turn; of an episode that is over, its first prompt."""
    rows = [e._replace(tokens=(), seen=()) if e.over else e for e in episodes]
    return padded([((*e.prompt, *e.tokens), (*[True] * len(e.prompt), *e.seen)) for e in rows], pad, width)


def positions_for(*decoders: TransformerConfig) -> float:
    """For how many tokens all of these have positions."""
    return min([np.inf, *(float(decoder.context) for decoder in decoders if decoder.position == "learned")])


class Rows(NamedTuple):
    """Episodes as `read_episodes` takes them."""

    prompts: PromptBatch
    y: Response
    context: Bool[ndarray, "B T"]
    ended: Bool[ndarray, " B"]
    earned: Float[ndarray, "B N"]


def rows_of(
    episodes: Sequence[Episode], supports: Sequence[Bool[ndarray, "B R V"]], model: Model, plan: Plan, c: Episodes
) -> Rows:
    """supports: of each turn of all rows, which tokens truncation left; none where there is no truncation."""
    B, T = len(episodes), c.columns(model)
    tokens, own, context = np.full((B, T), plan.pad, np.int32), np.zeros((B, T), bool), np.zeros((B, T), bool)
    earned = np.zeros((B, c.turns), np.float32)
    kept = np.ones((B, T, supports[0].shape[2]), bool) if supports else None
    for i, e in enumerate(episodes):
        tokens[i, : len(e.tokens)], own[i, : len(e.own)], context[i, : len(e.seen)] = e.tokens, e.own, e.seen
        earned[i, : len(e.rewards)] = e.rewards
        if kept is not None:
            starts = np.flatnonzero(own[i] & ~np.pad(own[i], (1, 0))[:-1])
            for start, support in zip(starts, supports, strict=False):
                n = min(len(support[i]), T - start)
                kept[i, start : start + n] = np.where(own[i, start : start + n, None], support[i, :n], True)
    logp, temperature = np.zeros((B, T), np.float32), np.full(B, plan.sampling.temperature or 1.0, np.float32)
    prompts = padded([(e.prompt, [True] * len(e.prompt)) for e in episodes], plan.pad, model.format.prompt_tokens)
    ended = np.array([e.ended for e in episodes])
    return Rows(prompts, Response(tokens, own, logp, temperature, kept), context, ended, earned)


def in_turns(
    halves: Iteration,
    pieces: dict[str, Any],
    mesh: Mesh,
    run: Run,
    model: Trained,
    environment: Environment,
    c: Episodes,
    rewards: Rewards,
    answers: int,
) -> Program:
    """Episodes drawn turn by turn, and learning from what they earned: the sum of what their turns did, and what the rewards,
    if there are any, say of the whole."""
    models, plan = pieces["models"], pieces["plan"]
    whole, lie = plan._replace(max_tokens=c.columns(model)), NamedSharding(mesh, ROWS)

    @jax.jit
    def turn(state: PPOState, context: PromptBatch, frozen: Frozen, number):
        y = sample_turn(state, context, frozen, number, models=models, plan=plan)
        return replicate_rows((y.tokens, y.mask, y.support))

    @jax.jit
    def read(state: PPOState, rows: Rows, frozen: Frozen):
        x = read_episodes(state, *rows, frozen, models=models, plan=whole)
        scores = reward_scores(x, frozen, model=frozen.adapt(models).value) if frozen.reward else None
        x = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, lie), x)  # as a record's rows lie
        return x, replicate_rows(scores)

    learn = learning(halves, {**pieces, "plan": whole}, mesh, run)

    def call(state: PPOState, prompts: list[Prompt], batch: PPOBatch, coef: PPOCoef, frozen: Frozen):
        supports: list[Bool[ndarray, "B R V"]] = []

        def draw(context: PromptBatch, number: int) -> tuple[Int[ndarray, "B R"], Bool[ndarray, "B R"]]:
            with jax.set_mesh(mesh):
                tokens, mask, support = turn(state, shard_rows(context, mesh), frozen, np.int32(number))
            if support is not None:
                supports.append(np.asarray(support))
            return np.asarray(tokens), np.asarray(mask)

        room = positions_for(models.policy.config, models.value.config)
        episodes = play(prompts, environment, draw, model, c, room)
        rows = shard_rows(rows_of(episodes, supports, model, plan, c), mesh)
        with jax.set_mesh(mesh):
            x, given = read(state, rows, frozen)
        total = np.array([[sum(e.rewards) for e in episodes]], np.float32)
        parts: dict[str, Float[ndarray, " B"]] = {ENVIRONMENT: total[0]}
        if rewards.recorded:
            of_models, texts = on_host(given, mesh), [e.text for e in episodes]
            said = opinions_for_all(rewards, prompts, texts, run.runtime.reward_seconds)
            total = in_float32(total + together(rewards, said, of_models).astype(np.float64))
            parts |= parts_earned(rewards, said, of_models)
        state, learned, drawn = learn(state, x, place(total, mesh), batch, coef, frozen)
        drawn = drawn._replace(parts=parts, told=[e.told for e in episodes])
        return state, learned | episode_metrics(drawn, answers), drawn

    return call


def require_turns(halves: Iteration, run: Run, rewards: Rewards) -> None:
    """InputError: pmap; an iteration that draws in a way of its own; a reward that is called as the environment's is."""
    if run.mesh.pmap:
        raise InputError("mesh.pmap needs a reward model, and there is an environment; leave it out")
    if halves.sample is not sample:
        raise InputError("with an environment an iteration's sample is not called; leave it as steps.sample")
    if ENVIRONMENT in {*rewards.named, *(model.folder.name for model in rewards.models[:1])}:
        raise InputError(f"a reward is named {ENVIRONMENT}, as what the environment gives is; give it another name")


def reading_of_episodes(
    pieces: dict[str, Any],
    model: Trained,
    c: Episodes,
    state: PPOState,
    frozen: Frozen,
    prompts: PromptBatch,
    scores: int,
) -> Reading:
    """What a record has to hold for these to learn from its episodes."""
    plan, models = pieces["plan"], Models(LanguageModel(model.decoder), ScalarModel(model.decoder))
    first = jax.eval_shape(partial(sample_turn, number=0, models=models, plan=plan), state, prompts, frozen)
    supports = [] if first.support is None else [np.ones(first.support.shape, bool)]
    rows = rows_of([Episode(Prompt(""), (), 0, ())] * len(prompts.tokens), supports, model, plan, c)
    read = partial(read_episodes, models=models, plan=plan._replace(max_tokens=c.columns(model)))
    shapes = jax.eval_shape(read, state, *rows, frozen)
    return Reading(shapes, model.tokenizer, model.decoder.vocab_size, scores, c.turns)


def episode_metrics(drawn: Drawn, answers: int) -> dict[str, float]:
    """What episodes earned in all their turns together, how many turns they had, and why they were over, as shares; and what
    rewards beside the environment's made of the whole."""
    told = drawn.told
    return {
        "environment/reward": float(np.mean([sum(e.rewards) for e in told])),
        "environment/turns": float(np.mean([len(e.rewards) for e in told])),
        "environment/done": float(np.mean([e.over == OVER[DONE] for e in told])),
        "environment/full": float(np.mean([e.over == OVER[FULL] for e in told])),
        **part_metrics({name: part for name, part in drawn.parts.items() if name != ENVIRONMENT}, answers),
    }
