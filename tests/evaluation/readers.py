"""Streams that are no models: one that knows everything it read, and one that knows nothing."""

import re

import torch

from infini_attention.data.facts import KINDS

VOCABULARY = 256
ASKED = re.compile(rb"What is the pass key(?: of (\w+))?\? The pass key(?: of \w+)? is (\d{0,4})$")


class Oracle:
    """Answers from what it read, byte by byte. `forget` leaves it the unfinished segment; `log` tells what happened."""

    def __init__(self, segment_size=64, rows=None, log=None):
        self.segment_size, self.rows, self.log = segment_size, rows, [] if log is None else log
        self.forgotten = 0

    def read(self, token_ids):
        self.log.append(("read", *token_ids.shape))
        self.rows = self.rows or [b""] * len(token_ids)
        self.rows = [row + bytes(ids) for row, ids in zip(self.rows, token_ids.tolist(), strict=True)]
        return torch.nn.functional.one_hot(torch.tensor([self.guess(row) for row in self.rows]), VOCABULARY).float()

    def guess(self, row):
        known = row[self.forgotten :]
        asked = ASKED.search(known)
        if asked is None:
            return 0
        who = rb" of " + asked[1] if asked[1] else b""
        told = re.findall(rb"The pass key" + who + rb" is (\d{5})\. Remember", known)
        return told[-1][len(asked[2])] if told else 0

    def fork(self):
        fork = type(self)(self.segment_size, self.rows and list(self.rows), self.log)
        fork.forgotten = self.forgotten
        return fork

    def forget(self):
        self.log.append(("forget", len(self.rows[0])))
        self.forgotten = len(self.rows[0]) // self.segment_size * self.segment_size

    @property
    def nbytes(self):
        return 1000 * len(self.rows)


class Writer(Oracle):
    """Writes what `answers` makes of all that it knows, and then for ever what `asked` cannot mistake: full stops.

    `asked` finds the question; what stands behind it is what was written so far.
    """

    asked = re.compile(rb"$.")

    def guess(self, row):
        known, question, written = self.split(row)
        answer = b" " + b", ".join(self.answers(known, question)) if question else b""
        return answer[len(written)] if len(written) < len(answer) else ord(".")

    def split(self, row):
        asked = list(self.asked.finditer(row))
        if not asked:
            return b"", b"", b""
        start, stop = asked[-1].span()
        return row[self.forgotten : start], row[start:stop], row[stop:]

    def answers(self, known, question):
        return []


class Knower(Oracle):
    """Answers questions about facts from the sentences that state them."""

    def guess(self, row):
        known = row[self.forgotten :].decode("latin-1")
        asked = re.search(r"Question: ([^\n]*)\nAnswer:([^\n]*)$", known)
        for kind in KINDS.values() if asked else ():
            who = re.fullmatch(_pattern(kind.question, r"(?P<name>\w+)"), asked[1])
            for statement in kind.statements if who else ():
                told = re.search(_pattern(statement, who["name"], "(?P<value>[^.]*?\\.?)"), known)
                if told:
                    answer = f" {kind.answer.format(value=told['value'])}\n"
                    return ord(answer[len(asked[2])])
        return 0


def _pattern(text, name, value=""):
    return re.escape(text).replace(r"\{name\}", name).replace(r"\{value\}", value)


class Ignorant(Oracle):
    """Always says the same."""

    def guess(self, row):
        return ord("7")
