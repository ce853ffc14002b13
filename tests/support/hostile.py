"""Servers that do not do what they should, on a port of their own."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

Handler = Callable[[socket.socket], None]
"""Talks to one client; the connection closes when it returns."""


@contextlib.contextmanager
def serving(handle: Handler) -> Iterator[int]:
    """Answer every client with ``handle`` in a thread; yields the port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    clients: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                client, _ = listener.accept()
                clients.append(client)
                threading.Thread(target=talk, args=(client,), daemon=True).start()

    def talk(client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            handle(client)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        # shutdown wakes a thread that is in accept(), which close alone does not.
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for client in clients:
            with contextlib.suppress(OSError):
                client.close()


def black_hole(client: socket.socket) -> None:
    """Accepts, and never answers."""
    while client.recv(4096):
        pass


def drip(client: socket.socket) -> None:
    """Sends a byte now and then: never silent for long, and never finished."""
    while True:
        client.send(b"R")
        time.sleep(0.2)


def garbage(client: socket.socket) -> None:
    """Sends noise without end."""
    while True:
        client.send(os.urandom(4096))


def hang_up(client: socket.socket) -> None:
    """Listens, then closes."""
    client.recv(4096)


def http_redirect(client: socket.socket) -> None:
    """Sends each request back to itself."""
    port = client.getsockname()[1]
    while client.recv(4096):
        target = f"Location: http://127.0.0.1:{port}/again"
        client.send(f"HTTP/1.1 302 Found\r\n{target}\r\nContent-Length: 0\r\n\r\n".encode())


def rtsp_redirect(client: socket.socket) -> None:
    """Sends each request for a stream back to itself."""
    port = client.getsockname()[1]
    while request := client.recv(4096):
        sequence = next(line for line in request.split(b"\r\n") if line.lower().startswith(b"cseq"))
        answer = b"200 OK" if request.startswith(b"OPTIONS") else b"302 Found"
        client.send(
            b"RTSP/1.0 %b\r\n%b\r\nLocation: rtsp://127.0.0.1:%d/again\r\n\r\n" % (answer, sequence, port)
        )


def http_answer(status: str, body: bytes = b"", kind: str = "text/plain") -> Handler:
    """Return a server that answers every request with one status and body."""

    def handle(client: socket.socket) -> None:
        client.recv(4096)
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)

    return handle
