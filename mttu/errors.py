"""Errors for the user: what was found, where, what is allowed, what to do; without passwords and tokens."""

import errno
import re
import resource
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import quote, quote_plus, unquote, unquote_plus

_INSIDE = r"['\"<>](?![\s,;:)\]}]|$)"
"""A quote or bracket inside a password; a closing one is followed by a blank or punctuation."""
_USER_INFO = re.compile(
    r"(?i)\b((?!sqlite:///|file:)[a-z][a-z0-9+.-]*:/{2,3})"
    rf"(?:[^\s/:@'\"<>]|{_INSIDE})*(?::(?:[^\s'\"<>]|{_INSIDE})*)?@"
)
"""An address up to its `@`: a user, or a user and a password, which may contain `@` and `/`."""
_PLAIN = (
    r"pass(?:wor[dt]|wd|phrase)|pwd|(?:access[_-]?)?token|secret(?:[_-]?(?:access[_-]?)?key)?|"
    r"(?:api|access|account|private|shared)[_-]?key"
)
_NAMED = re.compile(
    rf"(?i)((?:(?:{_PLAIN}|pass|\bauth|sig(?:nature)?|credentials?)['\"]?(?:=|%3D|\s+=\s*)|"
    rf"(?:{_PLAIN})['\"]?\s*:\s*|--[a-z-]*(?:{_PLAIN})\s+(?!(?:and|or|for|to|with|is|in|on|as|of|if|at|from)\b)))"
    r"(?:'[^']*'(?!\w)|\"[^\"]*\"(?!\w)|(?:[^\s&;,'\"<>)}]|['\"<>](?=\w))+)"
)
_HEADER = re.compile(
    r"(?i)\b(authorization['\"]?\s*[:=]?\s*['\"]?(?:basic|bearer)|bearer(?=\s+\S{16})|"
    r"authorization['\"]?\s*[:=]\s*['\"]?\w+(?=\s+(?:\S*[0-9]|\S{16})))\s+[A-Za-z0-9._~+/=-]{6,}"
)
_SECRET_NAME = re.compile(rf"(?i).*(?:{_PLAIN})|pass|auth|key|sig(?:nature)?|credentials?")
_QUERY = re.compile(r"[?&]([^?&=]+)=([^&]+)")
_ODBC = re.compile(r"(?:^|;)\s*([^;={}]+?)\s*=\s*(\{(?:[^}]|\}\})*\}|[^;]+)")
"""Names and values of a connection string; a value in braces may contain semicolons and doubled braces."""
_MASK = "=***"
_SHORTEST = 6
"""Minimum length of a known password to be masked anywhere; a shorter one, or a plain word, might be anything."""
_known: dict[str, str] = {}
"""Known secrets, masked anywhere, with their replacements."""


def keep_secret(address: str) -> None:
    """Makes `mask_secrets` hide the secrets of an address that is in use, whatever characters they contain.

    Secrets are before its `@`, or in its query under a name such as `password`, also within `odbc_connect`.
    """
    if address.startswith(("sqlite:///", "file:")):
        return
    rest = address.partition("://")[2] or address
    infos = {rest.rpartition("@")[0], rest.partition("/")[0].rpartition("@")[0]} - {""}
    secrets = {info.partition(":")[2] or info for info in infos}
    secrets |= {unquote(secret) for secret in secrets}
    masks = {f"{info}@": "" for info in infos}
    for name, value in _find_named(address):
        masks[f"{name}={value}"] = f"{name}{_MASK}"
        bare = value.removeprefix("{").removesuffix("}").replace("}}", "}")
        secrets |= {value, bare, quote(bare, safe=""), quote_plus(bare)}
    certain = {secret for secret in secrets if len(secret) >= _SHORTEST and not (secret.isalpha() and secret.islower())}
    for secret, mask in {**dict.fromkeys(certain, "***"), **masks}.items():
        _known[secret] = _known[repr(secret)[1:-1]] = mask


