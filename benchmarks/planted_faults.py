"""Faults planted into a cohort: is each named, with its case, while all others go on; and what do the checks cost?

    python benchmarks/planted_faults.py [--cases 200] [--size 32] [--against CHECKOUT] [--repeats 3]

A phantom cohort is written into a temporary folder and timed as it is: checking and preparation in one process without
Ray. With --against, another checkout of this project does the same, in turns, so that a busy machine slows both; the
ratio is that of the medians of CPU seconds (user and system), which are steadier than those of a clock. Then the faults
are planted, each into a case of its own or two, `mttu cohort --skip-bad` and the preparation of what is left are run,
and one row per fault says whether the list of findings names it. Ends with 1 if one is missed, if a case without a
fault is found to have one, if a case that is left cannot be prepared, or if the ratio is above its limit.

A new fault is an entry of `FAULTS`.
"""

import argparse
import csv
import gzip
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from mttu.phantom import Recipe, write_phantom

REPOSITORY = Path(__file__).resolve().parent.parent
MOST_SLOWER = 1.2
"""Times the CPU seconds of the other checkout."""


class Victim:
    """A case to spoil, and another one for the faults that take something from it.

    Args:
        data: Folder of the cohort.
        name: The case.
        other: The other one; empty for a fault of one case.
    """

    def __init__(self, data: Path, name: str, other: str) -> None:
        self.data, self.name, self.other = data, name, other

    def path(self, role: str, name: str = "") -> Path:
        """File of the case, or of another."""
        name = name or self.name
        return self.data / name / f"{name}_{role}.nii.gz"

    def read(self, role: str) -> np.ndarray:
        """Voxels of a volume of the case."""
        return np.asarray(nib.load(self.path(role)).dataobj)

    def brain(self) -> np.ndarray:
        """Where any image is not 0."""
        return np.asarray(np.any([self.read(name) != 0 for name in ("flair", "t1ce", "t1", "t2")], axis=0))

    def save(self, role: str, voxels: np.ndarray, affine: np.ndarray | None = None) -> None:
        """Writes a volume on the grid of the case, or another one."""
        affine = nib.load(self.path("flair")).affine if affine is None else affine
        kind = np.uint8 if role in ("seg", "brainmask") else voxels.dtype
        nib.save(nib.Nifti1Image(voxels.astype(kind), affine), self.path(role))

    def set_qform(self, role: str, change: np.ndarray) -> None:
        """Gives a volume a coded qform that is its sform after a change."""
        image = nib.load(self.path(role))
        image.set_sform(image.affine, 1)
        image.set_qform(change @ image.affine, 1)
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), self.path(role))

    def copy(self, *roles: str) -> None:
        """Puts volumes of the other case in the place of the case's own."""
        for role in roles:
            shutil.copy(self.path(role, self.other), self.path(role))

    def link(self, role: str, how: Callable[[Path, Path], None]) -> None:
        """Makes a volume of the case a link to that of the other one."""
        self.path(role).unlink()
        how(self.path(role, self.other), self.path(role))

    def rename(self, role: str, new: str) -> None:
        """Gives a volume of the case another name."""
        self.path(role).rename(self.path(new))

    def add(self, role: str, new: str) -> None:
        """Puts a copy of a volume of the case beside it."""
        shutil.copy(self.path(role), self.path(new))

    def throw_away(self) -> None:
        """Puts a copy of the case into the bin of a network drive."""
        shutil.copytree(self.data / self.name, self.data / "#recycle" / self.name)

    def set_cells(self, **values: str) -> None:
        """Changes several cells of the clinical row of the case; `_` stands for a space in the name of a new column."""
        for column, value in values.items():
            self.set_cell(column.replace("_", " "), value)

    def set_cell(self, column: str, value: str, name: str = "") -> None:
        """Changes the clinical row of the case, or of another; a new column is empty for all others."""
        table = self.data / "clinical.csv"
        with table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        for row in rows:
            row[column] = value if row["case_id"] == (name or self.name) else row.get(column, "")
        with table.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


