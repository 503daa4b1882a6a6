import os
import subprocess
import sys

import pytest

from mttu.cores import count_cores

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
