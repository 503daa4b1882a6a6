"""File-name families: which file of a case holds what. A new family is a new `Layout`, a few lines of data.

Names of BraTS, UCSF-PDGM, UPENN-GBM, EGD and UTSW-Glioma are those of the published data sets. UTSW-Glioma's images and
masks are named after programs that read them; on the grid of its images are `tumorseg_FeTS`, automatic, and
`rtumorseg_manual_correction`, while `tumorseg_manual_correction` is on a grid of its own in nearly half of the cases.
"""

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mttu.cohort.clinical_rows import ClinicalRow
from mttu.data.file_kinds import ENDINGS, explain_refusal
from mttu.data.manifest import BRAIN_MASK, SEG, Case
from mttu.data.names import LEAST_SIMILARITY, find_nearest
from mttu.errors import name_some

OTHER_VOLUMES = (".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh", ".img", ".img.gz", ".hdr", ".dcm", ".nii.zip")
"""Endings of images that are not read, in lower case."""

KNOWN_NAMES: Mapping[str, tuple[str, ...]] = {
    "flair": ("flair", "fla", "t2f", "t2flair", "t2_flair", "t2-flair"),
    "t1ce": ("t1ce", "t1c", "t1gd", "t1_gd", "t1-gd", "ct1", "t1post", "t1_post", "t1-post"),
    "t1": ("t1", "t1n", "t1w", "t1pre", "t1_pre", "t1-pre"),
    "t2": ("t2", "t2w"),
    SEG: (
        *("seg", "segm", "segmentation", "mask", "label", "labels", "truth"),
        *("tumor", "tumor_seg", "tumor_segmentation", "tumor_mask", "tumorseg", "tumormask"),
        *("tumour", "tumour_seg", "tumour_segmentation", "tumour_mask"),
    ),
    BRAIN_MASK: ("brainmask", "brain_mask", "brain-mask", "brain_segmentation"),
}
"""Names of a file of each role, without its case.

In use: `flair`, `t1ce`, `t2f`, `t1c`, `t1n`, `t2w` in BraTS; `T1GD` and `MASK` in EGD, `T1GD` and `segm` in UPENN-GBM;
`t1w` and `t2w` after BIDS; `ct1` in HD-GLIO; `truth` in 3DUnetCNN; `fla`, `t1post`, `t1pre`, `tumor` and `label` in
hospitals. `mask` may be the brain's: one that is much larger than a tumour is refused when it is read. Ambiguous names
are left out: `post` and `gd` (of which image?), `brain` (an image or a mask), `roi`, `lesion`, `gt`.
"""


@dataclass(frozen=True)
class Layout:
    """How one data set names its folders and files.

    A template is a path without ending, relative to the case folder, in which `{case}` stands for the case id and `*`
    for any name. Of several templates the first that is found counts.
    """

    title: str
    folder: str
    """Regular expression of a case folder's whole name, with the group `case` and, if the name tells them, `patient`
    and `later`, which matches where the examination is not the first one before surgery."""
    images: Mapping[str, tuple[str, ...]]
    """Modality to templates."""
    seg: tuple[str, ...]
    """Templates of the tumour mask."""
    example: str
    """An example for messages."""
    brain_mask: tuple[str, ...] = ()
    labels: str | None = None
    """Label convention that the data set documents; None where it has had several."""
    aliases: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Case id to further templates of its tumour mask."""
    other_folders: tuple[str, ...] = ()
    """Folders of the data set, beside those of the cases, whose volumes belong to no case."""
    kinds: Mapping[str, str] = field(default_factory=dict)
    """Template to the kind of its file, where a data set has several kinds for one role, e.g. automatic masks."""
    is_general: bool = False
    """Whether any data set may have such names. Then the layout counts only where no other fits, and two files for one
    role are refused instead of the first being taken."""

    @property
    def takes_any_folder(self) -> bool:
        """Whether a case folder may have any name, which then need not tell the patient."""
        return re.fullmatch(self.folder, "any name") is not None

    @property
    def known_folders(self) -> frozenset[str]:
        """Names of folders whose volumes are no cases: of the data set's other images, and of masks by themselves."""
        apart = (template.split("/") for template in self.seg if template.startswith("../"))
        return frozenset((*self.other_folders, *(parts[-2] for parts in apart)))

    def templates(self, modalities: Sequence[str], case_id: str) -> dict[str, tuple[str, ...]]:
        """Role to templates, for the modalities asked for, the tumour mask and the brain mask."""
        masks = {SEG: (*self.seg, *self.aliases.get(case_id, ())), BRAIN_MASK: self.brain_mask}
        return {**{name: self.images[name] for name in modalities}, **masks}


