"""Where a stream has been: a bounded set of snapshots to rewind to, and of the text, what lies between the last ones.

Snapshots are spaced by their age. To take n tokens back, fewer than n tokens (or one chunk) are read again, and a
stream of N tokens keeps about 2 log2(N / C) of them, for segments of C tokens. Those at the borders of messages stay
beside them while there is room, and those with a mark stay until the mark is taken off.
"""

from dataclasses import dataclass, replace

from infini_attention.errors import InputError
from infini_attention.sessions.passes import Chunk, Text
from infini_attention.sessions.snapshot import Snapshot, unique_bytes


@dataclass(frozen=True)
class HistorySettings:
    """How much of its past a session keeps.

    Attributes:
        max_bytes: for snapshots and text together; 0 keeps nothing but the start. A quarter of it at most is text.
        text_tokens: of the text, at least so many of the last tokens are kept, 4 bytes each, while there is room: a
            rewind reaches every one of them. 0 keeps none: a rewind then reaches the snapshots alone. None keeps all.
    """

    max_bytes: int = 256 << 20
    text_tokens: int | None = 8192

    def __post_init__(self) -> None:
        for name, value in (("max_bytes", self.max_bytes), ("text_tokens", self.text_tokens)):
            if value is not None and value < 0:
                raise InputError(f"{name} must be 0 or more; got {value}")

    @property
    def keep_text(self) -> bool:
        return self.max_bytes > 0 and self.text_tokens != 0


@dataclass(frozen=True)
class Place:
    """A snapshot that is kept.

    Attributes:
        text: from the place before to this one; None where it is not kept.
        border: whether a message of a chat begins or ends here.
        opens: how many messages were replied to, where the next one begins here.
        marks: names that were given to it.
    """

    snapshot: Snapshot
    text: Text | None = None
    border: bool = False
    opens: int | None = None
    marks: frozenset[str] = frozenset()

    @property
    def tokens(self) -> int:
        return self.snapshot.tokens


