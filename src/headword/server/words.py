"""What is typed into a search box → words to look for and words to keep away from."""

from __future__ import annotations

import re

# A minus at the start of a word, then a word or something in quotation marks: -people, -"brick wall".
_NEGATIVE = re.compile(r'(?<!\S)-(?:"([^"]*)"?|([^\s"-]\S*))')


def parse_words(typed: str) -> tuple[str | None, tuple[str, ...]]:
    """A typed query → (the words, None if there are none; the negative ones, each once).

    `-word` and `-"several words"` are negative; a minus within a word ("t-shirt") or by itself says nothing.
    """
    negative = [" ".join((quoted or word).split()) for quoted, word in _NEGATIVE.findall(typed)]
    words = " ".join(word for word in _NEGATIVE.sub(" ", typed).split() if word.strip("-"))
    return words or None, tuple(dict.fromkeys(word for word in negative if word))
