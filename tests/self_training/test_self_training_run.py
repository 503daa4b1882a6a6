from mttu.self_training import run_self_training


def test_it_runs(make_config, here, tmp_path):
    steps = []
    folder = run_self_training(make_config(), here, show=steps.append)
    print(sorted(str(p.relative_to(folder)) for p in folder.rglob("*")))
    print((folder / "summary.json").read_text())
    print([(s.round, s.phase, s.done, s.total) for s in steps])
