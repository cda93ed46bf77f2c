"""The bridge's work as one would write it with other libraries: `python peers.py websockets|aiohttp PORT`.

They speak the part of the bridge's protocol that the benchmark needs: `execute` is answered, each line of output is a message, `completed`
comes last. They keep no limits, look for no survivors and let everybody in; their line limit is raised to what the longest line needs.
"""
from __future__ import annotations

import asyncio
import json
import sys
from typing import Any, Awaitable, Callable

LINE_BYTES = 128 * 1024 * 1024
Send = Callable[[str], Awaitable[Any]]


def notification(method: str, **params: Any) -> str:
    return json.dumps({"jsonrpc": "2.0", "method": method, "params": params})


async def serve(text: str, send: Send) -> None:
    """Runs what one `execute` asks for and sends all that comes of it."""
    request = json.loads(text)
    process = await asyncio.create_subprocess_exec(*request["params"]["command"], stdin=asyncio.subprocess.DEVNULL, start_new_session=True,
                                                   stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, limit=LINE_BYTES)
    await send(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": {"status": "started", "process_id": "1", "pid": process.pid}}))
    seq = 0

    async def pass_on(name: str, stream: asyncio.StreamReader) -> None:
        nonlocal seq
        while True:
            line = await stream.readline()
            if not line:
                return
            seq += 1
            await send(notification("process.output", process_id="1", type=name, seq=seq, data=line.decode("utf-8", "replace")))

    await asyncio.gather(pass_on("stdout", process.stdout), pass_on("stderr", process.stderr))
    await send(notification("process.completed", process_id="1", status="completed", exit_code=await process.wait()))


async def serve_with_websockets(port: int) -> None:
    from websockets.asyncio.server import serve as listen

    async def handle(connection: Any) -> None:
        await connection.send(notification("connected", version="-"))
        async for text in connection:
            await serve(text, connection.send)

    async with listen(handle, "127.0.0.1", port, compression=None) as server:  # what streams at this rate is better not compressed
        await server.serve_forever()


async def serve_with_aiohttp(port: int) -> None:
    from aiohttp import WSMsgType, web

    async def handle(request: Any) -> Any:
        response = web.WebSocketResponse(compress=False)
        await response.prepare(request)
        await response.send_str(notification("connected", version="-"))
        async for message in response:
            if message.type is WSMsgType.TEXT:
                await serve(message.data, response.send_str)
        return response

    application = web.Application()
    application.add_routes([web.get("/", handle)])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run({"websockets": serve_with_websockets, "aiohttp": serve_with_aiohttp}[sys.argv[1]](int(sys.argv[2])))
