"""Groups of labelers, each held out in turn: who learns from whom, and that no prompt is on both sides."""

from collections import Counter
from pathlib import Path

import pytest

from experiments.studies import labeler_groups
from rlhf_jax import stages
from rlhf_jax.data import Ranking, prompt_text
from rlhf_jax.stages import Parts, folds
from tests.refusals import refusal

PEOPLE = [f"labeler {i}" for i in range(12)]


def ranking(text: str, labeler: str, user: str = "") -> Ranking:
    return Ranking(prompt_text(text), ("Yes.", "No."), (1, 2), labeler, user)


def asked(part: str, count: int = 24) -> list[Ranking]:
    return [ranking(f"{part} {i}?", PEOPLE[i % len(PEOPLE)]) for i in range(count)]


TWO = Parts(asked("train"), asked("valid"), asked("test"))


def test_each_group_is_held_out_once_and_the_others_are_learned_from():
    found = folds(TWO, 5, 3)
    assert [fold.group for fold in found] == ["1", "2", "3", "4", "5"]
    groups = [{row.labeler for row in fold.held_out} for fold in found]
    assert sorted(labeler for group in groups for labeler in group) == sorted(PEOPLE)
    assert sorted(map(len, groups)) == [2, 2, 2, 3, 3]
    for fold, group in zip(found, groups, strict=True):
        assert fold.train == [row for row in TWO.train if row.labeler not in group]
        assert fold.in_groups == [row for row in TWO.test if row.labeler not in group]
        assert fold.held_out == [row for row in TWO.test if row.labeler in group]


def test_labelers_are_dealt_out_by_the_seed_and_their_names():
    def groups(rankings, seed):
        return [frozenset(row.labeler for row in fold.held_out) for fold in folds(rankings, 3, seed)]

    turned = Parts(TWO.train[::-1], (), [*TWO.test[::-1], *TWO.test])
    assert groups(TWO, 0) == groups(turned, 0)
    assert len({tuple(groups(TWO, seed)) for seed in range(9)}) > 5
    together = Counter(group for seed in range(30) for group in groups(TWO, seed) if PEOPLE[0] in group)
    assert len(together) > 15  # who is with whom is chance, not the order of names


def test_groups_may_be_given():
    given = {labeler: "even" if i % 2 == 0 else "odd" for i, labeler in enumerate(PEOPLE)}
    even, odd = folds(TWO, given | {"nobody": "third"})
    assert (even.group, odd.group) == ("even", "odd")
    assert {row.labeler for row in even.train} == {row.labeler for row in odd.held_out} == set(PEOPLE[1::2])
    assert {row.labeler for row in even.held_out} == {row.labeler for row in even.train} ^ set(PEOPLE)


def test_no_prompt_and_no_user_is_on_both_sides(capsys):
    leaked = [ranking("TEST  1?", PEOPLE[1]), ranking("Mine?", PEOPLE[2], "u"), ranking("Yours?", PEOPLE[2], "v")]
    rankings = Parts([*leaked, *TWO.train], test=[*TWO.test, ranking("Mine too?", PEOPLE[0], "u")])
    for fold in folds(rankings, 2):
        assert not {row.prompt for row in leaked[:2]} & {row.prompt for row in fold.train}
    assert any(leaked[2] in fold.train for fold in folds(rankings, 2))
    assert "2 of 27 rankings hold what is held out and are left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rankings", "groups", "words"),
    [
        (Parts([*TWO.train, ranking("Who?", "")], test=TWO.test), 5, ("ranking 25", "names no labeler")),
        (Parts(TWO.train, test=[ranking("Who?", "")]), 5, ("ranking 1", "Who?", "names no labeler")),
        (TWO, 13, ("12 labelers cannot be 13 groups", "two groups or more")),
        (TWO, 1, ("12 labelers cannot be 1 groups",)),
        (TWO, {PEOPLE[0]: "a"}, ("labeler 'labeler 1' is in no group",)),
        (TWO, dict.fromkeys(PEOPLE, "a"), ("12 labelers are of 1 group",)),
        (Parts(()), {}, ("0 labelers are of 0 group",)),
        (Parts(TWO.train, test=TWO.test[:2]), 12, ("held out there is no ranking of a test prompt by the group",)),
        (Parts(TWO.train[:1], test=TWO.test[:2]), 2, ("no ranking to learn from by the other groups",)),
        (Parts(TWO.train[:2], test=TWO.test[:1]), 2, ("no ranking of a test prompt by the",)),
    ],
)
def test_what_makes_no_folds_is_refused(rankings, groups, words):
    refusal(lambda: folds(rankings, groups), *words)


