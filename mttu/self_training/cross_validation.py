"""Cross-validation of self-training: a whole self-training for each fold, then their ensemble."""

from dataclasses import replace
from pathlib import Path

from mttu.cohort.splits import draw_folds
from mttu.config import Config, override
from mttu.errors import InputError
from mttu.self_training.algorithm import FREE, check_rounds, check_rounds_wanted, naming_full_disk, self_train
from mttu.self_training.evaluation import read_summary
from mttu.self_training.inputs import check_self_training
from mttu.self_training.job import Callables, OnStep, Step, last_round
from mttu.tracking import open_tracker
from mttu.training.folds import Results, check_each, fold_settings, log_folds, run_folds
from mttu.training.run import closing, open_run

CHOSEN = "chosen round"
"""Name, in the table over folds, of the round that a fold's val cases chose; the others are `round 0` and so on."""


def cross_validate_self_training(
    config: Config, callables: Callables, fresh: bool = False, show: OnStep | None = None
) -> Path:
    """Self-trains once per fold (`self_training.folds`), tracked in MLflow: folds below the whole, rounds below folds.

    Thresholds, checkpoints and the round are chosen in each fold on its own val cases. The pool is the same for all
    folds, but for patients who validate.

    Args:
        config: All settings; train and val cases of the manifest are drawn anew.
        callables: How to train, score and evaluate.
        fresh: Start anew; an older run of the same name is kept aside.
        show: Called with each sign of life.

    Returns:
        The run folder: `fold_1` and so on, each a whole self-training, `ensemble/` of their chosen rounds, `folds.csv`.

    Raises:
        InputError: Something is refused; nothing was started.
        RunError: It stopped; the same command goes on from there.
    """
    settings = config.self_training
    if settings.start is not None:
        raise InputError("self_training.start: one round 0 cannot be that of every fold; leave it out")
    inputs = check_self_training(config).inputs
    drawn = draw_folds(inputs.manifest, settings.folds, settings.fold_seed)
    checked = check_each(drawn, lambda manifest: check_self_training(config, manifest))

    def check_folds(folder: Path) -> None:
        for number in range(1, len(drawn) + 1):
            place = folder / f"fold_{number}"
            check_rounds_wanted(config, place)
            if not place.with_suffix(".json").exists():
                check_rounds(config, place)

    with naming_full_disk(config.output.place), open_run(config, inputs, fresh, FREE, check=check_folds) as run:
        tracker, folder = run.tracker, run.folder
        if tracker is None:
            return folder

        def run_fold(number: int, manifest_path: Path, place: Path) -> Results:
            def tell(step: Step) -> None:
                if show is not None:
                    show(replace(step, fold=number, folds=len(drawn)))

            own = fold_settings(config, number, manifest_path, folder, inputs.cache_dir)
            model = config.tracking.model or config.output.name
            own = override(own, {"tracking.model": f"{model}-{own.output.name}"})  # each with a best round of its own
            manifest = drawn[number - 1]
            below = open_tracker(
                own, place, manifest.fingerprint, manifest.synthetic, tracker, own.output.name, {"fold": number}
            )
            with closing(below):
                self_train(own, checked[number - 1], place, callables, below, tell)
            return read_results(place)

        rows = run_folds(drawn, folder, run_fold, config.metrics)
        steps = {f"round {number}": number for number in range(last_round(config) + 1)}
        renamed = [replace(row, metric=row.metric.replace("val/", "best/", 1)) for row in rows]  # as rounds do
        log_folds(tracker, renamed, folder, steps)
    return folder


def read_results(folder: Path) -> dict[str, dict[str, float]]:
    """Metrics of a finished self-training: of the chosen round, and of each round.

    Raises:
        InputError: It is not finished.
    """
    summary = read_summary(folder)
    if summary is None:
        raise InputError(f"{folder}: is not finished; run the same command again")
    rounds = {f"round {row['round']}": dict(row["metrics"]) for row in summary["rounds"]}
    for name, row in zip(list(rounds), summary["rounds"], strict=True):
        rounds[name] |= {"selected/mutant": row["num_mutant"], "selected/wild": row["num_wild"]}
        if row["accuracy"] is not None:
            rounds[name]["selected/accuracy"] = row["accuracy"]
    return {CHOSEN: rounds[f"round {summary['chosen_round']}"], **rounds}
