import pytest

from mttu.export import Agreement


@pytest.mark.parametrize(("kind", "output"), [("bundle", "bundle"), ("program", "network.pt2")])
def test_what_is_no_checkpoint_exits_with_two(run, tmp_path, kind, output):
    (tmp_path / "cohort").mkdir()
    code, _, err = run("export", kind, tmp_path / "cohort", "-o", tmp_path / output)
    assert code == 2
    assert err.startswith(f"error: checkpoint {tmp_path / 'cohort'}: checkpoint.json, config.yaml, weights.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["cohort"]


def test_exports_say_what_was_written(run, tiny_checkpoint, tmp_path, monkeypatch):
    code, out, _ = run("export", "bundle", tiny_checkpoint, "-o", tmp_path / "glioma", "--license", "CC0-1.0")
    assert (code, out) == (
        0,
        f"{tmp_path / 'glioma'}: bundle; docs/README.md in it says how to run it. Research use only.\n",
    )
    assert "licence of the weights: CC0-1.0." in (tmp_path / "glioma" / "docs" / "README.md").read_text()
    asked = []
    monkeypatch.setattr("mttu.export.export_program", lambda *paths: (asked.append(paths), Agreement(2e-7, 0, 8192))[1])
    code, out, _ = run("export", "program", tiny_checkpoint, "-o", tmp_path / "network.pt2")
    assert asked == [(tiny_checkpoint, tmp_path / "network.pt2")]
    told = "largest difference of a probability 2.0e-07; 0 of 8192 labels differ"
    assert code == 0
    assert out == f"{tmp_path / 'network.pt2'}: written, read back and compared: {told}. Research use only.\n"