@pytest.fixture
def studied(monkeypatch, types_are_not_checked):
    """The study, with stages that know what they were made from. A reward model is right of whom it learned from alone, the
    less often the more they are, and one of all of them half as often of who is contrary. One training ranking asks what is
    held out."""
    learned, drawn, groups = {}, [], {}
    world = stages.from_world(stages.World(10, prompts=400, demonstrations=4, labelers=2, heldout_labelers=1), 0)

    def ask(folder, answers, labelers, run):
        drawn.append((folder.name, answers))
        groups.update({one.name: one.group for one in labelers})
        leaked = world.prompts.test[:1] if folder.name == "train_rankings" else []
        return [
            ranking(p.conversation.removeprefix("\n\nHuman: ").removesuffix("\n\nAssistant:"), one.name, p.user)
            for p, one in zip([*answers, *leaked], labelers * 40, strict=False)
        ]

    def reward_model(folder, start, rankings, settings, run):
        assert folder not in learned and settings == labeler_groups.REWARD
        assert not {row.prompt for row in rankings} & {p.conversation for p in world.prompts.test}
        learned[folder] = {row.labeler for row in rankings}, run.seed
        return folder

    def ordered(reward, rankings, run):
        known, _ = learned[reward]

        def right(labeler):
            half = 0.5 if known >= set(groups) and groups[labeler] == "contrary" else 1.0
            return half * (labeler in known) / len(known)

        return [stages.Ordered(row.prompt, row.labeler, right(row.labeler), 1) for row in rankings]

    monkeypatch.setattr(stages, "sample_answers", lambda folder, sft, prompts, answers, run: prompts)
    for stage in (ask, reward_model, ordered):
        monkeypatch.setattr(stages, stage.__name__, stage)
    monkeypatch.setattr(stages, "loaded", lambda model: model)
    return labeler_groups.study(Path("out"), "sft", world), learned, drawn, world


def test_the_study_learns_from_four_groups_and_measures_all_five(studied):
    figures, learned, drawn, world = studied
    assert drawn == [("train_rankings", world.prompts.train), ("test_rankings", world.prompts.test)]
    assert {name: figure.mean for name, figure in figures.items()} == pytest.approx(
        {
            "at_random/training_groups": 1 / 8,
            "at_random/held_out_group": 0.0,
            "by_preference/training_groups": 1 / 5,
            "by_preference/held_out_group": 0.0,
            "pooled_model/usual": 1 / 10,
            "pooled_model/contrary": 1 / 20,
            "own_model/usual": 1 / 5,
            "own_model/contrary": 1 / 5,
        }
    )
    sizes = Counter((folder.parts[1], len(known)) for folder, (known, _) in learned.items())
    assert sizes == {("at_random", 8): 15, ("by_preference", 5): 6, ("pooled", 10): 3}
    assert Counter(seed for _, seed in learned.values()) == dict.fromkeys(range(3), 8)
    assert {folder.name for folder in learned} == {"reward_model"}
    halves = [
        figures[f"{model}/{group}"].n for model in ("pooled_model", "own_model") for group in ("usual", "contrary")
    ]
    assert halves[:2] == halves[2:] and sum(halves[:2]) == len(world.prompts.test)
