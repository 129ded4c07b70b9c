"""A page over the answers of a whole run: filtered, sorted, one prompt through the iterations, coloured token by token."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.evals.inspector import CSS, HIGH, LOW, MOST, QUANTITIES, Quantity
from rlhf_jax.evals.report import escaped, write_page

BY_NAME = {quantity.name: quantity for quantity in QUANTITIES}
BROWSED = (
    BY_NAME["KL"],
    BY_NAME["exact KL"],
    Quantity("value", "V before the token, less its mean over the answers of the page"),
    Quantity("advantage", "as it was learned from"),
    Quantity("log π", "log-probability of the token when it was written, nats"),
)


class Browsed(NamedTuple):
    """One answer. numbers: the name of a quantity → one number a token, None where a token has none; quantities may lack."""

    step: int
    prompt: str
    answer: str
    tokens: Sequence[str]
    numbers: Mapping[str, Sequence[float | None]]
    score: float  # that the page sorts by
    parts: Mapping[str, float | None]  # of the reward; None: no opinion
    ended: str


def write_browser(path: Path, title: str, answers: Sequence[Browsed]) -> None:
    """Write the page, which holds all answers and draws those that are asked for, as `write_inspector` colours tokens: by how
    far a number is from the neutral value, on one scale for all answers."""
    quantities = [q for q in BROWSED if any(q.name in answer.numbers for answer in answers)]
    words = list(dict.fromkeys(token for answer in answers for token in answer.tokens))
    prompts = list(dict.fromkeys(answer.prompt for answer in answers))
    data = {
        "colours": [LOW, HIGH],
        "most": MOST,
        "quantities": [{**q._asdict(), "scale": _scale(q, answers)} for q in quantities],
        "words": words,
        "prompts": prompts,
        "answers": _columns(answers, quantities, words, prompts),
    }
    # Inside a script's element nothing ends it but "</", and "<!--" begins a comment.
    text = json.dumps(data, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    steps = sorted({answer.step for answer in answers})
    options = "".join(f"<option>{step}</option>" for step in steps)
    shades = "".join(f'<option value="{i}">{escaped(q.name)}</option>' for i, q in enumerate(quantities))
    meanings = "".join(f"<dt>{escaped(q.name)}</dt><dd>{escaped(q.meaning)}</dd>" for q in quantities)
    header = (
        f"<style>{CSS}{OWN_CSS}</style><header>\n<h1>{escaped(title)}</h1>\n<dl class='legend'>{meanings}</dl>\n</header>\n"
        '<form class="by">'
        '<label>Text <input id="text" type="search" placeholder="in prompt or answer"></label>'
        f'<label>Iteration <select id="step"><option value="">all</option>{options}</select></label>'
        '<label>Order <select id="order"><option value="high">highest reward first</option>'
        '<option value="low">lowest reward first</option><option value="step">by iteration</option></select></label>'
        f'<label>Colour <select id="quantity">{shades}</select></label>'
        '<button type="button" id="all" hidden>all prompts</button> <span id="count"></span></form>'
    )
    page = [
        header,
        '<section id="samples"></section>',
        '<button type="button" id="more" class="by" hidden>more</button>',
        f'<script type="application/json" id="data">{text}</script>',
        f"<script>{SCRIPT}</script>",
    ]
    write_page(path, title, page)


def _scale(quantity: Quantity, answers: Sequence[Browsed]) -> float:
    """The largest distance from the neutral value."""
    shift = _mean(answers) if quantity.name == "value" else quantity.neutral
    away = (abs(x - shift) for answer in answers for x in answer.numbers.get(quantity.name, ()) if x is not None)
    return max(max(away, default=0.0), 1e-12)


def _mean(answers: Sequence[Browsed]) -> float:
    values = [x for answer in answers for x in answer.numbers.get("value", ()) if x is not None]
    return float(np.mean(values)) if values else 0.0


def _columns(
    answers: Sequence[Browsed], quantities: Sequence[Quantity], words: Sequence[str], prompts: Sequence[str]
) -> list[list[Any]]:
    """An answer as [step, prompt, score, parts, ended, tokens, numbers by quantity, text], prompts and tokens by number."""
    word, prompt = ({text: i for i, text in enumerate(texts)} for texts in (words, prompts))
    mean = _mean(answers)

    def rounded(quantity: Quantity, answer: Browsed) -> list[float | None]:
        shift = mean if quantity.name == "value" else 0.0
        found = answer.numbers.get(quantity.name, [None] * len(answer.tokens))
        return [None if x is None else round(x - shift, quantity.digits + 2) for x in found]

    return [
        [
            answer.step,
            prompt[answer.prompt],
            answer.score,
            dict(answer.parts),
            answer.ended,
            [word[token] for token in answer.tokens],
            [rounded(quantity, answer) for quantity in quantities],
            answer.answer,
        ]
        for answer in answers
    ]


OWN_CSS = """
form.by { display: flex; flex-wrap: wrap; gap: 12px; align-items: baseline; margin: 20px 0 }
form.by input, form.by select, button { font: inherit; padding: 2px 6px }
.prompt { white-space: pre-wrap }
"""

# Of an answer: [step, prompt, score, parts, ended, tokens, numbers, text]
SCRIPT = r"""
const shown = (data, want) => {
  const text = want.text.toLowerCase(), holds = words => words.toLowerCase().includes(text);
  const wanted = a => (want.prompt === null || a[1] === want.prompt) && (want.step === "" || a[0] === +want.step);
  const by = { high: (a, b) => b[2] - a[2], low: (a, b) => a[2] - b[2], step: (a, b) => a[0] - b[0] };
  return data.answers.filter(a => wanted(a) && (holds(data.prompts[a[1]]) || holds(a[7]))).sort(by[want.order]);
};
const tint = (data, q, x) => {
  const away = x - q.neutral;
  return `rgba(${data.colours[away > 0 ? 1 : 0]}, ${(data.most * Math.min(Math.abs(away) / q.scale, 1)).toFixed(2)})`;
};
const signed = (x, digits) => {
  const text = x.toFixed(digits);
  return +text ? text.replace("-", "−") : text.replace("-", "");
};
const escapeHtml = text => text.replace(/[&<>"']/g, c => `&#${c.charCodeAt(0)};`);
const tokensHtml = (data, a, at) => {
  const q = data.quantities[at];
  return a[5].map((word, i) => {
    const x = q ? a[6][at][i] : null, label = escapeHtml(data.words[word]);
    const number = x === null ? "&nbsp;" : signed(x, q.digits), back = x === null ? "none" : tint(data, q, x);
    return `<span class="token" style="background:${back}">${label}<small>${number}</small></span>`;
  }).join("");
};
const articleHtml = (data, a, at) => {
  const part = ([name, x]) => `${escapeHtml(name)} ${x === null ? "–" : signed(x, 2)}`;
  const parts = Object.entries(a[3]).map(part).join(", ");
  const about = `iteration ${a[0]} · reward ${signed(a[2], 2)} (${parts}) · ended by ${escapeHtml(a[4])}`;
  const follow = `<button type="button" data-prompt="${a[1]}">this prompt through the run</button>`;
  return `<article><div class="prompt">${escapeHtml(data.prompts[a[1]])}</div><p>${escapeHtml(a[7])}</p>` +
    `<p class="category">${about} ${follow}</p><div class="tokens">${tokensHtml(data, a, at)}</div></article>`;
};
const start = () => {
  const at = id => document.getElementById(id), data = JSON.parse(at("data").textContent), page = 50;
  let prompt = null, most = page;
  const draw = () => {
    const want = { text: at("text").value, step: at("step").value, order: at("order").value, prompt };
    const found = shown(data, want);
    at("samples").innerHTML = found.slice(0, most).map(a => articleHtml(data, a, +at("quantity").value)).join("");
    at("count").textContent = `${found.length} of ${data.answers.length} answers`;
    at("more").hidden = found.length <= most;
    at("all").hidden = prompt === null;
  };
  const again = () => { most = page; draw(); };
  for (const id of ["text", "step", "order", "quantity"]) at(id).addEventListener("input", again);
  at("more").addEventListener("click", () => { most += page; draw(); });
  at("all").addEventListener("click", () => { prompt = null; again(); });
  at("samples").addEventListener("click", event => {
    const button = event.target.closest("[data-prompt]");
    if (!button) return;
    prompt = +button.dataset.prompt;
    at("order").value = "step";
    at("step").value = at("text").value = "";
    again();
  });
  draw();
};
start();
"""
