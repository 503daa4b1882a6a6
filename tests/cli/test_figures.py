"""`mttu figures`: what is handed to the drawing functions, what is written, what is refused."""

from dataclasses import replace
from functools import partial

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist

from mttu.config import override
from mttu.data.cache import open_cached
from mttu.data.manifest import Manifest, read_manifest, write_manifest
from mttu.figures.features import draw_feature_maps
from mttu.figures.surface import draw_surface_distance
from mttu.inference.windows import VolumePrediction
from mttu.networks import build_network
from mttu.networks.checkpoint import read_checkpoint, write_checkpoint
from mttu.networks.ensemble import write_ensemble
from mttu.predict.results import PredictionRow, mask_name, open_staging, overlay_name, publish, write_tables
from mttu.report.feature_maps import list_levels
from mttu.search.presets import preset

UNET = {"network.kind": "unet", "network.options.channels": [4, 8, 8], "network.idh_head.hidden": [8]}
PATCH = {"patch.size": [16, 16, 16], "inference.overlap": 0.0, "tracking.enabled": False}


def cut_cube(volume, inside):
    """16^3 voxels around the middle of a bounding box, moved into the volume; reckoned voxel by voxel."""
    places = np.argwhere(inside)
    middle = (places.min(axis=0) + places.max(axis=0) + 1 - 16) // 2
    start = [min(max(0, first), extent - 16) for first, extent in zip(middle, inside.shape, strict=True)]
    x, y, z = (slice(first, first + 16) for first in start)
    return volume[..., x, y, z]


def forward(checkpoint, image):
    network, _ = read_checkpoint(checkpoint)
    with torch.no_grad():
        levels = network.encode(torch.from_numpy(np.asarray(image, np.float32))[None])
    return {name: level[0].numpy() for name, level in levels.items()}


