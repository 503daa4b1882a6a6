"""Two ranks compute what one does; a resume keeps the bits for any number of ranks."""

import json
import os
import shutil
import time
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
import torch
from filelock import FileLock
from torch import distributed as dist
from torch import multiprocessing

from mttu.config import override
from mttu.data.augment import Augmentation
from mttu.data.cache import open_cached
from mttu.data.labels import WHOLE_TUMOUR
from mttu.data.loaders import Batch
from mttu.errors import InputError, RunError
from mttu.inference.windows import import_monai
from mttu.losses import idh_class_weights
from mttu.metrics.empty_masks import BOTH, summarise_region
from mttu.metrics.segmentation import RegionScores
from mttu.search.presets import preset
from mttu.training import evaluation
from mttu.training.evaluation import evaluate
from mttu.training.inputs import TrainingTask
from mttu.training.loop import clip_gradients, fit, task_losses, train_epoch
from mttu.training.run import task_of
from mttu.training.runtime import LocalRuntime, gather_over_ranks
from mttu.training.state import create_state, write_state

STILL = Augmentation((False,) * 3, 0.0, (1.0,) * 4, (0.0,) * 4)
IDH = [1, -1, -1, 0]  # unequal counts of labels on two ranks of two
SOFT_TERMS = torch.tensor([[0.1, 0.6], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])  # the first label with g = 0.7
HAS_SEG = [True, True, False, True]
ONLY_WT = {  # where the masks are that know the whole tumour only
    "none": [False] * 4,
    "second rank": [False, False, False, True],
    "both ranks": [True, False, False, True],
    "every mask": [True, True, False, True],
}
DROPOUT_OFF = {
    f"network.dropout.{place}": 0.0
    for place in ("stem", "embedding", "attention", "projection", "branch", "mlp", "head")
}


