"""The parts of the user's own data: what is held out of every file, and what is said of parts that are empty."""

import json
import sys
from dataclasses import replace
from functools import partial

import pytest

from rlhf_jax import stages
from rlhf_jax.data import (
    ChatTemplate,
    Demonstration,
    Messages,
    Prompt,
    Ranking,
    content_sha256,
    place_of,
    prompt_text,
    read_demonstrations,
    read_feedback,
    read_prompts,
    read_rankings,
    split_of,
    train_tokenizer,
)
from rlhf_jax.data.splits import normalised
from rlhf_jax.errors import InputError
from rlhf_jax.stages.datasets import LEAVE_OUT, SPLIT, SPLIT_TEXT, kept_by_length
from rlhf_jax.stages.training import (
    data_that_fit,
    demonstrations_that_fit,
    has_row,
    judged_that_fit,
    prompts_that_fit,
    rankings_that_fit,
)
from tests.refusals import refusal

EVALUATION, REPORT = (sys.modules[f"rlhf_jax.stages.{name}"] for name in ("evaluation", "report"))
QUESTIONS = [f"What is number {i} in the book?" for i in range(400)]


def part_of(text: str, fractions=SPLIT) -> int:
    return split_of(fractions, 0, []).part_of("", normalised(text))


IN = [[q for q in QUESTIONS if part_of(q) == part] for part in range(3)]  # training, validation, test
LINES = [f"The number {i} stands beside the number {i + 1} in the book of numbers." for i in range(100)]
KEPT, HELD = ([x for x in LINES if part_of(x, SPLIT_TEXT) == part] for part in range(2))


@pytest.fixture
def files(tmp_path):
    """Data sets of files with these rows."""

    def read(prompts, demonstrations, rankings, text):
        named = {"prompts": prompts, "demonstrations": demonstrations, "rankings": rankings, "pretrain": text}
        for name, rows in named.items():
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return stages.from_files(stages.Files(**{name: str(tmp_path / f"{name}.jsonl") for name in named}), 0)

    return read


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tokenizer = train_tokenizer([*QUESTIONS, *LINES], 300, tmp_path_factory.mktemp("tokenizer") / "small.model")
    shape = stages.Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=32)
    return stages.described(shape, tokenizer, stages.Format(40, 20))


def data(prompts=(1, 1, 1), demonstrations=(1, 1, 1), rankings=(1, 1, 1), text=(3, 3)) -> stages.DataSets:
    """So many rows in each part."""

    def parts(row, counts) -> stages.Parts:
        return stages.Parts(*([row(prompt_text(q)) for q in each[:n]] for each, n in zip(IN, counts, strict=True)))

    return stages.DataSets(
        stages.Parts(KEPT[: text[0]], HELD[: text[1]]),
        parts(lambda p: Demonstration(p, "Three."), demonstrations),
        parts(Prompt, prompts),
        parts(lambda p: Ranking(p, ("Three.", "Four."), (1, 2)), rankings),
    )


def lists_in(made: stages.DataSets) -> list[list]:
    sets = (made.text, made.demonstrations, made.prompts, made.rankings)
    return [list(part) for rows in sets for part in rows.each().values()]


def test_files_that_share_no_prompt_have_held_out_parts_each(files):
    # Of the rankings alone, a held-out and a training one; both stand in training text
    asked = [f"They ask: {next(q for q in each if q in QUESTIONS[200:300])}" for each in (IN[2], IN[0])]
    assert [part_of(x, SPLIT_TEXT) for x in asked] == [0, 0]
    made = files(
        [{"prompt": q} for q in QUESTIONS[:100]],
        [{"prompt": q, "completion": "Three."} for q in QUESTIONS[100:200]],
        [{"prompt": q, "chosen": "Three.", "rejected": "Four."} for q in QUESTIONS[200:300]],
        [{"text": x} for x in [*LINES, *asked]],
    )
    for rows, of in ((made.demonstrations, QUESTIONS[100:200]), (made.rankings, QUESTIONS[200:300])):
        expected = [[prompt_text(q) for q in of if part_of(q) == part] for part in range(3)]
        assert [[row.prompt for row in part] for part in rows.each().values()] == expected and all(expected)
    assert made.text == stages.Parts([*KEPT, asked[1]], HELD) and HELD


