"""What words mean, in the classes of a model: names, synonyms and kinds, from WordNet (words.txt).

ImageNet's classes are the first lines of the table. A model with classes of its own knows their
names, and the kinds of those that the table has.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bitgaze.encoding.contract import Contract
from bitgaze.errors import WordError

_TABLE = Path(__file__).parent / "words.txt"
_IMAGENET_CLASSES = 1000
_ARTICLES = {"a", "an", "the", "some", "any", "of", "with", "and", "in", "on"}
_MAX_WORDS = 16
_MAX_LETTERS = 1000
_NEAR = 3
# Endings of plurals, and what stands for them.
_PLURALS = [
    ("ies", "y"),
    ("ves", "f"),
    ("ves", "fe"),
    ("es", ""),
    ("s", ""),
    ("men", "man"),
    ("mice", "mouse"),
    ("geese", "goose"),
    ("oxen", "ox"),
]


@dataclass(frozen=True, eq=False)
class Meaning:
    """What a word means.

    Attributes:
        word: as the table has it.
        stand_in: the kind whose classes stand for the word, which has none; "" if it has some.
        weights: float32, (classes,): 1 for the classes that it means, else 0.
    """

    word: str
    stand_in: str
    weights: NDArray[np.float32]


class Vocabulary:
    """The words that a model knows.

    Args:
        classes: names of the model's classes, in their order; None for ImageNet's.
    """

    def __init__(self, classes: Sequence[str] | None) -> None:
        kinds, members, words = _table()
        self._kinds, self._members, self._names = list(kinds), list(members), list(words)
        self._lines: dict[str, list[int]] = {}
        for line, names in enumerate(words):
            for name in names:
                self._lines.setdefault(name, []).append(line)
        if classes is None:
            self.classes = tuple(names[0] for names in words[:_IMAGENET_CLASSES])
            own = {line: [line] for line in range(_IMAGENET_CLASSES)}
        else:
            self.classes = tuple(classes)
            own = {}
            for number, name in enumerate(classes):
                own.setdefault(self._line_of(_simplified(name)), []).append(number)
        self._below: dict[int, set[int]] = {}
        for line, numbers in own.items():
            for above in self._above(line):
                self._below.setdefault(above, set()).update(numbers)
        self._words = [
            word
            for word, lines in self._lines.items()
            if any(self._below.get(line) or self._stand_ins(line) for line in lines)
        ]

    @staticmethod
    def of(contract: Contract) -> "Vocabulary":
        """The words that a model knows.

        Raises:
            WordError: the model does not say what its classes are.
        """
        if contract.classes:
            return _vocabulary(contract.classes)
        # The general model: its attention is that of a classifier of ImageNet.
        if "ImageNet" in str(contract.training.get("attention", "")):
            return _vocabulary(None)
        raise WordError(
            f"model {contract.name!r} does not name its classes, so it knows no words; search with "
            "an image"
        )

    def meanings(self, text: str) -> list[list[Meaning]]:
        """What a text asks for: all of some things, and for each, any of some meanings.

        Args:
            text: words, such as "dog", "a dog", "fire engine" or "dog, cat": what commas divide
                are alternatives. Of words that are no phrase of the table, all are asked for.

        Returns:
            A list for each alternative.

        Raises:
            WordError: a word is not known; the message names near ones.
            TypeError: `text` is not a str.
        """
        if not isinstance(text, str):
            raise TypeError(f"words are {text!r}, expected a str")
        if len(text) > _MAX_LETTERS:
            raise WordError(f"words have {len(text):,} letters, expected at most {_MAX_LETTERS:,}")
        found = [self._phrases(part) for part in text.split(",") if _simplified(part)]
        if not any(found):
            raise WordError(f"{text!r} has no word to search for; try 'dog' or 'building'")
        distinct = {tuple(dict.fromkeys(m.word for m in part)): part for part in found if part}
        if sum(map(len, distinct)) > _MAX_WORDS:
            raise WordError(f"expected at most {_MAX_WORDS} words to search for")
        return list(distinct.values())

    def _phrases(self, text: str) -> list[Meaning]:
        words = _simplified(text).split()
        if self._find(" ".join(words)) is None:
            words = [word for word in words if word not in _ARTICLES]
        found: list[Meaning] = []
        start = 0
        while start < len(words):
            for end in range(len(words), start, -1):
                word = self._find(" ".join(words[start:end]))
                if word is not None:
                    if all(meaning.word != word for meaning in found):
                        found.append(self._meaning(word))
                    start = end
                    break
            else:
                raise self._unknown(" ".join(words[start:]) if not found else words[start])
        return found

    def _find(self, phrase: str) -> str | None:
        """The word of the table that a phrase is, perhaps in the plural."""
        candidates = [phrase]
        for ending, instead in _PLURALS:
            if phrase.endswith(ending):
                candidates.append(phrase.removesuffix(ending) + instead)
        for word in candidates:
            lines = self._lines.get(word, [])
            if any(self._below.get(line) or self._stand_ins(line) for line in lines):
                return word
        return None

    def _unknown(self, phrase: str) -> WordError:
        near = get_close_matches(phrase, self._words, _NEAR, 0.7)
        hint = f"near it are {', '.join(map(repr, near))}" if near else "try a simpler or wider one"
        return WordError(
            f"no class of the model is called {phrase!r}, nor a kind of them; {hint}. Words are "
            "things such as 'dog', 'vehicle' or 'food'; people, names and text in images are not "
            "known"
        )

    def _meaning(self, word: str) -> Meaning:
        weights = np.zeros(len(self.classes), np.float32)
        lines = self._lines[word]
        named = [line for line in lines if self._below.get(line)]
        stand_in = ""
        if not named:
            named = self._stand_ins(lines[0])
            stand_in = self._names[named[0]][0] if self._names[named[0]] else "related things"
        own: set[int] = set()
        for line in named:
            own |= self._below[line]
            for member in self._members[line]:
                own |= self._below.get(member, set())
        weights[sorted(own)] = 1
        return Meaning(word, stand_in, weights)

    def _stand_ins(self, line: int) -> list[int]:
        """The kinds just above something that has no classes, which have some."""
        return [kind for kind in self._kinds[line] if self._below.get(kind)]

    def _above(self, line: int) -> set[int]:
        found, todo = {line}, [line]
        while todo:
            for kind in self._kinds[todo.pop()]:
                if kind not in found:
                    found.add(kind)
                    todo.append(kind)
        return found

    def _line_of(self, name: str) -> int:
        """The line of a class's name; a new one if the table does not have it."""
        if name not in self._lines:
            self._lines[name] = [len(self._kinds)]
            self._kinds.append([])
            self._members.append([])
            self._names.append([name])
        return self._lines[name][0]


@lru_cache(maxsize=4)
def _vocabulary(classes: tuple[str, ...] | None) -> Vocabulary:
    return Vocabulary(classes)


@lru_cache(maxsize=1)
def _table() -> tuple[list[list[int]], list[list[int]], list[list[str]]]:
    """Kinds, members and words of every line."""
    lines = _TABLE.read_text("utf-8").splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    kinds, members = ([[int(n) for n in row[column].split()] for row in rows] for column in (0, 1))
    return kinds, members, [row[2].split(", ") if row[2] else [] for row in rows]


def _simplified(text: str) -> str:
    return " ".join(re.sub(r"[_\s]+", " ", text.casefold()).split()).strip(" .!?\"'")
