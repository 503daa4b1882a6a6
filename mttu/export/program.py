"""A checkpoint as a program of torch.export: one window in, logits out, in a file that runs without mttu.

torch.export and not TorchScript, which is deprecated and cannot compile the network. The program is the network alone:
preparation, sliding windows and post-processing are the caller's; `mttu.json` in the file says what they have to be.
"""

import json
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mttu import __version__
from mttu.config import Config
from mttu.data.labels import CLASSES
from mttu.errors import InputError, RunError, raise_if_any
from mttu.figures.overlay import RESEARCH_USE
from mttu.files import atomic_file, find_obstacle, remove
from mttu.networks import Network
from mttu.networks.checkpoint import read_checkpoint
from mttu.networks.ensemble import describe_checkpoint
from mttu.networks.learned import TASKS, explain_missing_answers

SUFFIX = ".pt2"
NOTE = "mttu.json"
"""Extra file inside the program, by which one of ours is known."""
FORMAT_VERSION = 1
TOLERANCE = 1e-4
"""Of a probability. The convolutions of the program are torch's own; those of mttu choose another kernel on a CPU, see
`mttu.networks.cpu.convolution`, so last bits differ."""

_OUTPUTS = {"segmentation": "seg_logits", "idh": "idh_logits"}


@dataclass(frozen=True)
class Agreement:
    """How the program, read back from its file, compares with the network that `mttu predict` runs."""

    largest_difference: float
    """Of any probability, over all windows that were compared."""
    differing_labels: int
    """Voxels whose most probable label is another one."""
    voxels: int
    """Voxels that were compared; 0 without a segmentation."""

    def describe(self) -> str:
        """One sentence for a person."""
        told = f"largest difference of a probability {self.largest_difference:.1e}"
        return f"{told}; {self.differing_labels} of {self.voxels} labels differ" if self.voxels else told


