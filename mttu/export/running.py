"""What the `configs/inference.json` of a bundle is made of: `python -m monai.bundle run` builds and runs these.

Preparation, windows, post-processing and the way back to the original grid are mttu's own, so a bundle needs mttu where
it runs; `Prediction` calls what `mttu predict` calls, and its masks and probabilities are the same because the code is.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from mttu.data.preprocess import prepare_case
from mttu.errors import InputError, RunError, name_some
from mttu.inference.device import describe_device
from mttu.networks import Network
from mttu.networks.checkpoint import read_checkpoint
from mttu.networks.ensemble import read_config
from mttu.predict import PredictionRow, plan_predictions, predict_cases
from mttu.predict.plan import find_input_cases

MODELS = "models"
"""Folder of a bundle that is the checkpoint."""

_log = logging.getLogger(__name__)


class WindowProbabilities(nn.Module):
    """The network of a bundle with one tensor as its output, as MONAI's tools want it.

    `channels` is 4, the labels of each voxel; or 2, wild type and mutant, where the network learned no segmentation.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.segments = "segmentation" in network.learned_tasks
        self.channels = 4 if self.segments else 2

    def forward(self, image: Tensor) -> Tensor:
        """Maps a prepared window (B, C, H, W, D) to probabilities (B, 4, H, W, D) or (B, 2), float32."""
        logits: Tensor = self.network(image)["seg_logits" if self.segments else "idh_logits"]
        return logits.float().softmax(dim=1)


def load_network(bundle_root: str | Path) -> WindowProbabilities:
    """The network of a bundle in evaluation mode, on the CPU.

    Raises:
        InputError: See `mttu.networks.checkpoint.read_checkpoint`.
    """
    return WindowProbabilities(read_checkpoint(_find_models(bundle_root))[0])


class PreparedCases(Dataset[dict[str, Any]]):
    """The cases of a folder, prepared as the network was trained: `case_id`, and `image` (C, H, W, D) in float32.

    Raises:
        InputError: There is no case; or, when it is asked for, a case cannot be prepared.
    """

    def __init__(self, bundle_root: str | Path, dataset_dir: str | Path) -> None:
        self._config = read_config(_find_models(bundle_root))
        self._cases, problems = find_input_cases([_as_path(dataset_dir)], self._config.data.modalities)
        if problems:
            raise InputError(problems)

    def __len__(self) -> int:
        return len(self._cases)

    def __getitem__(self, index: int) -> dict[str, Any]:
        found = self._cases[index]
        if found.case is None:
            raise InputError(f"case {found.case_id}: {found.error}")
        prepared = prepare_case(found.case, self._config.data.modalities, self._config.data.prepare)
        return {"case_id": found.case_id, "image": torch.from_numpy(np.asarray(prepared.image, dtype=np.float32))}


class Prediction:
    """Predicts a folder of cases with the network of a bundle, as `mttu predict` does.

    Args:
        bundle_root: The bundle.
        dataset_dir: A case folder, a folder of case folders, or a manifest (.parquet).
        output_dir: Folder of its own for masks, overlays, `predictions.csv` and `predictions.parquet`.
        labels: Label convention of the masks.
        device: `cpu` or `cuda`.
        changes: Dotted settings over the bundle's, e.g. `{"inference.flips": true}`.
    """

    def __init__(
        self,
        bundle_root: str | Path,
        dataset_dir: str | Path,
        output_dir: str | Path,
        labels: str = "brats",
        device: str | torch.device = "cpu",
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self.bundle_root, self.dataset_dir, self.output_dir = (
            _as_path(path) for path in (bundle_root, dataset_dir, output_dir)
        )
        self.labels, self.device, self.changes = labels, device, dict(changes or {})

    def run(self) -> list[PredictionRow]:
        """Predicts every case; returns one row per case, which are those of the table.

        Raises:
            InputError: Lists every problem of bundle, cases, settings and output folder.
            RunError: Cases failed; the others are written, and the table says why.
        """
        plan = plan_predictions(
            _find_models(self.bundle_root),
            [self.dataset_dir],
            self.output_dir,
            self.labels,
            self.changes,
            _name_device(self.device),
        )
        _log.info("predict: %s", describe_device(plan.device))
        rows = predict_cases(plan, lambda done, row: _log.info("%d of %d: %s", done, len(plan.cases), row.case_id))
        for sentence in (*plan.left_out, *plan.notes):
            _log.warning(sentence)
        for row in rows:
            if row.error or row.warnings:
                _log.warning("%s: %s", row.case_id, row.error or row.warnings)
        failed = [row.case_id for row in rows if row.error]
        if failed:
            raise RunError(
                f"{len(failed)} of {len(rows)} cases failed ({name_some(failed)}); predictions.csv in "
                f"{self.output_dir} says why, and holds the others"
            )
        _log.info("%s: %d predicted. Research use only.", self.output_dir, len(rows))
        return rows


def _find_models(bundle_root: str | Path) -> Path:
    folder = _as_path(bundle_root) / MODELS
    if not folder.is_dir():
        raise InputError(f"bundle_root {bundle_root}: has no folder {MODELS}; pass --bundle_root with the bundle's own")
    return folder


def _as_path(value: str | Path) -> Path:
    """MONAI's command line makes a number of a folder whose name is one."""
    return Path(str(value))


def _name_device(device: str | torch.device) -> Literal["cpu", "gpu"]:
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError):
        chosen = torch.device("meta")
    if chosen.type not in ("cpu", "cuda") or chosen.index:
        raise InputError(f"device {device}: choose cpu or cuda; CUDA_VISIBLE_DEVICES says which card is the first")
    return "gpu" if chosen.type == "cuda" else "cpu"