def _suffixes(separator: str, **names: str) -> dict[str, tuple[str, ...]]:
    return {role: (f"{{case}}{separator}{name}",) for role, name in names.items()}


LAYOUTS: Mapping[str, Layout] = {
    "brats": Layout(
        title="BraTS to 2021",
        folder=r"(?P<case>.+)",
        images=_suffixes("_", flair="flair", t1ce="t1ce", t1="t1", t2="t2"),
        seg=("{case}_seg",),
        brain_mask=("{case}_brainmask",),
        labels="brats",
        aliases={"BraTS20_Training_355": ("W39_1998.09.19_Segm",)},  # as distributed in BraTS 2020
        example="<case>/<case>_{flair,t1ce,t1,t2,seg}.nii[.gz]",
    ),
    "brats2023": Layout(
        title="BraTS 2023 and later",
        folder=r"(?P<case>(?P<patient>BraTS-[A-Za-z]+-\d+)-(?:000|(?P<later>\d+)))",
        images=_suffixes("-", flair="t2f", t1ce="t1c", t1="t1n", t2="t2w"),
        seg=("{case}-seg",),
        brain_mask=("{case}-brainmask",),
        example="BraTS-GLI-00000-000/BraTS-GLI-00000-000-{t2f,t1c,t1n,t2w,seg}.nii[.gz]",
    ),
    "ucsf-pdgm": Layout(
        title="UCSF-PDGM",
        folder=r"(?P<case>(?P<patient>UCSF-PDGM-\d+)(?P<later>_FU\d+d)?)_nifti",
        images=_suffixes("_", flair="FLAIR", t1ce="T1c", t1="T1", t2="T2"),
        seg=("{case}_tumor_segmentation",),
        brain_mask=("{case}_brain_segmentation",),
        labels="brats",
        example="UCSF-PDGM-0001_nifti/UCSF-PDGM-0001_{FLAIR,T1c,T1,T2,tumor_segmentation}.nii[.gz]",
    ),
    "upenn-gbm": Layout(
        title="UPENN-GBM",
        folder=r"(?P<case>(?P<patient>UPENN-GBM-\d+)_(?:11|(?P<later>\d+)))",
        images=_suffixes("_", flair="FLAIR", t1ce="T1GD", t1="T1", t2="T2"),
        seg=(
            "{case}_segm",
            "../../images_segm/{case}_segm",  # by experts
            "../../automated_segm/{case}_automated_approx_segm",
        ),
        labels="brats",
        kinds={
            "{case}_segm": "by experts",
            "../../images_segm/{case}_segm": "by experts",
            "../../automated_segm/{case}_automated_approx_segm": "automatic",
        },
        other_folders=("images_structural_unstripped", "images_DTI", "images_DSC"),
        example="images_structural/UPENN-GBM-00001_11/UPENN-GBM-00001_11_{FLAIR,T1GD,T1,T2}.nii[.gz]",
    ),
    "egd": Layout(
        title="Erasmus Glioma Database",
        folder=r"(?:MR_)?(?P<case>EGD-\d+)",
        images={
            role: (name, f"*_{name}/NIFTI/{name}")
            for role, name in {"flair": "FLAIR", "t1ce": "T1GD", "t1": "T1", "t2": "T2"}.items()
        },
        seg=("MASK", "*_MASK/NIFTI/MASK"),
        brain_mask=("BRAIN_MASK", "*_BRAIN_MASK/NIFTI/BRAIN_MASK"),
        labels="whole-tumour",
        example="EGD-0001/{FLAIR,T1GD,T1,T2,MASK}.nii[.gz]",
    ),
    "utsw-glioma": Layout(
        title="UTSW-Glioma",
        folder=r"(?P<case>BT\d+)",
        images={
            role: (f"brain_{role}", f"brain_{short}_ants")
            for role, short in {"flair": "fl", "t1ce": "t1ce", "t1": "t1", "t2": "t2"}.items()
        },
        seg=("rtumorseg_manual_correction", "tumorseg_FeTS"),
        kinds={
            "rtumorseg_manual_correction": "corrected by hand",
            "tumorseg_FeTS": "automatic",
            **{f"brain_{name}": "brain_*" for name in ("flair", "t1ce", "t1", "t2")},
            **{f"brain_{name}_ants": "brain_*_ants" for name in ("fl", "t1ce", "t1", "t2")},
        },
        labels="brats",
        example="BT0001/{brain_{flair,t1ce,t1,t2},tumorseg_FeTS}.nii[.gz]",
    ),
    "plain": Layout(
        title="bare names",
        folder=r"(?P<case>.+)",
        images={role: KNOWN_NAMES[role] for role in ("flair", "t1ce", "t1", "t2")},
        seg=KNOWN_NAMES[SEG],
        brain_mask=KNOWN_NAMES[BRAIN_MASK],
        example="<case>/{flair,t1ce,t1,t2,seg}.nii[.gz]",
        is_general=True,
    ),
}


