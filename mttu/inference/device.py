"""Where a network runs in this process, and in which arithmetic: decided here for every command."""

from typing import Literal

import torch

from mttu.config.training import PrecisionSetting
from mttu.errors import InputError, say_count

Precision = Literal["float32", "bfloat16"]


def choose_device(setting: str) -> torch.device:
    """The device in this process.

    Args:
        setting: auto, cpu or gpu.

    Raises:
        InputError: Another word, or a GPU is asked for and there is none.
    """
    if setting not in ("auto", "cpu", "gpu"):
        raise InputError(f"device {setting!r}: choose auto, cpu or gpu")
    available = torch.cuda.is_available()
    if setting == "gpu" and not available:
        raise InputError("device gpu: no CUDA device was found; choose cpu or auto")
    return torch.device("cuda" if available and setting != "cpu" else "cpu")


def describe_device(device: torch.device) -> str:
    """Which device of this process the work runs on, as a user reads it."""
    if device.type == "cuda":
        return f"on the GPU: {torch.cuda.get_device_name(device)}"
    return f"on the CPU: {say_count(torch.get_num_threads(), 'thread', 'threads')}"


def choose_precision(setting: PrecisionSetting, device: torch.device) -> Precision:
    """Arithmetic of the forward pass, in training, validation, test, prediction and scoring alike.

    The IDH head, from pooling to logits, is in float32 whatever this says.

    Args:
        setting: `train.precision` of the settings that the network was trained with, or what a command was told in its
            place. auto: bfloat16 on a GPU, float32 on a CPU.
        device: Where the network runs.
    """
    if setting == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return setting
