"""File-name families: which file of a case folder holds what. A new family is a new `Layout`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ENDINGS = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Layout:
    """Case folders `<case_id>/<case_id>_<suffix>.nii[.gz]`."""

    title: str
    modalities: Mapping[str, str]
    """Modality to suffix."""
    seg: str
    """Suffix of the tumour mask."""
    brain_mask: str
    """Suffix of the brain mask."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Known misnomers: file name without ending to the name it should have."""


BRATS = Layout(
    title="BraTS to 2021",
    modalities={"flair": "flair", "t1ce": "t1ce", "t1": "t1", "t2": "t2"},
    seg="seg",
    brain_mask="brainmask",
    aliases={"W39_1998.09.19_Segm": "BraTS20_Training_355_seg"},  # as distributed in BraTS 2020
)


PREDICTIONS = "predictions.parquet"
"""A folder with this file holds results of `mttu predict`, which are no cases."""


@dataclass(frozen=True)
class CaseFiles:
    """What a case folder holds, and what is wrong with it."""

    images: Mapping[str, Path]
    seg: Path | None
    brain_mask: Path | None
    problems: tuple[str, ...]


def list_volumes(folder: Path) -> dict[str, Path]:
    """NIfTI files directly in a folder: name -> path, sorted, hidden files left out."""
    files = sorted(item for item in folder.iterdir() if item.name.endswith(ENDINGS) and not item.name.startswith("."))
    return {item.name: item for item in files if item.is_file()}


def walk_folders(root: Path) -> Iterator[tuple[Path, dict[str, Path]]]:
    """Folders at or below `root` that hold NIfTI files, with these files; nothing below such a folder is looked at.

    Hidden folders and folders of predictions are left out; links to folders are followed, each real folder once.
    """
    pending, seen = [root], set()
    while pending:
        folder = pending.pop()
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        if (folder / PREDICTIONS).exists():
            continue
        volumes = list_volumes(folder)
        if volumes:
            yield folder, volumes
        else:
            inner = sorted(item for item in folder.iterdir() if item.is_dir() and not item.name.startswith("."))
            pending.extend(reversed(inner))


def match_files(
    case_id: str, volumes: Mapping[str, Path], modalities: Sequence[str], layout: Layout = BRATS
) -> CaseFiles:
    """Finds each modality, the tumour mask and the brain mask among the NIfTI files of a case folder.

    Args:
        case_id: Name of the folder, which is the prefix of its files.
        volumes: See `list_volumes`.
        modalities: The modalities that are needed.
        layout: File-name family.
    """
    by_stem: dict[str, list[Path]] = {}
    for name, path in volumes.items():
        stem = name.removesuffix(".gz").removesuffix(".nii")
        by_stem.setdefault(layout.aliases.get(stem, stem), []).append(path)
    suffixes = {modality: layout.modalities[modality] for modality in modalities}
    if not any(stem.startswith(f"{case_id}_") for stem in by_stem):
        names = ", ".join(list(volumes)[:3]) + (", ..." if len(volumes) > 3 else "")
        wanted = ",".join([*suffixes.values(), layout.seg])
        problem = (
            f"case {case_id}: the folder holds {len(volumes)} NIfTI files ({names}) but none is named after it; "
            f"expected {case_id}/{case_id}_{{{wanted}}}.nii[.gz] ({layout.title})"
        )
        return CaseFiles({}, None, None, (problem,))
    problems, found = [], {}
    for role, suffix in {**suffixes, "seg": layout.seg, "brain mask": layout.brain_mask}.items():
        paths = by_stem.get(f"{case_id}_{suffix}", [])
        if len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            problems.append(f"case {case_id}: {role} is there {len(paths)} times ({names}); keep one of them")
        elif paths:
            found[role] = paths[0]
        elif role in suffixes:
            problems.append(f"case {case_id}: no {role}; expected <case>_{suffix}.nii.gz or <case>_{suffix}.nii")
    images = {modality: found[modality] for modality in modalities if modality in found}
    return CaseFiles(images, found.get("seg"), found.get("brain mask"), tuple(problems))
