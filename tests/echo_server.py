#!/usr/bin/env python3
"""An echo server on the bridge's own connection class, for conformance suites: every message goes back as it came.

    socket --> ws_bridge.Connection (handshake, codec, close, back-pressure) --> hear: the same message --> socket

    python3 tests/echo_server.py --port 0       # a free port; prints "echo_server 1.0 listening on ws://127.0.0.1:PORT/", ends on SIGTERM

It wants no token and takes any path that the bridge takes; everything else is the bridge's own.
"""
from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ws_bridge as wb  # noqa: E402  (found by the line above)


class Host:
    """What a connection needs of a bridge: who may come in. There are no processes here."""

    def __init__(self) -> None:
        self.gate = wb.Gate(None, frozenset())

    def find_full(self) -> None:
        """There is always room."""

    def on_connect(self, connection: wb.Connection) -> None:
        """Nobody counts."""

    on_disconnect = on_leave = on_connect

    def on_unfinished(self, connection: wb.Connection, size: int) -> None:
        """There is memory enough."""


class EchoConnection(wb.Connection):
    def greeting(self) -> bytes:
        return b""

    def hear(self, event: wb.Event) -> None:
        if not self.is_open:
            return
        if isinstance(event, wb.TextMessage):
            self._write(self._codec.send_text(event.text))
        elif isinstance(event, wb.BinaryMessage):
            self._write(self._codec.send_binary(event.data))


async def serve(port: int) -> None:
    loop, ending, host = asyncio.get_running_loop(), asyncio.Event(), Host()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ending.set)
    server = await loop.create_server(lambda: EchoConnection(host), "127.0.0.1", port)
    print(f"echo_server {wb.VERSION} listening on ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/", flush=True)
    await ending.wait()
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Echoes every WebSocket message.")
    parser.add_argument("--port", type=int, default=9001, help="0: a free one (default %(default)s)")
    asyncio.run(serve(parser.parse_args().port))


if __name__ == "__main__":
    main()
