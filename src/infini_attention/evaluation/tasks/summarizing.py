"""A text of any length into a summary, in bounded bytes: notes from forks of one stream, then notes of the notes."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from infini_attention.data.chat import answer_ends, question_tokens
from infini_attention.data.tokens import encode_after, tokenize_stream
from infini_attention.errors import ConfigError
from infini_attention.evaluation.pieces import whole_segments
from infini_attention.evaluation.stream import Subject, read_span
from infini_attention.evaluation.writing import write

ASK_NOTE = "Summarize the text above in two or three sentences."
ASK_WHOLE = "Summarize the whole text above in a few sentences."


@dataclass(frozen=True)
class Summarizer:
    """How a summary is written.

    Attributes:
        subject: reads and writes.
        tokenizer: of the model.
        section_tokens: a note is written for each section of so many tokens; a multiple of the segment.
        new_tokens: at most so many for a note, and for the summary.
        memory: False empties the memory before each note: a control, in which the model sees its window alone.

    Raises:
        ConfigError: sections that are no whole segments, or too short for what is asked and written behind them.
    """

    subject: Subject
    tokenizer: PreTrainedTokenizerBase
    section_tokens: int
    new_tokens: int
    memory: bool = True

    def __post_init__(self) -> None:
        if self.section_tokens % self.subject.unit:
            raise ConfigError(
                f"a section must be whole segments of {self.subject.unit} tokens; got {self.section_tokens} tokens"
            )
        if self.section_tokens < 2 * self.room:
            raise ConfigError(
                f"a section of {self.section_tokens} tokens is too short: the question and a note take {self.room} of "
                "it, which may be half at most; use longer sections or fewer new tokens"
            )

    @property
    def room(self) -> int:
        """Tokens at the end of a section that are left to the question and the note, so that both see its text."""
        return max(len(question_tokens(self.tokenizer, ask)) for ask in (ASK_NOTE, ASK_WHOLE)) + self.new_tokens

    def summarize(self, ids: Tensor) -> "Summary":
        """Writes the summary of a text, `ids [T]`. Each level is at most half as long as the one before."""
        tokens, levels, notes, nbytes = len(ids), 0, 0, 0
        while True:
            written, size = self._notes(ids)
            levels, notes, nbytes = levels + 1, notes + len(written), max(nbytes, size)
            if len(written) == 1:
                text = str(self.tokenizer.decode(written[0], skip_special_tokens=True)).strip()
                return Summary(text, tokens, levels, notes, nbytes)
            line = encode_after(".", "\n", self.tokenizer).token_ids
            ids = torch.cat([self.encode(""), *(torch.tensor(note + line) for note in written)])

    def encode(self, text: str) -> Tensor:
        """The text as tokens, behind the tokenizer's start token if it has one."""
        ids = [token for piece in tokenize_stream([text], self.tokenizer) for token in piece.token_ids]
        return torch.tensor(ids, dtype=torch.int64)

    def places(self, tokens: int) -> list[int]:
        """Where notes are written in a text of so many tokens: behind each section, less its room, and at the end."""
        inner = range(self.section_tokens - self.room, tokens, self.section_tokens)
        # What is left over behind the last section has its note with the end of the text.
        return [*(place for place in inner if tokens - place > self.room), tokens]

    def _notes(self, ids: Tensor) -> tuple[list[list[int]], int]:
        """The tokens of the note at each place, from a fork of one stream, and the bytes of both."""
        places, piece_size = self.places(len(ids)), whole_segments(self.subject.piece_tokens, self.subject.unit)
        asked = torch.tensor([question_tokens(self.tokenizer, ASK_WHOLE if len(places) == 1 else ASK_NOTE)])
        ends, lines = answer_ends(self.tokenizer), not self.tokenizer.chat_template
        stream, start, notes, nbytes = self.subject.open_stream(), 0, [], 0
        for place in places:
            read_span(stream, ids[None], start, place, piece_size)
            start, fork = place, stream.fork()
            if not self.memory:
                fork.forget()
            # Without a chat template an answer ends with its line, as in `ask`.
            [note] = write(fork, fork.read(asked), self.new_tokens, ends=ends, enough=self._line if lines else _never)
            notes.append(note)
            nbytes = max(nbytes, stream.nbytes + fork.nbytes)
        return notes, nbytes

    def _line(self, row: int, written: list[int]) -> bool:
        text = str(self.tokenizer.decode(written))
        return "\n" in text.lstrip()


def _never(row: int, written: list[int]) -> bool:
    return False


@dataclass(frozen=True)
class Summary:
    """What came of it.

    Attributes:
        text: the summary.
        tokens: of the text.
        levels: 1 where all of it was one section; each level has the notes of the one before for its text.
        notes: written in all, the summary included.
        nbytes: most that stream and fork held together.
    """

    text: str
    tokens: int
    levels: int
    notes: int
    nbytes: int
