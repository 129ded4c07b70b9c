"""The page of a store, served by a thread of the test's own process, and requests to it, well formed or not."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from rlhf_jax.labelers import FLAGS, Store
from rlhf_jax.labeling.app import LABELER, server


class Answer(NamedTuple):
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str:
        return ", ".join(value for key, value in self.headers if key == name)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served(NamedTuple):
    port: int
    log: list[logging.LogRecord]  # of the server

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def raw(self, request: bytes) -> Answer:
        """What is answered to these bytes, after which the connection ends."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(request)
            found = b""
            while chunk := connection.recv(65536):
                found += chunk
        head, _, body = found.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name.lower(), value) for name, _, value in (line.partition(": ") for line in lines)]
        return Answer(int(first.split()[1]), headers, body)

    def get(self, path: str, token: str = "", **headers: str | None) -> Answer:
        return self.raw(self.request("GET", path, token, headers=headers))

    def post(self, path: str, token: str, given: Any, **headers: str | None) -> Answer:
        return self.raw(self.request("POST", path, token, json.dumps(given).encode(), headers))

    def request(
        self,
        method: str,
        path: str,
        token: str = "",
        body: bytes | None = None,
        headers: Mapping[str, str | None] = {},
        cookie: str = LABELER,
    ) -> bytes:
        """A request as the page sends it, but for the headers that are given; None leaves one out, _ stands for -."""
        own = {"Host": self.host, "Connection": "close", "Cookie": f"{cookie}={token}" if token else None}
        if body is not None:
            own |= {
                "Origin": f"http://{self.host}",
                "Sec-Fetch-Site": "same-origin",
                "Content-Type": "application/json",
            }
            own["Content-Length"] = str(len(body))
        own |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {path} HTTP/1.1", *(f"{k}: {v}" for k, v in own.items() if v is not None)]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + (body or b"")

    def traces(self) -> list[str]:
        return [record.getMessage() for record in self.log if record.exc_info]


@contextmanager
def served(store: Store, *hosts: str) -> Iterator[Served]:
    listening, running = socket.create_server(("127.0.0.1", 0)), server(store, hosts)
    thread = threading.Thread(target=lambda: running.run(sockets=[listening]))
    log: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = log.append  # type: ignore[method-assign]
    logging.getLogger("uvicorn.error").addHandler(handler)
    thread.start()
    while not running.started:
        time.sleep(0.005)
    try:
        yield Served(listening.getsockname()[1], log)
    finally:
        running.should_exit = True
        thread.join()
        logging.getLogger("uvicorn.error").removeHandler(handler)


def judged(key: str, ranks: list[int], id: str = "", **more: Any) -> dict[str, Any]:
    """What the page sends of a comparison."""
    flags = [dict.fromkeys(FLAGS, False) | {"opinion": i == 0} for i in range(len(ranks))]
    about = {"id": id or f"{key}-{key}", "task": key, "session": "s" * 32, "seconds": 12.5}
    return about | {"ranks": ranks, "ratings": [7 - i % 7 for i in range(len(ranks))], "flags": flags} | more
