"""infini chat: a conversation that never runs out of context."""

import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infini_attention.cli.read import blocks_of, read_with_progress, sigterm_as_interrupt
from infini_attention.cli.shared import common
from infini_attention.cli.shared.lines import typed_lines
from infini_attention.cli.shared.sampling import MaxNewTokens, Seed, Temperature, TopP, sampling
from infini_attention.cli.shared.stored import OwnerFile, Store, StoredOutput
from infini_attention.data.text import check_text
from infini_attention.errors import InfiniError, InputError

if TYPE_CHECKING:
    from infini_attention.sessions import Session

NAME = "chat"
COMMANDS = "/read FILE, /save FILE, /mark NAME, /rewind [N or NAME], /quit"


def run(
    model: common.Model = "",
    session: Annotated[
        Path | None,
        typer.Option("--from", help="Go on from this session file, with the text or chat that it has read."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The session file to write at the end; may be that of --from.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--session", metavar="NAME", help="Go on with this stored session, or begin it; saved at the end."
        ),
    ] = None,
    store: Store = None,
    key: OwnerFile = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    seed: Seed = None,
    encoding: Annotated[str, typer.Option("--encoding", help="Of the files that /read reads.")] = "utf-8",
    segment_size: common.SegmentSize = None,
    rule: common.Rule = None,
    adapter: common.Adapter = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    force: common.Force = False,
    as_json: common.AsJson = False,
) -> None:
    """Talk with a model that does not run out of context.

    Each line is a message. /read FILE reads a text into the memory, /save FILE writes a session file, and /quit or the
    end of the input ends the chat. /rewind takes back the last message and its reply, /rewind N the last N, and
    /rewind NAME all since /mark NAME. Without a terminal, the lines come from standard input.

    Ctrl-C stops a reply, and what was said of it stays said; between replies it ends the chat, which -o or --session
    still saves. A stored session is one of those that `infini serve` has. With --json, each turn is an object on a line
    of its own.
    """
    if name is None and (store or key):
        raise InputError("--store and --api-key-file say where a stored session is: give its name with --session")
    if name is not None and (session or output):
        raise InputError("--session is saved where it is stored: leave --from and -o out, or it")
    if output is not None:
        _check_output(output, force=force or _is_same(output, session))
    stored = None if name is None else StoredOutput(name, store, key)
    opening = common.ModelOptions(model, segment_size, rule, dtype, device, adapter=adapter)
    stream = stored.open(opening) if stored else common.open_session(opening, session, rewinds=True)

    from infini_attention.data.chat import ChatTemplate

    ChatTemplate(stream.tokenizer).check_stable()  # rather now than after the first message
    options = {"max_new_tokens": max_new_tokens, **sampling(temperature, top_p, seed)}
    chat = _Chat(stream, options, encoding, as_json)
    interactive = sys.stdin.isatty()
    if interactive:
        _remark(f"{COMMANDS}; Ctrl-C stops a reply")
    try:
        with sigterm_as_interrupt():
            chat.talk(interactive)
    finally:
        if stored is not None:
            chat.end(stored.name, stored.save)
        elif output is not None:
            chat.end(str(output), _to_file(output))


