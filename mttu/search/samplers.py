"""Which trial comes next: all combinations, random draws, or Optuna's TPE, which learns from finished trials."""

import json
import logging
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import optuna

from mttu.search.space_values import Choice, Integer, LogUniform, Uniform
from mttu.search.spaces import Parameter, Space
from mttu.search.trials import FAILED, FINISHED, STOPPED, Trial

logging.getLogger("optuna").setLevel(logging.WARNING)
Drawn = dict[str, Any]
_Distribution = (
    optuna.distributions.CategoricalDistribution
    | optuna.distributions.IntDistribution
    | optuna.distributions.FloatDistribution
)


class Sampler(Protocol):
    """Draws trials one after the other."""

    def draw(self, number: int) -> Drawn | None:
        """What trial `number`, from 0, tries; None if there are no more.

        A number that was drawn before a kill is not drawn again: its trial is recorded.
        """
        ...

    def learn(self, trial: Trial) -> None:
        """Takes note of a trial that is over, in this start or an earlier one."""
        ...


class Listed:
    """Trials that are known from the start, so that nothing depends on which one finishes first."""

    def __init__(self, drawn: Sequence[Drawn]) -> None:
        self.drawn = drawn

    def draw(self, number: int) -> Drawn | None:
        """See `Sampler`."""
        return self.drawn[number] if number < len(self.drawn) else None

    def learn(self, trial: Trial) -> None:
        """Nothing to learn."""


def list_random(space: Space) -> list[Drawn]:
    """Random trials; trial k is the same for any number of samples."""
    return [_draw_random(space, number) for number in range(space.plan.samples or 0)]


def _draw_random(space: Space, number: int) -> Drawn:
    generator = np.random.default_rng([space.plan.seed, number])
    drawn: Drawn = {}
    for parameter in space.parameters:
        value = _pick(parameter, float(generator.random()))  # drawn whether it is used or not
        if parameter.is_met(drawn):
            drawn[parameter.name] = value
    return drawn


def _pick(parameter: Parameter, place: float) -> Any:
    """The value at a place in [0, 1) of a range or a list."""
    values = parameter.values.list_all()
    if values is not None:
        return values[int(place * len(values))]
    low, high = parameter.values.ends
    if isinstance(parameter.values, LogUniform):
        return math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
    return low + place * (high - low)


class Tpe:
    """Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011), seeded, in memory.

    What is on disk are the trials; it is told of all of them at every start.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self.study = optuna.create_study(direction=direction_of(space))
        self.asked: dict[int, optuna.trial.Trial] = {}
        self.is_seeded = False

    def draw(self, number: int) -> Drawn | None:
        """See `Sampler`."""
        if number >= (self.space.plan.samples or 0):
            return None
        if not self.is_seeded:
            self._seed(number)
        asked = self.study.ask()
        self.asked[number] = asked
        drawn: Drawn = {}
        for parameter in self.space.parameters:
            if parameter.is_met(drawn):
                drawn[parameter.name] = _suggest(asked, parameter)
        return drawn

    def _seed(self, number: int) -> None:
        """Seeds the draws of this start: with one seed for all, a later start would draw the first trials again."""
        plan = self.space.plan
        seed = int(np.random.SeedSequence([plan.seed, number]).generate_state(1)[0])
        first = min(10, max(3, (plan.samples or 0) // 3))  # random ones, to learn from
        self.study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=first, constant_liar=True)
        self.is_seeded = True

    def learn(self, trial: Trial) -> None:
        """See `Sampler`."""
        asked = self.asked.pop(trial.number, None)
        frozen = freeze(self.space, trial)
        if frozen is None:
            return
        if asked is None:  # of an earlier start
            self.study.add_trial(frozen)
            return
        for step, value in frozen.intermediate_values.items():
            asked.report(value, step)
        known = frozen.value if frozen.state == optuna.trial.TrialState.COMPLETE else None
        self.study.tell(asked, known, frozen.state)  # of a pruned one Optuna takes the newest value


def direction_of(space: Space) -> Literal["maximize", "minimize"]:
    """As Optuna calls it."""
    return "maximize" if space.maximise else "minimize"


def freeze(space: Space, trial: Trial) -> optuna.trial.FrozenTrial | None:
    """A trial that is over as Optuna's; None if it is not over."""
    states = {
        FINISHED: optuna.trial.TrialState.COMPLETE,
        STOPPED: optuna.trial.TrialState.PRUNED,
        FAILED: optuna.trial.TrialState.FAIL,
    }
    if trial.state not in states:
        return None
    values = trial.curve(space.plan.metric)
    best = trial.best(space.plan.metric, space.maximise)
    state = states[trial.state]
    if best is None or not math.isfinite(best):
        state, best = optuna.trial.TrialState.FAIL, None
    known = [one for one in space.parameters if one.name in trial.drawn]
    return optuna.trial.create_trial(
        state=state,
        value=None if state == optuna.trial.TrialState.FAIL else best,
        params={one.name: _write(one, trial.drawn[one.name]) for one in known},
        distributions={one.name: _distribution(one) for one in known},
        intermediate_values={epoch: value for epoch, value in values if math.isfinite(value)},
    )


