"""Whether a server answers: asked for some seconds before a library is, whose own patience is minutes of silence."""

import logging
import os
import socket
import time
from collections.abc import Callable

PATIENCE_SECONDS = 10.0
"""How long a server may take to come up; longer than a restart behind a proxy, shorter than a person's."""
_PAUSE_SECONDS = 1.0
_FIRST_SHARE = 0.3
"""Of the patience that the first question may take."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""How a client opens HTTP/2, which gRPC speaks, with settings of its own that change nothing (RFC 9113, 3.4)."""

logger = logging.getLogger(__name__)


def find_reason(ask: Callable[[float], str], name: str, patience: float | None = None) -> str:
    """Asks a server until it answers or patience ends; says once that it is waited for.

    Args:
        ask: Given the seconds it may take; returns an empty text if the server answers, else why not.
        name: Of the server, as the user is to read it, without a password.
        patience: Seconds in all; `PATIENCE_SECONDS` if not given.

    Returns:
        An empty text, or the newest reason.
    """
    patience = PATIENCE_SECONDS if patience is None else patience
    end, told = time.monotonic() + patience, False
    while True:
        started = time.monotonic()
        left = end - started if told else patience * _FIRST_SHARE  # one that is mute is told, too
        reason = ask(max(left, 0.05))
        if not reason:
            return ""
        if time.monotonic() + _PAUSE_SECONDS >= end:
            return reason
        if not told:
            logger.info("waiting for %s (%s), for at most %.0f s", name, reason, patience)
            told = True
        time.sleep(max(0.0, _PAUSE_SECONDS - (time.monotonic() - started)))


def ask_port(host: str, port: int, seconds: float, speaks_grpc: bool = False) -> str:
    """Why nothing answers at a port; an empty text where something does.

    Args:
        host: Name or address.
        port: TCP port.
        seconds: It may take.
        speaks_grpc: Whether it has to open HTTP/2 without encryption, as gRPC does.
    """
    try:
        with socket.create_connection((host, port), timeout=seconds) as connection:
            if speaks_grpc and not _opens_http2(connection):
                return "something else than Ray listens there"
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return error.strerror or os.strerror(error.errno or 0)
    return ""


def _opens_http2(connection: socket.socket) -> bool:
    """Whether the other side answers with its settings, the fourth byte of whose frame is 4."""
    connection.sendall(_PREFACE)
    answer = b""
    while len(answer) < 4 and (more := connection.recv(4 - len(answer))):
        answer += more
    return answer[3:4] == b"\x04"
