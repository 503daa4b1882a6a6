"""Connecting to Ray: the cluster that RAY_ADDRESS names, or a private one on this machine.

A private cluster listens on the loopback interface only and has its own token, never written to disk, so that other
users of the machine cannot run code in it; `mttu/__init__.py` configures that before anything imports Ray. An existing
cluster takes the user's own token; RAY_ADDRESS has to name it before mttu is imported.
"""

import logging
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import ray
from ray._private import services
from ray.exceptions import AuthenticationError

from mttu import GUARDS_RAY, PRIVATE
from mttu.config import WorkerSettings
from mttu.cores import count_cores
from mttu.errors import InputError, RunError, mask_secrets
from mttu.files import find_obstacle
from mttu.reach import ask_port, find_reason

logger = logging.getLogger(__name__)
VARIABLE = "RAY_TMPDIR"
LONGEST_SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Of the path of a Unix socket; the system has no room for more (unix(7): `sun_path`)."""
INNER = "r"
"""Name of the folder that Ray is given, inside one that only its owner may enter; short, because of the sockets."""
_RUN = f"ray-12345678/{INNER}/session_2000-12-31_23-59-59_999999"
"""Path of Ray's own folder below the place of all private clusters, up to the number of the process."""


def find_place() -> Path:
    """The folder that holds those of private clusters: `RAY_TMPDIR`, or /tmp.

    Raises:
        InputError: A socket's path there would be too long, or the folder cannot be written or made.
    """
    place = Path(os.environ.get(VARIABLE, "/tmp"))
    what = f"{VARIABLE} {place}" if VARIABLE in os.environ else str(place)
    cure = f"set {VARIABLE} to a short folder on a local disk, e.g. {VARIABLE}=/tmp"
    obstacle = find_obstacle(place / "ray")
    if obstacle:
        raise InputError(f"{what}: Ray cannot keep its sockets there: {obstacle}, or {cure}")
    length = len(os.fsencode(place.absolute() / f"{_RUN}_{os.getpid()}" / "sockets" / "plasma_store"))
    if length > LONGEST_SOCKET_BYTES:
        too_many = length - LONGEST_SOCKET_BYTES
        raise InputError(
            f"{what}: is {too_many} bytes too long for Ray, whose sockets there would have paths of {length} bytes; "
            f"the system allows {LONGEST_SOCKET_BYTES}; {cure}"
        )
    return place


OBJECT_STORE_BYTES = 300 * 2**20
"""Of a private cluster; enough, because rows carry paths and values, never volumes."""
KEEP_LOGS = "MTTU_KEEP_RAY_LOGS"
"""Variable that, set to anything, keeps the folder of a private cluster when it ends."""
_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Variable that Ray sets in a job that was submitted."""
_STARTS = 3
_END_SECONDS = 5.0
_TRIES = 20
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
"""Of `kill`, of a batch system, and of a terminal that is closed."""
_CURES = "start it (ray start --head), mend the address, or unset RAY_ADDRESS to work on this machine alone"
_folder: Path | None = None


def is_private() -> bool:
    """Whether the cluster that is connected is one that `connect` started, on this machine alone."""
    return _folder is not None


def private_folder() -> Path | None:
    """The folder of the cluster that is connected, if it is private; only its user may enter it."""
    return _folder


def adopt(folder: str | None) -> None:
    """In a process that Ray started: takes note of the private cluster that it is in, if it is one."""
    global _folder
    _folder = None if folder is None else Path(folder)


@contextmanager
def connect(settings: WorkerSettings) -> Iterator[None]:
    """Runs the body with Ray connected; a private cluster is stopped afterwards, an existing one keeps running.

    Without RAY_ADDRESS a private cluster is started on the loopback interface, with at least as many logical CPUs as
    the workers' threads.

    Raises:
        InputError: No cluster answers at RAY_ADDRESS within `mttu.reach.PATIENCE_SECONDS`, it is of another version or
            wants another token, or a private one has no room for its sockets.
    """
    global _folder
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "local")
    starts = address == "local"
    folder: Path | None = None
    if starts and not GUARDS_RAY:
        raise InputError(
            "Ray: was imported before mttu, or RAY_ADDRESS was set then and is not now; a cluster started so would be "
            "open to the network; import mttu first, or connect to a cluster (ray.init) before"
        )
    if not starts:
        check_address(address)
    with ExitStack() as stack:
        if starts:
            stack.callback(_restore, _end_on_signals())
        try:
            if starts:
                folder = _make_folder()
                stack.callback(_remove, folder)
                _start(folder, settings)
            else:
                # a submitted job already has its environment, which may not be set twice
                private = {"env_vars": {"MTTU_PRIVATE": "1"}} if PRIVATE and _JOB not in os.environ else None
                ray.init(address=address, log_to_driver=False, logging_level="error", runtime_env=private)
        except InputError:
            raise
        except Exception as error:  # a start that takes too long raises a bare one
            if starts:
                raise RunError(f"Ray did not start on this machine: {error} ({KEEP_LOGS}=1 keeps its logs)") from error
            refusal = _explain(error)
            if refusal is None:
                raise
            raise InputError(f"RAY_ADDRESS {address!r}: {refusal}") from None
        stack.callback(ray.shutdown)
        if starts:
            _end_on_signals()  # again, because Ray has set its own handler, which aborts the process
        _folder = folder
        try:
            yield
        finally:
            _folder = None


def _start(folder: Path, settings: WorkerSettings) -> None:
    """Starts a private cluster; again if it fails, because Ray gives its node 30 s, too little on a busy machine.

    A start that fails or is interrupted leaves no process.
    """
    cores = max(count_cores(), settings.num_workers * settings.threads_per_worker)
    for attempt in range(1, _STARTS + 1):
        try:
            ray.init(
                address="local",
                _temp_dir=str(folder / INNER),
                num_cpus=cores,
                include_dashboard=False,
                object_store_memory=OBJECT_STORE_BYTES,
                log_to_driver=False,
                logging_level="error",
            )
            return
        except BaseException as error:
            _end_on_signals()  # Ray may have set its own handler already
            with suppress(Exception):
                ray.shutdown()  # or the next start finds itself connected
            _kill_processes(folder)
            for_good = isinstance(error, ValueError | ImportError | OSError) and not isinstance(error, ConnectionError)
            if attempt == _STARTS or for_good or not isinstance(error, Exception):
                raise
            logger.info("Ray did not start (%s); trying again", " ".join(str(error).split()))


def _kill_processes(folder: Path) -> None:
    """Kills what a start that failed left running, with the processes that it has started in turn; Ray itself does so
    only when this process ends.
    """
    import psutil  # comes with Ray

    ours = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if any(str(folder) in word for word in process.cmdline()):
                ours += [process, *process.children(recursive=True)]
    for process in ours:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(ours, timeout=_END_SECONDS)


def _explain(error: Exception) -> str | None:
    """Why a cluster refuses the connection, and the cure; None for an unknown reason."""
    text = " ".join(str(error).split())
    if isinstance(error, AuthenticationError):
        return (
            f"the cluster wants another token ({error.message}); set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to the cluster's own"
        )
    if isinstance(error, RuntimeError) and "ersion mismatch" in text:
        return f"{text}; install the same versions here and there"
    if isinstance(error, ConnectionError | ValueError):
        return f"no Ray cluster answers there ({text})"
    return None


def _end_on_signals() -> dict[int, Any]:
    """Makes signals end the process as an exception does, so that a private cluster and its folder are removed first.

    Returns:
        The handlers of before, for `_restore`; none outside the main thread, where Python sets none. A signal that is
        ignored stays so (`nohup`).
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    found: dict[int, Any] = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in found.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, _end)
    return found


