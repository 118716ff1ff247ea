"""infini serve: the model behind the API of OpenAI, with sessions that stay."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from infini_attention.cli.shared import common
from infini_attention.cli.shared.stored import KeyFile, Store, store_folder
from infini_attention.errors import ConfigError

NAME = "serve"


def _count(name: str, text: str, least: int = 1) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(name, min=least, help=text)
    return option


def run(
    model: common.Model = "",
    store: Store = None,
    blobs: Annotated[
        str | None,
        typer.Option(
            "--blobs",
            metavar="URL",
            help="Where a new store keeps the states: another folder, or an fsspec URL.  [default: in the store]",
            show_default=False,
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8000,
    model_name: Annotated[
        str | None, typer.Option("--model-name", help="What clients call it.  [default: that of --model]")
    ] = None,
    key_file: KeyFile = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Listen at an address that others can reach, without API keys.")
    ] = False,
    max_body: Annotated[int, _count("--max-body", "MB of a request.")] = 8,
    max_upload: Annotated[int, _count("--max-upload", "MB of a request that uploads a file.")] = 256,
    max_prompt_tokens: Annotated[int, _count("--max-prompt-tokens", "Of a prompt.")] = 131_072,
    max_new_tokens: Annotated[int, _count("--max-new-tokens", "Of a reply.")] = 4096,
    max_sessions: Annotated[int, _count("--max-sessions", "That each key may keep.")] = 1000,
    max_responses: Annotated[int, _count("--max-responses", "That are kept for each key; then the oldest go.")] = 1000,
    max_key_bytes: Annotated[int, _count("--max-key-bytes", "MB that each key may keep.")] = 8192,
    max_key_requests: Annotated[
        int | None, typer.Option("--max-key-requests", min=1, help="Of each key at a time.  [default: no such limit]")
    ] = None,
    batch: Annotated[int, _count("--batch", "Requests that the model is at, at the same time.")] = 64,
    queue: Annotated[int, _count("--queue", "Requests that may wait; the next one is sent away.", 0)] = 256,
    piece_tokens: Annotated[int, _count("--piece-tokens", "Read at a time between two steps of writing.")] = 256,
    live_sessions: Annotated[int, _count("--live-sessions", "That are kept in memory too.")] = 64,
    live_bytes: Annotated[int, _count("--live-bytes", "MB of them.")] = 1024,
    prefix_bytes: Annotated[int, _count("--prefix-bytes", "MB of known beginnings of conversations.", 0)] = 512,
    history_bytes: Annotated[int, _count("--history-bytes", "MB of places that a session can go back to.", 0)] = 64,
    grace: Annotated[
        float, typer.Option("--grace", min=1, help="Seconds that replies get to end in, on SIGTERM.")
    ] = 10,
    segment_size: common.SegmentSize = None,
    rule: common.Rule = None,
    adapter: common.Adapter = None,
    dtype: common.DType = None,
    device: common.Device = "cpu",
    as_json: common.AsJson = False,
) -> None:
    """Serve a model over HTTP.

    A page for people at /, the API of OpenAI (chat, completions, responses) at /v1, and sessions that are read to,
    asked, forked and taken back at /v1/sessions; /docs describes all of it. Prompts that were sent before are not read
    again, and every answer says where each token of its stream is.

    Without API keys the server listens on this machine alone. SIGTERM ends it: replies get some seconds, texts that are
    being read are kept as far as they were read. With --json, an object on stdout says where it listens.
    """
    try:
        from infini_attention.server.app import create_app
        from infini_attention.server.keys import load_keys
        from infini_attention.server.running import LOOPBACK, is_loopback, listen
        from infini_attention.server.running import run as serve
        from infini_attention.server.settings import Limits, Room, ServerSettings
    except ImportError as error:
        raise ConfigError(
            f"serving needs {error.name}: install the extra with `pip install 'infini-attention[serve]'`"
        ) from error

    keys = load_keys(key_file)
    if not keys and not is_loopback(host) and not insecure:
        raise ConfigError(
            f"--host {host} can be reached by others: give --api-key-file or INFINI_API_KEYS, or --insecure to let "
            "everybody in"
        )
    opening = common.ModelOptions(model or common.DEFAULT_MODEL, segment_size, rule, dtype, device, adapter=adapter)
    source = common.lasting(opening.source)
    mb = 1_000_000
    settings = ServerSettings(
        store_folder(store),
        model_name or Path(opening.source).name,
        source=source,
        adapter=opening.used_adapter(),
        blobs=blobs,
        keys=keys,
        limits=Limits(
            max_body * mb,
            max_upload * mb,
            max_prompt_tokens,
            max_new_tokens,
            max_sessions,
            max_responses,
            max_key_bytes * mb,
            max_key_requests,
            batch,
            queue,
            piece_tokens,
        ),
        room=Room(live_sessions, live_bytes * mb, prefix_bytes * mb, history_bytes * mb),
        hosts=(*LOOPBACK, host) if is_loopback(host) and not keys else (),
        grace_seconds=grace,
    )
    with listen(host, port) as listening:  # rather now than after the model was loaded
        app = create_app(*opening.open(), settings)
        address, bound = listening.getsockname()[:2]
        url = f"http://{f'[{address}]' if ':' in address else address}:{bound}"

        def started() -> None:
            if as_json:
                about = {"url": url, "model": settings.model_name, "store": str(settings.store), "keys": len(keys)}
                common.emit(about, as_json=True)
                sys.stdout.flush()
            else:
                common.console.print(f"serving {settings.model_name} at {url} (API: {url}/docs)", highlight=False)

        serve(app, listening, started)
