"""Networks: `mttu networks`, `mttu ensemble`, and what commands print of a checkpoint's calibration."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from mttu.cli.display import console, errors, new_table, show_table, tell
from mttu.cli.output import give
from mttu.config import NetworkSettings
from mttu.config.network import BOTH, OURS
from mttu.errors import InputError, RunError

_OURS_SOURCE = "Cheng et al., IEEE TMI 2022, doi:10.1109/TMI.2022.3142321"


def print_calibration(folder: Path) -> None:
    """Prints which cases the IDH probability was calibrated on, or why it was not; nothing without an IDH head."""
    from mttu.inference.calibration import read_calibration
    from mttu.networks.ensemble import read_config

    if "idh" not in read_config(folder).network.tasks:
        return
    kept = read_calibration(folder)
    console.print(kept.describe())
    if kept.fitted:
        for note in kept.notes:
            console.print(f"left out of that: {note}")


def give_training(folder: Path) -> None:
    """Gives the result of a training: its run folder, the best weights, their metrics and their calibration."""
    from mttu.files import read_json
    from mttu.inference.calibration import read_calibration

    best = folder / "best"
    metrics = read_json(best / "checkpoint.json")["metrics"]
    give({"run": folder, "best": best, "metrics": metrics, "calibration": read_calibration(best).to_json()})


def ensemble(
    checkpoints: Annotated[list[Path], typer.Argument(help="Run folders or their `best` folders, one per member")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; an older ensemble is replaced")],
) -> None:
    """Make one checkpoint of several. `mttu predict` and `mttu score` then average over them."""
    from mttu.inference.distribution import pool_into
    from mttu.networks.ensemble import describe_differences, read_members, write_ensemble
    from mttu.networks.learned import describe_voters, explain_missing_answers

    write_ensemble(output, checkpoints, lambda unfinished: pool_into(unfinished, checkpoints))
    networks, _ = read_members(output)
    missing = explain_missing_answers(networks).values()
    for sentence in (*missing, *describe_voters(networks), *describe_differences(output)):
        tell(sentence)
    give({"ensemble": output, "members": checkpoints})
    console.print(f"{output}: ensemble of {len(checkpoints)}; give it in place of a checkpoint")
    if all("idh" not in network.tasks for network in networks):
        return
    console.print(
        "IDH, nothing calibrated: members that were picked by hand have no out-of-fold predictions. `mttu evaluate` "
        "fits threshold and temperature on val cases, where no member learned from them"
    )


def networks(
    time: Annotated[bool, typer.Option("--time", help="Measure a forward pass of each on this machine")] = False,
    size: Annotated[int, typer.Option(help="Edge of the image of --time in voxels")] = 128,
    device: Annotated[str, typer.Option(help="Of --time: auto, cpu or gpu")] = "auto",
    only: Annotated[list[str] | None, typer.Option("--only", help="Names of networks; all if not given")] = None,
) -> None:
    """List the networks that can be trained. With tasks, parameters, multiply-adds at 128^3, source."""
    from mttu.networks.rivals.registry import list_names

    known = (OURS, *list_names())
    unknown = [name for name in only or () if name not in known]
    if unknown:
        raise InputError(f"--only {unknown[0]}: unknown; known: {', '.join(known)}")
    rows, failed = [], 0
    for name in dict.fromkeys(only or known):
        try:
            row = _describe_network(name)
        except InputError as error:  # a package that cannot be imported must not hide the others
            errors.print(f"{name}: {error}")
            failed += 1
            continue
        if time:
            row |= _time(name, size, device)
            failed += row["seconds"] is None
        rows.append(row)
    give(rows)
    show_table(_draw_table(rows, time))
    for row in rows:
        console.print(_describe_in_words(row))
    console.print(
        "M params: learned parameters in millions, without an IDH head where the network has none of its own; G "
        "MACs: billions of multiply-adds for one image of 128^3, without norms, activations and interpolation; "
        "publ.: as published."
    )
    if failed:
        raise typer.Exit(1)


def _describe_network(name: str) -> dict[str, Any]:
    """What is known of a network without running it; JSON values."""
    from mttu.networks.measure import count_network, take_alone
    from mttu.networks.rivals.options import list_options
    from mttu.networks.rivals.registry import Entry, find_entry

    entry = Entry(NetworkSettings, title="MTTU-Net", source=_OURS_SOURCE) if name == OURS else find_entry(name)
    settings = take_alone(name)
    count = count_network(settings)
    return {
        "name": name,
        "title": entry.title or name,
        "tasks": list(entry.tasks),
        "counted_tasks": list(settings.tasks),
        "parameters": count.parameters,
        "frozen_parameters": count.frozen,
        "gmacs": round(count.macs / 1e9, 2),
        "published_parameters_m": entry.parameters_m,
        "published_gmacs": entry.gmacs,
        "source": entry.source,
        "limits": entry.limits,
        "options": {} if name == OURS else list_options(entry.build),
    }


def _describe_in_words(row: dict[str, Any]) -> str:
    options = ", ".join(f"{name}={json.dumps(value)}" for name, value in row["options"].items())
    told = [f"{row['name']}: {row['title']}", row["source"].rstrip("."), row["limits"].rstrip(".")]
    told += [f"network.options: {options}"] if options else []
    return ". ".join(filter(None, told)) + "."


def _time(name: str, size: int, device: str) -> dict[str, Any]:
    from mttu.inference.device import choose_device
    from mttu.networks.measure import take_alone, time_network

    settings = take_alone(name)
    try:
        cost = time_network(settings, (size,) * 3, choose_device(device).type)
    except RunError as error:
        errors.print(str(error))
        return {"size": size, "seconds": None, "peak_mb": None, "device": None}
    peak = round(cost.peak_bytes / 2**20)
    return {"size": size, "seconds": round(cost.seconds, 4), "peak_mb": peak, "device": cost.device}


def _draw_table(rows: list[dict[str, Any]], timed: bool) -> Table:
    titles = ["network.kind", "tasks", "M params", "publ.", "G MACs", "publ."]
    table = new_table([*titles, *(["seconds", "peak MB"] if timed else [])])
    for row in rows:
        cells = [row["name"], "both" if len(row["tasks"]) == len(BOTH) else row["tasks"][0]]
        published = (row["published_parameters_m"], row["published_gmacs"])
        for found, stated in zip((row["parameters"] / 1e6, row["gmacs"]), published, strict=True):
            cells += [f"{found:.2f}", "" if stated is None else f"{stated}"]
        if timed:
            seconds, peak = row["seconds"], row["peak_mb"]
            cells += ["failed", ""] if seconds is None else [f"{seconds:.2f}", f"{peak}"]
        table.add_row(*cells)
    return table
