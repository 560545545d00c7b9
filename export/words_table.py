"""Write the table of words that `Gallery.search_words` knows, from WordNet 3.0.

    apt-get install wordnet-base
    python export/words_table.py imagenet_classes.tsv [--wordnet /usr/share/wordnet]

The first argument is a list of ImageNet's 1,000 classes in the order of the classifier: number and
WordNet identifier, such as n02084071, a tab between them. Writes encoding/words.txt of the runtime,
whose head says what its lines are.

Kept of WordNet are the classes, all kinds above them but the vaguest, and things that are no class
but a part of one, or just below a small kind if they are usual: if they occur in WordNet's own
sample of texts. A word of several senses stands for the one with the most classes, usual ones of
the same kind, and classes. What a thing has as members suggests it: a locomotive a train.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

OUT = Path(__file__).parents[1] / "runtime" / "bitgaze" / "encoding" / "words.txt"
# Kinds of more classes than this (artefact, object) tell nothing.
_MOST_CLASSES = 450
# A thing that is no class is kept below kinds of at most this number of classes.
_MOST_BESIDE = 12
# Person and what is above: three classes of people are not people.
_LEFT_OUT = {"00007846", "00004475"}

_HEAD = """\
# What words mean, in classes of ImageNet. From WordNet 3.0, by export/words_table.py:
# kinds (numbers of lines below, from 0) <tab> members (the same) <tab> words, most usual first
# The first 1,000 lines are the classes, in their order.
# WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved.
# THIS SOFTWARE AND DATABASE IS PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS
# OR WARRANTIES, EXPRESS OR IMPLIED. BY WAY OF EXAMPLE, BUT NOT LIMITATION, PRINCETON UNIVERSITY
# MAKES NO REPRESENTATIONS OR WARRANTIES OF MERCHANTABILITY OR FITNESS FOR ANY PARTICULAR PURPOSE OR
# THAT THE USE OF THE LICENSED SOFTWARE, DATABASE OR DOCUMENTATION WILL NOT INFRINGE ANY THIRD PARTY
# PATENTS, COPYRIGHTS, TRADEMARKS OR OTHER RIGHTS.
# Permission to use, copy, modify and distribute this software and database and its documentation
# for any purpose and without fee or royalty is hereby granted, provided that you agree to comply
# with the above copyright notice and statements, including the disclaimer, and that the same appear
# on ALL copies of the software, database and documentation, including modifications that you make
# for internal use or for distribution. The name of Princeton University or Princeton may not be
# used in advertising or publicity pertaining to distribution of the software and/or database. Title
# to copyright in this software, database and any associated documentation shall at all times remain
# with Princeton University and LICENSEE agrees to preserve same.
"""


class Synset(NamedTuple):
    """A meaning: its words, the kinds it is of, its members, and its parts."""

    words: list[str]
    kinds: list[str]
    members: list[str]
    parts: list[str]


def main() -> None:
    """Parse arguments, read, choose, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("classes", type=Path, metavar="TSV")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    lines = options.classes.read_text("utf-8").splitlines()
    classes = [line.split("\t")[1].removeprefix("n") for line in lines]
    text = table(read_synsets(options.wordnet), read_senses(options.wordnet), classes)
    options.out.write_text(text, "utf-8")
    print(f"{options.out}: {len(text.encode()):,} bytes, {len(text.splitlines()):,} lines")


def read_synsets(folder: Path) -> dict[str, Synset]:
    """All meanings of nouns by their offset in data.noun; wndb(5WN) describes the file."""
    found = {}
    for line in (folder / "data.noun").read_text("latin-1").splitlines():
        if line.startswith(" "):
            continue
        fields = line.partition(" | ")[0].split()
        count = int(fields[3], 16)
        words = [fields[4 + 2 * n].replace("_", " ").lower() for n in range(count)]
        first = 5 + 2 * count
        pointers = [fields[n : n + 3] for n in range(first, len(fields), 4)]
        found[fields[0]] = Synset(
            words,
            [to for kind, to, part in pointers if kind in ("@", "@i") and part == "n"],
            [to for kind, to, part in pointers if kind == "%m" and part == "n"],
            [to for kind, to, part in pointers if kind == "%p" and part == "n"],
        )
    return found


