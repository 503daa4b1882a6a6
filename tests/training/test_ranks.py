"""Two ranks compute what one does; a resume keeps the bits for any number of ranks."""

import os
import shutil
from contextlib import contextmanager
from dataclasses import asdict

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from mttu.ablations import preset
from mttu.config import override
from mttu.data.augment import Augmentation
from mttu.data.cache import open_cached
from mttu.data.labels import WHOLE_TUMOUR
from mttu.data.loaders import Batch
from mttu.losses import idh_class_weights
from mttu.metrics.empty_masks import summarise_region
from mttu.metrics.segmentation import RegionScores
from mttu.training.evaluation import evaluate
from mttu.training.loop import fit, task_losses
from mttu.training.run import task_of
from mttu.training.runtime import LocalRuntime
from mttu.training.state import create_state

STILL = Augmentation((False,) * 3, 0.0, (1.0,) * 4, (0.0,) * 4)
IDH = [1, -1, -1, 0]  # unequal counts of labels on two ranks of two
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
        selected=torch.ones(stop - first, dtype=torch.bool),
        case_ids=tuple("abcd"[part]),
        augmentations=(STILL,) * (stop - first),
    )


def gradients(config, runtime, batch):
    state = create_state(config, runtime.device)
    network = runtime.prepare(state.network)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eval()  # frozen: statistics of a batch would differ between ranks
    weights = torch.tensor(idh_class_weights(IDH))
    losses, labelled = task_losses(network(batch.image), batch, batch.seg, weights, config, runtime)
    state.weighting(losses, labelled).backward()
    parameters = [*state.network.named_parameters(), *state.weighting.named_parameters()]
    return {name: parameter.grad for name, parameter in parameters}


SETTINGS = {
    "pooled Dice": {},
    "Dice per sample": {"loss.dice_pool": "sample"},
    "focal losses, equal weights": {"loss.segmentation": "focal", "loss.idh": "focal", "loss.task_weighting": "equal"},
}
COMBINATIONS = (
    ("pooled Dice", "none"),
    ("pooled Dice", "second rank"),
    ("pooled Dice", "every mask"),
    ("Dice per sample", "both ranks"),
    ("focal losses, equal weights", "second rank"),
)


def configs():
    common = override(preset("demo"), {**DROPOUT_OFF, "network.bottleneck.position_grid": [2, 2, 2]})
    return {(name, masks): override(common, SETTINGS[name]) for name, masks in COMBINATIONS}


SMALL = {
    "network.widths": [4, 4, 8, 8],
    "network.bottleneck.width": 16,
    "network.bottleneck.num_heads": 2,
    "network.bottleneck.mlp_width": 16,
    "network.idh_head.hidden": [8],
    "patch.size": [16, 16, 16],
    "inference.overlap": 0.0,
}


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
    return metrics, score, asdict(summarise_region(runtime.gather(own), "et", "brats2020"))


def work_of_rank(rank, folder, cases, cache):
    torch.set_num_threads(1)
    with process_group(rank, 2, folder):
        runtime = LocalRuntime(folder)
        found = {}
        for (name, masks), config in configs().items():
            batch = global_batch(2 * rank, 2 * rank + 2, ONLY_WT[masks])
            found[name, masks] = gradients(config, runtime, batch)
        torch.save(found, folder / f"rank{rank}.pt")
        torch.save(scores_of_cases(cases, cache, runtime), folder / f"scores{rank}.pt")


@pytest.fixture(scope="module")
def uneven_cases(phantom_manifest):
    """Five cases: three for one rank, two for the other."""
    return phantom_manifest.cases[:5]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, uneven_cases, phantom_cache):
    """Folder with what two ranks computed; to start them takes longer than their work."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(work_of_rank, (folder, uneven_cases, phantom_cache), nprocs=2)
    return folder


def test_scores_of_two_ranks_equal_those_of_one_bit_by_bit(two_ranks, uneven_cases, phantom_cache):
    alone = scores_of_cases(uneven_cases, phantom_cache, LocalRuntime(two_ranks))
    assert {"val/dice_wt", "val/missed_et", "val/idh_auc", "val/idh_brier"} <= set(alone[0])
    assert alone[2]["counts"] == {"normal": 4, "missed": 1, "spurious": 1, "both-empty": 1, "not-defined": 0}
    for rank in (0, 1):
        assert torch.load(two_ranks / f"scores{rank}.pt", weights_only=True) == alone


def test_gradients_of_two_ranks_equal_those_of_one(two_ranks, tmp_path):
    """Frozen batch norm, no dropout, unequal counts of IDH labels and of masks of both kinds; sigmas included."""
    ranks = [torch.load(two_ranks / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    for setting, config in configs().items():
        alone = gradients(config, LocalRuntime(tmp_path), global_batch(0, 4, ONLY_WT[setting[1]]))
        assert set(ranks[0][setting]) == set(alone)
        for name, expected in alone.items():
            found, twin = ranks[0][setting][name], ranks[1][setting][name]
            assert torch.equal(found, twin), (setting, name)
            allowed = 1e-5 * expected.abs().max().item() + 1e-7  # the latter: rounding of gradients that cancel
            assert (found - expected).abs().max().item() <= allowed, (setting, name)


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
    config = override(tiny, {"train.steps_per_epoch": 4, "train.batch_size": 1})
    multiprocessing.spawn(resume_on_rank, (world_size, config, tmp_path), nprocs=world_size)
    states = [
        torch.load(tmp_path / name / "epoch_00003" / "state.pt", weights_only=True) for name in ("unbroken", "resumed")
    ]
    assert states[0]["history"] == states[1]["history"]
    for part in ("network", "weighting"):
        assert all(torch.equal(states[0][part][name], states[1][part][name]) for name in states[0][part]), part
