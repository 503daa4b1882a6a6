from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from mttu.config import override
from mttu.networks import build_network
from mttu.networks.checkpoint import write_checkpoint
from mttu.search.presets import preset

MODALITIES = ("flair", "t1ce", "t1", "t2")
LPS_1MM = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture(scope="session")
def write_case():
    """Writes a case folder: a noisy box of brain, and a mask if given."""

    def write(root, case_id, shape=(30, 34, 28), affine=LPS_1MM, seg=None, modalities=MODALITIES):
        folder = root / case_id
        folder.mkdir(parents=True)
        generator = np.random.default_rng(sum(case_id.encode()))
        for name in modalities:
            image = np.zeros(shape, dtype=np.int16)
            image[3:-3, 3:-3, 3:-3] = generator.integers(50, 900, [size - 6 for size in shape])
            nib.save(nib.Nifti1Image(image, affine), folder / f"{case_id}_{name}.nii.gz")
        if seg is not None:
            nib.save(nib.Nifti1Image(seg.astype(np.uint8), affine), folder / f"{case_id}_seg.nii.gz")
        return folder

    return write


@pytest.fixture(scope="session")
def write_demo_checkpoint():
    """Writes a small network with random weights and the demo settings."""

    def write(folder, **changes):
        dotted = {name.replace("__", "."): value for name, value in changes.items()}
        config = override(preset("demo"), dotted)
        with torch.random.fork_rng():
            torch.manual_seed(11)
            write_checkpoint(folder, build_network(config.network).state_dict(), config, {})
        return folder

    return write


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, write_demo_checkpoint):
    return write_demo_checkpoint(tmp_path_factory.mktemp("run") / "best")


@pytest.fixture
def cases(tmp_path, write_case):
    """A folder of two cases, "a" and "b"."""
    root = tmp_path / "cases"
    write_case(root, "a")
    write_case(root, "b")
    return root


class Constant(nn.Module):
    """Calls every voxel one class; its IDH-mutant probability is one half."""

    def __init__(self, index):
        super().__init__()
        self.index = index

    def forward(self, image):
        logits = torch.zeros(1, 4, *image.shape[2:])
        logits[:, self.index] = 10.0
        return {"seg_logits": logits, "idh_logits": torch.zeros(1, 2)}


@pytest.fixture(scope="session")
def call_all():
    """The same plan with a network that calls every voxel the given class, in no time."""
    return lambda plan, index: replace(plan, networks=(Constant(index),))
