"""Parts of tests of self-training: what a folder holds, callables that say or do what they are told."""

import torch
from safetensors.torch import load_file

from mttu.errors import RunError
from mttu.pseudo_labels.score_table import ScoreRow, ScoreTable, summarise_passes
from mttu.self_training import Callables


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock")


def weights(folder):
    return load_file(folder / "best" / "weights.safetensors")


def same(one, two):
    return all(torch.equal(one[name], two[name]) for name in one)


def scoring(choose):
    """A `Score` that says what `choose(case_id)` says: probability of mutant in each pass, or an error."""

    def score(plan, on_row):
        rows = []
        for case in plan.cases:
            said = choose(case.case_id)
            error = isinstance(said, str)
            rows.append(
                ScoreRow(case.case_id, 0.0, said) if error else summarise_passes(case.case_id, said, said[0], 0)
            )
            on_row(len(rows), rows[-1])
        return ScoreTable(tuple(rows), plan.about)

    return score


def stopping(here, at):
    """Callables of which one stops the run the n-th time that it is called: train-1, score-0, evaluate-2."""
    calls = {"train": 0, "score": 0, "evaluate": 0}

    def wrap(name):
        def call(*arguments):
            calls[name] += 1
            if f"{name}-{calls[name] - 1}" == at:
                raise RunError(f"stopped in {at}")
            return getattr(here, name)(*arguments)

        return call

    return Callables(wrap("train"), wrap("score"), wrap("evaluate")), calls