def listed(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture
def drawn(monkeypatch):
    """What the drawing function of feature maps was given; the picture shows no more than the chosen slice."""
    calls = []

    def draw(*arguments):
        calls.append(arguments)
        figure = Figure(figsize=(1, 1))
        figure.text(0.5, 0.5, str(arguments[3]))
        return figure

    monkeypatch.setattr("mttu.report.feature_maps.draw_feature_maps", draw)
    return calls


@pytest.fixture(scope="module")
def unet_checkpoint(tmp_path_factory):
    """A small U-Net with random weights that sees two modalities."""
    changes = {**UNET, **PATCH, "data.modalities": ["t1ce", "t2"], "network.in_channels": 2}
    config = override(preset("demo"), changes)
    folder = tmp_path_factory.mktemp("unet") / "best"
    write_checkpoint(folder, build_network(config.network).state_dict(), config, {})
    return folder


@pytest.fixture
def without_masks(phantom_manifest, tmp_path):
    """The phantom manifest without tumour masks."""
    path = tmp_path / "without_masks.parquet"
    cases = tuple(replace(case, seg=None) for case in phantom_manifest.cases)
    write_manifest(replace(phantom_manifest, cases=cases), path)
    return path


def test_maps_are_those_of_a_forward_pass_around_the_tumour(
    run, drawn, tiny_checkpoint, manifest_file, phantom_cache, tmp_path
):
    out = tmp_path / "new" / "fig2"
    code, told, err = run(
        "figures", "features", tiny_checkpoint, manifest_file, "--plane", "coronal", "--channel", "F2=3", "-o", out
    )
    assert (code, err) == (0, "")
    ((shown, plane, channels, index, modality),) = drawn
    assert (plane, channels, index, modality) == ("Coronal", {"F2": 3}, None, "FLAIR")
    val = read_manifest(manifest_file).split("val")
    cases = [next(case for case in val if case.idh == idh) for idh in (1, 0)]
    titles = [f"{cases[0].case_id}\nIDH mutant", f"{cases[1].case_id}\nIDH wild type"]
    assert [one.title for one in shown] == titles
    for case, one in zip(cases, shown, strict=True):
        cached = open_cached(phantom_cache, case.case_id)
        seg = np.array(cached.seg)
        image = cut_cube(np.array(cached.image), seg > 0)
        np.testing.assert_array_equal(one.classes, cut_cube(seg, seg > 0))
        np.testing.assert_array_equal(one.image, image[0])
        expected = forward(tiny_checkpoint, image)
        assert list(one.levels) == list(expected) == ["F1", "F2", "F3", "F4", "F5"]
        for name, level in expected.items():
            np.testing.assert_allclose(one.levels[name], level, rtol=1e-4, atol=1e-5)
        assert f"{case.case_id}: window of 16x16x16 voxels, centred on the tumour of its mask" in told
    assert told.endswith(f"{out}.png, {out}.pdf: drawn. Research use only.\n")
    assert listed(tmp_path) == ["new", "new/fig2.pdf", "new/fig2.png"]  # pictures go where -o says, nowhere else


def test_a_rivals_levels_and_modalities_are_its_own(run, drawn, unet_checkpoint, manifest_file, tmp_path):
    case = read_manifest(manifest_file).cases[0]
    words = ("figures", "features", unet_checkpoint, manifest_file, "--case", case.case_id)
    assert run(*words, "-o", tmp_path / "one.png")[0] == 0
    assert run(*words, "--levels", "L3,L1", "--modality", "t2", "--slice", "15", "-o", tmp_path / "two.pdf")[0] == 0
    (first,), (second,) = (call[0] for call in drawn)
    assert list(first.levels) == ["L1", "L2", "L3"]
    assert [level.shape for level in first.levels.values()] == [(4, 8, 8, 8), (8, 4, 4, 4), (8, 4, 4, 4)]
    assert list(second.levels) == ["L3", "L1"]
    assert (drawn[0][3:], drawn[1][3:]) == ((None, "T1CE"), (15, "T2"))
    assert not np.array_equal(first.image, second.image)
    assert listed(tmp_path) == ["one.png", "two.pdf"]


def test_levels_are_all_volumes_but_the_image():
    small = {"feature_size": 4, "hidden_size": 12, "mlp_dim": 16, "num_heads": 3}
    changes = {f"network.options.{name}": value for name, value in small.items()}
    unetr = override(preset("demo"), {**PATCH, "network.kind": "unetr", "network.idh_head.hidden": [8], **changes})
    assert list_levels(unetr) == {f"L{number}": (12, 1, 1, 1) for number in range(1, 5)}
    short = override(preset("demo"), {**PATCH, "network.tasks": ["idh"], "network.idh_head.levels": ["F2"]})
    assert {name: shape[1:] for name, shape in list_levels(short).items()} == {"F1": (16,) * 3, "F2": (8,) * 3}


def test_without_a_mask_the_prediction_or_the_brain_is_the_centre(
    run, drawn, write_tiny, without_masks, phantom_cache, tmp_path, monkeypatch
):
    case_id = read_manifest(without_masks).cases[0].case_id
    volume = np.array(open_cached(phantom_cache, case_id).image, np.float32)
    labels = np.zeros(volume.shape[1:], np.uint8)

    def predict(network, image, *arguments):
        np.testing.assert_array_equal(image, volume)
        return VolumePrediction(torch.from_numpy(np.eye(4, dtype=np.float32)[labels]).permute(3, 0, 1, 2), None)

    monkeypatch.setattr("mttu.report.feature_maps.predict_volume", predict)
    both, blind = write_tiny(tmp_path / "both"), write_tiny(tmp_path / "blind", {"network.tasks": ["idh"]})
    places = []
    for checkpoint, side in ((both, 6), (both, 0), (blind, 0)):
        labels[:] = 0
        labels[20 : 20 + side, 3 : 3 + side, 9 : 9 + side] = 2
        words = ("figures", "features", checkpoint, without_masks, "--case", case_id, "-o", tmp_path / "fig.png")
        code, told, _ = run(*words)
        assert code == 0
        places.append(told.splitlines()[-2].partition("voxels, ")[2])
        if side:
            expected = cut_cube(volume, labels > 0)[0], cut_cube(labels, labels > 0).copy()
    assert places == ["centred on the predicted tumour", *["centred on the brain, as no tumour is known"] * 2]
    predicted, empty, blank = (call[0][0] for call in drawn)
    np.testing.assert_array_equal(predicted.image, expected[0])
    np.testing.assert_array_equal(predicted.classes, expected[1])
    for centred in (empty, blank):
        np.testing.assert_array_equal(centred.image, cut_cube(volume, (volume != 0).any(axis=0))[0])
    assert [one.title.endswith("\nmask: predicted") for one in (predicted, empty, blank)] == [True, True, False]
    assert not empty.classes.any()
    assert blank.classes is None


def test_an_empty_mask_is_shown_around_the_prediction_and_damaged_weights_are_told(
    run, drawn, write_tiny, phantom_manifest, tmp_path
):
    case = phantom_manifest.cases[0]
    image = nib.load(case.seg)
    root = tmp_path / "data"
    save(root / "seg.nii.gz", np.zeros(image.shape), image.affine)
    images = {name: root / path.name for name, path in case.images.items()}
    for name, path in case.images.items():
        images[name].symlink_to(path)
    manifest = tmp_path / "empty.parquet"
    empty = replace(case, images=images, seg=root / "seg.nii.gz", brain_mask=None)
    write_manifest(replace(phantom_manifest, root=root, cases=(empty,)), manifest)
    words = (manifest, "--case", case.case_id, "-o", tmp_path / "fig.png")
    checkpoint = write_tiny(tmp_path / "best")
    assert run("figures", "features", checkpoint, *words)[0] == 0
    (shown,) = drawn[0][0]
    assert not shown.classes.any()
    assert "predicted" not in shown.title  # the mask that is shown is the given one
    (tmp_path / "fig.png").unlink()
    network, config = read_checkpoint(checkpoint)
    weights = network.state_dict()
    weights["encoder.stem.weight"][0, 0, 0, 0, 0] = float("nan")
    write_checkpoint(checkpoint, weights, config, {})
    code, _, err = run("figures", "features", checkpoint, *words)
    assert code == 2
    assert f"case {case.case_id}: the network's seg_logits are not finite" in err
    assert not (tmp_path / "fig.png").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--case", "nobody"), "--case nobody: unknown; manifest"),
        (("--case", "phantom_000", "--case", "phantom_000"), "--case phantom_000: named 2 times; name it once"),
        (("--case", "phantom_000", "--split", "val"), "--split: chooses the cases where none is named"),
        (("--split", "unlabelled"), "split unlabelled has no case that is known to be IDH mutant"),
        (("--split", "best"), "split 'best': unknown"),
        (("--levels", "F1,F6"), "--levels F6: the network has no such level; it has F1, F2, F3, F4, F5"),
        (("--channel", "F1=4"), "--channel F1=4: F1 has the channels 0 to 3"),
        (("--levels", "F1", "--channel", "F2=1"), "--channel F2=1: F2 is not shown; shown are F1"),
        (("--channel", "F1"), "--channel 'F1': give a level and a channel, counted from 0, e.g. F5=12"),
        (("--channel", "F1=1", "--channel", "F1=2"), "--channel F1=2: F1 has channel 1 already"),
        (("--plane", "oblique"), "--plane 'oblique': unknown; choose one of axial, coronal, sagittal"),
        (("--slice", "16"), "--slice 16: the window has the axial planes 0 to 15 (patch.size)"),
        (("--modality", "dwi"), "--modality 'dwi': the network does not see it; choose one of flair, t1ce, t1, t2"),
        (("--device", "tpu"), "device 'tpu': choose auto, cpu or gpu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_feature_maps_that_are_not_there_are_refused(run, tiny_checkpoint, manifest_file, tmp_path, words, said):
    code, _, err = run("figures", "features", tiny_checkpoint, manifest_file, *words, "-o", tmp_path / "fig")
    assert code == 2
    assert said in err
    assert listed(tmp_path) == []


def test_all_problems_are_told_at_once(run, tiny_checkpoint, manifest_file, tmp_path):
    (tmp_path / "fig.pdf").write_text("mine")
    words = ("--case", "nobody", "--plane", "up", "--levels", "F9", "-o", tmp_path / "fig")
    code, _, err = run("figures", "features", tiny_checkpoint, manifest_file, *words)
    assert code == 2
    assert [line.split(":")[1].split()[0] for line in err.splitlines()] == ["output", "--case", "--plane", "--levels"]
    assert "fig.pdf: holds something that `mttu figures` did not draw; give another name" in err
    assert listed(tmp_path) == ["fig.pdf"]
    assert (tmp_path / "fig.pdf").read_text() == "mine"


def test_an_ensemble_is_refused_and_its_member_drawn(run, drawn, tiny_checkpoint, manifest_file, tmp_path):
    write_ensemble(tmp_path / "ensemble", [tiny_checkpoint])
    words = (manifest_file, "-o", tmp_path / "fig.png")
    code, _, err = run("figures", "features", tmp_path / "ensemble", *words)
    assert code == 2
    assert "is an ensemble; one network is needed here: give one of its members" in err
    assert run("figures", "features", tmp_path / "ensemble" / "member_1", *words)[0] == 0
    assert len(drawn) == 1


def test_images_that_are_lacking_are_named_and_nothing_is_written(
    run, tiny_checkpoint, unet_checkpoint, phantom_manifest, tmp_path
):
    t1ce_alone = [replace(case, images={"t1ce": case.images["t1ce"]}) for case in phantom_manifest.cases]
    manifest = tmp_path / "t1ce.parquet"
    write_manifest(replace(phantom_manifest, cases=tuple(t1ce_alone), modalities=("t1ce",)), manifest)
    code, _, err = run("figures", "features", unet_checkpoint, manifest, "-o", tmp_path / "fig")
    assert (code, "has no t2; the checkpoint was trained on t1ce, t2" in err) == (2, True)
    gone = [
        replace(case, images={name: path.with_name(f"gone_{path.name}") for name, path in case.images.items()})
        for case in phantom_manifest.cases[:1]
    ]
    write_manifest(replace(phantom_manifest, cases=tuple(gone) + phantom_manifest.cases[1:]), manifest)
    named = [word for case in phantom_manifest.cases[:2] for word in ("--case", case.case_id)]
    code, _, err = run("figures", "features", tiny_checkpoint, manifest, *named, "-o", tmp_path / "fig")
    assert code == 2
    assert f"case {gone[0].case_id}: " in err
    assert "gone_" in err
    assert phantom_manifest.cases[1].case_id not in err
    assert listed(tmp_path) == ["t1ce.parquet"]


def test_a_picture_of_ours_is_replaced_and_no_other(run, drawn, write_tiny, manifest_file, tmp_path):
    checkpoint = write_tiny(tmp_path / "best", {"network.tasks": ["idh"], "network.idh_head.levels": ["F1"]})
    words = ("figures", "features", checkpoint, manifest_file, "--levels", "F1", "-o")
    assert run(*words, tmp_path / "fig")[0] == 0
    first = [(tmp_path / name).read_bytes() for name in ("fig.png", "fig.pdf")]
    assert run(*words, tmp_path / "fig", "--slice", "3")[0] == 0
    assert (tmp_path / "fig.png").read_bytes() != first[0]
    assert run(*words, tmp_path / "fig")[0] == 0
    assert [(tmp_path / name).read_bytes() for name in ("fig.png", "fig.pdf")] == first
    Figure(figsize=(1, 1)).savefig(tmp_path / "theirs.png")
    before = (tmp_path / "theirs.png").read_bytes()
    for output, said in (
        (tmp_path / "theirs.png", "holds something that `mttu figures` did not draw"),
        (tmp_path / "best", "is a folder; name the picture, e.g."),
        (tmp_path / "fig.svg", "pictures are written as png and pdf"),
        (tmp_path / "fig.png" / "x", f"{tmp_path / 'fig.png'} is a file; give another folder"),
    ):
        code, _, err = run(*words, output)
        assert (code, said in err) == (2, True), err
    assert (tmp_path / "theirs.png").read_bytes() == before


# surfaces

SHAPE = (20, 18, 14)
AFFINE = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [2, 0, 0, 0], [0, 0, 0, 1]], float)
"""The first axis runs upwards in steps of 2 mm, the second to the right, the third to the front."""