def _end(number: int, frame: FrameType | None) -> None:
    for other in _SIGNALS:
        signal.signal(other, signal.SIG_IGN)  # a second one would interrupt the clean-up
    raise SystemExit(128 + number)


def _restore(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _make_folder() -> Path:
    """Makes a folder that only its owner may enter, for the sockets and logs of a private cluster.

    Ray opens the folder that it is given to everybody (mode 0777), so it is given one inside, see `INNER`.

    Raises:
        InputError: See `find_place`.
    """
    place = find_place()
    place.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir=place))
    (folder / INNER).mkdir()
    return folder


def _remove(folder: Path) -> None:
    """Removes the folder of a private cluster, unless its logs are wanted (`MTTU_KEEP_RAY_LOGS`)."""
    if os.environ.get(KEEP_LOGS):
        return
    for _ in range(_TRIES):  # a process of the cluster may still be writing its last line
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)


def check_address(address: str) -> None:
    """Makes sure that a cluster answers at an address; Ray itself would try for a quarter of an hour.

    Args:
        address: What RAY_ADDRESS holds: HOST:PORT, `auto`, or `ray://HOST:PORT`.

    Raises:
        InputError: It is no address of a cluster, or nothing answers there.
    """
    place = address
    if address == "auto":
        try:
            place = str(services.canonicalize_bootstrap_address(address))
        except (ConnectionError, ValueError):
            raise InputError(f"RAY_ADDRESS 'auto': no Ray runs on this machine; {_CURES}") from None
    scheme, _, rest = place.rpartition("://")
    if scheme in ("http", "https"):
        raise InputError(
            f"RAY_ADDRESS {address!r}: is the address of a dashboard, which takes jobs (ray job submit ...); a command "
            f"connects to the cluster itself, at HOST:6379; {_CURES}"
        )
    host, port = _split(rest)
    if scheme not in ("", "ray") or port is None:
        raise InputError(f"RAY_ADDRESS {address!r}: is not an address of a Ray cluster; expected HOST:PORT; {_CURES}")
    encrypted = os.environ.get("RAY_USE_TLS", "0") not in ("", "0")

    def ask(seconds: float) -> str:
        return ask_port(host, port, seconds, speaks_grpc=not encrypted)

    reason = find_reason(ask, f"Ray at {mask_secrets(place)}")
    if reason:
        where = address if place == address else f"{address} ({place})"
        raise InputError(f"RAY_ADDRESS {where!r}: no Ray cluster answers there ({reason}); {_CURES}")


def _split(place: str) -> tuple[str, int | None]:
    """Host and port of an address; None where there is none."""
    try:
        parts = urlsplit(f"//{place}")
        (parts.hostname or "").encode("idna")  # as a socket would
        return parts.hostname or "", parts.port if parts.hostname else None
    except ValueError:
        return "", None
