import pickle

import pytest

from mttu.errors import InputError, RunError, raise_if_any


def test_input_error_shows_every_problem() -> None:
    with pytest.raises(InputError, match=r"case A: no seg\ncase B: no flair") as caught:
        raise_if_any(["case A: no seg", "case B: no flair"])
    assert caught.value.problems == ["case A: no seg", "case B: no flair"]


def test_no_problem_raises_nothing() -> None:
    assert raise_if_any([]) is None


def test_errors_survive_the_way_to_another_process() -> None:
    refused = pickle.loads(pickle.dumps(InputError(["one", "two"])))
    assert refused.problems == ["one", "two"]
    stopped = pickle.loads(pickle.dumps(RunError("loss is nan in case A", all_ranks=False)))
    assert (str(stopped), stopped.all_ranks) == ("loss is nan in case A", False)
