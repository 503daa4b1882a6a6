import pytest

from mttu.config import Config
from mttu.errors import InputError
from mttu.search.presets import PRESETS, preset


def test_the_paper_preset_is_the_defaults():
    assert preset("paper") == Config()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_their_patches(name):
    config = preset(name)
    assert config.network.bottleneck.kind == "transformer"
    assert config.network.bottleneck.position_grid == tuple(axis // 8 for axis in config.patch.size)


def test_unknown_preset_lists_the_known():
    with pytest.raises(InputError, match="'tiny': unknown; choose one of paper, robust, small, demo"):
        preset("tiny")
