import pytest

from mttu.config import Config, flatten, override
from mttu.errors import InputError
from mttu.search.presets import ABLATIONS, PRESETS, preset


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


@pytest.mark.parametrize("name", ABLATIONS)
@pytest.mark.parametrize("start", ["paper", "small"])
def test_ablations_change_what_they_name(name, start):
    config = override(preset(start), ABLATIONS[name])
    flat = flatten(config.model_dump(mode="json"))
    assert {setting: flat[setting] for setting in ABLATIONS[name]} == ABLATIONS[name]


def test_ablations_cover_the_tables():
    """Rows of Tables II to V that differ from the paper's network; PCGrad was never published."""
    table_2 = {f"layers-{count}" for count in range(1, 7)} | {"conv"}
    table_4 = {"levels-5", "levels-2-5", "levels-3-5", "levels-3-4-5"}
    assert table_2 | {"clsnet", "segnet"} | table_4 | {"equal-weights"} <= set(ABLATIONS)
    assert override(Config(), ABLATIONS["layers-4"]) == Config()
