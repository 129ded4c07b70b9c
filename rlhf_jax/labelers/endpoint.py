"""A model behind a chat-completions endpoint, as OpenAI's, vLLM's and llama.cpp's servers have it, that ranks answers."""

import http.client
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from rlhf_jax.data import Prompt
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.labelers.judgement import Opinion
from rlhf_jax.labelers.ranker import Ranker, ranks_of

# Ours, in the order of the paper's instructions for training labels (App. B.2): helpful first, then true and harmless.
INSTRUCTIONS = (
    "You compare answers that an assistant gave to the end of a conversation. The better answer is the one that helps its "
    "user more with what they asked for, says nothing false, and does no harm. Neither its place in the list nor its length "
    "is a merit. Say why in a few words. Then write a last line with the letter of every answer once, the best first, "
    "with > between an answer and a worse one and = between equals, such as: B > A = C"
)
FOR_NOW = (408, 425, 429, 500, 502, 503, 504)  # that pass


@dataclass(frozen=True)
class Judge:
    """See `chat_completions`."""

    url: str
    model: str
    instructions: str
    key: str
    temperature: float
    timeout: float
    tries: int
    pause: float
    both_orders: bool

    def __call__(self, prompt: Prompt, answers: Sequence[str]) -> Opinion:
        """The ranks by the mean of the places that the orders give an answer, equal means being ties; skipped where one
        of the replies ranks nothing."""
        K = len(answers)
        if not 2 <= K <= len(ascii_uppercase):
            raise InputError(f"there are {K} answers to compare: give 2 to {len(ascii_uppercase)}")
        places = [0.0] * K
        for order in (range(K), range(K - 1, -1, -1))[: 1 + self.both_orders]:
            found = self._places(prompt, [answers[i] for i in order])
            if found is None:
                return Opinion(skipped="its reply ranks nothing")
            for i, place in zip(order, found, strict=True):
                places[i] += place
        return Opinion(ranks=ranks_of([-place for place in places]))

    def _places(self, prompt: Prompt, answers: Sequence[str]) -> list[float] | None:
        listed = "\n\n".join(f"[Answer {ascii_uppercase[i]}]\n{answer}" for i, answer in enumerate(answers))
        asked = f"[Conversation]\n{prompt.text.strip()}\n\n{listed}\n\n[Your ranking]"
        messages = [{"role": "system", "content": self.instructions}, {"role": "user", "content": asked}]
        for _ in range(self.tries):
            if (found := places_in(self._reply(messages), len(answers))) is not None:
                return found
        return None

    def _reply(self, messages: list[dict[str, str]]) -> str:
        """What it says. InputError: it cannot be reached, refuses, or gives something else."""
        body = json.dumps({"model": self.model, "messages": messages, "temperature": self.temperature}).encode()
        said: Any = self._post(body)
        try:
            text = json.loads(said)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            text = None
        if not isinstance(text, str):
            raise InputError(f"{self.url} gave {shortened(said)}, which is no chat completion: check the URL")
        return text

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"}
        if self.key:
            if not os.environ.get(self.key):
                raise InputError(f"the environment variable {self.key} holds no key for {self.url}: set it")
            headers["Authorization"] = f"Bearer {os.environ[self.key]}"
        request = urllib.request.Request(self.url, body, headers)
        for left in range(self.tries - 1, -1, -1):
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                    return reply.read()
            except urllib.error.HTTPError as error:
                reason, passes = (
                    f"{error.code} {shortened(error.read(200).decode(errors='replace'))}",
                    error.code in FOR_NOW,
                )
            except (OSError, http.client.HTTPException) as error:  # nobody there, too slow, cut off
                reason, passes = str(getattr(error, "reason", error)), True
            if not (passes and left):
                raise InputError(f"{self.url} does not answer ({reason}): check that it runs and has {self.model}")
            time.sleep(self.pause * 2 ** (self.tries - 1 - left))
        raise AssertionError("unreachable")


def chat_completions(
    name: str,
    url: str,
    model: str,
    *,
    instructions: str = INSTRUCTIONS,
    key: str = "",
    temperature: float = 0.0,
    timeout: float = 60.0,
    tries: int = 3,
    pause: float = 1.0,
    group: str = "",
    both_orders: bool = True,
) -> Ranker:
    """A judge behind an endpoint, such as "http://localhost:8000/v1/chat/completions". It ranks all answers twice, in two
    opposite orders, so that a liking for what stands first cancels; what it then is not of one mind about ties.

    key: the environment variable that holds the API's key. timeout: seconds that a reply may take. tries: of a request
    that fails for now, with pauses that double from `pause` seconds, and of replies that rank nothing, after which the judge
    abstains. both_orders: False where who asks shows the answers in both orders, as `win_rate` does. InputError: no URL of
    HTTP; when it ranks, an endpoint that does not answer, or gives something else.
    """
    if not re.match(r"https?://[^/]", url):
        raise InputError(f"{shortened(url)} is no URL: give one as http://localhost:8000/v1/chat/completions")
    if tries < 1 or not timeout > 0:
        raise InputError(f"there are {tries} tries of {timeout} seconds: give it one try or more, and some time")
    return Ranker(name, Judge(url, model, instructions, key, temperature, timeout, tries, pause, both_orders), group)


def places_in(reply: str, count: int) -> list[float] | None:
    """Where a reply's last line of the form "B > A = C" puts each of so many answers, from 1; equals at the mean of the
    places that they take. None: there is no such line with each letter once."""
    letters = ascii_uppercase[:count]
    for line in reversed(reply.splitlines()):
        groups = [[letter.strip(" *`.[]") for letter in group.split("=")] for group in line.split(">")]
        if sorted(letter for group in groups for letter in group) == list(letters):
            places, before = [0.0] * count, 0
            for group in groups:
                for letter in group:
                    places[letters.index(letter)] = before + (len(group) + 1) / 2
                before += len(group)
            return places
    return None