def test_how_many_rows_each_part_has_and_by_how_many_users_is_said(files, capsys):
    made = files(
        [{"prompt": q, "user": f"user {i % 9}"} for i, q in enumerate(QUESTIONS[:90])],
        [{"prompt": q, "completion": "Three."} for q in QUESTIONS[100:200]],
        [{"prompt": q, "chosen": "Three.", "rejected": "Four."} for q in QUESTIONS[200:300]],
        [{"text": x} for x in LINES],
    )
    said = capsys.readouterr().err
    for name, rows, users in (("prompts", made.prompts, "by 9 users"), ("rankings", made.rankings, "no user is named")):
        train, valid, test = (len(part) for part in rows.each().values())
        assert f"{name}: {train} for training, {valid} for validation, {test} for testing; {users}\n" in said


def test_a_world_of_any_size_has_no_more_held_out_documents_than_there_are(monkeypatch):
    """A world has some 2,500 different ones that are held out, and looking for more would not end."""
    asked = {}
    monkeypatch.setattr(
        "rlhf_jax.data.world.documents", lambda world, count, part: asked.update({part: count}) or iter(())
    )
    for documents, held in ((40, 500), (16_000, 800), (10_000_000, 1_000)):
        stages.from_world(stages.World(documents, prompts=60, demonstrations=4), 0)
        assert asked == {"train": documents, "valid": held}


def test_nothing_of_a_held_out_prompt_is_in_training_and_that_is_said(files, capsys):
    held, train = IN[2][0], IN[0][0]
    talk = f"\n\nHuman: {held.upper()} \n\nAssistant: Three.\n\nHuman: And then?\n\nAssistant:"
    later = f"\n\nHuman: {train}\n\nAssistant: Three.\n\nHuman: {held}\n\nAssistant:"
    made = files(
        [{"prompt": held, "chosen": f"{talk} Four.", "rejected": f"{talk} Five."}, {"prompt": train}],
        [
            {"prompt": held, "completion": "Three."},
            {"prompt": later, "completion": "Three."},
            {"prompt": train, "answer": "4."},
        ],
        [{"prompt": held, "chosen": f"{talk} Four.", "rejected": f"{talk} Five."}],
        [{"text": x} for x in (KEPT[0], f"They ask: {held.lower()}", KEPT[1], f" {KEPT[1].upper()}")],
    )
    assert made.prompts == stages.Parts([Prompt(prompt_text(train))], [], [Prompt(talk)])
    assert made.demonstrations == stages.Parts(
        [Demonstration(prompt_text(train), "4.")], [], [Demonstration(prompt_text(held), "Three.")]
    )
    assert made.rankings == stages.Parts([], [], [Ranking(talk, ("Four.", "Five."), (1, 2))])
    assert made.text.train == [KEPT[0], KEPT[1], f" {KEPT[1].upper()}"]
    said = capsys.readouterr().err
    assert "1 of 3 demonstrations hold what is held out elsewhere and are left out" in said
    assert "1 of 4 pieces of training text hold a prompt that is held out and are left out" in said


def test_what_users_of_two_parts_typed_is_said_to_be_left_out(files, capsys):
    alone = split_of(SPLIT, 0, [])
    train, test = (next(u for u in map(str, range(99)) if alone.part_of(u, "") == part) for part in (0, 2))
    asked = [{"prompt": q, "user": user} for q, user in (("Why?", train), ("So?", train), (" why? ", test))]
    made = files(
        asked, [{"prompt": "a", "answer": "b"}], [{"prompt": "a", "chosen": "b", "rejected": "c"}], [{"text": "d"}]
    )
    assert [[p.user for p in part] for part in made.prompts.each().values()] == [[train], [], [test]]
    assert "1 of 3 prompts hold what is held out elsewhere and are left out" in capsys.readouterr().err


