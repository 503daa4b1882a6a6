"""Patients that a network knows, as the files beside its weights name them: by keyed digests, never by their ids.

A digest answers "is this id among them?" to anyone who holds the file, which the check for leakage needs. It should not
answer "which ids are among them?", so it is slow to compute: scrypt (RFC 7914), with a salt and the costs beside the
digests. The salt is drawn from the content of the images that were trained on: nobody who lacks them can compute
digests in advance, the folds and resumed trainings of a cohort share it, and the same training writes the same file.
"""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_DIGEST_BYTES = 8
_SALT = re.compile(r"(?:[0-9a-f]{2}){8,32}")
_MOST_KEYS = 64
_MOST_MEMORY = 2**18 + 2**13
"""Of `PatientKey.memory` in a file that somebody else wrote: 33 MiB for an id."""
_MOST_WORK = _MOST_KEYS * 2**17
"""Of `PatientKey.work` over all its keys: what 64 of this version cost, 3 s for an id. More would stop a reader."""
_MOST_THREADS = 8


@dataclass(frozen=True, order=True)
class PatientKey:
    """What a digest depends on besides the id."""

    salt: str
    """Hexadecimal."""
    n: int = 2**14
    """Cost in time and memory; 2**14 takes 16 MiB and about 0.05 s for an id, so under a minute for a thousand."""
    r: int = 8
    p: int = 1

    @property
    def work(self) -> int:
        """What a digest costs, in units of 128 bytes that are mixed; filling and hashing them counts as n = 8."""
        return max(self.n, 8) * self.r * self.p

    @property
    def memory(self) -> int:
        """What a digest takes while it is computed, in units of 128 bytes."""
        return self.r * (self.n + self.p + 2)


@dataclass(frozen=True)
class KnownPatients:
    """A set of patients that can be asked for an id but not listed."""

    groups: tuple[tuple[PatientKey | None, frozenset[str]], ...] = ()
    """Digests by key, at most one group for a key; None for the bare SHA-256 of earlier versions."""

    @property
    def keys(self) -> tuple[PatientKey, ...]:
        """Of digests that have one."""
        return tuple(key for key, _ in self.groups if key is not None)

    @property
    def work(self) -> int:
        """What it costs to ask for an id, see `PatientKey.work`."""
        return sum(key.work for key in self.keys)

    @property
    def has_room(self) -> bool:
        """Whether `read_patients` would still read it with one more key of this version."""
        return len(self.groups) < _MOST_KEYS and self.work + PatientKey("").work <= _MOST_WORK

    def find(self, patient_ids: Iterable[str]) -> frozenset[str]:
        """Which of these ids are among them."""
        ids, found = list(dict.fromkeys(patient_ids)), set[str]()
        for key, digests in self.groups:
            found |= {name for name, digest in zip(ids, _digest_all(ids, key), strict=True) if digest in digests}
        return frozenset(found)

    def __contains__(self, patient_id: str) -> bool:
        return bool(self.find([patient_id]))

    def __or__(self, other: "KnownPatients") -> "KnownPatients":
        merged = dict(self.groups)
        for key, digests in other.groups:
            merged[key] = merged.get(key, frozenset()) | digests
        ordered = sorted(merged, key=lambda key: (key is not None, key or PatientKey("")))
        return KnownPatients(tuple((key, merged[key]) for key in ordered))

    def to_json(self) -> list[dict[str, Any]]:
        """One object per key."""
        return [
            {**({} if key is None else {"scrypt": vars(key)}), "digests": sorted(digests)}
            for key, digests in self.groups
        ]


def derive_key(contents: Iterable[str]) -> PatientKey:
    """The key of a cohort.

    Args:
        contents: Hashes of the content of its cases, in any order.
    """
    text = "\n".join(["mttu patients", *sorted(contents)])
    return PatientKey(hashlib.sha256(text.encode()).hexdigest()[:32])


def name_patients(patient_ids: Iterable[str], key: PatientKey) -> KnownPatients:
    """The set of these patients."""
    digests = frozenset(_digest_all(list(dict.fromkeys(patient_ids)), key))
    return KnownPatients(((key, digests),)) if digests else KnownPatients()


