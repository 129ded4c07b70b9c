"""The page over a run's answers: what it holds, and, where there is a node, what its script makes of it."""

import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from rlhf_jax.evals import Browsed, Inspected, write_browser, write_inspector

ANSWERS = [
    Browsed(
        1, "Name <a> fruit.", "a pear", ["a", "pear"], {"KL": [0.5, -1.0]}, 0.5, {"good": 0.5, "short": None}, "eos"
    ),
    Browsed(2, "Name <a> fruit.", "</script> it's", ["</script>"], {"KL": [-0.001]}, 2.0, {"good": 2.0}, "length"),
    Browsed(2, "Name a cat.", "Tom", ["Tom"], {"KL": [None]}, -1.25, {"good": -1.25}, "eos"),
]


def page_of(tmp_path):
    write_browser(tmp_path / "page.html", "<title>", ANSWERS)
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_page_holds_every_answer_and_nothing_ends_its_data_early(tmp_path):
    page = page_of(tmp_path)
    text = page.split('id="data">')[1].split("</script>")[0]
    data = json.loads(text)
    assert "<" not in text and "&lt;title&gt;" in page and not re.search(r"(src|href)=", page)
    assert [(a[0], data["prompts"][a[1]], a[2], a[4], a[7]) for a in data["answers"]] == [
        (a.step, a.prompt, a.score, a.ended, a.answer) for a in ANSWERS
    ]
    assert data["answers"][0][3] == {"good": 0.5, "short": None}
    (quantity,) = data["quantities"]  # only of what there are numbers
    assert quantity["name"] == "KL" and quantity["scale"] == 1.0
    assert [data["words"][i] for i in data["answers"][0][5]] == ["a", "pear"]


# A page without a browser: elements that keep what is written into them, and hear what is told them.
STAGE = """
const heard = {}, elements = {};
const element = id => elements[id] ??= {
  value: "", textContent: "", innerHTML: "", hidden: true, addEventListener: (what, f) => { heard[id + " " + what] = f; },
};
globalThis.document = { getElementById: element };
element("data").textContent = DATA;
element("order").value = "high";
element("quantity").value = "0";
SCRIPT
const seen = [];
const look = () => seen.push([elements.samples.innerHTML, elements.count.textContent, elements.all.hidden]);
look();
elements.text.value = "FRUIT"; heard["text input"](); look();
elements.text.value = "tom"; heard["text input"](); look();
elements.text.value = ""; elements.step.value = "2"; elements.order.value = "low"; heard["step input"](); look();
heard["samples click"]({ target: { closest: () => ({ dataset: { prompt: "0" } }) } }); look();
heard["all click"](); look();
console.log(JSON.stringify(seen));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no node to run the page's script")
def test_the_script_filters_sorts_follows_a_prompt_and_colours_as_the_inspector_does(tmp_path):
    data, script = re.search(
        r'id="data">(.*?)</script>\s*<script>(.*?)</script>', page_of(tmp_path), re.DOTALL
    ).groups()
    program = STAGE.replace("SCRIPT", script).replace("DATA", json.dumps(data))
    said = subprocess.run(["node", "-e", program], capture_output=True, text=True, timeout=60, check=True).stdout
    first, fruit, tom, second, followed, everything = json.loads(said)

    def rewards(html):
        return re.findall(r"reward (−?[\d.]+) ", html)

    assert rewards(first[0]) == ["2.00", "0.50", "−1.25"] and first[1:] == ["3 of 3 answers", True]
    assert rewards(fruit[0]) == ["2.00", "0.50"] and fruit[1] == "2 of 3 answers"  # in the prompt
    assert rewards(tom[0]) == ["−1.25"]  # in the answer
    assert rewards(second[0]) == ["−1.25", "2.00"]  # of iteration 2, the lowest first
    assert re.findall(r"iteration (\d)", followed[0]) == ["1", "2"] and followed[2] is False
    assert everything[1] == "3 of 3 answers" and everything[2] is True
    assert "(good 0.50, short –)" in first[0] and "<a>" not in first[0] and "&#60;a&#62;" in first[0]
    # The same numbers on the inspector's page: its spans of the KL.
    numbers = {name: np.zeros(2) for name in ("exact KL", "reward", "value", "advantage")} | {"ratio": np.ones(2)}
    same = [Inspected("", 0.0, ["a", "pear"], {**numbers, "KL": np.array([0.5, -1.0])})]
    write_inspector(tmp_path / "tokens.html", "", same)
    line = re.search(r'<span class="name">KL</span>(.*?)</div>', (tmp_path / "tokens.html").read_text("utf-8"))[1]
    assert line in first[0]
    assert '">&#60;/script&#62;<small>0.00</small>' in first[0]  # what rounds to zero has no sign
