"""A real redis-server of a test's own: on a free port of loopback, with nothing kept on the disk unless asked for."""
from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Iterator, NamedTuple

from support import free_port, missing, wait_until


class RedisServer(NamedTuple):
    process: subprocess.Popen
    port: int
    password: str
    folder: Path                      # its own, gone when it is stopped

    @property
    def url(self) -> str:
        return f"redis://{f':{self.password}@' if self.password else ''}127.0.0.1:{self.port}/0"

    def client(self):
        import redis
        return redis.Redis.from_url(self.url, decode_responses=True)

    def answers(self) -> bool:
        import redis
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False

    def restart(self) -> "RedisServer":
        """Ended and started again as it was, with what it has kept on the disk."""
        self.process.terminate()
        self.process.wait()
        return self._replace(process=start_process(self.process.args, self))

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def start_redis(*options: str, password: str = "") -> RedisServer:
    """The caller stops it. Skips, or with CC_REQUIRE_ALL=1 fails, where redis-server or its Python client is not there."""
    program = shutil.which("redis-server")
    if not program:
        missing("redis-server", "it is Debian's package redis-server; .ci/run installs it")
    if not importlib.util.find_spec("redis"):
        missing("the redis package", "tests/requirements.txt names it")
    port, folder = free_port(), tempfile.mkdtemp(prefix="cc-redis-")
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder,
               *(["--requirepass", password] if password else []), *options]
    server = RedisServer(None, port, password, Path(folder))
    return server._replace(process=start_process(command, server))


def start_process(command: list, server: RedisServer) -> subprocess.Popen:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(server.answers, "redis-server answers")
    return process


def running_redis(*options: str, password: str = "") -> Iterator[RedisServer]:
    server = start_redis(*options, password=password)
    try:
        yield server
    finally:
        server.stop()