def known_by_digest(digests: Iterable[str]) -> KnownPatients:
    """The set that an earlier version wrote as bare digests."""
    found = frozenset(digests)
    return KnownPatients(((None, found),)) if found else KnownPatients()


def digest_bare(patient_id: str) -> str:
    """The digest of earlier versions, which a computer finds the id of in seconds; not to be written."""
    return hashlib.sha256(f"mttu patient {patient_id}".encode()).hexdigest()[: 2 * _DIGEST_BYTES]


def read_patients(content: Any) -> KnownPatients:
    """Reads what `KnownPatients.to_json` gave, or a list of digests of an earlier version.

    Raises:
        ValueError: Anything else, or a cost that is too high to be borne.
    """
    if not isinstance(content, Sequence) or isinstance(content, str):
        raise ValueError("patients: expected a list")
    if all(isinstance(one, str) for one in content):
        return known_by_digest(content)
    if len(content) > _MOST_KEYS:
        raise ValueError(f"patients: {len(content)} keys; expected at most {_MOST_KEYS}")
    known = KnownPatients()
    for group in content:
        digests = group.get("digests") if isinstance(group, Mapping) else None
        if not isinstance(digests, list) or not all(isinstance(one, str) for one in digests):
            raise ValueError("patients: expected digests")
        known |= KnownPatients(((_read_key(group["scrypt"]) if "scrypt" in group else None, frozenset(digests)),))
    check_work(known)
    return known


def check_work(known: KnownPatients) -> None:
    """Refuses a set that would stop whoever asks it.

    Raises:
        ValueError: Its keys cost too much.
    """
    if known.work > _MOST_WORK:
        raise ValueError(
            f"patients: n * r * p of scrypt adds up to {known.work} over all keys; expected at most {_MOST_WORK}"
        )


def _read_key(content: Any) -> PatientKey:
    if not isinstance(content, Mapping) or set(content) != {"salt", "n", "r", "p"}:
        raise ValueError("patients: expected salt, n, r and p")
    salt, costs = content["salt"], [content[name] for name in ("n", "r", "p")]
    if not all(type(cost) is int and 1 <= cost <= _MOST_WORK for cost in costs):
        raise ValueError(f"patients: scrypt with n, r, p {costs}; expected whole numbers of 1 to {_MOST_WORK}")
    if not isinstance(salt, str) or not _SALT.fullmatch(salt):
        raise ValueError("patients: the salt is not hexadecimal")
    key = PatientKey(salt, *costs)
    is_valid = key.n >= 2 and not key.n & (key.n - 1) and key.n.bit_length() <= 16 * key.r  # RFC 7914
    if not is_valid or key.memory > _MOST_MEMORY:
        raise ValueError(
            f"patients: scrypt with n, r, p {costs}; expected n a power of two from 2 to below 2**(16 r), and "
            f"r * (n + p + 2) at most {_MOST_MEMORY}"
        )
    return key


def drop_patients(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a `checkpoint.json` or `calibration.json` without digests; it then does not say whom it knows."""
    kept = {name: value for name, value in content.items() if name not in ("patients", "learned_from")}
    return kept | ({"patients": None} if "calibration" in content else {})


def _digest_all(patient_ids: Sequence[str], key: PatientKey | None) -> list[str]:
    if key is None:
        return [digest_bare(patient_id) for patient_id in patient_ids]
    threads = min(len(patient_ids), os.cpu_count() or 1, _MOST_THREADS)  # scrypt frees the interpreter lock
    if threads < 2:
        return [_digest(patient_id, key) for patient_id in patient_ids]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(_digest, patient_ids, [key] * len(patient_ids)))


@lru_cache(maxsize=2**16)
def _digest(patient_id: str, key: PatientKey) -> str:
    return hashlib.scrypt(
        f"mttu patient {patient_id}".encode(),
        salt=bytes.fromhex(key.salt),
        n=key.n,
        r=key.r,
        p=key.p,
        maxmem=128 * key.memory + 2**20,
        dklen=_DIGEST_BYTES,
    ).hex()
