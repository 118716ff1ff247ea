"""A server on a socket, until it is told to stop."""

import ipaddress
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from infini_attention.errors import ConfigError
from infini_attention.server.service import Service

# Beside the requests that have a place or wait for one: what asks for less than the model.
_MORE_CONNECTIONS = 1000
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; port 0 is a free one. Raises `ConfigError` where there is none."""
    listening = None
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as error:
        if listening is not None:
            listening.close()
        raise ConfigError(f"cannot listen at {host} port {port} ({error.strerror}); choose another --port") from error
    return listening


def run(app: FastAPI, listening: socket.socket, started: Callable[[], None] = lambda: None) -> None:
    """Serves until SIGTERM or Ctrl-C; then ends what is at work, within the time of grace, and returns.

    After Ctrl-C this raises `KeyboardInterrupt` at the end.
    """
    service: Service = app.state.service
    limits = service.settings.limits
    config = uvicorn.Config(
        app,
        access_log=False,
        limit_concurrency=limits.batch + limits.queue + _MORE_CONNECTIONS,
        timeout_graceful_shutdown=max(1, round(service.settings.grace_seconds)),
        server_header=False,
    )
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what uvicorn hands it on to, once it has stopped
    try:
        _Server(config, service, started).run([listening])
    finally:
        signal.signal(signal.SIGTERM, before)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, service: Service, started: Callable[[], None]) -> None:
        super().__init__(config)
        self.service, self.tell = service, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.tell()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.service.engine.drain()
        super().handle_exit(sig, frame)
