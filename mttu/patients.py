"""Patients that a network was trained on: the files beside its weights hold keyed digests of their ids, never the ids.

The check for leakage asks "is this id among them?", which a digest can answer. Listing the ids should be hard, so
digests are slow to compute: scrypt (RFC 7914), with salt and costs stored beside the digests. The salt is derived from
the content of the training images: digests cannot be computed in advance without them, folds and resumed trainings of a
cohort share it, and the same training writes the same file.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from mttu.cores import count_cores

_DIGEST_BYTES = 8
_SALT = re.compile(r"(?:[0-9a-f]{2}){8,32}")
_MOST_KEYS = 64
_MOST_MEMORY = 2**18 + 2**13
"""Limit of `PatientKey.memory` for untrusted files: 33 MiB per id."""
_MOST_WORK = _MOST_KEYS * 2**17
"""Limit of `PatientKey.work` over all keys of a file: 64 keys of this version, 3 s per id."""
_MOST_THREADS = 8


@dataclass(frozen=True, order=True)
class PatientKey:
    """What a digest depends on besides the id."""

    salt: str
    """Hexadecimal."""
    n: int = 2**14
    """Cost in time and memory; 2**14 takes 16 MiB and about 0.05 s for an id."""
    r: int = 8
    p: int = 1

    @property
    def work(self) -> int:
        """Cost of a digest, in blocks of 128 bytes that are mixed; filling and hashing them counts as n = 8."""
        return max(self.n, 8) * self.r * self.p

    @property
    def memory(self) -> int:
        """Memory that computing a digest takes, in blocks of 128 bytes."""
        return self.r * (self.n + self.p + 2)


@dataclass(frozen=True)
class KnownPatients:
    """A set of patients with a test for membership, but no list of ids."""

    groups: tuple[tuple[PatientKey | None, frozenset[str]], ...] = ()
    """Digests by key, one group per key; key None for the plain SHA-256 of earlier versions."""

    @property
    def keys(self) -> tuple[PatientKey, ...]:
        """All keys but None."""
        return tuple(key for key, _ in self.groups if key is not None)

    @property
    def work(self) -> int:
        """Cost of the test for one id, see `PatientKey.work`."""
        return sum(key.work for key in self.keys)

    @property
    def has_room(self) -> bool:
        """Whether `read_patients` would accept it with one more key of this version."""
        return len(self.groups) < _MOST_KEYS and self.work + PatientKey("").work <= _MOST_WORK

    def find(self, patient_ids: Iterable[str]) -> frozenset[str]:
        """The given ids that are in the set."""
        ids = list(dict.fromkeys(patient_ids))
        return frozenset(
            name
            for key, digests in self.groups
            for name, digest in zip(ids, _digest_all(ids, key), strict=True)
            if digest in digests
        )

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
    """The key of a cohort, from the hashes of the content of its cases in any order."""
    text = "\n".join(["mttu patients", *sorted(contents)])
    return PatientKey(hashlib.sha256(text.encode()).hexdigest()[:32])


def choose_key(known: KnownPatients | None, contents: Iterable[str]) -> PatientKey:
    """The key of the patients that a network learned from, for others beside its weights.

    Where these have none, several, or one that costs less than this version's, as that of a foreign file may, a key is
    derived from the contents.
    """
    own = derive_key(contents)
    keys = () if known is None else known.keys
    return keys[0] if len(keys) == 1 and replace(keys[0], salt=own.salt) == own else own


def name_patients(patient_ids: Iterable[str], key: PatientKey) -> KnownPatients:
    """The set of these patients."""
    return _group(key, _digest_all(list(dict.fromkeys(patient_ids)), key))


def known_by_digest(digests: Iterable[str]) -> KnownPatients:
    """The set that an earlier version wrote as plain digests."""
    return _group(None, digests)


def _group(key: PatientKey | None, digests: Iterable[str]) -> KnownPatients:
    found = frozenset(digests)
    return KnownPatients(((key, found),)) if found else KnownPatients()


def digest_bare(patient_id: str) -> str:
    """The digest of earlier versions, from which a search of seconds reveals the id; no longer written."""
    return hashlib.sha256(f"mttu patient {patient_id}".encode()).hexdigest()[: 2 * _DIGEST_BYTES]


def read_patients(content: Any) -> KnownPatients:
    """Reads the output of `KnownPatients.to_json`, or a list of digests of an earlier version.

    Raises:
        ValueError: Anything else, or keys that cost too much.
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
    """Raises a ValueError if the keys of a set cost too much to test for an id."""
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
    """The content of a `checkpoint.json`, `calibration.json` or `postprocessing.json` without digests of patients."""
    kept = {name: value for name, value in content.items() if name not in ("patients", "learned_from")}
    return kept | ({"patients": None} if "calibration" in content or "postprocessing" in content else {})


def _digest_all(patient_ids: Sequence[str], key: PatientKey | None) -> list[str]:
    if key is None:
        return [digest_bare(patient_id) for patient_id in patient_ids]
    threads = min(len(patient_ids), count_cores(), _MOST_THREADS)  # scrypt releases the interpreter lock
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
