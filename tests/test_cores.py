import os
import subprocess
import sys

import pytest

from mttu.config import Config, override
from mttu.cores import count_cores
from mttu.search.processes import count_here

BOUND = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from mttu.cores import count_cores
print(count_cores())
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_job_bound_to_a_core_has_one():
    assert subprocess.check_output([sys.executable, "-c", BOUND], text=True).strip() == "1"


@pytest.mark.parametrize(
    ("quota", "cores"),
    [
        ("max 100000\n", 8),
        ("400000 100000\n", 4),
        ("150000 100000\n", 2),
        ("5000 100000\n", 1),
        ("1600000 100000\n", 8),
        ("", 8),
        ("100 0\n", 8),
        (None, 8),
    ],
)
def test_no_more_than_a_container_may_use(monkeypatch, tmp_path, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr("mttu.cores._QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    assert count_cores() == cores


@pytest.mark.parametrize(("threads", "at_once"), [(2, 4), (3, 2), (16, 1)])
def test_trials_side_by_side_take_the_cores_there_are(monkeypatch, threads, at_once):
    monkeypatch.setattr("mttu.search.processes.count_cores", lambda: 8)
    assert count_here(override(Config(), {"workers.threads_per_worker": threads})) == at_once