def _find_named(address: str) -> Iterator[tuple[str, str]]:
    """Names and values of the secrets in the query of an address, as written and as decoded."""
    for name, value in _QUERY.findall(address):
        key, parts = unquote(name), {value, value.partition("#")[0]}
        texts = {spelt for part in parts for spelt in (part, unquote(part), unquote_plus(part)) if spelt}
        if key.lower() == "odbc_connect":
            inside = [pair for text in texts for pair in _ODBC.findall(text) if _SECRET_NAME.fullmatch(pair[0])]
            yield from inside
            texts = {value} if inside else set()
        elif not _SECRET_NAME.fullmatch(key):
            continue
        yield from ((spelt, text) for spelt in (name, key) for text in texts)


def mask_secrets(text: str) -> str:
    """A text without named secrets and without what precedes the `@` of an address.

    Everything that a database or a server says passes through here before it is shown or written to a file.
    """
    for secret in sorted(_known, key=lambda secret: (_known[secret].endswith(_MASK), len(secret)), reverse=True):
        text = text.replace(secret, _known[secret])  # named ones first, since they may contain an `@`
    text = _USER_INFO.sub(r"\1", text)
    text = _NAMED.sub(r"\1***", text)
    return _HEADER.sub(r"\1 ***", text)


class InputError(ValueError):
    """Refused input; the command line prints it and exits with code 2.

    Args:
        problems: One sentence per problem: case or setting, the value found, what is allowed, what to do.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        given = [problems] if isinstance(problems, str) else problems
        self.problems = [mask_secrets(problem) for problem in given]
        super().__init__("\n".join(self.problems))

    def __reduce__(self) -> tuple[type["InputError"], tuple[list[str]]]:
        return type(self), (self.problems,)


class UnmeasuredError(InputError):
    """What was to be trained is, but cannot be evaluated with what was given."""


class RunError(RuntimeError):
    """A run that stopped for a known reason; the command line prints it and exits with code 1.

    Args:
        message: What happened, where, and what to change.
        all_ranks: Whether every rank stops with this error, or only this one.
    """

    def __init__(self, message: str, all_ranks: bool = True) -> None:
        super().__init__(mask_secrets(message))
        self.all_ranks = all_ranks

    def __reduce__(self) -> tuple[type["RunError"], tuple[str, bool]]:
        return RunError, (str(self), self.all_ranks)


def raise_if_any(problems: list[str]) -> None:
    """Raises one `InputError` that names all problems, if there are any."""
    if problems:
        raise InputError(problems)


@contextmanager
def collecting(problems: list[str]) -> Iterator[None]:
    """Adds the problems of refused input to the list, so that the caller can look for others too."""
    try:
        yield
    except InputError as error:
        problems += error.problems


def say_count(number: int, one: str, several: str) -> str:
    """A number with its words: `say_count(1, "case is", "cases are")` is "1 case is"."""
    return f"{number} {one if number == 1 else several}"


def name_some(names: Sequence[str], most: int = 8) -> str:
    """The first names of many: `A, B and 3 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def name_groups(groups: Mapping[str, Sequence[str]]) -> str:
    """The first three members of the first three groups: `P: A, B, C and 3 more; Q: D; R: E; and 2 more`."""
    listed = [f"{name}: {name_some(members, 3)}" for name, members in groups.items()]
    return "; ".join(listed[:3] + ([f"and {len(listed) - 3} more"] if len(listed) > 3 else []))


def explain_failure(case_id: str, failure: Exception) -> str:
    """Why a case has no result, in one line: the problems of an InputError, or type and first line of another error."""
    if isinstance(failure, InputError):
        return "; ".join(failure.problems)
    first_line = (str(failure).strip().splitlines() or ["no message"])[0]
    return mask_secrets(f"case {case_id}: {type(failure).__name__}: {first_line}")


def explain_open_files(error: BaseException) -> str:
    """What to do where no more files can be opened; an empty text for any other error."""
    if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
        return ""
    if error.errno == errno.ENFILE:
        return "too many files are open on this machine; end what holds them, or have fs.file-max raised"
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (
        f"too many files are open (at most {most} at once); allow more with `ulimit -n {max(65536, 4 * most)}` in the "
        "shell that starts mttu, or Ray where the cluster is not mttu's own"
    )


def stop_if_too_many_open(error: BaseException) -> None:
    """Called before a file is reported as missing or damaged, to rule out another cause.

    Raises:
        RunError: This process, or the machine, has reached its limit of open files.
    """
    cure = explain_open_files(error)
    if cure:
        raise RunError(f"{cure}, and give the same command again") from None