def _distribution(parameter: Parameter) -> _Distribution:
    values = parameter.values
    if isinstance(values, Choice):
        return optuna.distributions.CategoricalDistribution([json.dumps(value) for value in values.choice])
    low, high = values.ends
    if isinstance(values, Integer):
        return optuna.distributions.IntDistribution(low, high - (high - low) % values.step, step=values.step)
    if isinstance(values, Uniform) and values.step is not None:
        last = (values.list_all() or [high])[-1]
        return optuna.distributions.FloatDistribution(low, last, step=values.step)
    return optuna.distributions.FloatDistribution(low, high, log=isinstance(values, LogUniform))


def _suggest(asked: optuna.trial.Trial, parameter: Parameter) -> Any:
    """A value by Optuna, which knows a choice by its JSON text."""
    name, found = parameter.name, _distribution(parameter)
    if isinstance(found, optuna.distributions.CategoricalDistribution):
        return json.loads(str(asked.suggest_categorical(name, found.choices)))
    if isinstance(found, optuna.distributions.IntDistribution):
        return asked.suggest_int(name, found.low, found.high, step=found.step)
    value = asked.suggest_float(name, found.low, found.high, step=found.step, log=found.log)
    return value if found.step is None else round(value, 12)


def _write(parameter: Parameter, value: Any) -> Any:
    return json.dumps(value) if isinstance(parameter.values, Choice) else value


def make_sampler(space: Space) -> Sampler:
    """The sampler that a space names."""
    if space.plan.searcher == "grid":
        return Listed(list(space.list_grid()))
    return Listed(list_random(space)) if space.plan.searcher == "random" else Tpe(space)


class Share(NamedTuple):
    """How much a setting matters."""

    value: float
    """Share of the variance that the metric has over these trials."""
    num_trials: int


def measure_importance(space: Space, trials: Sequence[Trial]) -> tuple[dict[str, Share], int]:
    """Share of the metric's variance that each setting explains (Optuna's fANOVA; Hutter et al., ICML 2014).

    Over finished trials; of a setting with a condition, over those that have it. A setting is left out if fewer than
    four trials have it, or if they do not differ in it or in the metric.

    Returns:
        The shares, and the number of finished trials that have a value of the metric.
    """
    frozen = [one for trial in trials if trial.state == FINISHED and (one := freeze(space, trial)) is not None]
    scored = [one for one in frozen if one.value is not None]
    found: dict[str, Share] = {}
    for parameter in space.parameters:
        own = [one for one in scored if parameter.name in one.params]
        if parameter.name not in found:
            shares = _share_variance(space, own)
            new = shares if len(own) == len(scored) else {parameter.name: shares.get(parameter.name)}
            found |= {name: Share(value, len(own)) for name, value in new.items() if value is not None}
    return found, len(scored)


def _share_variance(space: Space, frozen: Sequence[optuna.trial.FrozenTrial]) -> dict[str, float]:
    """Of the settings that all these trials have and that differ, the largest share first."""
    names = [
        one.name
        for one in space.parameters
        if all(one.name in trial.params for trial in frozen) and len({trial.params[one.name] for trial in frozen}) > 1
    ]
    if len(frozen) < 4 or len({one.value for one in frozen}) < 2 or not names:
        return {}
    study = optuna.create_study(direction=direction_of(space))
    study.add_trials(frozen)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names)
    return {name: float(value) for name, value in found.items()}
