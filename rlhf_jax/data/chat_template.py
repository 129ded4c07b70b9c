"""Chat templates: a model's own, in Jinja, and those that are built in."""

import datetime
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox

from rlhf_jax.data.dialogue import ASSISTANT, HUMAN, Message, unwritable
from rlhf_jax.data.model_folder import parse_object, read_bytes
from rlhf_jax.data.sources import located
from rlhf_jax.errors import InputError

# Noncharacters, which Unicode keeps out of all text (§23.7), so that a rendered conversation can carry them: where the
# assistant's own text starts and ends.
START, END = "\ufdd0", "\ufdd1"
GENERATION = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")


class ChatTemplate(NamedTuple):
    """How messages become one text. Without needs and markers it is a model's own, or the user's."""

    source: str  # Jinja
    needs: tuple[str, ...] = ()  # texts that the tokenizer must have as special tokens
    markers: tuple[str, ...] = ()  # plain text that begins a turn, which no content may hold
    now: datetime.datetime | None = None  # what strftime_now tells; None: the clock, so that tokens change with the day


# https://github.com/openai/openai-python, chatml.md (2023), as Qwen and many others write it: no default system message.
CHATML = ChatTemplate(
    r"{% for message in messages %}"
    r"{{ '<|im_start|>' + message.role + '\n' }}"
    r"{% if message.role == 'assistant' %}"
    r"{% generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}"
    r"{% else %}{{ message.content + '<|im_end|>' }}{% endif %}"
    r"{{ '\n' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    needs=("<|im_start|>", "<|im_end|>"),
)
# https://llama.meta.com/docs/model-cards-and-prompt-formats/meta-llama-3: contents are stripped.
LLAMA3 = ChatTemplate(
    r"{{ '<|begin_of_text|>' }}{% for message in messages %}"
    r"{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}"
    r"{% if message.role == 'assistant' %}"
    r"{% generation %}{{ message.content | trim + '<|eot_id|>' }}{% endgeneration %}"
    r"{% else %}{{ message.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    needs=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)
# Tunstall et al. 2023, the model zephyr-7b-beta: the marks of a turn are plain text, its end is EOS. For any tokenizer.
ZEPHYR = ChatTemplate(
    r"{% for message in messages %}{{ '<|' + message.role + '|>\n' }}"
    r"{% if message.role == 'assistant' %}"
    r"{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    r"{% else %}{{ message.content + eos_token }}{% endif %}"
    r"{{ '\n' }}{% endfor %}"
    r"{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
    markers=("<|system|>", "<|user|>", "<|assistant|>"),
)
# Zhang et al. 2019, DialoGPT §3.1: the turns of a session one after another, each ended by EOS; nobody is named.
DIALOGPT = ChatTemplate(
    r"{% for message in messages %}"
    r"{% if message.role == 'assistant' %}"
    r"{% generation %}{{ message.content + eos_token }}{% endgeneration %}"
    r"{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}"
)
# The transcript of `dialogue.render`, with EOS behind an answer that ends it, as `encode_demonstrations` has it.
HH = ChatTemplate(
    r"{% for message in messages %}{% set content = message.content | trim %}"
    r"{% if message.role == 'system' %}"
    r"{% if not loop.first %}{{ raise_exception('only the first message can have the role system') }}{% endif %}"
    r"{{ content }}"
    r"{% elif message.role == 'user' %}{{ '\n\nHuman:' }}{{ ' ' + content if content }}"
    r"{% else %}{{ '\n\nAssistant:' }}"
    r"{% generation %}{{ ' ' + content if content }}{{ eos_token if loop.last }}{% endgeneration %}{% endif %}"
    r"{% endfor %}"
    r"{% if add_generation_prompt %}{{ '\n\nAssistant:' }}{% endif %}",
    markers=(HUMAN, ASSISTANT),
)
BUILT_IN = {"chatml": CHATML, "llama3": LLAMA3, "zephyr": ZEPHYR, "dialogpt": DIALOGPT, "hh": HH}


def load_chat_template(name: Path | str) -> ChatTemplate:
    """A chat template: "chatml", "llama3", "zephyr", "dialogpt" or "hh"; or a model's own, by its folder (see
    `own_chat_template`) or either of the files that can hold it.

    InputError: nothing there, a broken file, no template in it, no Jinja.
    """
    if name in BUILT_IN:
        return BUILT_IN[str(name)]
    path = Path(name)
    if path.is_dir() and (found := own_chat_template(path)):
        return found
    if not path.is_file():
        raise InputError(
            f"no chat template {str(name)!r}: name {', '.join(BUILT_IN)}, or a model's folder that has one"
        )
    content = read_bytes(path)
    if path.suffix == ".json":
        source = _source(parse_object(content, path).get("chat_template"))
        if source is None:
            raise InputError(f"{path} has no chat template: name {', '.join(BUILT_IN)}, or a file that has one")
    else:
        try:
            source = content.decode()
        except UnicodeDecodeError:
            raise InputError(f"{path} is not UTF-8 text: copy it anew") from None
    with located(str(path)):
        _compiled(source)
    return template_of(source)


def own_chat_template(path: Path) -> ChatTemplate | None:
    """The template in a model's folder, chat_template.jinja, or else chat_template in tokenizer_config.json, and of several
    the one named "default"; None where there is none, or the path is a file without the rest of the folder.

    InputError: a broken file, no Jinja.
    """
    if not path.is_dir():
        return None
    if (path / "chat_template.jinja").is_file():
        return load_chat_template(path / "chat_template.jinja")
    config = path / "tokenizer_config.json"
    if config.is_file() and _source(parse_object(read_bytes(config), config).get("chat_template")) is not None:
        return load_chat_template(config)
    return None


def template_of(source: str) -> ChatTemplate:
    """The template with this source; one that is built in has its needs and markers."""
    return next((known for known in BUILT_IN.values() if known.source == source), ChatTemplate(source))


def marks_answers(template: ChatTemplate) -> bool:
    """Whether the template has generation blocks around what the assistant writes."""
    return GENERATION.search(template.source) is not None


def fill(
    template: ChatTemplate,
    messages: list[Message],
    tokens: dict[str, str],
    add_generation_prompt: bool,
    more: Mapping[str, Any],
) -> str:
    """The text of `messages`, with START and END around what stands in the template's generation blocks.

    `tokens` are the special ones by the name that templates have for them ("eos_token"); `more` is what else the template is
    given, tools and documents among it. InputError: the template is no Jinja, or fails, or refuses the messages.
    """
    now = template.now or datetime.datetime.now()
    try:
        return _compiled(template.source).render(
            messages=messages,
            add_generation_prompt=add_generation_prompt,
            strftime_now=now.strftime,
            **tokens,
            **{"tools": None, "documents": None, **more},
        )
    except InputError:
        raise
    except Exception as error:  # a template's own, of any kind
        reason = " ".join(str(error).split()).rstrip(".")
        raise unwritable(
            f"the chat template refuses the messages ({reason}): mend them or the template",
            f"that the chat template refuses ({reason})",
        ) from None


class _Generation(jinja2.ext.Extension):
    """The tag {% generation %}: what stands in it is the assistant's own."""

    tags = {"generation"}  # noqa: RUF012  the library's own form

    def parse(self, parser: Any) -> list[jinja2.nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        start, end = (jinja2.nodes.Output([jinja2.nodes.TemplateData(mark)], lineno=line) for mark in (START, END))
        return [start, *body, end]


@cache
def _compiled(source: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise InputError(f"the chat template is no Jinja (line {error.lineno}: {error.message}): mend it") from None


def _tojson(value: Any, ensure_ascii: bool = False, **form: Any) -> str:
    """Not Jinja's own, which escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **form)


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _source(value: Any) -> str | None:
    if isinstance(value, list):  # [{"name": "default", "template": "..."}, ...]
        named = {item["name"]: item.get("template") for item in value if isinstance(item, dict) and "name" in item}
        value = named.get("default")
    return value if isinstance(value, str) else None
