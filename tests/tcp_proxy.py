"""A TCP proxy that tests cut at will: the network between a program and its database or broker."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from tests.waiting import wait_until

CHUNK_BYTES = 65_536

Watch = Callable[[bytes], bool]


class TcpProxy:
    """Forwards connections on a port of its own to `host:port`; a context manager.

    While `flow` is cleared it swallows what is sent, either way, as a network without an end does.
    `cut_before` and `cut_after` look at what the client sends; when one says yes, all connections are cut, once:
    before those bytes reach the server, or after they did, in place of the answer.
    """

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_before: Watch = lambda _: False
        self.cut_after: Watch = lambda _: False
        self.cuts = 0
        self.flow = threading.Event()
        self.flow.set()
        self._deaf = False
        self._open: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.flow.set()
        self.cut()

    def cut(self) -> None:
        """Cut all connections."""
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    @contextmanager
    def next_connection(self) -> Iterator[None]:
        """Wait at the end of the block until a client has connected since its begin."""
        before = len(self._open)
        yield
        wait_until(lambda: len(self._open) > before, "a client connects")

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed: the end
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                threading.Thread(target=self._forward, args=(client, server), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client), daemon=True).start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(CHUNK_BYTES):
                if self.cut_before(data):
                    self._cut_once()
                    return
                self._deaf = self._deaf or self.cut_after(data)
                self.flow.wait()
                server.sendall(data)

    def _pump(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(CHUNK_BYTES):
                if self._deaf:  # this is the answer, so the server has done it
                    self._cut_once()
                    return
                self.flow.wait()
                client.sendall(data)

    def _cut_once(self) -> None:
        self.cuts += 1
        self.cut_before = self.cut_after = lambda _: False
        self._deaf = False
        self.cut()
