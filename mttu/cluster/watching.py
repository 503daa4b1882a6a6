"""Something that is looked after in this process while the cluster works."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def watching(watch: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Runs a function in a thread of its own while the body runs, and waits for its end.

    Args:
        watch: Given what is set when the body is over; catches its own errors.
        name: Of the thread.
    """
    stop = threading.Event()
    thread = threading.Thread(target=watch, args=(stop,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