def test_the_built_in_world_is_split_by_the_same_rule():
    made = stages.from_world(stages.World(10, prompts=200, demonstrations=20, labelers=1, heldout_labelers=1), 0)
    alone = split_of(SPLIT, 0, [])
    for number, part in enumerate(made.prompts.each().values()):
        assert part and {alone.part_of(p.user, "") for p in part} == {number}
    assert made.demonstrations.train and {d.prompt for d in made.demonstrations.train} <= {
        p.text for p in made.prompts.train
    }
    assert {d.prompt for d in made.demonstrations.valid} == {p.text for p in made.prompts.valid}


@pytest.mark.parametrize(
    ("given", "sentences"),
    [
        ({}, []),
        ({"prompts": (1, 0, 1)}, ["validation prompts: none, so that the judge has no figures in the curves"]),
        ({"demonstrations": (1, 0, 0)}, ["validation demonstrations: none, so that SFT's epoch is the last"]),
        ({"rankings": (1, 0, 1)}, ["validation rankings: none, so that there is no accuracy/valid"]),
        ({"rankings": (1, 1, 0)}, ["test rankings: none, so that there is no accuracy/test"]),
        ({"text": (3, 0)}, ["validation text: none, so that there are no pretrain/loss and no closed/last_word"]),
    ],
)
def test_of_a_held_out_part_that_is_empty_it_is_said_what_there_will_not_be(given, sentences, model, capsys):
    kept = data_that_fit(data(**given), model)
    assert lists_in(kept) == lists_in(data(**given))
    assert [
        line.partition(" and SFT's epoch has")[0].strip(" ,") for line in capsys.readouterr().err.splitlines()
    ] == sentences


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompts": (0, 1, 1)}, "there are no train prompts; give more rows"),
        ({"prompts": (2, 1, 0)}, "none of the prompts to report on is left, beside 2 to train on"),
        ({"demonstrations": (0, 1, 1)}, "there are no train demonstrations; give more rows"),
        ({"rankings": (0, 1, 1)}, "there are no train rankings; give more rows"),
        ({"text": (0, 3)}, "the training text is shorter than a row of 60 tokens"),
    ],
)
def test_nothing_begins_without_a_part_that_a_stage_needs(given, words, model):
    refusal(partial(data_that_fit, data(**given), model), words)


@pytest.mark.parametrize("count", range(1, 6))
def test_a_handful_of_rows_is_enough_or_refused_in_a_sentence(count, files, model):
    some = [IN[2][0], *IN[0][:4]][:count]
    asked = [{"prompt": q, "chosen": "Three.", "rejected": "Four."} for q in some]
    made = files(asked, asked, asked, [{"text": x} for x in KEPT[:5]])
    assert [len(part) for part in made.rankings.each().values()] == [count - 1, 0, 1]
    if count > 1:
        assert lists_in(data_that_fit(made, model)) == lists_in(made)
    else:
        refusal(partial(data_that_fit, made, model), "there are no train prompts; give more rows")