@dataclass(frozen=True)
class FoundCase:
    """A case as its files name it, before any of them is read; incomplete if there are problems."""

    case_id: str
    patient_id: str
    layout: str
    """Name in `LAYOUTS`, `mttu.cohort.path_table.LAYOUT`, or nothing."""
    folder: Path
    images: Mapping[str, Path] = field(default_factory=dict)
    seg: Path | None = None
    brain_mask: Path | None = None
    later: bool = False
    """A follow-up or post-operative examination."""
    problems: tuple[str, ...] = ()
    labels: str | None = None
    """Label convention that a table of paths names for this case."""
    site: str | None = None
    told: ClinicalRow | None = None
    """What a table of paths says of this case beside its files."""
    shared: Path | None = None
    """A folder with several cases, if nothing tells whether they are of one patient."""

    def kind_of(self, path: Path) -> str | None:
        """Kind of a file of this case, see `Layout.kinds`."""
        layout = LAYOUTS.get(self.layout)
        stem = (volume_stem(path) or path.name).casefold()
        for template, kind in layout.kinds.items() if layout else ():
            if template.replace("{case}", self.case_id).rpartition("/")[2].casefold() == stem:
                return kind
        return None


def list_files(case: Case | FoundCase) -> dict[str, Path]:
    """Role to file of a case: its images, tumour mask and brain mask."""
    masks = {SEG: case.seg, BRAIN_MASK: case.brain_mask}
    return {**case.images, **{role: path for role, path in masks.items() if path}}


def volume_stem(path: Path) -> str | None:
    """File name without its NIfTI ending in upper or lower case; None for another file."""
    for ending in ENDINGS:
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return None


def match_folder(folder: Path, name: str, modalities: Sequence[str], exact: bool = True) -> FoundCase | None:
    """Reads a folder as a case of one layout; the case of letters in file names is ignored.

    Args:
        folder: Folder that may be a case.
        name: Name of the layout.
        modalities: Modalities that are needed.
        exact: Whether at least one image must be spelled exactly as in the layout: some layouts differ by case alone.

    Returns:
        The case, with a problem for each needed modality that is missing or there twice, and for each name that is no
        file; None if the folder has none of the layout's images.
    """
    layout = LAYOUTS[name]
    match = re.fullmatch(layout.folder, folder.name, 0 if exact else re.IGNORECASE)
    if match is None:
        return None
    case_id = match["case"]
    groups = match.groupdict()
    found: dict[str, list[Path]] = {}
    listed: dict[Path, list[str]] = {}
    spelled_so = False
    problems = []
    for role, templates in layout.templates(tuple(layout.images), case_id).items():
        stems = [template.replace("{case}", case_id) for template in templates]
        try:
            named = [(paths, stem) for stem in stems if (paths := _find(folder, stem, listed))]
        except OSError as error:  # e.g. of a folder of masks beside the cases
            named = []
            problems.append(
                f"case {case_id}: {role}: {error.filename} cannot be read ({error.strerror}); allow it, or move it away"
            )
        counting = named if layout.is_general else named[:1]
        found[role] = [path for paths, _ in counting for path in paths]
        if role in layout.images:
            spelled_so |= any(
                volume_stem(path) == stem.rpartition("/")[2] for paths, stem in counting for path in paths
            )
    if not any(found[modality] for modality in layout.images) or (exact and not spelled_so):
        return None
    wanted = (*modalities, SEG, BRAIN_MASK)
    for role in wanted:
        there = [_look_inside(path) for path in found[role]]
        paths = found[role] = [path for path in there if find_flaw(path) is None] or there
        flaw = find_flaw(paths[0]) if paths else None
        if flaw:
            problems.append(f"case {case_id}: {role} {paths[0].name} {flaw}")
        elif len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            problems.append(f"case {case_id}: {role} is there {len(paths)} times ({names}); keep one of them")
        elif not paths and role in modalities:
            stem = layout.images[role][0].replace("{case}", "<case>")
            nearest = name_nearest(role, case_id, layout, _list_unused(folder, found))
            problems.append(
                f"case {case_id}: no {role}; expected {stem}.nii.gz or {stem}.nii"
                + (f"; the nearest there is {nearest}" if nearest else "")
            )
    one = {role: paths[0] for role, paths in found.items() if paths and role in wanted}
    images = {modality: one[modality] for modality in modalities if modality in one}
    later = bool(groups.get("later"))
    patient = groups.get("patient") or case_id
    return FoundCase(case_id, patient, name, folder, images, one.get(SEG), one.get(BRAIN_MASK), later, tuple(problems))