def cube(start=6, side=5):
    seg = np.zeros(SHAPE, np.uint8)
    seg[start : start + side, 6:11, 4:9] = 2
    seg[start + 1 : start + side - 1, 7:10, 5:8] = 4
    return seg


def save(path, seg, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(seg.astype(np.uint8), affine), path)


@pytest.fixture
def cubes(phantom_manifest, tmp_path):
    """A manifest of four test cases whose tumour is a cube; the last one has no mask."""
    cases = []
    for number, case in enumerate(phantom_manifest.cases[:4]):
        folder = tmp_path / "data" / case.case_id
        save(folder / "seg.nii.gz", cube())
        images = {name: folder / f"{name}.nii.gz" for name in phantom_manifest.modalities}
        seg = folder / "seg.nii.gz" if number < 3 else None
        cases.append(replace(case, images=images, seg=seg, brain_mask=None, split="test", idh=number % 2))
    path = tmp_path / "cubes.parquet"
    write_manifest(Manifest(tmp_path / "data", tuple(cases), phantom_manifest.modalities, synthetic=True), path)
    return path


@pytest.fixture
def ids(cubes):
    return [case.case_id for case in read_manifest(cubes).cases]


@pytest.fixture
def predict(tmp_path, ids):
    """Writes a folder of predictions: `predict("A", 3)` moves the cubes by three voxels on the first axis."""

    def write(name, shift, failed=(), labels="brats", change=lambda seg: seg):
        staging = open_staging(tmp_path / name)
        rows = [PredictionRow(case_id, 1.0, "", 0.5, 1.0, 1.0, 1.0, False, False) for case_id in ids]
        rows = [
            PredictionRow(row.case_id, 1.0, f"case {row.case_id}: broken") if row.case_id in failed else row
            for row in rows
        ]
        for row in rows:
            if not row.error:
                save(staging / mask_name(row.case_id), change(cube(6 + shift)))
                (staging / overlay_name(row.case_id)).write_bytes(b"")
        write_tables(staging, rows, {"labels": labels, "checkpoint": "run/best"})
        publish(tmp_path / name)
        return f"{name}={tmp_path / name}"

    return write