@dataclass(frozen=True)
class History:
    """What is kept of a stream's past, as a value.

    Attributes:
        places: from the oldest to the newest; the first is the start of the stream, and always there.
        text: what was read since the newest place; None where it is not kept.
    """

    settings: HistorySettings
    places: tuple[Place, ...]
    text: Text | None

    @classmethod
    def new(cls, settings: HistorySettings) -> "History":
        return cls(settings, (Place(Snapshot.start(), border=True),), Text() if settings.keep_text else None)

    @property
    def latest(self) -> Snapshot:
        return self.places[-1].snapshot

    @property
    def nbytes(self) -> int:
        """Bytes of all snapshots, what they share counted once, and of the text."""
        texts = (self.text, *(place.text for place in self.places))
        return unique_bytes(place.snapshot for place in self.places) + sum(text.nbytes for text in texts if text)

    @property
    def marks(self) -> dict[str, int]:
        """Tokens before each mark."""
        return {mark: place.tokens for place in self.places for mark in sorted(place.marks)}

    def read(self, chunk: Chunk) -> "History":
        """After one more pass of the model."""
        return self if self.text is None else replace(self, text=self.text.plus(chunk))

    def keep(
        self, snapshot: Snapshot, *, border: bool = False, opens: int | None = None, mark: str | None = None
    ) -> "History":
        """With a place here, and without those that there is no room for.

        Raises:
            InputError: the places with a mark alone take more than `max_bytes`.
        """
        new, history = Place(snapshot, self.text, border, opens), self
        if self.latest.tokens == snapshot.tokens:
            *places, last = self.places
            opens = last.opens if opens is None else opens
            new = replace(last, snapshot=snapshot, border=last.border or border, opens=opens)
        else:
            places = list(self.places)
            history = replace(self, text=Text() if self.settings.keep_text else None)
        if mark is not None:
            places = [replace(place, marks=place.marks - {mark}) for place in places]
            new = replace(new, marks=new.marks | {mark})
        history = replace(history, places=(*places, new))._thinned()._without_old_text()._bounded()
        if mark is not None and history.nbytes > self.settings.max_bytes:
            raise InputError(
                f"the places with a mark take {history.nbytes:,} bytes, expected at most {self.settings.max_bytes:,}: "
                "take a mark off with unmark(), or open the session with a larger HistorySettings(max_bytes=...)"
            )
        return history

    def unmark(self, mark: str) -> "History":
        """Raises `InputError` for a mark that there is not."""
        self.tokens_at(mark)
        return replace(self, places=tuple(replace(place, marks=place.marks - {mark}) for place in self.places))

    def tokens_at(self, mark: str) -> int:
        """Raises `InputError` for a mark that there is not."""
        if mark not in self.marks:
            raise InputError(f"there is no mark {mark!r}; expected one of {', '.join(self.marks) or '(none was set)'}")
        return self.marks[mark]

    def tokens_before_turn(self, turns: int) -> int:
        """Where the message after `turns` others began. Raises `InputError` where that is not kept."""
        kept = {place.opens: place.tokens for place in self.places if place.opens is not None}
        if turns not in kept:
            expected = ", ".join(map(str, kept)) or "(none)"
            raise InputError(
                f"the place after {turns} messages is not kept; expected one of {expected}: the history begins where "
                "the session was opened, and the oldest messages go when there is no room"
            )
        return kept[turns]

    def back_to(self, tokens: int) -> tuple["History", list[tuple[Chunk, int]]]:
        """The history as it was at the last place at or before `tokens`, and how much of each chunk to read from there.

        Raises:
            InputError: the text from there on is not kept.
        """
        index = max(i for i, place in enumerate(self.places) if place.tokens <= tokens)
        place, later = self.places[index], self.places[index + 1 :]
        history = replace(self, places=self.places[: index + 1], text=Text() if self.settings.keep_text else None)
        left, chunks = tokens - place.tokens, []
        text = later[0].text if later else self.text
        if left and text is None:
            after = f" or {later[0].tokens:,}" if later else ""
            raise InputError(
                f"token {tokens:,} cannot be reached, as the text around it is not kept: rewind to {place.tokens:,}"
                f"{after}, or open the session with a larger HistorySettings(text_tokens=...)"
            )
        for chunk in text.chunks if text else ():
            if left == 0:
                break
            chunks.append((chunk, min(left, len(chunk.token_ids))))
            left -= chunks[-1][1]
        return history, chunks

    def _thinned(self) -> "History":
        """Without each place whose neighbours are no further apart than the newer of them is old."""
        places, now, i = list(self.places), self.places[-1].tokens, 1
        while i < len(places) - 1:
            before, place, after = places[i - 1 : i + 2]
            pinned = place.border or place.marks
            loses_text = place.text is None and after.text is not None
            if pinned or loses_text or after.tokens - before.tokens > now - after.tokens:
                i += 1
            else:
                places[i : i + 2] = [replace(after, text=_joined(place.text, after.text))]
        return replace(self, places=tuple(places))

    def _without_old_text(self) -> "History":
        wanted, now, room = self.settings.text_tokens, self.places[-1].tokens, self.settings.max_bytes // 4
        places = list(self.places)
        for i in range(len(places) - 1, -1, -1):  # the newest text first
            text = places[i].text
            room -= text.nbytes if text else 0
            if room < 0 or (wanted is not None and now - places[i].tokens >= max(wanted, 1)):
                places[i] = replace(places[i], text=None)
        return replace(self, places=tuple(places))

    def _bounded(self) -> "History":
        """Within `max_bytes`, as far as the marks let it: first those go that leave the smallest gap for their age."""
        history = self
        while history.nbytes > self.settings.max_bytes:
            places, now = history.places, history.places[-1].tokens
            free = [i for i in range(1, len(places)) if not places[i].marks]
            if not free:
                return replace(history, places=tuple(replace(place, text=None) for place in places), text=None)

            def gap(i: int, places: tuple[Place, ...] = places, now: int = now) -> tuple[bool, float]:
                after = places[i + 1].tokens if i + 1 < len(places) else now + 1
                return places[i].border, (after - places[i - 1].tokens) / (now + 1 - places[i - 1].tokens)

            history = history._without(min(free, key=gap))
        return history

    def _without(self, index: int) -> "History":
        text, places = self.places[index].text, list(self.places)
        del places[index]
        if index == len(places):
            return replace(self, places=tuple(places), text=_joined(text, self.text))
        places[index] = replace(places[index], text=_joined(text, places[index].text))
        return replace(self, places=tuple(places))


def _joined(first: Text | None, second: Text | None) -> Text | None:
    return None if first is None or second is None else first.joined(second)
