"""What a cohort is to be made of, checked before any file is looked for."""

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mttu.data.file_kinds import explain_refusal
from mttu.data.fingerprints import SAME_BRAIN
from mttu.data.labels import find_convention
from mttu.data.layouts import MODALITIES, volume_stem
from mttu.data.nearest import say_nearest
from mttu.errors import raise_if_any

_TABLE_ENDINGS = (".csv", ".tsv", ".txt", ".xlsx", ".xlsm")
_GIVE = "give the folder that holds the case folders, or a CSV file of paths"


@dataclass(frozen=True)
class CohortRequest:
    """What a cohort is to be made of."""

    places: tuple[Path, ...]
    """Folders that hold cases at any depth, or CSV files of paths."""
    clinical: tuple[Path, ...] = ()
    """Tables, see `mttu.data.clinical`; rows of cases that are not here are left alone."""
    clinical_format: str | None = None
    """Name of the tables' kind; None: recognised by their columns."""
    layout: str | None = None
    """Name in `mttu.data.layouts.LAYOUTS`; None: recognised for each folder."""
    labels: str | None = None
    """Convention of all tumour masks, a name in `mttu.data.labels.CONVENTIONS`; None: what the layout documents.
    Of several layouts, those that document one keep theirs, see `mttu.data.label_choice`."""
    modalities: tuple[str, ...] = MODALITIES
    """Channels in order; every case must have them."""
    val_fraction: float = 0.2
    """Share of validation, 0 to below 1."""
    seed: int = 0
    """Of the split."""
    follow_ups: bool = False
    """Whether follow-up and post-operative examinations are kept."""
    skip_bad: bool = False
    """Whether cases with errors are left out instead of refusing the cohort."""
    crosswalk: Path | None = None
    """CSV whose rows name one patient under several ids."""
    brats_numbers: bool = True
    """Whether BraTS-GLI-00006-000 counts as the subject of BraTS2021_00006, see `mttu.data.synonyms`."""
    same_brain: float = SAME_BRAIN
    """Least similarity of two images that count as one brain, see `mttu.data.fingerprints`; above 1: none do."""
    recipe: Literal["paper"] | None = None
    """The paper's cohort, made of two folders: training, test."""


def check_request(request: CohortRequest) -> None:
    """Refuses what no data could mend.

    Raises:
        InputError: Lists every wrong argument.
    """
    problems = []
    if request.labels is not None:
        find_convention(request.labels)
    if not request.places:
        problems.append(f"no folder given; {_GIVE}")
    problems += [f"{place}: {flaw}" for place in request.places if (flaw := _find_flaw(place))]
    unknown = [name for name in request.modalities if name not in MODALITIES]
    if not request.modalities or unknown or len(set(request.modalities)) < len(request.modalities):
        listed = ",".join(request.modalities) or "nothing"
        problems.append(f"modalities: {listed}; expected some of {', '.join(MODALITIES)}, each at most once")
    if not 0 <= request.val_fraction < 1:
        problems.append(f"val_fraction: {request.val_fraction}; expected 0 to below 1")
    if not request.same_brain > 0:
        problems.append(f"same_brain: {request.same_brain}; expected a similarity above 0; above 1 none is found")
    if request.recipe is not None and (len(request.places) != 2 or not request.clinical):
        problems.append(
            f"recipe {request.recipe}: {len(request.places)} folders and {len(request.clinical)} tables given; "
            "expected the training folder, the test folder, and the tables with the IDH status of both"
        )
    raise_if_any(problems)


def _find_flaw(place: Path) -> str | None:
    """Why a place is neither a folder nor a table of paths; None if it is."""
    try:
        mode = place.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return (
            f"{'is a link to nothing' if place.is_symlink() else 'not found or no folder'}; {_GIVE}{say_nearest(place)}"
        )
    except OSError as error:
        return explain_refusal(error)
    ending = place.suffix.lower()
    if stat.S_ISDIR(mode) or (stat.S_ISREG(mode) and ending in _TABLE_ENDINGS):
        return None
    if not stat.S_ISREG(mode):
        return f"is neither a folder nor a file; {_GIVE}"
    if volume_stem(place) is not None:
        return f"is a single volume; {_GIVE}"
    if ending in (".zip", ".tar", ".gz", ".tgz", ".7z"):
        return f"is an archive; unpack it, then {_GIVE}"
    return f"is a file that ends in {ending or 'nothing'}; {_GIVE}"
