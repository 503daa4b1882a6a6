"""`mttu postprocess`: which components of a checkpoint's masks are dropped."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from mttu.cli.display import console, new_table, show_progress, show_table, tell
from mttu.cli.output import give
from mttu.cli.settings import CheckpointFolder, DeviceName, ManifestFile
from mttu.errors import InputError

if TYPE_CHECKING:
    from mttu.inference.postprocessing import KeptPostprocessing


def postprocess(
    checkpoint: CheckpointFolder,
    manifest: ManifestFile,
    device: DeviceName = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads; the number of cores if not given")] = None,
) -> None:
    """Choose on val cases which specks of masks are dropped. Kept with the checkpoint for `mttu predict`."""
    import torch

    from mttu.inference.device import describe_device
    from mttu.networks.checkpoint import find_checkpoint
    from mttu.predict import find_postprocessing, plan_postprocessing

    if device not in ("auto", "cpu", "gpu"):
        raise InputError(f"--device {device!r}: choose auto, cpu or gpu")
    if threads is not None:
        torch.set_num_threads(threads)
    plan = plan_postprocessing(checkpoint, manifest, device)  # type: ignore[arg-type]
    console.print(f"postprocess: {describe_device(plan.device)}")
    with show_progress("postprocess", len(plan.cases)) as advance:
        kept = find_postprocessing(plan, advance)
    for note in kept.notes:
        tell(note)
    give({"checkpoint": find_checkpoint(checkpoint), **kept.to_json()})
    show_table(_build_table(kept))
    console.print(kept.describe())
    console.print(f"{find_checkpoint(checkpoint)}: postprocessing.json written; `mttu predict` uses it")


def _build_table(kept: "KeptPostprocessing") -> Table:
    """One row per region: its rule, Dice and HD95 before and after."""
    from mttu.data.labels import REGIONS

    columns = ("region", "rule", "Dice before", "after", "HD95 mm before", "after")
    table = new_table(columns, title=f"mean over {kept.num_cases} validation cases, which chose the rules")
    for region in REGIONS:
        if f"dice_{region}" not in kept.before and f"hd95_{region}" not in kept.before:
            continue
        rule = kept.rules.get(region)
        values = [
            f"{part[name]:{form}}" if name in part else "-"
            for name, form in ((f"dice_{region}", ".4f"), (f"hd95_{region}", ".1f"))
            for part in (kept.before, kept.after)
        ]
        table.add_row(region.upper(), "as predicted" if rule is None else rule.describe(), *values)
    return table
