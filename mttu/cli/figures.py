"""The commands `mttu figures ...`: figures of the paper, of one's own checkpoints and predictions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mttu.cli.display import console, show_progress, tell
from mttu.cli.groups import CommandLine
from mttu.cli.output import give
from mttu.cli.settings import CheckpointFolder, DeviceName, ManifestFile
from mttu.data.labels import CONVENTIONS
from mttu.errors import raise_if_any

app = CommandLine(help="Draw feature maps and surfaces as in the paper.", no_args_is_help=True)

PictureName = Annotated[
    Path,
    typer.Option(
        "--output", "-o", help="Picture to write, .png or .pdf, or both without an ending; an earlier one is replaced"
    ),
]
CaseIds = Annotated[list[str] | None, typer.Option("--case", help="Case to show; as often as there are cases")]


@app.command()
def features(
    checkpoint: CheckpointFolder,
    manifest: ManifestFile,
    output: PictureName,
    case: CaseIds = None,
    split: Annotated[
        str | None, typer.Option(help="Without --case: its first IDH mutant and wild type are shown; val if not given")
    ] = None,
    plane: Annotated[str, typer.Option(help="axial, coronal or sagittal")] = "axial",
    index: Annotated[
        int | None, typer.Option("--slice", help="Plane of the window, from 0; the largest section if not given")
    ] = None,
    modality: Annotated[str | None, typer.Option(help="Image to show; flair, if the network sees it")] = None,
    levels: Annotated[str | None, typer.Option(help="Levels to show, e.g. F1,F5; all if not given")] = None,
    channel: Annotated[
        list[str] | None, typer.Option(help="Channel of a level, from 0, e.g. F5=12; the mean if not given")
    ] = None,
    device: DeviceName = "auto",
) -> None:
    """Draw feature maps of a network. In a window around the tumour of each case, as Fig. 2 of the paper."""
    from mttu.report.feature_maps import CENTRES, draw_features, plan_feature_maps

    plan = plan_feature_maps(
        checkpoint,
        manifest,
        output,
        case or [],
        split,
        plane,
        index,
        modality,
        [] if levels is None else [name.strip() for name in levels.split(",")],
        _read_channels(channel or []),
        device,
    )
    with show_progress("features", len(plan.cases)) as advance:
        paths, centres = draw_features(plan, advance)
    give({"pictures": paths, "centres": centres})
    size = "x".join(map(str, plan.config.patch.size))
    for case_id, centre in centres.items():
        console.print(f"{case_id}: window of {size} voxels, {CENTRES[centre]}")
    _tell(paths)


@app.command()
def surfaces(
    manifest: ManifestFile,
    output: PictureName,
    system: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Name in the picture, and folder of predictions; one per system"),
    ] = None,
    case: CaseIds = None,
    split: Annotated[
        str | None, typer.Option(help="Without --case: its first two with all masks are shown; test if not given")
    ] = None,
    region: Annotated[str, typer.Option(help="wt, tc or et")] = "wt",
    unit: Annotated[str, typer.Option(help="Of the distance: voxel, as in the paper, or mm")] = "voxel",
    labels: Annotated[
        str | None,
        typer.Option(help=f"Labels in folders that `mttu predict` did not write: {', '.join(CONVENTIONS)}"),
    ] = None,
) -> None:
    """Draw predicted surfaces by their distance to the truth. As Fig. 4 of the paper, for several systems."""
    from mttu.report.surfaces import draw_surfaces, plan_surfaces

    plan = plan_surfaces(manifest, _read_systems(system or []), output, case or [], split, region, labels, unit)
    with show_progress("surfaces", len(plan.cases) * len(plan.systems)) as advance:
        paths = draw_surfaces(plan, advance)
    give({"pictures": paths, "systems": {one.name: one.folder for one in plan.systems}})
    for sentence in plan.passed_over:
        tell(f"passed over: {sentence}")
    for one in plan.systems:
        console.print(f"{one.name}: {one.checkpoint}, {one.folder}")
        for note in one.notes:
            tell(f"{one.name}: {note}")
    _tell(paths)


def _tell(paths: Sequence[Path]) -> None:
    console.print(f"{', '.join(map(str, paths))}: drawn. Research use only.")


def _read_channels(given: Sequence[str]) -> dict[str, int]:
    """Level to channel, from `F5=12`."""
    channels: dict[str, int] = {}
    problems = []
    for text in given:
        name, _, number = text.partition("=")
        if not name or not number.isdecimal():
            problems.append(f"--channel {text!r}: give a level and a channel, counted from 0, e.g. F5=12")
        elif name in channels:
            problems.append(f"--channel {text}: {name} has channel {channels[name]} already; give one per level")
        else:
            channels[name] = int(number)
    raise_if_any(problems)
    return channels


def _read_systems(given: Sequence[str]) -> dict[str, Path]:
    """Name to folder, from `NAME=FOLDER`."""
    folders: dict[str, Path] = {}
    problems = []
    for text in given:
        name, _, folder = text.partition("=")
        if not name.strip() or not folder:
            problems.append(f"--system {text!r}: give a name and a folder of predictions, e.g. MTTU-Net=predictions")
        elif name in folders:
            problems.append(f"--system {text}: there is a system {name} already; give each a name of its own")
        else:
            folders[name] = Path(folder)
    raise_if_any(problems)
    return folders
