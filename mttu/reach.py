"""Whether a server answers: tried for a few seconds, because a library would wait for minutes without a word."""

import logging
import os
import socket
import time
from collections.abc import Callable

PATIENCE_SECONDS = 10.0
"""Time for a server to come up; longer than a restart behind a proxy, shorter than a user would wait."""
_PAUSE_SECONDS = 1.0
_FIRST_SHARE = 0.3
"""Share of the time that the first attempt may take."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
"""A client's opening of HTTP/2, which gRPC uses, with empty settings (RFC 9113, 3.4)."""

logger = logging.getLogger(__name__)


def find_reason(ask: Callable[[float], str], name: str) -> str:
    """Asks a server until it answers or time is up; logs once that it waits.

    Args:
        ask: Called with the seconds it may take; returns an empty text if the server answers, else why not.
        name: Name of the server for the user, without a password.

    Returns:
        An empty text, or the latest reason.
    """
    end, told = time.monotonic() + PATIENCE_SECONDS, False
    while True:
        started = time.monotonic()
        left = end - started if told else PATIENCE_SECONDS * _FIRST_SHARE  # so that a silent server is logged as well
        reason = ask(max(left, 0.05))
        if not reason:
            return ""
        if time.monotonic() + _PAUSE_SECONDS >= end:
            return reason
        if not told:
            logger.info("waiting for %s (%s), for at most %.0f s", name, reason, PATIENCE_SECONDS)
            told = True
        time.sleep(max(0.0, _PAUSE_SECONDS - (time.monotonic() - started)))


def ask_port(host: str, port: int, seconds: float, speaks_grpc: bool = False) -> str:
    """Why nothing answers at a TCP port within some seconds; an empty text if something does.

    With `speaks_grpc` the server also has to open HTTP/2 without encryption, as gRPC does.
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
    """Whether the server answers with a SETTINGS frame: its fourth byte is 4."""
    connection.sendall(_PREFACE)
    answer = b""
    while len(answer) < 4 and (more := connection.recv(4 - len(answer))):
        answer += more
    return answer[3:4] == b"\x04"
