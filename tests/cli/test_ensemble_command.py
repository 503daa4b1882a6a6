from mttu.pseudo_labels.score_table import read_scores


def test_an_ensemble_is_made_and_scored_with(run, write_tiny, manifest_file, tmp_path):
    runs = [tmp_path / name for name in ("one", "two")]
    for number, folder in enumerate(runs):
        write_tiny(folder / "best", spoil=float(number))
    code, out, _ = run("ensemble", *runs, "-o", tmp_path / "both")
    assert code == 0
    first, *rest = out.splitlines()
    assert first == f"{tmp_path / 'both'}: ensemble of 2; give it in place of a checkpoint"
    assert " ".join(rest).startswith("IDH, nothing calibrated: members that were picked by hand have no out-of")
    assert not (tmp_path / "both" / "calibration.json").exists()
    words = ["score", tmp_path / "both", manifest_file, "--split", "test", "-o", tmp_path / "mc.parquet"]
    code, out, err = run(*words, "--actors", 0, "--threads", 1, "mc.passes=2")
    assert (code, err) == (0, "")
    table = read_scores(tmp_path / "mc.parquet")
    assert (table.about["ensemble"], table.about["members"]) == (True, 2)
    assert all(len(row.mutant_probabilities) == 2 for row in table.rows)


def test_what_members_do_not_agree_in_is_told(run, write_tiny, tmp_path):
    write_tiny(tmp_path / "one" / "best", {"train.precision": "bfloat16", "metrics.empty_dice": "exclude"})
    write_tiny(tmp_path / "two" / "best", {"train.precision": "float32"}, spoil=1.0)
    code, out, _ = run("ensemble", tmp_path / "one", tmp_path / "two", "-o", tmp_path / "both")
    assert code == 0
    assert out.splitlines()[:2] == [
        "note: members were trained with train.precision bfloat16, float32; the ensemble computes in float32, unless "
        "--precision says otherwise",
        "note: members name metrics.empty_dice brats, exclude; of the ensemble brats counts, unless "
        "`mttu evaluate --empty-dice` says otherwise",
    ]


def test_members_without_an_idh_head_say_nothing_of_its_calibration(run, write_tiny, tmp_path):
    runs = [tmp_path / name for name in ("one", "two")]
    for folder in runs:
        write_tiny(folder / "best", {"network.tasks": ["segmentation"]})
    code, out, _ = run("ensemble", *runs, "-o", tmp_path / "both")
    assert code == 0
    assert "calibrated" not in out


def test_problems_end_with_code_2(run, write_tiny, tmp_path):
    write_tiny(tmp_path / "one" / "best")
    write_tiny(tmp_path / "two" / "best", {"patch.size": [24, 16, 16]})
    code, out, err = run("ensemble", tmp_path / "one", tmp_path / "two", "-o", tmp_path / "both")
    assert (code, out) == (2, "")
    assert err.startswith("error: ensemble: members differ in patch.size: [16, 16, 16] in ")
    assert not (tmp_path / "both").exists()