def test_what_is_too_long_is_left_out_of_every_part_before_anything_begins(model, capsys):
    long, some = prompt_text("many words " * 40), data()
    given = replace(
        some,
        prompts=replace(some.prompts, valid=[Prompt(long)]),
        demonstrations=replace(some.demonstrations, valid=[*some.demonstrations.valid, Demonstration(long, "Three.")]),
        rankings=replace(some.rankings, test=[Ranking(long, ("Three.", "Four."), (1, 2))]),
        text=replace(some.text, valid=["Short."]),
    )
    kept = data_that_fit(given, model)
    assert kept.prompts.valid == kept.rankings.test == [] and kept.text.valid == ()
    assert kept.demonstrations == some.demonstrations and kept.rankings.valid == some.rankings.valid
    said = capsys.readouterr().err
    for words in (
        "1 of 1 valid prompts are longer than format.prompt_tokens = 40 and left out",
        "1 of 2 valid demonstrations are longer than the context of 60 tokens and left out",
        "1 of 1 test rankings are longer than the context of 60 tokens and left out",
        "validation prompts: none",
        "test rankings: none",
        "validation text: none",
    ):
        assert words in said
    strict = replace(model, format=replace(model.format, too_long="error"))
    refusal(
        partial(data_that_fit, given, strict),
        "1 of 1 valid prompts are longer than format.prompt_tokens = 40, the first",
    )


def test_rows_that_fit_are_kept_and_of_training_rows_one_must_be_left(capsys):
    rows = [Prompt("a"), Prompt("bbb"), Prompt("cc")]
    short = partial(kept_by_length, fits=lambda p: len(p.text) < 3, too_long="drop", limit="2")
    assert short(rows, what="train prompts") == [rows[0], rows[2]]
    assert "1 of 3 train prompts are longer than 2 and left out" in capsys.readouterr().err
    refusal(
        lambda: short(rows[1:2], what="train prompts"),
        "1 of 1 train prompts are longer than 2, and none is left; raise",
    )
    refusal(lambda: short([], what="rankings"), "there are no rankings; give more rows")
    assert short(rows[1:2], what="test prompts") == short([], what="valid prompts") == []
    refusal(
        lambda: short(rows, what="test prompts", too_long="error"),
        "1 of 3 test prompts",
        "the first being 'bbb'",
        '"drop"',
    )


def test_a_row_that_the_format_cannot_write_is_named():
    def fits(prompt):
        if prompt.text == "b":
            raise InputError("there is 'tools' beside the messages")
        return True

    for too_long in ("drop", "cut"):
        refusal(
            lambda too_long=too_long: kept_by_length([Prompt("a"), Prompt("b")], fits, too_long, "train prompts", "2"),
            "train prompts, row 2: there is 'tools' beside the messages",
        )


TALK = [{"role": "user", "content": "Hi"}, {"role": "tool", "content": "42"}, {"role": "user", "content": "So?"}]
READ = {  # a row less its prompt, its reader, and who asks whether it fits
    "prompts": ({}, read_prompts, lambda rows, model: prompts_that_fit(rows, model, "train")),
    "SFT": (
        {"completion": "Red."},
        read_demonstrations,
        lambda rows, model: demonstrations_that_fit(rows, model, "train"),
    ),
    "reward model and DPO": ({"chosen": "Red.", "rejected": "Blue."}, read_rankings, rankings_that_fit),
    "KTO": ({"completion": "Red.", "label": False}, read_feedback, judged_that_fit),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("too_long", ["drop", "cut", "error"])
def test_a_row_that_is_refused_later_is_named_by_its_file_and_line(name, too_long, model, tmp_path):
    """A transcript has no place for tools; 60 tokens have none for many words."""
    answers, read, fit = READ[name]
    path, model = tmp_path / "rows.jsonl", replace(model, format=replace(model.format, too_long=too_long))
    for asked in (TALK, "many words " * 40):
        path.write_text("".join(json.dumps({"prompt": each, **answers}) + "\n" for each in ("Hi", asked)))
        rows = read(str(path))
        if asked is TALK:
            refusal(partial(fit, rows, model), f"{path}, line 2: message 2 has the role 'tool'")
        elif too_long == "error":
            refusal(partial(fit, rows, model), f"the first being {path}, line 2, ")
        else:
            assert fit(rows, model) == rows[:1]


STRICT = (  # as Mistral's and Gemma's, of turns that alternate
    "{% for m in messages %}{% if (m.role == 'user') != loop.index0 is even %}{{ raise_exception('roles must alternate') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TWO_QUESTIONS = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Are you there?"}]
