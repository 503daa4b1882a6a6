"""Sockets that a process and all that it started listen on, as Linux tells them."""

import os
from pathlib import Path

_LISTENING = "0A"
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")


def _address(text: str) -> str:
    """`0100007F` is 127.0.0.1; words of four bytes are little-endian."""
    import ipaddress

    words = [bytes.fromhex(text[place : place + 8])[::-1] for place in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def find_listening(session: int) -> list[tuple[str, str]]:
    """(address, command) of each listening socket of the processes in a session (`setsid`)."""
    addresses = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING:
                addresses[f"socket:[{fields[9]}]"] = _address(fields[1].partition(":")[0])
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if int((place / "stat").read_text().rpartition(")")[2].split()[3]) != session:
                continue
            command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            links = [os.readlink(link) for link in (place / "fd").iterdir()]
        except OSError:
            continue  # ended meanwhile
        found += [(addresses[link], command) for link in links if link in addresses]
    return found
