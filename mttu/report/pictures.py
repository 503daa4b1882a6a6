"""What the commands `mttu figures ...` share: the files of a picture, and the cases that it shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from mttu.data.labels import CLASS_NAMES
from mttu.data.manifest import Case, Manifest
from mttu.errors import InputError, name_some, raise_if_any
from mttu.figures.style import save_figure
from mttu.files import find_obstacle

FORMATS = ("png", "pdf")
_OTHER_FORMATS = (".svg", ".jpg", ".jpeg", ".tif", ".tiff", ".eps", ".ps", ".gif", ".bmp", ".webp")
_COMMAND = "figures"
_SIGNS = {"png": (b"Software\0mttu ", b" figures"), "pdf": (b"/Creator (mttu ", b" figures)")}
"""What `save_figure` writes into a picture of these commands, by which an earlier one is known."""


_LONGEST_VERSION = 64


@dataclass(frozen=True)
class PictureFile:
    """Where a picture goes."""

    path_without_suffix: Path
    formats: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        """One per format."""
        place = self.path_without_suffix
        return [place.with_name(f"{place.name}.{name}") for name in self.formats]

    def write(self, figure: Figure) -> list[Path]:
        """Writes the picture in each format; returns the files."""
        return save_figure(figure, self.path_without_suffix, self.formats, _COMMAND)


def choose_file(output: Path) -> PictureFile:
    """The files that an output means: `fig.png` that one, `fig` both `fig.png` and `fig.pdf`.

    Raises:
        InputError: Another format, a folder, a place that cannot be written, or a file that mttu did not draw.
    """
    if output.is_dir() or not output.name:
        raise InputError(f"output {output}: is a folder; name the picture, e.g. {output / 'picture'}")
    suffix = output.suffix.lower()
    if suffix in _OTHER_FORMATS or (suffix != output.suffix and suffix.removeprefix(".") in FORMATS):
        raise InputError(f"output {output}: pictures are written as {' and '.join(FORMATS)}; end it with one, or none")
    if output.suffix.removeprefix(".") in FORMATS:
        target = PictureFile(output.with_name(output.stem), (suffix.removeprefix("."),))
    else:
        target = PictureFile(output, FORMATS)
    raise_if_any([f"output {path}: {reason}" for path in target.paths if (reason := _explain_refusal(path))])
    return target


def _explain_refusal(path: Path) -> str | None:
    obstacle = find_obstacle(path)
    if obstacle or not path.exists():
        return obstacle
    if not path.is_file():
        return "is no file; give another name"
    start, end = _SIGNS[path.suffix.removeprefix(".")]
    _, found, after = path.read_bytes().partition(start)
    is_ours = bool(found) and end in after[:_LONGEST_VERSION]
    return None if is_ours else "holds something that `mttu figures` did not draw; give another name"


def find_cases(manifest: Manifest, path: Path, case_ids: Sequence[str]) -> tuple[Case, ...]:
    """The named cases in the order of their names.

    Raises:
        InputError: A case that the manifest lacks, or that is named twice; lists all.
    """
    known = {case.case_id: case for case in manifest.cases}
    problems = [
        f"--case {case_id}: named {case_ids.count(case_id)} times; name it once"
        for case_id in dict.fromkeys(case_ids)
        if case_ids.count(case_id) > 1
    ]
    unknown = [case_id for case_id in dict.fromkeys(case_ids) if case_id not in known]
    there = f"manifest {path} has {name_some(list(known), 4) or 'no case'}"
    problems += [f"--case {case_id}: unknown; {there}" for case_id in unknown]
    raise_if_any(problems)
    return tuple(known[case_id] for case_id in case_ids)


def describe_idh(case: Case) -> str:
    """The IDH status in words, for a title."""
    status = f"IDH {CLASS_NAMES.get(case.idh, 'unknown')}"
    return f"{status} (pseudo-label)" if case.pseudo_label else status
