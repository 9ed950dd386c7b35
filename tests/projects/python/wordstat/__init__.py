"""Word statistics of a text."""

from collections import Counter
import re

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*")


def words(text: str) -> list[str]:
    """The words of a text, in lower case, in order."""
    return [match.group().lower() for match in WORD.finditer(text)]


def top(text: str, count: int = 10) -> list[tuple[str, int]]:
    """The most frequent words, ties in alphabetical order."""
    return sorted(Counter(words(text)).items(), key=lambda item: (-item[1], item[0]))[:count]