@pytest.fixture
def figures(monkeypatch):
    """The figures that were drawn, coarsely; none is written."""
    found = []

    def note(figure, *arguments):
        found.append(figure)
        return []

    monkeypatch.setattr("mttu.report.surfaces.draw_surface_distance", partial(draw_surface_distance, pixels=24))
    monkeypatch.setattr("mttu.report.pictures.save_figure", note)
    return found


def said_below(figure):
    """Title of each panel to the text below it."""
    return {panel.get_title(): panel.texts[0].get_text() for panel in figure.axes if panel.get_title()}


def test_distances_of_a_shifted_cube_are_the_shift(run, cubes, ids, predict, figures, tmp_path):
    systems = ("--system", predict("same", 0), "--system", predict("far", 3, failed=ids[:1]))
    places = np.argwhere(cube() > 0)
    border = places[
        (np.abs(places - (8, 8, 6)) == 2).any(axis=1)
    ]  # the faces of a cube of five voxels around (8, 8, 6)
    nearest = cdist(np.add(border, (3, 0, 0)), border).min(axis=1)
    assert nearest.max() == 3.0
    code, told, err = run("figures", "surfaces", cubes, *systems, "-o", tmp_path / "fig4")
    assert (code, err) == (0, "")
    assert f"far: run/best, {tmp_path / 'far'}" in told
    assert f"passed over: system far: case {ids[0]}: could not be predicted: case {ids[0]}: broken" in told
    text = f"mean {nearest.mean():.1f}, largest 3.0 voxels"
    assert said_below(figures[0]) == {"same": "mean 0.0, largest 0.0 voxels", "far": text}
    headers = [panel.texts[0].get_text() for panel in figures[0].axes if not panel.get_title() and panel.texts]
    words = "IDH mutant, whole tumour", "IDH wild type, whole tumour"
    assert headers == [f"{ids[1]}, {words[0]}", f"{ids[2]}, {words[1]}"]  # the first one failed, the last has no mask
    words = ("--case", ids[2], "--unit", "mm", "--region", "et", "-o", tmp_path / "fig4.png")
    assert run("figures", "surfaces", cubes, *systems, *words)[0] == 0
    assert said_below(figures[1])["far"].endswith("largest 6.0 mm")  # 3 voxels of 2 mm
    assert said_below(figures[1])["same"] == "mean 0.0, largest 0.0 mm"