@dataclass(frozen=True)
class Fault:
    """One way to spoil a case."""

    name: str
    plant: Callable[[Victim], object]
    says: str
    """What a finding on the case must contain; `{case}` is the case."""
    both: bool = False
    """Whether it takes another case, which is spoilt by it too and must be named."""
    of_cohort: bool = False
    """Whether it is a matter of the whole cohort, such as a column, so that a finding without a case names it."""


def _roll_out(victim: Victim, share: float) -> None:
    """Moves the tumour sideways until that share of it lies outside of the brain."""
    seg, brain = victim.read("seg"), victim.brain()
    for voxels in range(seg.shape[0]):
        moved = np.roll(seg, voxels, axis=0)
        if np.count_nonzero((moved > 0) & ~brain) >= share * np.count_nonzero(moved):
            victim.save("seg", moved)
            return
    raise SystemExit(f"{victim.name}: its tumour cannot be moved out of the brain")


def _put(voxels: np.ndarray, value: float) -> np.ndarray:
    changed = voxels.astype(np.float32)
    changed[tuple(extent // 2 for extent in voxels.shape)] = value
    return changed


def _part_twins(victim: Victim) -> None:
    victim.copy("flair", "t1ce", "t1", "t2", "seg")
    victim.set_cell("split", "train")
    victim.set_cell("split", "test", victim.other)


def _take_from_refused(victim: Victim) -> None:
    victim.copy("seg")
    victim.set_cell("age", "1.050", victim.other)


_SHIFT = np.array([[1.0, 0, 0, 0], [0, 1, 0, 37], [0, 0, 1, 0], [0, 0, 0, 1]])
_MIRROR = np.diag([-1.0, 1, 1, 1])

FAULTS: tuple[Fault, ...] = (
    Fault("brain mask of ones", lambda v: v.save("brainmask", np.ones(v.read("t1").shape)), "lie in the brain mask"),
    Fault("brain mask inverted", lambda v: v.save("brainmask", ~v.brain()), "lie in the brain mask"),
    Fault("brain mask is the tumour", lambda v: v.save("brainmask", v.read("seg") > 0), "overlap with a Dice of"),
    Fault("brain mask shifted", lambda v: v.save("brainmask", np.roll(v.brain(), 2, 0)), "overlap with a Dice of"),
    Fault("brain mask empty", lambda v: v.save("brainmask", np.zeros(v.read("t1").shape)), "no voxel above 0.5"),
    Fault("tumour beside the brain", lambda v: _roll_out(v, 0.6), "tumour voxels lie outside of the brain"),
    Fault("some tumour outside", lambda v: _roll_out(v, 0.03), "tumour voxels lie outside of the brain"),
    Fault("tumour mask is the brain's", lambda v: v.save("seg", v.brain()), "of the brain's voxels"),
    Fault("tumour mask empty", lambda v: v.save("seg", np.zeros(v.read("t1").shape)), "seg has no tumour voxel"),
    Fault("foreign label", lambda v: v.save("seg", _put(v.read("seg"), 3)), "seg has labels {"),
    Fault("T2 of another patient", lambda v: v.copy("t2"), "has the same voxels as t2 of case", both=True),
    Fault("tumour mask of another", lambda v: v.copy("seg"), "has the same voxels as seg of case", both=True),
    Fault("mask of a refused case", _take_from_refused, "has the same voxels as seg of case", both=True),
    Fault("T2 linked to another's", lambda v: v.link("t2", lambda a, b: b.symlink_to(a)), "is the file of", both=True),
    Fault("mask hard-linked to another's", lambda v: v.link("seg", os.link), "is the file of", both=True),
    Fault("one patient in train and test", _part_twins, "is one patient with", both=True),
    Fault("T1 is a copy of FLAIR", lambda v: v.save("t1", v.read("flair")), "have the same voxels"),
    Fault("T1 not registered", lambda v: v.save("t1", np.roll(v.read("t1"), 3, 0)), "looks not co-registered"),
    Fault("qform 37 mm off", lambda v: v.set_qform("t1ce", _SHIFT), "disagree by 37 mm"),
    Fault("qform of a mask mirrored", lambda v: v.set_qform("seg", _MIRROR), "left and right are opposite"),
    Fault("file truncated", lambda v: v.path("t2").write_bytes(v.path("t2").read_bytes()[:-99]), "cannot be read"),
    Fault("NaN", lambda v: v.save("t1ce", _put(v.read("t1ce"), np.nan)), "is NaN or infinite"),
    Fault("another grid", lambda v: v.save("t2", v.read("t2")[..., :-1]), "have different grids"),
    Fault("no T1", lambda v: v.path("t1").unlink(), "no t1; expected"),
    Fault("IDH wild type, IDH2 mutant", lambda v: v.set_cells(idh="WT", idh2="R172K"), "any mutation counts"),
    Fault("two columns of IDH disagree", lambda v: v.set_cells(idh="1", IDH_status="WT"), "say the same thing diff"),
    Fault("age with thousands", lambda v: v.set_cells(age="1.050"), "age is '1.050'"),
    Fault("columns not used", lambda v: v.set_cells(kps="90", fold="3"), "not used: kps, fold", of_cohort=True),
    Fault("mask called tumor", lambda v: v.rename("seg", "tumor"), "no tumour mask, but <case>_tumor.nii.gz lies"),
    Fault("old mask beside", lambda v: v.add("seg", "seg_old"), "<case>_seg_old.nii.gz (case {case})", of_cohort=True),
    Fault("masks seg and Seg", lambda v: v.add("seg", "Seg"), "seg is there 2 times"),
    Fault("copy in a bin", lambda v: v.throw_away(), "bin is left out (#recycle, which holds {case})", of_cohort=True),
    Fault("not packed", lambda v: v.path("t1").write_bytes(gzip.decompress(v.path("t1").read_bytes())), "no readable"),
)
"""Each with a case, or two, of its own."""
_CASES = sum(1 + fault.both for fault in FAULTS)

_TIMED = """
import json, resource, sys, time
from pathlib import Path
from mttu.config import PrepareSettings
from mttu.data.cache import cache_case
from mttu.cohort.build import build_cohort
from mttu.cohort.found_cases import CohortRequest

data, cache = Path(sys.argv[1]), Path(sys.argv[2])
started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
cohort = build_cohort(CohortRequest((data,), (data / "clinical.csv",)))
if cohort.manifest is None:
    raise SystemExit("the clean cohort was refused: " + "; ".join(cohort.errors))
for case in cohort.manifest.cases:
    cache_case(case, cache, cohort.manifest.modalities, PrepareSettings())
after = resource.getrusage(resource.RUSAGE_SELF)
cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
print(json.dumps({"cpu": cpu, "clock": time.perf_counter() - started, "findings": len(cohort.findings)}))
"""
_PREPARE = """
import sys
from pathlib import Path
from mttu.config import PrepareSettings
from mttu.data.cache import cache_case
from mttu.data.manifest import read_manifest

manifest = read_manifest(Path(sys.argv[1]))
for case in manifest.cases:
    cache_case(case, Path(sys.argv[2]), manifest.modalities, PrepareSettings())
print(len(manifest.cases))
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--size", type=int, default=32, help="voxels along each axis of a case")
    parser.add_argument("--against", type=Path, help="another checkout, timed in turns with this one")
    parser.add_argument("--repeats", type=int, default=3, help="timings of each checkout")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder) / "clean"
        write_phantom(clean, Recipe(cases=arguments.cases, size=arguments.size))
        fast_enough = compare(clean, arguments.against, arguments.repeats)
        found = find_faults(clean, Path(folder))
    return 0 if found and fast_enough else 1


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python on the code of a checkout, with one thread for its libraries."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=checkout, text=True, capture_output=True, check=False
    )


def compare(clean: Path, against: Path | None, repeats: int) -> bool:
    """Times the clean cohort; whether it is within the limit of the other checkout, if there is one."""
    checkouts = {"this checkout": REPOSITORY} | ({} if against is None else {"the other": against.resolve()})
    seconds: dict[str, list[float]] = {name: [] for name in checkouts}
    for repeat in range(repeats):
        for name in list(checkouts)[:: 1 if repeat % 2 else -1]:
            with tempfile.TemporaryDirectory() as cache:
                answer = run(checkouts[name], "-c", _TIMED, str(clean), cache)
            if answer.returncode:
                raise SystemExit(f"{name}: {answer.stderr}")
            timed = json.loads(answer.stdout.splitlines()[-1])
            seconds[name].append(timed["cpu"])
            print(
                f"{name}: cohort and preparation of the clean cases: {timed['cpu']:.1f} s of CPU, "
                f"{timed['clock']:.1f} s by the clock, {timed['findings']} findings"
            )
    if against is None:
        return True
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["this checkout"] / medians["the other"]
    print(f"ratio of CPU seconds {ratio:.3f}; at most {MOST_SLOWER}")
    return ratio <= MOST_SLOWER


def find_faults(clean: Path, folder: Path) -> bool:
    """Plants every fault, runs `mttu cohort --skip-bad` and the preparation; whether all is as it must be."""
    data, manifest = folder / "data", folder / "cohort.parquet"
    shutil.copytree(clean, data)
    victims = plant(data)
    answer = run(
        REPOSITORY,
        *("-m", "mttu", "cohort", str(data), "--clinical", str(data / "clinical.csv")),
        *("--skip-bad", "-o", str(manifest)),
    )
    if not manifest.is_file():
        raise SystemExit(
            f"the cohort was refused although bad cases are to be skipped:\n{answer.stderr}{answer.stdout}"
        )
    with (folder / "cohort-findings.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    missed = report(victims, rows)
    spoilt = {name for _, victim in victims for name in (victim.name, victim.other) if name}
    wronged = [row for row in rows if row["severity"] != "note" and row["case_id"] not in spoilt]
    for row in wronged:
        print(f"without a fault, but {row['severity']} {row['case_id']}: {row['finding']}")
    prepared = run(REPOSITORY, "-c", _PREPARE, str(manifest), str(folder / "cache"))
    print(f"prepared: {prepared.stdout.strip() or prepared.stderr.strip()} cases")
    print(f"{len(victims) - missed} of {len(victims)} faults are named")
    return not missed and not wronged and not prepared.returncode


def plant(data: Path) -> list[tuple[Fault, Victim]]:
    """Gives each fault a case of its own, and another if it takes one."""
    names = sorted(path.name for path in data.iterdir() if (path / f"{path.name}_seg.nii.gz").is_file())
    if len(names) < _CASES:
        raise SystemExit(f"{len(names)} cases with a mask; {_CASES} are needed; raise --cases")
    free, victims = iter(names), []
    for fault in FAULTS:
        victim = Victim(data, next(free), next(free) if fault.both else "")
        fault.plant(victim)
        victims.append((fault, victim))
    return victims


def report(victims: Sequence[tuple[Fault, Victim]], rows: Sequence[dict[str, str]]) -> int:
    """Prints one row per fault and case; how many faults are not named for every case that they spoil."""
    missed = 0
    print(f"{'fault':30} {'case':12} {'named':5} {'':7} sentence")
    for fault, victim in victims:
        named = []
        for name in filter(None, (victim.name, victim.other)):
            places = (name, "") if fault.of_cohort else (name,)
            says = fault.says.replace("{case}", name)
            found = [row for row in rows if row["case_id"] in places and says in row["finding"]]
            named.append(bool(found))
            severity, sentence = (found[0]["severity"], found[0]["finding"]) if found else ("", "")
            print(f"{fault.name:30} {name:12} {'yes' if found else 'NO':5} {severity:7} {sentence}")
        missed += not all(named)
    return missed


if __name__ == "__main__":
    sys.exit(main())
