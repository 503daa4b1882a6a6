"""`mttu phantom`: a synthetic cohort."""

from pathlib import Path
from typing import Annotated

import typer

from mttu.cli.display import console, show_progress
from mttu.cli.output import give


def phantom(
    folder: Annotated[Path, typer.Argument(help="Folder to write; must not exist or be empty")],
    cases: Annotated[int, typer.Option(min=1, help="Number of cases")] = 24,
    size: Annotated[int, typer.Option(min=24, help="Voxels along each axis (1 mm); the head is scaled into it")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Seed")] = 0,
    difficulty: Annotated[float, typer.Option(help="0: IDH is plain to see; 1: the images say nothing of it")] = 0.6,
    unlabelled_fraction: Annotated[float, typer.Option(help="Share of the cases without IDH status")] = 0.2,
    test_fraction: Annotated[float, typer.Option(help="Share of the test split")] = 0.2,
    mutant_fraction: Annotated[float, typer.Option(help="Share of mutants among cases with IDH status")] = 0.385,
    unlabelled_mutant_fraction: Annotated[float, typer.Option(help="Share of mutants among those without")] = 0.15,
    missing_masks: Annotated[float, typer.Option(help="Share of the cases without tumour mask")] = 0.0,
    sites: Annotated[int, typer.Option(min=1, help="Hospitals with different contrasts and noise")] = 1,
    thick_slices: Annotated[float, typer.Option(help="Share of the images taken in thick slices")] = 0.5,
    defects: Annotated[int, typer.Option(min=0, help="Cases broken on purpose, listed in defects.csv")] = 0,
) -> None:
    """Write a synthetic glioma cohort in BraTS layout. With clinical.csv, and how well its IDH can be told."""
    from mttu.phantom import Recipe, measure_phantom, write_phantom

    recipe = Recipe(
        cases=cases,
        size=size,
        seed=seed,
        unlabelled_fraction=unlabelled_fraction,
        test_fraction=test_fraction,
        difficulty=difficulty,
        mutant_fraction=mutant_fraction,
        unlabelled_mutant_fraction=unlabelled_mutant_fraction,
        missing_masks=missing_masks,
        sites=sites,
        thick_slices=thick_slices,
        defects=defects,
    )
    with show_progress("phantom", cases) as advance:
        write_phantom(folder, recipe, advance)
    measured = measure_phantom(folder)
    give({"folder": folder, "cases": cases, "idh": measured})
    for line in measured.describe():
        console.print(line)
    console.print(f"{cases} phantom cases in {folder}")