def test_masks_come_in_lps_order(run, cubes, ids, predict, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("mttu.report.surfaces.draw_surface_distance", lambda *given: (shown.append(given), Figure())[1])
    words = ("--system", predict("A", 2), "--case", ids[1], "-o", tmp_path / "fig.png")
    assert run("figures", "surfaces", cubes, *words)[0] == 0
    ((case,), unit) = shown[0]
    assert (unit, case.spacing_mm) == ("voxel", (1.0, 1.0, 2.0))
    # the second axis, turned from right to left; the third one, turned from front to back; the first one, upwards
    for found, start in ((case.truth, 6), (case.predictions["A"], 8)):
        np.testing.assert_array_equal(found, np.transpose(cube(start) > 0, (1, 2, 0))[::-1, ::-1])


def test_masks_of_another_tool_stand_beside_ours(run, cubes, ids, predict, figures, tmp_path):
    for case_id in ids[:2]:
        save(tmp_path / "other" / f"{case_id}.nii.gz", np.array([0, 0, 1, 0, 3])[cube(7)])  # msd: edema 1, enhancing 3
    systems = ("--system", predict("ours", 0), "--system", f"theirs={tmp_path / 'other'}")
    words = (*systems, "--labels", "msd", "-o", tmp_path / "fig.png")
    assert run("figures", "surfaces", cubes, *words, "--region", "et")[0] == 0
    assert said_below(figures[0])["theirs"].endswith("largest 1.0 voxels")
    code, _, err = run("figures", "surfaces", cubes, *words, "--case", ids[2])
    assert (code, f"system theirs: case {ids[2]}: there is no mask in" in err) == (2, True)
    code, _, err = run("figures", "surfaces", cubes, *systems, "-o", tmp_path / "fig.png")
    assert (code, "with the labels of its masks (--labels)" in err) == (2, True)
    code, _, err = run("figures", "surfaces", cubes, *words[:2], *words[4:])
    assert (code, "--labels msd: `mttu predict` wrote every folder" in err) == (2, True)
    assert not (tmp_path / "fig.png").exists()


def test_surfaces_that_cannot_be_drawn_are_refused(run, cubes, ids, predict, tmp_path):
    good, broken = predict("good", 0), predict("broken", 0, failed=ids[:1])
    whole = predict("whole", 0, labels="whole-tumour", change=lambda seg: seg > 0)
    small = predict("small", 0, change=lambda seg: seg[:-1])
    (tmp_path / "broken" / mask_name(ids[1])).unlink()
    (tmp_path / "scores.csv").write_text("case_id,idh_mutant_probability\n")
    before = listed(tmp_path)
    for words, said in (
        ((), "--system: none given; give NAME=FOLDER"),
        (("--system", "good"), "--system 'good': give a name and a folder of predictions"),
        (("--system", good, "--system", good), "there is a system good already"),
        (("--system", f"none={tmp_path / 'data'}"), "system none: predictions"),
        (("--system", f"table={tmp_path / 'scores.csv'}"), "is a table; give a folder of masks"),
        (("--system", good, "--case", "nobody"), "--case nobody: unknown"),
        (("--system", good, "--case", ids[3]), f"case {ids[3]}: the manifest has no tumour mask"),
        (
            ("--system", broken, "--case", ids[0]),
            f"system broken: case {ids[0]}: could not be predicted: case {ids[0]}",
        ),
        (("--system", broken, "--case", ids[1]), f"system broken: case {ids[1]}: the mask {tmp_path}"),
        (("--system", whole, "--region", "tc", "--case", ids[0]), "its masks tell no tc (labels whole-tumour)"),
        (("--system", whole, "--region", "tc"), "split test has no case with a true mask of tc"),
        (("--system", good, "--region", "all"), "--region 'all': unknown; choose one of wt, tc, et"),
        (("--system", good, "--unit", "cm"), "--unit 'cm': unknown; choose one of voxel, mm"),
        (("--system", good, "--split", "val"), "split val has no case with a true mask"),
        (("--system", good, "--system", small), "system small: case phantom_000: true and predicted mask have differ"),
    ):
        code, _, err = run("figures", "surfaces", cubes, *words, "-o", tmp_path / "fig")
        assert (code, said in err) == (2, True), (words, err)
    assert listed(tmp_path) == before


@pytest.mark.slow
def test_two_cases_of_eight_systems_fill_a_page(run, cubes, predict, tmp_path, monkeypatch):
    names = ("U-Net", "V-Net", "DMFNet", "UNETR", "CMSVNet", "MA-MTLN", "nnU-Net (DynUNet)", "MTTU-Net (ours)")
    kept = []

    def draw(*given):
        kept.append(draw_surface_distance(*given))
        return kept[-1]

    monkeypatch.setattr("mttu.report.surfaces.draw_surface_distance", draw)
    systems = [word for shift, name in enumerate(names) for word in ("--system", predict(name, shift % 4))]
    code, _, err = run("figures", "surfaces", cubes, *systems, "-o", tmp_path / "fig4")
    assert (code, err) == (0, "")
    assert (tmp_path / "fig4.png").stat().st_size > 50_000
    assert (tmp_path / "fig4.pdf").read_bytes().startswith(b"%PDF")
    (figure,) = kept
    panels = [panel for panel in figure.axes if panel.get_title()]
    assert [panel.get_title() for panel in panels] == [*names, *names]
    page = figure.bbox.padded(2.0)
    texts = [panel.title for panel in panels] + [text for panel in figure.axes for text in panel.texts]
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)
    pairs = [(one, other) for place, one in enumerate(boxes) for other in boxes[:place] if one.overlaps(other)]
    assert pairs == []


@pytest.mark.slow
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_feature_maps_are_drawn_whole(run, tiny_checkpoint, manifest_file, tmp_path, monkeypatch, plane):
    kept = []
    monkeypatch.setattr(
        "mttu.report.feature_maps.draw_feature_maps",
        lambda *given: (kept.append(draw_feature_maps(*given)), kept[-1])[1],
    )
    words = ("figures", "features", tiny_checkpoint, manifest_file, "--plane", plane, "-o", tmp_path / "fig2")
    assert run(*words)[0] == 0
    assert listed(tmp_path) == ["fig2.pdf", "fig2.png"]
    assert [panel.get_title().split("\n")[0] for panel in kept[0].axes[2:7]] == ["F1", "F2", "F3", "F4", "F5"]