LATE_SYSTEM = [*TWO_QUESTIONS, {"role": "system", "content": "Be kind."}, {"role": "user", "content": "So?"}]
REFUSED = {  # a chat format, what it does not write, what is said of it, and how such rows are counted
    "its template": (STRICT, TWO_QUESTIONS, "the chat template refuses the messages (roles must alternate)", "refuses"),
    "a role": ("", TALK, "message 2 has the role 'tool'", "does not write"),
    "a late system message": ("", LATE_SYSTEM, "message 3 has the role 'system'", "does not write"),
    "a marker": (
        "",
        [{"role": "user", "content": "Say \n\nAssistant: x"}],
        "which would begin a new turn: reword it",
        "does not write",
    ),
}


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("why", REFUSED)
def test_what_a_chat_format_refuses_is_an_error_or_left_out_and_counted(name, why, model, tmp_path, capsys):
    answers, read, fit = READ[name]
    source, asked, sentence, counted = REFUSED[why]
    path, chat = tmp_path / "rows.jsonl", ChatTemplate(source) if source else None
    model = replace(model, tokenizer=replace(model.tokenizer, chat=chat))
    path.write_text("".join(json.dumps({"prompt": each, **answers}) + "\n" for each in ("Hi", asked, "Ho")))
    refusal(partial(fit, read(str(path)), model), f"{path}, line 2: ", sentence, LEAVE_OUT)
    rows = read(str(path), "drop")
    assert fit(rows, model) == [rows[0], rows[2]]
    said = capsys.readouterr().err
    assert (
        "dropped 1 of 3 rows: 1 that the chat " in said and counted in said and f"(the first is {path}, line 2)" in said
    )


def test_a_call_is_refused_for_what_is_lost_and_counted_in_its_answer(model, tmp_path):
    path = tmp_path / "calls.jsonl"
    call = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    path.write_text(json.dumps({"messages": [TALK[0], call]}))
    fit = partial(demonstrations_that_fit, read_demonstrations(str(path)), model, "train")
    refusal(fit, f"{path}, line 1: the answer: message 1 has 'tool_calls', for which the chat format has no place")


CALL = {"type": "function", "function": {"name": "look", "arguments": {}}}
LLAMA = (  # as Llama 3.1's, which writes a message's calls or its content
    "{% for m in messages %}<|{{ m.role }}|>{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% else %}"
    "{{ m.content }}{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("too_long", ["drop", "cut", "error"])
def test_words_that_a_template_drops_beside_calls_are_said_and_may_be_left_out(model, tmp_path, capsys, too_long):
    path = tmp_path / "calls.jsonl"
    said = [
        TALK[0],
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL]},
        {"role": "tool", "content": "4"},
    ]
    rows = [{"messages": [*said, {"role": "assistant", "content": "Four."}]}, {"prompt": "Hi", "completion": "Yes."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = replace(model.tokenizer, chat=ChatTemplate(LLAMA))
    model = replace(model, tokenizer=tokenizer, format=replace(model.format, prompt_tokens=200, too_long=too_long))
    sentence = (
        f"{path}, line 1: message 2 has the role 'assistant' and a content beside its tool calls for which the chat format "
        "has no place: name a template that writes it, or take it out, or leave such rows out with unusable = 'drop'"
    )
    fit = partial(demonstrations_that_fit, model=model, what="train")
    refusal(lambda: fit(read_demonstrations(str(path))), sentence)
    found = read_demonstrations(str(path), "drop")
    assert fit(found) == found[1:]
    counted = "dropped 1 of 2 rows: 1 with something for which the chat format has no place (the first is "
    assert f"train demonstrations: {counted}{path}, line 1)" in capsys.readouterr().err
    refusal(
        lambda: fit(found[:1]),
        "line 1); none is left: ",
        "has no place: name a template that writes it, or take it out",
    )
    # Without words nothing is lost.
    rows[0]["messages"][1]["content"] = None
    path.write_text(json.dumps(rows[0]))
    assert len(fit(read_demonstrations(str(path)))) == 1


def test_a_place_changes_nothing_of_a_conversation(tmp_path):
    """Equal, with one hash and one text as a plain string; it stays where the oldest turns go."""
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "Hi"}) + "\n" + json.dumps({"prompt": TALK}))
    rows, plain = read_prompts(str(tmp_path / "a.jsonl")), [Prompt(prompt_text("Hi")), Prompt(Messages(TALK))]
    assert rows == plain and [*map(hash, rows)] == [*map(hash, plain)] and content_sha256(rows) == content_sha256(plain)
    assert [type(each.text) for each in rows] == [str, str]
    assert [place_of(row.conversation) for row in plain] == ["", ""]
    (shorter,) = kept_by_length(rows[1:], lambda row: len(row.conversation) < 2, "cut", "train prompts", "2")
    assert shorter.conversation == Messages(TALK[2:])
    assert place_of(shorter.conversation) == f"{tmp_path / 'a.jsonl'}, line 2"


