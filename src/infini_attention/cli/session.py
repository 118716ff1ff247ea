"""infini session: the sessions in a store, without their model."""

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infini_attention.cli.shared import common
from infini_attention.cli.shared.stored import OwnerFile, Store, existing_folder, open_store, owner_in

if TYPE_CHECKING:
    from infini_attention.sessions import StoredSession

NAME = "session"

app = typer.Typer(help="List, fork, rewind, check and remove stored sessions.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="Of the session.")]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command("ls")
def list_sessions(store: Store = None, key: OwnerFile = None, as_json: common.AsJson = False) -> None:
    """List the sessions, the one that was used last coming last."""
    sessions = [_figures(session) for session in open_store(store).sessions(owner=owner_in(key))]
    if as_json:
        print(json.dumps({"sessions": sessions}))
        return
    width = max((len(session["name"]) for session in sessions), default=0)
    for session in sessions:
        used = _date(session["used"])
        size = common.human_bytes(session["store_bytes"])
        print(f"{session['name']:<{width}}  {session['tokens']:>12,} tokens  {size:>9}  {used}  {session['model']}")


@app.command("show")
def show(name: Name, store: Store = None, key: OwnerFile = None, as_json: common.AsJson = False) -> None:
    """Show what a session is, and the places that it can go back to."""
    session = open_store(store).get(name, owner=owner_in(key))
    places: list[dict[str, Any]] = [
        {"tokens": place.tokens, "turn": place.opens, "marks": list(place.marks)}
        for place in session.places
        if place.tokens
    ]
    if as_json:
        common.emit(_figures(session) | {"places": places}, as_json=True)
        return
    _emit(session, as_json=False)
    for place in places:
        turn = "" if place["turn"] is None else f"  before message {place['turn'] + 1}"
        marks = "".join(f"  {mark}" for mark in place["marks"])
        print(f"  {place['tokens']:>12,} tokens{turn}{marks}")


@app.command("fork")
def fork(
    name: Name,
    copy: Annotated[str, typer.Argument(help="What the fork is called.")],
    store: Store = None,
    key: OwnerFile = None,
    as_json: common.AsJson = False,
) -> None:
    """Make a second session that stands where the first one does. No state is copied."""
    _emit(open_store(store).fork(name, copy, owner=owner_in(key)), as_json)


@app.command("rewind")
def rewind(
    name: Name,
    to_token: Annotated[int | None, typer.Option("--to-token", min=1, help="A place that `show` lists.")] = None,
    to_mark: Annotated[str | None, typer.Option("--to-mark", help="The place of a mark.")] = None,
    to_turn: Annotated[int | None, typer.Option("--to-turn", min=0, help="After so many messages.")] = None,
    store: Store = None,
    key: OwnerFile = None,
    as_json: common.AsJson = False,
) -> None:
    """Take a session back to a place that it keeps. What came after is gone, but for forks."""
    back = open_store(store).rewind(name, to_token=to_token, to_mark=to_mark, to_turn=to_turn, owner=owner_in(key))
    _emit(back, as_json)


@app.command("verify")
def verify(name: Name, store: Store = None, key: OwnerFile = None, as_json: common.AsJson = False) -> None:
    """Read all states of a session, and compare them with their digests."""
    _emit(open_store(store).verify(name, owner=owner_in(key)), as_json, verified=True)


@app.command("rebuild")
def rebuild(
    store: Store = None,
    blobs: Annotated[str | None, typer.Option("--blobs", metavar="URL", help="As `infini serve` was given it.")] = None,
    as_json: common.AsJson = False,
) -> None:
    """Make a new index for a store whose index is damaged or missing; the old one is put aside.

    Nothing else may use the store meanwhile. Sessions whose states are damaged too are left out, and named.
    """
    from infini_attention.sessions import rebuild_store

    folder = existing_folder(store)
    left_out = rebuild_store(folder, blobs=blobs)
    common.emit({"store": str(folder), "left_out": left_out if as_json else ", ".join(left_out)}, as_json=as_json)


@app.command("rm")
def remove(
    names: Annotated[list[str], typer.Argument(help="Of the sessions.")],
    store: Store = None,
    key: OwnerFile = None,
    as_json: common.AsJson = False,
) -> None:
    """Remove sessions for good. Forks of them stay."""
    opened = open_store(store)
    for name in names:
        opened.get(name, owner=owner_in(key))  # all are there, or nothing is removed
    for name in names:
        opened.delete(name, owner=owner_in(key))
    common.emit({"removed": names if as_json else ", ".join(names)}, as_json=as_json)


def _figures(session: "StoredSession") -> dict[str, Any]:
    return {
        "name": session.name,
        "model": session.place.model,
        "adapter": session.place.adapter,
        "tokens": session.place.tokens,
        "turns": session.place.turns,
        "places_kept": len([place for place in session.places if place.tokens]),
        "store_bytes": session.nbytes,
        "revision": session.revision,
        "created": session.created,
        "used": session.used,
    }


def _emit(session: "StoredSession", as_json: bool, **more: Any) -> None:
    figures = _figures(session) | more
    if not as_json:
        figures |= {name: _date(figures[name]) for name in ("created", "used")}
    common.emit(figures, as_json=as_json)


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