class _Answers(nn.Module):
    """The logits of the tasks that the network learned."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network
        self.names = [_OUTPUTS[task] for task in TASKS if task in network.learned_tasks]

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        outputs = self.network(image)
        return {name: outputs[name] for name in self.names}


def export_program(checkpoint: Path, file: Path) -> Agreement:
    """Writes the program, after reading it back and comparing it with the network; an earlier one is replaced.

    Args:
        checkpoint: Checkpoint folder, or a run folder with `best` inside.
        file: `.pt2` to write.

    Returns:
        How they agree.

    Raises:
        InputError: The checkpoint cannot be read, is an ensemble, has learned nothing, gives values that are not
            finite, or is of a network that torch.export does not understand; or the file cannot be written or holds
            something else.
        RunError: The program's probabilities differ from the network's by more than `TOLERANCE`; nothing is written.
    """
    raise_if_any(_explain_file(file))
    network, config = read_checkpoint(checkpoint)
    missing = explain_missing_answers([network])
    if len(missing) == len(TASKS):
        raise InputError(f"checkpoint {checkpoint}: nothing to export: {'; '.join(missing.values())}")
    answers = _Answers(network).eval()
    windows = _draw_windows(network.in_channels, config.patch.size)
    expected = [_run(answers, window) for window in windows]
    damaged = sorted({name for one in expected for name, values in one.items() if not bool(values.isfinite().all())})
    raise_if_any([f"checkpoint {checkpoint}: its {name} are not finite; its weights are damaged" for name in damaged])
    program = _trace(answers, windows[0], checkpoint, config)
    note = json.dumps(_describe(network, config, checkpoint), indent=1, sort_keys=True)
    with atomic_file(file) as partial:
        try:
            torch.export.save(program, partial, extra_files={NOTE: note})
            module = torch.export.load(partial).module()
            agreement = compare(expected, [_run(module, window) for window in windows])
            if not agreement.largest_difference <= TOLERANCE:
                raise RunError(
                    f"program of {checkpoint}: differs from the network ({agreement.describe()}; at most {TOLERANCE:g} "
                    "is accepted), so nothing was written"
                )
        except BaseException:
            remove(partial)
            raise
    return agreement


def compare(expected: list[dict[str, Tensor]], found: list[dict[str, Tensor]]) -> Agreement:
    """Compares logits by name, window by window, after a softmax over channels; outputs that lack are no agreement."""
    largest, labels, voxels = 0.0, 0, 0
    for wanted, given in zip(expected, found, strict=True):
        if wanted.keys() != given.keys():
            return Agreement(float("inf"), voxels, voxels)
        for name, logits in wanted.items():
            difference = (logits.softmax(dim=1) - given[name].softmax(dim=1)).abs().max()
            largest = max(largest, float(difference.nan_to_num(nan=float("inf"))))
            if name == "seg_logits":
                labels += int((logits.argmax(dim=1) != given[name].argmax(dim=1)).sum())
                voxels += logits[:, 0].numel()
    return Agreement(largest, labels, voxels)


def _explain_file(file: Path) -> list[str]:
    if file.suffix != SUFFIX:
        return [f"program {file}: the name must end in {SUFFIX}, which torch.export reads"]
    obstacle = find_obstacle(file)
    if obstacle:
        return [f"program {file}: {obstacle}"]
    if file.is_symlink() or file.is_dir():
        return [f"program {file}: is a {'link' if file.is_symlink() else 'folder'}; give a file"]
    if file.exists() and not _is_ours(file):
        return [f"program {file}: is no program of mttu and would be lost; give another name"]
    return []


def _is_ours(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return any(name.endswith(f"extra/{NOTE}") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _draw_windows(channels: int, size: tuple[int, int, int]) -> list[Tensor]:
    """Noise that fills the window, for tracing too, and noise in a box with zeros around it, as at a brain's edge."""
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(1, channels, *size, generator=generator)
    inside = torch.zeros(size)
    inside[tuple(slice(axis // 4, axis) for axis in size)] = 1.0
    return [full, torch.randn(1, channels, *size, generator=generator) * inside]


def _run(module: nn.Module, window: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        outputs: dict[str, Tensor] = module(window)
    return {name: values.float() for name, values in outputs.items()}


def _trace(answers: nn.Module, window: Tensor, checkpoint: Path, config: Config) -> ExportedProgram:
    """The program, with torch's own convolutions: oneDNN is switched off for tracing, so none is bound to it."""
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("ignore", "TF32 acceleration", UserWarning)  # of the switch, about Intel's GPUs
            with torch.backends.mkldnn.flags(enabled=False):
                program = torch.export.export(answers, (window,), strict=False)
    except MemoryError:
        raise
    except Exception as error:  # whatever torch.export raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise InputError(
            f"checkpoint {checkpoint}: torch.export does not understand {config.network.kind} ({reason}); export it as "
            "a bundle"
        ) from error
    program.example_inputs = None  # else the file holds the window, as a pickle
    return program


def _describe(network: Network, config: Config, checkpoint: Path) -> dict[str, Any]:
    """What a caller has to know to use the program; JSON values."""
    return {
        "format_version": FORMAT_VERSION,
        "mttu_version": __version__,
        "torch_version": torch.__version__,
        "intended_use": RESEARCH_USE,
        "network": config.network.kind,
        "weights_sha256": describe_checkpoint(checkpoint)["weights_sha256"],
        "input": {"shape": [1, network.in_channels, *config.patch.size], "channels": list(config.data.modalities)},
        "outputs": {
            "seg_logits": {"channels": list(CLASSES), "tells_parts": network.learned_parts},
            "idh_logits": {"channels": ["wild type", "mutant"]},
        },
        "learned_tasks": sorted(network.learned_tasks),
        "prepare": config.data.prepare.model_dump(mode="json"),
        "inference": config.inference.model_dump(mode="json"),
    }
