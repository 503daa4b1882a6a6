"""A network's forward on one small window, with oneDNN for every convolution and with PyTorch's own choice of kernel.

python benchmarks/small_windows.py [--threads 1] [--repeats 9]

Float32, CPU, repeats interleaved, ratio of medians; outputs must agree within 1e-4 first.
"""

import argparse
import statistics
import sys
from functools import partial
from unittest.mock import patch

import torch
from network import seconds_of
from torch import Tensor, nn

from mttu.networks import build_network
from mttu.search.presets import preset

PRESETS = {"demo": 32, "small": 64, "paper": 128}
"""And the edge of their window in voxels."""


def predict(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    with torch.inference_mode():
        outputs: dict[str, Tensor] = network(image)
    return outputs


def predict_plainly(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    with patch("mttu.networks.cpu.convolution._falls_short_of_onednn", lambda x: False):
        return predict(network, image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name, size in PRESETS.items():
        torch.manual_seed(0)
        network = build_network(preset(name).network).eval()
        image = torch.randn(1, 4, size, size, size)

        run, run_plain = partial(predict, network, image), partial(predict_plainly, network, image)
        difference = max(float((run()[key] - plain).abs().max()) for key, plain in run_plain().items())
        if difference > 1e-4:
            sys.exit(f"{name}: outputs differ by {difference}")
        pairs = [(seconds_of(run_plain, "cpu"), seconds_of(run, "cpu")) for _ in range(arguments.repeats)]
        plain, own = (statistics.median(values) for values in zip(*pairs, strict=True))
        print(f"{name}, {size}^3: {plain / own:.2f}x, {1000 * plain:.0f} ms -> {1000 * own:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
