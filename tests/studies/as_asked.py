"""A reward of one's own: a function, and one line of a config, given.reward = "as_asked.py:as_asked"."""


def as_asked(prompts, answers, rows):
    """1 for as many sentences, or items of a list, as the prompt asks for."""
    asked = [next((n for word, n in ((" two ", 2), (" three ", 3)) if word in p.text), 1) for p in prompts]
    written = [(a.count("."), a.count(".") + a.count(",")) for a in answers]
    return [float(n in counts) for n, counts in zip(asked, written, strict=True)]