def name_nearest(
    role: str, case_id: str, layout: Layout, names: Iterable[str], least: float = LEAST_SIMILARITY
) -> str | None:
    """The file that most probably is the one of a role.

    Args:
        role: Modality, tumour mask or brain mask.
        case_id: Id of the case; names of its files may contain it.
        layout: Layout of the case.
        names: Names of files in its folder that have no role.
        least: Least similarity.
    """
    templates = layout.templates(tuple(layout.images), case_id)[role]
    own = templates[0].replace("{case}", "").rpartition("/")[2]
    case = re.compile(rf"(?<![a-z0-9]){re.escape(case_id)}(?![a-z0-9])", re.IGNORECASE)
    files = [(name, case.sub(" ", strip_ending(name))) for name in names]
    return find_nearest(role, own, files, KNOWN_NAMES, least)


def strip_ending(name: str) -> str:
    """A file's name without the ending of an image, in a format that is read or not."""
    ending = next((one for one in (*ENDINGS, *OTHER_VOLUMES) if name.lower().endswith(one)), "")
    return name[: len(name) - len(ending)]


def _list_unused(folder: Path, found: Mapping[str, Sequence[Path]]) -> list[str]:
    """Images in a folder, in a format that is read or not, that no role has."""
    used = {path.name for paths in found.values() for path in paths if path.parent == folder}
    return [name for name in _list_names(folder) if name not in used and strip_ending(name) != name]


def find_flaw(path: Path) -> str | None:
    """Why an existing path is not a readable file, and the cure; None if it is one. Its content is not read."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is a link to nothing; restore it, or take it away"
    except OSError as error:
        return explain_refusal(error)
    if stat.S_ISDIR(mode):
        volumes = _list_volumes(path)
        if not volumes:
            return "is a folder without a NIfTI file in it; put the file in its place, or take it away"
        listed = name_some(volumes, 3)
        return f"is a folder that holds {listed}; leave one of them in it, or put that one in its place"
    return None if stat.S_ISREG(mode) else "is no file; restore it, or take it away"


def _look_inside(path: Path) -> Path:
    """The one volume in a folder that is named like a file, as some archives unpack; else the path itself."""
    volumes = _list_volumes(path) if os.path.isdir(path) else []
    return path / volumes[0] if len(volumes) == 1 else path


def _list_volumes(folder: Path) -> list[str]:
    return [name for name in _list_names(folder) if volume_stem(Path(name)) is not None]


def _list_names(folder: Path) -> list[str]:
    """Names in a folder that are not hidden; none if it cannot be read, which is reported elsewhere."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return []


def _find(folder: Path, template: str, listed: dict[Path, list[str]]) -> list[Path]:
    """Files, and links to nothing, with the name of a template and any NIfTI ending; the case of letters is ignored.

    Each folder is listed once, and remembered in `listed`.
    """
    place = folder
    *parents, stem = template.split("/")
    while parents and parents[0] == "..":
        place, parents = place.parent, parents[1:]
    folders = [place] if place.is_dir() else []
    for part in parents:
        folders = [
            inner
            for outer in folders
            for inner in (sorted(outer.glob(part)) if "*" in part else [outer / part])
            if inner.is_dir()
        ]
    found = []
    for inner in folders:
        if inner not in listed:  # by name: some file systems take T1 for t1
            listed[inner] = sorted(os.listdir(inner), key=len, reverse=True)
        found += [
            inner / name for name in listed[inner] if (volume_stem(Path(name)) or "").casefold() == stem.casefold()
        ]
    return found
