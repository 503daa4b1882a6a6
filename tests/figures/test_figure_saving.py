import matplotlib.pyplot as plt
import pytest
from matplotlib.image import imread
from PIL import Image

from mttu import __version__
from mttu.errors import InputError
from mttu.figures.estimates import Estimate
from mttu.figures.roc import RocCurve, draw_roc
from mttu.figures.style import DPI, PAGE_WIDTH_IN, save_figure


def draw():
    return draw_roc([RocCurve("Age", [0.0, 0.2, 1.0], [0.0, 0.9, 1.0], Estimate(0.88, 0.8, 0.95), 32, 38)])


def test_the_same_table_gives_the_same_bytes_and_no_time(tmp_path):
    plt.get_backend()  # is chosen at its first use
    settings = plt.rcParams.copy()
    paths = save_figure(draw(), tmp_path / "a" / "roc.v1", ("png", "pdf", "svg"))
    assert paths == [tmp_path / "a" / f"roc.v1.{name}" for name in ("png", "pdf", "svg")]
    again = save_figure(draw(), tmp_path / "b" / "roc.v1", ("png", "pdf", "svg"))
    for first, second in zip(paths, again, strict=True):
        assert first.read_bytes() == second.read_bytes()
    assert sorted(tmp_path.rglob(".partial-*")) == []
    with Image.open(paths[0]) as picture:
        assert picture.info["Software"] == f"mttu {__version__}"
    assert imread(paths[0]).shape[1] == int(PAGE_WIDTH_IN * 0.56 * DPI)
    assert (imread(paths[0])[0, 0] == 1.0).all()  # white
    pdf = paths[1].read_bytes()
    assert b"CreationDate" not in pdf
    assert b"/Subtype /CIDFontType2" in pdf  # TrueType
    assert b"/Subtype /Type3" not in pdf
    assert b"<dc:date>" not in paths[2].read_bytes()
    assert plt.get_fignums() == []
    assert plt.rcParams == settings


def test_an_unknown_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(InputError, match=r"\['gif'\]: unknown; choose from png, pdf, svg"):
        save_figure(draw(), tmp_path / "roc", ("png", "gif"))
    assert list(tmp_path.iterdir()) == []
