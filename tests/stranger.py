#!/usr/bin/env python3
"""A program that is no bridge of ours and holds a port: it keeps what it is sent, and answers as KIND says.

    stranger.py KIND PORT RECORD

    silent      never answers
    http        200 to everything
    websocket   accepts every WebSocket handshake, greets as a bridge does and answers nothing
    bridge      the same, and says "started" to every request
    garbage     a proof that is no hexadecimal number
    deaf        listens, but does not accept

It prints "ready" when it listens; RECORD gets every byte that came. It runs until it is ended.
"""
from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import sys
import threading
from typing import Callable

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
HELLO = {"jsonrpc": "2.0", "method": "connected",
         "params": {"version": "1.0", "protocol": 1, "connection_id": "c", "capabilities": []}}
STARTED = {"jsonrpc": "2.0", "id": 1, "result": {"status": "started", "process_id": "p", "pid": 1, "pgid": 1}}


def text_frame(message: dict) -> bytes:
    data = json.dumps(message).encode()
    return b"\x81" + (bytes([len(data)]) if len(data) < 126 else b"\x7e" + len(data).to_bytes(2, "big")) + data


def answer_nothing(data: bytes, first: bool) -> bytes:
    return b""


def answer_http(data: bytes, first: bool) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nhi"


def answer_websocket(data: bytes, first: bool) -> bytes:
    key = re.search(rb"^sec-websocket-key:\s*(\S+)", data, re.I | re.M)
    if not first or not key:
        return answer_http(data, first) if first else b""
    accept = base64.b64encode(hashlib.sha1(key[1] + GUID).digest())
    return (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + accept + b"\r\n\r\n" + text_frame(HELLO))


def answer_bridge(data: bytes, first: bool) -> bytes:
    return answer_websocket(data, first) if first else text_frame(STARTED)


def answer_garbage(data: bytes, first: bool) -> bytes:
    return b"HTTP/1.1 401 No\r\nX-Bridge-Proof: \xe9\xe9\r\nContent-Length: 0\r\n\r\n"


ANSWERS = {"silent": answer_nothing, "http": answer_http, "websocket": answer_websocket, "bridge": answer_bridge, "garbage": answer_garbage,
           "deaf": answer_nothing}


def serve(sock: socket.socket, answer: Callable[[bytes, bool], bytes], record: str) -> None:
    first = True
    with sock, open(record, "ab", buffering=0) as file:
        while True:
            try:
                data = sock.recv(1 << 16)
                if not data:
                    return
                file.write(data)
                sock.sendall(answer(data, first))
            except ConnectionError:
                return  # the client has hung up
            first = False


def main(kind: str, port: str, record: str) -> None:
    with socket.create_server(("127.0.0.1", int(port)), backlog=0 if kind == "deaf" else None) as listener:
        open(record, "ab").close()
        callers = [socket.create_connection(listener.getsockname()) for _ in range(kind == "deaf")]  # its queue is full
        print("ready", flush=True)
        while callers:
            threading.Event().wait()
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=serve, args=(sock, ANSWERS[kind], record), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
