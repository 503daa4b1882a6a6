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
    with pytest.raises(InputError, match="'tiny': unknown; choose one of paper, robust, small, demo, pool, or several"):
        preset("tiny")
    with pytest.raises(InputError, match="'': unknown"):
        preset("small+")


def test_several_presets_are_laid_over_each_other():
    both = preset("small+pool")
    assert both.network == preset("small").network
    assert both.selection == preset("pool").selection != Config().selection
    assert preset("pool").network == Config().network
