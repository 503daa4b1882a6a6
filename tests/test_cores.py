import os
import subprocess
import sys

import pytest

from mttu.config import Config, override
from mttu.cores import count_cores
from mttu.errors import InputError
from mttu.search.processes import count_here

COUNT = "from mttu.cores import count_cores; print(count_cores())"


def run_here(code, **environment):
    return subprocess.check_output([sys.executable, "-c", code], text=True, env={**os.environ, **environment}).strip()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_job_bound_to_a_core_has_one():
    bound = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    assert run_here(bound + COUNT) == "1"


def test_fewer_can_be_asked_for(monkeypatch):
    monkeypatch.delenv("LOKY_MAX_CPU_COUNT", raising=False)
    cores = count_cores()
    assert 1 <= cores <= os.cpu_count()
    assert run_here(COUNT, LOKY_MAX_CPU_COUNT="1") == "1"


@pytest.mark.parametrize("text", ["", "abc", "0", "-1", "1.5"])
def test_a_limit_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", text)
    with pytest.raises(InputError, match=f"LOKY_MAX_CPU_COUNT '{text}': expected a whole number of at least 1"):
        count_cores()


@pytest.mark.parametrize(("threads", "at_once"), [(2, 4), (3, 2), (16, 1)])
def test_trials_side_by_side_take_the_cores_there_are(monkeypatch, threads, at_once):
    monkeypatch.setattr("mttu.search.processes.count_cores", lambda: 8)
    assert count_here(override(Config(), {"workers.threads_per_worker": threads})) == at_once