def read_senses(folder: Path) -> dict[str, tuple[list[str], int]]:
    """Word to its meanings, the most frequent first, and to how many of them occur in texts."""
    found = {}
    for line in (folder / "index.noun").read_text("latin-1").splitlines():
        if line.startswith(" "):
            continue
        fields = line.split()
        count = int(fields[2])
        found[fields[0].replace("_", " ")] = (fields[-count:], int(fields[-count - 1]))
    return found


def table(
    synsets: dict[str, Synset], senses: dict[str, tuple[list[str], int]], classes: list[str]
) -> str:
    """The text of the file.

    Args:
        synsets: as from `read_synsets`.
        senses: as from `read_senses`.
        classes: offset of each class, in the order of the classes.
    """
    below: defaultdict[str, set[str]] = defaultdict(set)
    for offset in classes:
        for above in _above(synsets, offset):
            below[above].add(offset)
    kept = {
        offset: None
        for offset in [*classes, *sorted(below)]
        if len(below[offset]) <= _MOST_CLASSES and offset not in _LEFT_OUT
    }
    wholes: defaultdict[str, list[str]] = defaultdict(list)
    for offset in classes:
        for part in synsets[offset].parts:
            wholes[part].append(offset)
    for offset, synset in synsets.items():
        if offset in kept or below.get(offset):
            continue
        kinds = [kind for kind in synset.kinds if kind in kept and below.get(kind)]
        is_small = kinds and max(len(below[kind]) for kind in kinds) <= _MOST_BESIDE
        is_usual = any(offset in senses[word][0][: senses[word][1]] for word in synset.words)
        if offset in wholes or (is_small and is_usual):
            kept[offset] = None
    number = {offset: n for n, offset in enumerate(kept)}
    chosen = {
        word: _chosen(synsets, found, usual, below, number, set(classes))
        for word, (found, usual) in senses.items()
    }
    lines = []
    for offset in kept:
        words = [word for word in synsets[offset].words if offset in chosen.get(word, ())]
        if offset in classes and not words:
            raise ValueError(f"no word for class {offset}")
        above = wholes.get(offset, []) if offset not in below else []
        above = above or synsets[offset].kinds
        kinds = [str(number[kind]) for kind in above if kind in number]
        members = [str(number[m]) for m in synsets[offset].members if below.get(m) and m in number]
        lines.append(f"{' '.join(kinds)}\t{' '.join(members)}\t{', '.join(dict.fromkeys(words))}")
    return _HEAD + "\n".join(lines) + "\n"


def _above(synsets: dict[str, Synset], offset: str) -> set[str]:
    """A meaning and all kinds that it is of."""
    found, todo = {offset}, [offset]
    while todo:
        for kind in synsets[todo.pop()].kinds:
            if kind not in found:
                found.add(kind)
                todo.append(kind)
    return found


def _chosen(
    synsets: dict[str, Synset],
    senses: list[str],
    usual: int,
    below: dict[str, set[str]],
    number: dict[str, int],
    classes: set[str],
) -> set[str]:
    """The meanings of a word that the table has it for."""
    known = [sense for sense in senses if sense in number]
    most = max((len(below.get(sense, ())) for sense in known), default=0)
    named = [sense for sense in known if len(below.get(sense, ())) == most]
    kinds = {kind for sense in named[:1] for kind in synsets[sense].kinds}
    beside = {sense for sense in senses[:usual] if kinds & {*synsets[sense].kinds}}
    return {*named[:1], *beside.intersection(known), *classes.intersection(known)}


if __name__ == "__main__":
    main()