def test_the_figure_that_marks_the_best_checkpoint_must_be_taken_somewhere():
    world = stages.from_world(stages.World(10, prompts=60, demonstrations=4, labelers=1, heldout_labelers=1), 0)
    refusal(
        lambda: stages.require_figure("gold/mean", data()), "a figure of the built-in world, and the data are files"
    )
    none = replace(world, prompts=replace(world.prompts, valid=[]))
    refusal(lambda: stages.require_figure("gold/mean", none), "a figure on validation rows, of which there are none")
    refusal(lambda: stages.require_figure("pretrain/loss", data(text=(3, 0))), "a figure on validation rows")
    for best, given in (
        ("gold/mean", world),
        ("pretrain/loss", data()),
        ("objective/scores", data((1, 0, 1))),
        ("", data()),
    ):
        stages.require_figure(best, given)


def test_a_row_of_text_is_as_long_as_the_context(model):
    n = len(model.tokenizer.encode(LINES[0])) + 1
    long = replace(model, format=stages.Format(n, n))
    assert [has_row(LINES[:1] * count, long) for count in (0, 1, 2)] == [False, False, True]


def test_figures_for_which_there_is_no_text_have_an_empty_cell(model, monkeypatch, tmp_path):
    monkeypatch.setattr(EVALUATION, "likelihood", None)  # is not called
    without = data(text=(3, 0))
    loaded = stages.Loaded(model, None)
    assert (
        stages.alignment_tax(loaded, without, stages.Run()) == stages.packed_loss(loaded, without, stages.Run()) == {}
    )
    percent = {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 9}
    figures = dict.fromkeys(("win_rate/vs_sft", "win_rate/vs_base", "kl/from_rl_init"), percent)
    names = ("base", "sft", "ppo", "ppo_ptx", "rl_init")
    found = {name: dict(figures) for name in names} | {"reward_model": {}}
    judge = stages.Judge("nobody", [], None, None, loaded)
    monkeypatch.setattr(REPORT, "table_text", lambda models: tables.append(models) or "")
    tables: list[dict] = []
    REPORT.page(tmp_path, judge, {}, found, [], stages.Run(), {})
    assert all(models["pretrain/loss"] == models["closed/last_word"] == {} for models in tables[0].values())
    assert tables[1] == {"reward_model": {"accuracy/valid": {}, "accuracy/test": {}}}
    page = (tmp_path / "report.html").read_text()
    row = page[page.index("Pretraining loss<") :].partition("</tr>")[0]
    assert row.count("<span>–</span>") == len(names)
    assert "No held-out pretraining loss" in page and "Pretraining loss in nats" not in page
