import numpy as np
import pytest

from mttu.metrics.roc_bands import GRID, RocBand, bootstrap_roc


def test_a_perfect_ranking_has_a_band_without_width() -> None:
    band = bootstrap_roc([0.9, 0.8, 0.7, 0.2, 0.1, 0.3], [1, 1, 1, 0, 0, 0], list("abcdef"), 50)
    assert (set(band.low), set(band.high), list(band.false_positive_rates)) == ({1.0}, {1.0}, GRID.tolist())


def test_the_band_holds_the_curve_and_takes_patients_as_a_whole() -> None:
    generator = np.random.default_rng(0)
    idh = np.repeat([1, 0], 30)
    scores = generator.normal(idh, 1.0)
    ids = [f"patient {number}" for number in range(60)]
    band = bootstrap_roc(scores.tolist(), idh.tolist(), ids, 200)
    twice = bootstrap_roc([*scores.tolist(), *scores.tolist()], [*idh.tolist(), *idh.tolist()], [*ids, *ids], 200)
    middle = int(np.flatnonzero(GRID == 0.5)[0])
    sensitivity = float((scores[:30] > np.median(scores[30:])).mean())
    assert band.low[middle] < sensitivity < band.high[middle]
    assert twice.low == pytest.approx(band.low)  # two scans of each patient tell no more
    assert twice.high == pytest.approx(band.high)


@pytest.mark.parametrize(("idh", "patients"), [([1, 1, 1], "abc"), ([1, 0, 1], "aaa")])
def test_one_class_or_one_patient_has_no_band(idh: list[int], patients: str) -> None:
    assert bootstrap_roc([0.1, 0.5, 0.9], idh, list(patients), 20) == RocBand()