@dataclass
class _Chat:
    stream: "Session"
    options: dict[str, Any]
    encoding: str
    as_json: bool
    saved: set[Path] = field(default_factory=set)

    def talk(self, interactive: bool) -> None:
        """Until the lines end, or /quit. A mistake ends a script, and not a conversation."""
        for line in typed_lines("> "):
            command, _, argument = line.strip().partition(" ")
            if command == "/quit":
                return
            try:
                self._take(line, command, argument.strip(), interactive)
            except InfiniError as error:
                if not interactive:
                    raise
                _remark(f"infini: {' '.join(str(error).split())}")

    def _take(self, line: str, command: str, argument: str, interactive: bool) -> None:
        if not command:
            return
        if not command.startswith("/"):
            self._say(line)
        elif command == "/rewind":
            self._rewind(argument)
        elif command not in ("/read", "/save", "/mark") or not argument:
            raise InputError(
                f"{line.strip()!r} is no command; expected {COMMANDS}, or a message without a slash before it"
            )
        elif command == "/save":
            self._save(Path(argument).expanduser())
        elif command == "/mark":
            self._mark(argument)
        elif self._read(Path(argument).expanduser()) and not interactive:
            raise KeyboardInterrupt

    def _say(self, message: str) -> None:
        from transformers import TextStreamer

        tokenizer, start = self.stream.tokenizer, time.perf_counter()
        streamer = None if self.as_json else TextStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        with _StopKey() as stop:
            reply = self.stream.chat(message, stop=stop, streamer=streamer, **self.options)
        about = {"finished": reply.finished, "new_tokens": len(reply.token_ids)}
        self._report({"message": message, "reply": reply.text, **about}, start)

    def _read(self, path: Path) -> bool:
        """Reads a text; whether that was interrupted."""
        start = time.perf_counter()
        blocks, size = blocks_of([str(path)], self.encoding), check_text(path, self.encoding)
        figures = read_with_progress(self.stream, blocks, size, scored=False)
        self._report({"read": str(path), "interrupted": figures["interrupted"]}, start)
        return bool(figures["interrupted"])

    def _save(self, path: Path) -> None:
        _check_output(path, force=path in self.saved)
        self.stream.save(path)
        self.saved.add(path)
        _remark(f"saved to {path}", quiet=self.as_json)

    def _mark(self, name: str) -> None:
        if name.isdecimal():
            raise InputError(f"/mark {name}: a number means messages to /rewind; name the mark otherwise")
        self.stream.mark(name)
        _remark(f"marked as {name}", quiet=self.as_json)

    def _rewind(self, argument: str) -> None:
        start = time.perf_counter()
        if argument and not argument.isdecimal():
            read_again = self.stream.rewind(to_mark=argument)
        else:
            turns, count = self.stream.turns, int(argument or 1)
            if not 1 <= count <= turns:
                raise InputError(f"/rewind {argument}: expected 1 to {turns} messages that were replied to, or a mark")
            read_again = self.stream.rewind(to_turn=turns - count)
        self._report({"rewind": argument, "turns": self.stream.turns, "tokens_read_again": read_again}, start)

    def end(self, place: str, save: Callable[["Session"], str]) -> None:
        """Saves what was said, if anything was."""
        if not self.stream.stats.tokens_read:
            _remark(f"nothing was said: {place} was not written", quiet=self.as_json)
            return
        saved = save(self.stream)
        changed = "" if saved == place else f": {place} was changed meanwhile, and is as it was changed"
        _remark(f"saved to {saved}{changed}", quiet=self.as_json and not changed)

    def _report(self, done: dict[str, Any], start: float) -> None:
        stream = self.stream
        figures = {
            "tokens_read": stream.stats.tokens_read,
            "tokens_in_window": stream.tokens_in_window,
            "tokens_compressed": stream.tokens_compressed,
            "dropped_tokens": stream.dropped_tokens,
            "state_bytes": stream.state_bytes,
        }
        if self.as_json:
            common.emit(done | figures | {"seconds": time.perf_counter() - start}, as_json=True)
            return
        _remark(
            f"{figures['tokens_read']:,} tokens read · {figures['tokens_in_window']:,} in the window · "
            f"{figures['tokens_compressed']:,} compressed · state {common.human_bytes(figures['state_bytes'])}"
        )


class _StopKey:
    """Ctrl-C as a wish to stop, granted after the token at work; pressed again, it interrupts at once."""

    def __init__(self) -> None:
        self.pressed = False

    def __call__(self) -> bool:
        return self.pressed

    def __enter__(self) -> "_StopKey":
        self.before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self.before)

    def _press(self, *signal_and_frame: object) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True


def _remark(text: str, *, quiet: bool = False) -> None:
    if not quiet:
        common.console.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)


def _check_output(path: Path, *, force: bool) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a directory; expected the name of a session file")
    common.check_output(path, force=force)


def _to_file(path: Path) -> Callable[["Session"], str]:
    def save(session: "Session") -> str:
        session.save(path)
        return str(path)

    return save


def _is_same(path: Path, other: Path | None) -> bool:
    return other is not None and path.exists() and other.exists() and path.samefile(other)