@contextmanager
def process_group(rank, world_size, folder):
    """A rank's process, from the first to the last thing it does; an error in between is told by `spawn`."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    yield
    dist.barrier()
    dist.destroy_process_group()
    os._exit(0)  # threads of torch, now and then, abort an interpreter that takes itself down in order


def global_batch(first, stop, only_wt=ONLY_WT["none"]):
    generator = torch.Generator().manual_seed(11)
    image = torch.randn(4, 4, 16, 16, 16, generator=generator)
    seg = torch.randint(0, 4, (4, 16, 16, 16), generator=generator, dtype=torch.uint8)
    only_wt = torch.tensor(only_wt)
    seg[only_wt] = (seg[only_wt] > 1).to(torch.uint8) * WHOLE_TUMOUR
    part = slice(first, stop)
    return Batch(
        image=image[part],
        seg=seg[part],
        has_seg=torch.tensor(HAS_SEG[part]),
        only_wt=only_wt[part],
        idh=torch.tensor(IDH[part]),
        case_ids=tuple("abcd"[part]),
        augmentations=(STILL,) * (stop - first),
    )


def batch_of(combination, first, stop):
    """Its part of the global batch; with soft labels in the first part only, where the combination says so."""
    batch = global_batch(first, stop, ONLY_WT[combination[1]])
    soft = combination[0].startswith("soft") and first == 0
    return replace(batch, idh_terms=SOFT_TERMS[first:stop]) if soft else batch


def gradients(config, runtime, batch, norm="training"):
    """Losses, gradients and running statistics after a backward pass."""
    state = create_state(config, runtime.device)
    image = batch.image
    if norm == "training":  # over the few voxels of the deepest level, which multiply what single precision rounds
        state.network.double()
        state.network.idh_head.float()  # as it is in any precision
        image = image.double()
    network = runtime.prepare(state.network)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.train(norm == "training")
    weights = torch.tensor(idh_class_weights(IDH))
    losses, labelled = task_losses(network(image), batch, batch.seg, weights, config, runtime)
    state.weighting(losses, labelled).backward()
    clip_gradients(state, config)
    found = {f"loss {name}": loss.detach() for name, loss in losses.items()}
    found |= {f"buffer {name}": buffer for name, buffer in state.network.named_buffers()}
    parameters = [*state.network.named_parameters(), *state.weighting.named_parameters()]
    return found | {name: parameter.grad for name, parameter in parameters}


def take_step(config, runtime, parts, frozen=True):
    """The state after one step in micro-batches, its gradient still there, and its metrics."""
    state = create_state(config, runtime.device)
    network = runtime.prepare(state.network)
    for module in network.modules():
        if frozen and isinstance(module, torch.nn.BatchNorm3d):
            module.eval()
            module.train = lambda mode=True, module=module: module  # stays so, for statistics would differ
    weights = torch.tensor(idh_class_weights(IDH))
    return state, train_epoch(state, network, parts, [("segmentation", "idh")], weights, config, runtime)


def trace_of(state):
    """Gradients of the step, and running statistics after it."""
    parameters = [*state.network.named_parameters(), *state.weighting.named_parameters()]
    return {name: parameter.grad for name, parameter in parameters} | dict(state.network.named_buffers())


def assert_close(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        allowed = 1e-5 * value.abs().max().item() + 1e-7  # the latter: rounding of gradients that cancel
        assert (found[name] - value).abs().max().item() <= allowed, name


SETTINGS = {
    "pooled Dice": {"loss.segmentation": "dice"},
    "Dice per sample": {"loss.dice_pool": "sample", "loss.segmentation": "dice"},
    "Dice and cross entropy, clipped": {"loss.segmentation": "dice_ce", "optim.clip_norm": 0.05},
    "soft IDH labels, focal losses": {"loss.segmentation": "focal", "loss.idh": "focal"},
    "focal losses, equal weights": {"loss.segmentation": "focal", "loss.idh": "focal", "loss.task_weighting": "equal"},
}
COMBINATIONS = (  # losses, masks, batch norm, samples of the first rank
    ("pooled Dice", "none", "frozen", 2),
    ("pooled Dice", "none", "training", 2),
    ("pooled Dice", "second rank", "training", 3),
    ("pooled Dice", "every mask", "training", 1),
    ("Dice per sample", "both ranks", "training", 2),
    ("Dice and cross entropy, clipped", "both ranks", "training", 3),
    ("focal losses, equal weights", "second rank", "training", 3),
    ("soft IDH labels, focal losses", "none", "training", 1),
)


def configs():
    common = override(preset("demo"), {**DROPOUT_OFF, "network.bottleneck.position_grid": [2, 2, 2]})
    return {combination: override(common, SETTINGS[combination[0]]) for combination in COMBINATIONS}


SMALL = {
    "network.widths": [4, 4, 8, 8],
    "network.bottleneck.width": 16,
    "network.bottleneck.num_heads": 2,
    "network.bottleneck.mlp_width": 16,
    "network.idh_head.hidden": [8],
    "patch.size": [16, 16, 16],
    "inference.overlap": 0.0,
}


def pick(batch, places):
    tensors = {name: getattr(batch, name)[places] for name in ("image", "seg", "has_seg", "only_wt", "idh")}
    chosen = {name: tuple(getattr(batch, name)[at] for at in places) for name in ("case_ids", "augmentations")}
    return replace(batch, **tensors, **chosen)


IN_PARTS_MASKS = ONLY_WT["second rank"]


def in_parts(held):
    common = {**DROPOUT_OFF, **SMALL, "network.bottleneck.position_grid": [2, 2, 2]}
    return override(preset("demo"), {**common, "train.global_batch": 4, "train.batch_per_worker": held})


def projected(held):
    """Gradients of the tasks are projected where they conflict, which is after all ranks and micro-batches."""
    return override(in_parts(held), {"loss.task_weighting": "pcgrad"})


def taught(held, changes=None):
    """A teacher that is sure of some voxels, its loss with full weight from the first epoch."""
    sure = {"teacher.masks": True, "teacher.confidence": 0.31, "teacher.ramp_share": 0.0}
    return override(in_parts(held), {**sure, **(changes or {})})


MASKS = [True, False, False, False]
"""Without a mask: one sample of the first rank, both of the second."""


def without_masks(batch, has_seg):
    """The batch with masks of these samples alone, and a part of each image outside of the brain."""
    image = batch.image.clone()
    image[:, :, :4] = 0
    return replace(batch, image=image, has_seg=torch.tensor(has_seg))


def scores_of_cases(cases, cache, runtime):
    """Whole-volume scores, and the summary of a table of regions of which rank 0 has most rows."""
    config = override(next(iter(configs().values())), SMALL)
    prepared = [(case, open_cached(cache, case.case_id)) for case in cases]
    metrics, score, rows = evaluate(create_state(config, runtime.device).network, prepared, config, runtime, "float32")
    rows = [
        {"case_id": f"case {index}", "region": "et", **vars(RegionScores(status, *[index / 7] * 8))}
        for index, status in enumerate(("normal", "missed", "normal", "spurious", "normal", "both-empty", "normal"))
    ]
    own = rows if runtime.world_size == 1 else rows[:1] if runtime.rank else rows[1:][::-1]
    return metrics, score, asdict(summarise_region(gather_over_ranks(own), "et", BOTH["brats2020"]))


def refuse_to_unpickle(*arguments):
    raise AssertionError("what another rank sends is unpickled")


def stale_copy(cache, folder, case_id):
    """A cache that another version of the case lies in."""
    folder.mkdir()
    for place in cache.iterdir():
        (folder / place.name).symlink_to(place)
    (folder / case_id).unlink()
    shutil.copytree(cache / case_id, folder / case_id)
    about = folder / case_id / "case.json"
    content = json.loads(about.read_text())
    about.write_text(json.dumps(content | {"content_hash": content["content_hash"][::-1]}))
    return folder


def part_of(cache, folder, without):
    folder.mkdir()
    for place in cache.iterdir():
        if place.name not in without:
            (folder / place.name).symlink_to(place)
    return folder


def stops_of_rank(rank, cases, cache, folder):
    """What each rank says, and after how many seconds, where one of both or both cannot go on."""
    config = override(next(iter(configs().values())), SMALL)
    first, second, last = cases[0].case_id, cases[1].case_id, cases[4].case_id
    runtime = LocalRuntime(folder / f"no-checkpoint{rank}")
    lacking = [part_of(cache, folder / f"lacking{rank}{at}", [one, last]) for at, one in enumerate((first, second))]
    caches = {
        "blind": (cache, folder / "gone"),
        "both": lacking,
        "stale": (cache, stale_copy(cache, folder / f"stale{rank}", first)),
    }
    said = {}

    def note(name, work):
        started = time.monotonic()
        try:
            work()
        except (InputError, RunError) as error:
            said[name] = (type(error).__name__, str(error), time.monotonic() - started)

    for name, places in caches.items():
        note(name, lambda places=places: fit(TrainingTask(config, cases[:4], cases[4:], places[rank]), runtime))

    def read_nothing():
        raise InputError("cohort.parquet: not found")

    task = TrainingTask(config, cases[:4], cases[4:], cache)
    note("no manifest", lambda: fit(read_nothing if rank else task, runtime))
    if rank:
        evaluation.score_case = lambda *arguments: read_nothing()
    prepared = [(case, open_cached(cache, case.case_id)) for case in cases]
    network = create_state(config, runtime.device).network
    note("validation", lambda: evaluate(network, prepared, config, runtime, "float32"))
    if rank == 0:  # the other one looks for checkpoints elsewhere, as on a disk that is not shared
        newest = runtime.folder / "epoch_00001"
        newest.mkdir(parents=True)
        state = create_state(config, runtime.device)
        state.epoch = 1
        write_state(state, config, newest)
    note("checkpoint", lambda: fit(task, runtime))
    return said


def work_of_rank(rank, folder, cases, cache):
    torch.set_num_threads(1)
    dist.distributed_c10d._unpickler = refuse_to_unpickle
    with process_group(rank, 2, folder):
        runtime = LocalRuntime(folder)
        found = {}
        for combination, config in configs().items():
            _, _, norm, cut = combination
            batch = batch_of(combination, *((0, cut), (cut, 4))[rank])
            found[combination] = gradients(config, runtime, batch, norm)
        torch.save(found, folder / f"rank{rank}.pt")
        parts = [global_batch(first, first + 1, IN_PARTS_MASKS) for first in (2 * rank, 2 * rank + 1)]
        for frozen in (True, False):
            torch.save(trace_of(take_step(in_parts(1), runtime, parts, frozen)[0]), folder / f"{frozen}{rank}.pt")
        torch.save(trace_of(take_step(projected(1), runtime, parts)[0]), folder / f"projected{rank}.pt")
        own = [without_masks(global_batch(at, at + 1), MASKS[at : at + 1]) for at in (2 * rank, 2 * rank + 1)]
        state, metrics = take_step(taught(1), runtime, own)
        torch.save((trace_of(state), state.teacher.state_dict(), metrics), folder / f"taught{rank}.pt")
        torch.save(scores_of_cases(cases, cache, runtime), folder / f"scores{rank}.pt")
        torch.save(stops_of_rank(rank, cases, cache, folder), folder / f"stops{rank}.pt")


def lead(rank, folder, cases, cache):
    """Imports, before both ranks begin, what they need: that takes longer than their work."""
    torch.set_num_threads(1)
    import_monai()
    create_state(next(iter(configs().values())), torch.device("cpu"))  # torch imports its compiler with an optimiser
    multiprocessing.start_processes(work_of_rank, (folder, cases, cache), nprocs=2, start_method="fork")


@pytest.fixture(scope="module")
def uneven_cases(phantom_manifest):
    """Five cases: three for one rank, two for the other."""
    return phantom_manifest.cases[:5]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, uneven_cases, phantom_cache):
    """Folder with what two ranks computed."""
    root = tmp_path_factory.getbasetemp()
    shared = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root  # by all test processes of a run
    folder = shared / "two-ranks"
    with FileLock(shared / "two-ranks.lock"):
        if not (folder / "done").exists():
            folder.mkdir()
            multiprocessing.spawn(lead, (folder, uneven_cases, phantom_cache), nprocs=1)
            (folder / "done").touch()
    return folder


def test_scores_of_two_ranks_equal_those_of_one_bit_by_bit(two_ranks, uneven_cases, phantom_cache):
    alone = scores_of_cases(uneven_cases, phantom_cache, LocalRuntime(two_ranks))
    assert {"val/dice_wt", "val/missed_et", "val/idh_auc", "val/idh_brier"} <= set(alone[0])
    assert alone[2]["counts"] == {"normal": 4, "missed": 1, "spurious": 1, "both-empty": 1, "not-defined": 0}
    for rank in (0, 1):
        assert torch.load(two_ranks / f"scores{rank}.pt", weights_only=True) == alone


def test_gradients_of_two_ranks_equal_those_of_one(two_ranks, tmp_path):
    """No dropout; unequal counts of samples, of IDH labels and of masks of both kinds; losses, sigmas and running
    statistics included.
    """
    ranks = [torch.load(two_ranks / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for setting, config in configs().items():
        alone = gradients(config, LocalRuntime(tmp_path), batch_of(setting, 0, 4), setting[2])
        assert set(ranks[0][setting]) == set(alone)
        for name, expected in alone.items():
            found, twin = ranks[0][setting][name], ranks[1][setting][name]
            assert torch.equal(found, twin), (setting, name)
            allowed = 1e-5 * expected.abs().max().item() + 1e-7  # the latter: rounding of gradients that cancel
            assert (found - expected).abs().max().item() <= allowed, (setting, name)


def test_gradients_of_two_ranks_in_two_micro_batches_each_equal_those_of_one_batch(two_ranks, tmp_path):
    """Only the second rank's last micro-batch has a mask of the whole tumour alone; labels differ in number, too."""
    ranks = [torch.load(two_ranks / f"True{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    state, _ = take_step(in_parts(4), LocalRuntime(tmp_path), [global_batch(0, 4, IN_PARTS_MASKS)])
    assert_close(ranks[0], trace_of(state))


def test_projected_gradients_of_two_ranks_equal_those_of_one(two_ranks, tmp_path):
    ranks = [torch.load(two_ranks / f"projected{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    batch = global_batch(0, 4, IN_PARTS_MASKS)
    state, metrics = take_step(projected(4), LocalRuntime(tmp_path), [batch])
    assert_close(ranks[0], trace_of(state))
    plain, _ = take_step(override(in_parts(4), {"loss.task_weighting": "equal"}), LocalRuntime(tmp_path), [batch])
    differ = [name for name, value in trace_of(plain).items() if not torch.allclose(value, trace_of(state)[name])]
    assert bool(differ) == (metrics["train/task_cosine"] < 0)  # else this test would show nothing of the projection


def test_two_ranks_learn_from_a_teacher_as_one(two_ranks, tmp_path):
    (trace, teacher, metrics), other = (torch.load(two_ranks / f"taught{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(trace[name], other[0][name]) for name in trace)
    assert all(torch.equal(teacher["network"][name], other[1]["network"][name]) for name in teacher["network"])
    assert metrics == other[2]
    state, expected = take_step(taught(4), LocalRuntime(tmp_path), [without_masks(global_batch(0, 4), MASKS)])
    assert 0.01 < metrics["train/teacher_sure"] < 0.99
    assert metrics == pytest.approx(expected, rel=1e-5)
    assert_close(trace, trace_of(state))


def test_batch_norm_of_two_ranks_sees_the_micro_batches_of_both(two_ranks, tmp_path):
    """In training: those of one process that takes the same patches together; its running statistics move as often."""
    ranks = [torch.load(two_ranks / f"False{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(ranks[0][name], ranks[1][name]) for name in ranks[0])
    together = [pick(global_batch(0, 4, IN_PARTS_MASKS), places) for places in ([0, 2], [1, 3])]
    state, _ = take_step(in_parts(2), LocalRuntime(tmp_path), together, frozen=False)
    expected = trace_of(state)
    running = [name for name in expected if "running_" in name]
    assert len(running) > 20
    assert_close(*({name: found[name] for name in running} for found in (ranks[0], expected)))
    gradients = [name for name, _ in (*state.network.named_parameters(), *state.weighting.named_parameters())]
    found, wanted = (torch.cat([one[name].flatten() for name in gradients]) for one in (ranks[0], expected))
    assert (found - wanted).norm() < 2e-4 * wanted.norm()  # each norm amplifies rounding


def test_a_rank_that_cannot_go_on_stops_all_at_once_with_what_each_found(two_ranks, uneven_cases, phantom_cache):
    first, *_, last = (case.case_id for case in uneven_cases)
    node = os.uname().nodename
    ranks = [torch.load(two_ranks / f"stops{rank}.pt", weights_only=True) for rank in (0, 1)]
    names = ["blind", "both", "stale", "no manifest", "validation", "checkpoint"]
    assert [list(said) for said in ranks] == [names, names]
    for name in names:
        (kind, text, seconds), (other_kind, other_text, other_seconds) = (said[name] for said in ranks)
        assert kind == other_kind == "AgreedError", name
        assert text == other_text, name
        assert max(seconds, other_seconds) < 60, name
    said = {name: text for name, (_, text, _) in ranks[0].items()}
    assert said["blind"] == (f"worker 1 on node {node}: the folder of prepared cases {two_ranks / 'gone'} is not there")
    zero, one = (f"worker {rank} on node {node}: case" for rank in (0, 1))
    lines = said["both"].splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"worker {rank} on node {node}" for rank in (0, 0, 1, 1)]
    assert lines[0].startswith(f"{zero} {first}: not prepared in {two_ranks / 'lacking00'}")
    assert lines[3].startswith(f"{one} {last}: not prepared in {two_ranks / 'lacking11'}")
    assert said["stale"].startswith(f"worker 1 on node {node} reads another case {first} than worker 0 on node {node};")
    assert said["no manifest"] == f"worker 1 on node {node}: cohort.parquet: not found"
    assert said["validation"] == f"worker 1 on node {node}: cohort.parquet: not found"
    assert said["checkpoint"].startswith(f"worker 1 on node {node} reads another checkpoint than worker 0")


def resume_on_rank(rank, world_size, config, folder):
    torch.set_num_threads(1)
    with process_group(rank, world_size, folder):
        fit(task_of(config), LocalRuntime(folder / "unbroken"))
        if rank == 0:  # what a kill in the last epoch leaves
            shutil.copytree(folder / "unbroken" / "epoch_00002", folder / "resumed" / "epoch_00002")
        dist.barrier()
        fit(task_of(config), LocalRuntime(folder / "resumed"))


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_a_resume_keeps_the_bits_on_several_ranks(tiny, tmp_path, world_size):
    config = override(tiny, {"train.steps_per_epoch": 4, "train.global_batch": world_size})
    multiprocessing.spawn(resume_on_rank, (world_size, config, tmp_path), nprocs=world_size)
    states = [
        torch.load(tmp_path / name / "epoch_00003" / "state.pt", weights_only=True) for name in ("unbroken", "resumed")
    ]
    assert states[0]["history"] == states[1]["history"]
    for part in ("network", "weighting"):
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part]), part


RIVALS = {
    "dmfnet": {"network.options": {"stem_width": 8, "width": 16, "groups": 4}},
    "resnet50": {"network.options.widen_factor": 0.0625, "network.idh_head.levels": ["L3", "L4"]},
}
"""Networks with batch norm: one of ours, and one of MONAI whose batch norm is torch's."""


def gradients_of_rival(kind, runtime, first=0, stop=4):
    common = {"patch.size": [16, 16, 16], "loss.segmentation": "dice"}
    changes = {"network.kind": kind, **RIVALS[kind], "network.idh_head.hidden": [8], "network.dropout": 0.0}
    config = override(override(preset("demo"), common), changes)
    found = gradients(config, runtime, global_batch(first, stop, ONLY_WT["second rank"]))
    return {name: value for name, value in found.items() if value is not None}  # frozen: resnet50's own IDH head


def rivals_of_rank(rank, folder):
    torch.set_num_threads(1)
    with process_group(rank, 2, folder):
        found = {kind: gradients_of_rival(kind, LocalRuntime(folder), *((0, 3), (3, 4))[rank]) for kind in RIVALS}
        torch.save(found, folder / f"rank{rank}.pt")


@pytest.mark.slow
def test_gradients_of_two_ranks_equal_those_of_one_for_other_networks(tmp_path):
    multiprocessing.spawn(rivals_of_rank, (tmp_path,), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for kind in RIVALS:
        alone = gradients_of_rival(kind, LocalRuntime(tmp_path))
        assert sum("running_" in name for name in alone) > 20
        assert sum(name.endswith("weight") for name in alone) > 20
        assert all(torch.equal(ranks[0][kind][name], ranks[1][kind][name]) for name in alone)
        assert_close(ranks[0][kind], alone)
