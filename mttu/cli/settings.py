"""Options that several commands share, and their settings: the preset, then the file, then the arguments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from mttu.cli.display import console, errors, tell
from mttu.config import Config, flatten, override, parse_overrides, read_yaml
from mttu.config.batches import describe_accumulation
from mttu.config.earlier import BATCH_PER_WORKER, BATCH_SIZE, GLOBAL_BATCH, MOVED, NUM_WORKERS, rename
from mttu.errors import InputError
from mttu.search.ablations import ABLATIONS, combine
from mttu.search.presets import PRESETS, earlier_preset, preset


def complete_settings(incomplete: str) -> list[str]:
    """Names of settings that begin so, for the shell; a `=` follows."""
    return [f"{name}=" for name in flatten(Config().model_dump(mode="json")) if name.startswith(incomplete)]


def _complete_names(names: Iterable[str]) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in names if name.startswith(incomplete)]


ConfigFile = Annotated[Path | None, typer.Option("--config", "-c", help="Settings file (YAML) over the preset")]
_PRESETS = f"Start from: {', '.join(PRESETS)}; several: small+pool"
PresetName = Annotated[str, typer.Option("--preset", "-p", help=_PRESETS, autocompletion=_complete_names(PRESETS))]
PrintConfig = Annotated[bool, typer.Option("--print-config", help="Print the settings and exit")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Start anew; an older run is kept aside")]
ManifestFile = Annotated[Path, typer.Argument(help="Manifest that `mttu cohort` wrote")]
CheckpointFolder = Annotated[Path, typer.Argument(help="Run folder, its `best` folder, or an ensemble")]
AblationNames = Annotated[
    list[str] | None,
    typer.Option(
        "--ablation",
        "-a",
        help="Row of a table of the paper; `mttu ablations` lists them",
        autocompletion=_complete_names(ABLATIONS),
    ),
]
DeviceName = Annotated[
    str,
    typer.Option("--device", help="auto, cpu or gpu", autocompletion=_complete_names(("auto", "cpu", "gpu"))),
]
Precision = Annotated[
    str | None,
    typer.Option("--precision", help="float32, bfloat16 or auto (bfloat16 on a GPU); train.precision if not given"),
]

Given = Sequence[tuple[Mapping[str, Any], str]]
"""What a user asked for: dotted names to values, and where they come from; later ones take precedence."""


def read_given(
    file: Path | None, arguments: Sequence[str] | None, ablations: Sequence[str] | None = None, command: str = ""
) -> Given:
    """The file's settings, then those of the ablations, then those of the command line.

    Raises:
        InputError: An unknown ablation, or one that has no effect on the command.
    """
    from_file = [(flatten(read_yaml(file)), str(file))] if file is not None else []
    changes = combine(ablations or ())
    unused = [name for name in changes if name.startswith("selection.") and command == "train"]
    if unused:
        raise InputError(f"ablation: {unused[0]} has no effect on `mttu train`; run `mttu self-train`")
    named = [(changes, f"ablation {', '.join(ablations)}")] if ablations else []
    return [*from_file, *named, (parse_overrides(list(arguments or [])), "argument")]


def resolve(preset_name: str, given: Given) -> Config:
    """A preset overridden by what the user asked for; tells the user how settings of earlier versions are read.

    Raises:
        InputError: See `mttu.config.override`.
    """
    renamed = _rename(preset(preset_name), given)
    config = _lay_over(preset(preset_name), renamed)
    for (changes, source), (asked, _) in zip(renamed, given, strict=True):
        for name in [name for name in MOVED if name in asked]:
            errors.print(f"{source}: {name} is now {MOVED[name]}; please write that")
        if BATCH_SIZE in asked:
            errors.print(
                f"{source}: {BATCH_SIZE}={asked[BATCH_SIZE]} is taken as {GLOBAL_BATCH}={changes[GLOBAL_BATCH]}, for "
                f"all workers together, and {BATCH_PER_WORKER}={changes[BATCH_PER_WORKER]}; please write these two"
            )
    return config


def resolve_run(preset_name: str, given: Given, fresh: bool) -> Config:
    """As `resolve`; a run that an earlier version began continues with the preset of that version, with a notice.

    Raises:
        InputError: See `mttu.config.override`.
    """
    config = resolve(preset_name, given)
    folder = config.output.folder / config.output.name
    if fresh or not folder.exists():
        return config
    from mttu.training.run import read_format  # takes seconds

    found = read_format(folder)
    then = {} if found is None else earlier_preset(preset_name, found)
    if not then:
        return config
    start = override(preset(preset_name), rename(then, config.workers.num_workers, f"preset {preset_name}"))
    as_begun = _lay_over(start, _rename(start, given))
    now, before = (flatten(each.model_dump(mode="json")) for each in (config, as_begun))
    changed = [f"{name}={before[name]} (now {now.get(name)})" for name in before if before[name] != now.get(name)]
    if changed:
        errors.print(
            f"{folder}: was begun by an earlier version, whose preset {preset_name} had {', '.join(changed)}; it goes "
            "on with that"
        )
    return as_begun


def _rename(start: Config, given: Given) -> Given:
    """Today's names; an earlier batch size was per worker, and any of the sources may set the number of workers."""
    workers = [changes[NUM_WORKERS] for changes, _ in given if NUM_WORKERS in changes]
    num_workers = workers[-1] if workers else start.workers.num_workers
    return [(rename(changes, num_workers, source), source) for changes, source in given]


def _lay_over(config: Config, given: Given) -> Config:
    for changes, source in given:
        config = override(config, changes, source)
    return config


def tell_start(config: Config, fresh: bool) -> None:
    """Notes at the start of a training: weights of unknown patients, micro-batches, MLflow's variable."""
    from mttu.tracking import describe_environment
    from mttu.training.start import check_start, read_start_patients

    if not check_start(config) and read_start_patients(config) is None:
        tell(
            f"train.start_from {config.train.start_from} does not say whom it learned from. If that were val "
            "cases, metrics on them and the epoch that they choose are too good; nothing will be calibrated on them"
        )
    with suppress(InputError):  # reported with every other problem of the training
        note = describe_accumulation(config.train, config.workers.num_workers)
        if note is not None:
            console.print(note)
    note = describe_environment(config.tracking.uri, config.output.folder / config.output.name, fresh)
    if note is not None and config.tracking.enabled:
        tell(note)
