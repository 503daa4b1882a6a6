"""Fig. 4 of predictions: the predicted surface of a region, coloured by its distance to the true one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mttu.data.geometry import find_lps_spacing, to_lps
from mttu.data.labels import REGIONS, find_regions
from mttu.data.manifest import Case, Manifest, read_manifest
from mttu.errors import InputError, collecting, name_some, raise_if_any
from mttu.figures.overlay import REGION_STYLES
from mttu.figures.surface import SurfaceCase, draw_surface_distance
from mttu.predict.results import TABLE
from mttu.report.masks import find_shared_regions, read_masks
from mttu.report.other_tools import Source, find_source_problems, read_other_tool
from mttu.report.pictures import PictureFile, choose_file, describe_idh, find_cases
from mttu.report.predictions import Predictions, read_predictions

DEFAULT_SPLIT = "test"
DEFAULT_CASES = 2
"""As many as in Fig. 4."""

Unit = Literal["voxel", "mm"]


@dataclass(frozen=True)
class SurfacePlan:
    """Everything that `draw_surfaces` needs, checked."""

    cases: tuple[Case, ...]
    systems: tuple[Predictions, ...]
    region: str
    unit: Unit
    file: PictureFile
    passed_over: tuple[str, ...] = ()
    """Why cases of the split that come before those that are shown are not."""


def plan_surfaces(
    manifest: Path,
    folders: Mapping[str, Path],
    output: Path,
    case_ids: Sequence[str] = (),
    split: str | None = None,
    region: str = "wt",
    labels: str | None = None,
    unit: str = "voxel",
) -> SurfacePlan:
    """Reads manifest and tables and checks that every system has a mask of every case; no mask is read.

    Args:
        manifest: Manifest with the true masks.
        folders: Name of a system in the picture to its folder, that `mttu predict` or another tool wrote.
        output: See `mttu.report.pictures.choose_file`.
        case_ids: Cases that are shown. None: the first `DEFAULT_CASES` of a split that have a true mask, and one of
            every system.
        split: The split that those are taken from, test if None.
        region: wt, tc or et.
        labels: Label convention of the folders that `mttu predict` did not write.
        unit: Of the distance, voxel or mm.

    Raises:
        InputError: Lists every problem.
    """
    problems: list[str] = []
    cohort: Manifest | None = None
    file = PictureFile(output, ())
    with collecting(problems):
        file = choose_file(output)
    if region not in REGIONS:
        problems.append(f"--region {region!r}: unknown; choose one of {', '.join(REGIONS)}")
    if unit not in get_args(Unit):
        problems.append(f"--unit {unit!r}: unknown; choose one of {', '.join(get_args(Unit))}")
    with collecting(problems):
        cohort = read_manifest(manifest)
    systems = _read_systems(folders, labels, cohort, problems)
    raise_if_any(problems)
    if cohort is None:
        raise ValueError("a manifest that was not read is a problem")
    cases, passed_over = _choose_cases(cohort, manifest, systems, case_ids, split, region)
    raise_if_any([problem for case in cases for problem in _find_case_problems(case, systems, region)])
    return SurfacePlan(cases, tuple(systems), region, unit, file, passed_over)  # type: ignore[arg-type]


def _read_systems(
    folders: Mapping[str, Path], labels: str | None, cohort: Manifest | None, problems: list[str]
) -> list[Predictions]:
    """The predictions in their order; adds what is wrong with them."""
    systems = []
    sources = {name: Source(folder, None if (folder / TABLE).exists() else labels) for name, folder in folders.items()}
    if not sources:
        problems.append("--system: none given; give NAME=FOLDER of a folder that `mttu predict` wrote")
    elif labels is not None and not any(source.is_foreign for source in sources.values()):
        problems.append(f"--labels {labels}: `mttu predict` wrote every folder, and says its labels; leave it out")
    for name, source in sources.items():
        if source.is_table:
            problems.append(f"system {name}: {source.place} is a table; give a folder of masks")
            continue
        found = find_source_problems(source)
        with collecting(found):
            if not source.is_foreign:
                systems.append(read_predictions(source.place, name))
            elif not found and cohort is not None:
                systems.append(read_other_tool(source, cohort, [], name))
        problems += [f"system {name}: {problem}" for problem in found]
    return systems


def _choose_cases(
    manifest: Manifest,
    path: Path,
    systems: Sequence[Predictions],
    case_ids: Sequence[str],
    split: str | None,
    region: str,
) -> tuple[tuple[Case, ...], tuple[str, ...]]:
    """The cases, and why others of the split are passed over."""
    if case_ids:
        if split is not None:
            raise InputError("--split: chooses the cases where none is named with --case; leave one of them out")
        return find_cases(manifest, path, case_ids), ()
    name = DEFAULT_SPLIT if split is None else split
    fitting: list[Case] = []
    passed_over: list[str] = []
    for case in manifest.split(name):
        problems = _find_case_problems(case, systems, region)
        passed_over += problems
        fitting += [] if problems else [case]
        if len(fitting) == DEFAULT_CASES:
            break
    if not fitting:
        raise InputError(
            f"manifest {path}: split {name} has no case with a true mask of {region} and one of every system "
            f"({name_some([system.name for system in systems])}); choose another split, or name cases with --case to "
            "see what they lack"
        )
    return tuple(fitting), tuple(passed_over)


def _find_case_problems(case: Case, systems: Sequence[Predictions], region: str) -> list[str]:
    """Why a case cannot be shown."""
    where = f"case {case.case_id}"
    if case.seg is None:
        return [f"{where}: the manifest has no tumour mask; choose another case"]
    if region not in find_regions(case.labels):
        return [f"{where}: its true mask tells no {region} (labels {case.labels}); choose --region wt"]
    problems = []
    for system in systems:
        said = f"system {system.name}: {where}"
        row, mask = system.rows.get(case.case_id), system.masks.get(case.case_id)
        if row is None:
            problems.append(f"{said}: is not in the table of {system.folder}; predict it, or choose another case")
        elif row["error"]:
            problems.append(f"{said}: could not be predicted: {row['error']}")
        elif mask is None:
            problems.append(f"{said}: there is no mask in {system.folder}; choose another case")
        elif not mask.is_file():
            problems.append(f"{said}: the mask {mask} is gone; predict this case again")
        elif region not in find_shared_regions(case, system):
            problems.append(f"{said}: its masks tell no {region} (labels {system.labels}); choose --region wt")
    return problems


def draw_surfaces(plan: SurfacePlan, on_mask: Callable[[int, str], None] | None = None) -> list[Path]:
    """Reads all masks of a plan and draws them; the picture is written when all of them are read.

    Args:
        plan: See `plan_surfaces`.
        on_mask: Called after each predicted mask with the number of those that are read, and the case.

    Returns:
        The files.

    Raises:
        InputError: Masks that cannot be read or lie on other grids; lists all of them, and nothing is written.
    """
    problems: list[str] = []
    truths: dict[str, tuple[NDArray[np.bool_], tuple[float, float, float]]] = {}
    predictions: dict[str, dict[str, NDArray[np.bool_]]] = {case.case_id: {} for case in plan.cases}
    pairs = [(case, system) for case in plan.cases for system in plan.systems]
    for done, (case, system) in enumerate(pairs, start=1):
        found: list[str] = []
        with collecting(found):
            pair = read_masks(case, system)
            if case.case_id not in truths:
                truths[case.case_id] = _select(pair.truth, plan.region, pair.affine), find_lps_spacing(pair.affine)
            predictions[case.case_id][system.name] = _select(pair.predicted, plan.region, pair.affine)
        problems += [f"system {system.name}: {problem}" for problem in found]
        if on_mask is not None:
            on_mask(done, case.case_id)
    raise_if_any(problems)
    cases = []
    for case in plan.cases:
        truth, spacing_mm = truths[case.case_id]
        title = f"{case.case_id}, {describe_idh(case)}, {REGION_STYLES[plan.region][0].lower()}"
        cases.append(SurfaceCase(title, truth, predictions[case.case_id], spacing_mm))
    return plan.file.write(draw_surface_distance(cases, plan.unit))


def _select(classes: NDArray[np.uint8], region: str, affine: NDArray[Any]) -> NDArray[np.bool_]:
    """A region of a mask, in LPS order."""
    return to_lps(np.isin(classes, REGIONS[region]), affine)
