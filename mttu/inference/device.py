"""Where a network runs in this process, and in which arithmetic: decided here for every command."""

from typing import Literal

import torch

from mttu.config.training import PrecisionSetting
from mttu.errors import InputError, say_count

Precision = Literal["float32", "bfloat16"]


def choose_device(setting: str) -> torch.device:
    """The device in this process; the setting is auto, cpu or gpu.

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
    """The device, in words for the user."""
    if device.type == "cuda":
        return f"on the GPU: {torch.cuda.get_device_name(device)}"
    return f"on the CPU: {say_count(torch.get_num_threads(), 'thread', 'threads')}"


def choose_precision(setting: PrecisionSetting, device: torch.device) -> Precision:
    """Arithmetic of the forward pass, in training, validation, test, prediction and scoring alike.

    auto: bfloat16 on a GPU, float32 on a CPU. The IDH head, from pooling to logits, is always in float32.
    """
    if setting == "auto":
        return "bfloat16" if device.type == "cuda" else "float32"
    return setting
