import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mttu.cluster.cases import prepare_cohort, run_pool
from mttu.cluster.resources import Demand
from mttu.cohort.build import discover
from mttu.config import PrepareSettings
from mttu.data.cache import open_cached
from mttu.errors import InputError

pytestmark = pytest.mark.ray


def test_a_bad_case_gets_its_row_and_the_others_are_prepared(
    phantom_folder: Path, tmp_path: Path, ray_session: None, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [f"phantom_{index:03d}" for index in range(4)]
    for name in names:
        shutil.copytree(phantom_folder / name, tmp_path / "data" / name)
    manifest = discover(tmp_path / "data")
    broken = tmp_path / "data" / names[1] / f"{names[1]}_t2.nii.gz"
    broken.write_bytes(broken.read_bytes()[:500])
    seen = []

    rows = prepare_cohort(
        manifest, tmp_path / "cache", manifest.modalities, PrepareSettings(), 2, lambda done, row: seen.append(row)
    )

    assert [row["case_id"] for row in rows] == names
    assert sorted(seen, key=lambda row: row["case_id"]) == rows
    assert [row["written"] for row in rows] == [True, False, True, True]
    assert [bool(row["error"]) for row in rows] == [False, True, False, False]
    assert rows[1]["error"].startswith(f"case {names[1]}: {broken.name}: voxels cannot be read")
    assert all(row["seconds"] > 0 for row in rows)
    assert open_cached(tmp_path / "cache", names[0]).image.shape[0] == 4
    with pytest.raises(InputError, match="not prepared"):
        open_cached(tmp_path / "cache", names[1])
    assert "core_worker" not in "".join(capfd.readouterr())  # nor any other line of Ray's own


@pytest.mark.slow
def test_work_ends_when_nobody_waits_for_it(tmp_path: Path, ray_session: None) -> None:
    def build(folder: str) -> Callable[[str], dict[str, str]]:  # here, so that Ray takes it along
        def work(case_id: str) -> dict[str, str]:
            (Path(folder) / case_id).touch()
            time.sleep(0.2)
            return {}

        return work

    def stop(done: int, row: object) -> None:
        raise KeyboardInterrupt

    names = [f"case_{index:03d}" for index in range(200)]
    with pytest.raises(KeyboardInterrupt):
        run_pool(names, build, (str(tmp_path),), Demand("cases", 1, 1), lambda name, reason: {}, "", stop)
    for _ in range(5):
        before = len(list(tmp_path.iterdir()))
        time.sleep(2)
        if len(list(tmp_path.iterdir())) == before:
            break
    else:
        pytest.fail(f"{before} of {len(names)} cases, and going on")
    assert 1 <= before < len(names)
