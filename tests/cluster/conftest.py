import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mttu.config import Config, to_yaml

Start = Callable[[str, Config], subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a command in a session of its own: `start("train", config)`; what it prints is added to `NAME.txt`."""

    def begin(command: str, config: Config) -> subprocess.Popen[bytes]:
        settings = tmp_path / f"{config.output.name}.yaml"
        settings.write_text(to_yaml(config))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        environment["RAY_worker_niceness"] = "0"  # tests beside it would starve its workers
        words = [sys.executable, "-m", "mttu", command, "--config", str(settings)]
        with settings.with_suffix(".txt").open("a") as log:
            return subprocess.Popen(
                words, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    return begin
