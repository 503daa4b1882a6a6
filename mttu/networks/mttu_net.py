"""MTTU-Net (Cheng et al., IEEE TMI 2022, section III-A, Fig. 1; doi:10.1109/TMI.2022.3142321).

Axes are (B, C, H, W, D). With the default settings and a 128^3 patch:
    image (B, 4, 128, 128, 128) -> F1 (B, 16, 128^3), F2 (B, 32, 64^3), F3 (B, 64, 32^3), F4 (B, 128, 16^3)
    F4 -> F5 (B, 512, 16^3);  F1, F2, F3, F5 -> seg_logits (B, 4, 128^3);  F4, F5 -> idh_logits (B, 2)
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from mttu.config import NetworkSettings
from mttu.config.network import IdhHeadSettings, RivalHeadSettings, Task
from mttu.errors import raise_if_any
from mttu.networks.autocast import without_autocast
from mttu.networks.bottleneck import build_bottleneck
from mttu.networks.cnn import LEVELS, Decoder, Encoder

NUM_CLASSES = 2
"""0: wild type, 1: mutant."""
_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "gelu": nn.GELU}


class IdhHead(nn.Module):
    """Global average and max pooling of each level, concatenated; dropout on the pooled features; linear layers.

    All of it is computed in float32, under autocast too: eight bits of mantissa are too few for a mean over 4096 tokens
    and for a logit near a threshold, and lower precision would save next to nothing here.

    `widths` holds the channels of each level by name; other levels are ignored. Settings without levels mean all.
    """

    def __init__(
        self, settings: IdhHeadSettings | RivalHeadSettings, widths: Mapping[str, int], dropout: float
    ) -> None:
        super().__init__()
        self.feature_levels: tuple[str, ...] = settings.levels or tuple(widths)
        self.dropout = nn.Dropout(dropout)
        sizes = [2 * sum(widths[name] for name in self.feature_levels), *settings.hidden, NUM_CLASSES]
        layers: list[nn.Module] = [nn.Linear(sizes[0], sizes[1])]
        for fan_in, fan_out in pairwise(sizes[1:]):
            if settings.activation != "none":
                layers.append(_ACTIVATIONS[settings.activation]())
            layers.append(nn.Linear(fan_in, fan_out))
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, 2) from levels of any size (B, C, H, W, D); softmax is the caller's."""
        return self.classify(self.pool(features))

    def pool(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Average and maximum (B, 2C), float32, of each given level that the head reads."""
        return {
            name: torch.cat([pool(features[name].float(), dim=(2, 3, 4)) for pool in (torch.mean, torch.amax)], dim=1)
            for name in self.feature_levels
            if name in features
        }

    def classify(self, pooled: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, 2), float32, from the pooled levels (B, 2C)."""
        joined = torch.cat([pooled[name] for name in self.feature_levels], dim=1)
        with without_autocast(joined):
            logits: Tensor = self.layers(self.dropout(joined))
        return logits


STRIDE = 8
"""Voxels per token on each axis: F4 has halved the image three times."""


class MttuNet(nn.Module):
    """Encoder, bottleneck, decoder and IDH head; only the parts that the tasks need are built.

    Without the segmentation task there is no decoder, and encoder and bottleneck end at the deepest level that the
    IDH head reads. So every parameter takes part in the loss.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.tasks = frozenset(settings.tasks)
        self.learned_tasks = self.tasks
        """Tasks whose head was trained on at least one label; set by training, and when weights are loaded. The other
        logits are meaningless, see `mttu.networks.learned`."""
        self.learned_parts = True
        """Whether training masks distinguished the parts of a tumour; if not, only the whole tumour is meaningful."""
        self.in_channels = settings.in_channels
        widths = dict(zip(LEVELS, settings.widths, strict=True)) | {"F5": settings.bottleneck.width}
        segments, classifies = "segmentation" in settings.tasks, "idh" in settings.tasks
        deepest = "F5" if segments else max(settings.idh_head.levels)
        num_levels = min(int(deepest[1]), len(LEVELS))  # "F3" -> 3
        levels = settings.widths[:num_levels], settings.blocks[:num_levels]
        self.encoder = Encoder(settings.in_channels, *levels, settings.dropout.stem)
        self.bottleneck = (
            build_bottleneck(settings.bottleneck, widths["F4"], settings.dropout) if deepest == "F5" else None
        )
        self.decoder = Decoder(settings.widths, widths["F5"]) if segments else None
        self.idh_head = IdhHead(settings.idh_head, widths, settings.dropout.head) if classifies else None

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Maps images to logits, one entry per task.

        Args:
            image: (B, in_channels, H, W, D); H, W and D are multiples of 8.

        Returns:
            `seg_logits` (B, 4, H, W, D) and `idh_logits` (B, 2).

        Raises:
            InputError: The number of axes or channels, or a size, is wrong.
        """
        return self.run_heads(self.encode(image))

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """The feature levels F1 to F5 by name, as many as were built; takes and raises the same as `forward`."""
        self._check(image)
        features: dict[str, Tensor] = self.encoder(image.contiguous(memory_format=torch.channels_last_3d))
        if self.bottleneck is not None:
            features["F5"] = self.bottleneck(features["F4"])
        return features

    def run_heads(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """The heads' logits from the feature levels, as `forward` returns them."""
        logits = {}
        if self.decoder is not None:
            logits["seg_logits"] = self.decoder(features)
        if self.idh_head is not None:
            logits["idh_logits"] = self.idh_head(features)
        return logits

    def parameters_of(self, task: Task) -> Iterator[nn.Parameter]:
        """The parameters that the task's logits depend on; none if the network does not have the task."""
        head = {"segmentation": self.decoder, "idh": self.idh_head}[task]
        if head is None:
            return
        deepest = "F5" if self.idh_head is not head else max(self.idh_head.feature_levels)
        yield from self.encoder.stem.parameters()
        yield from self.encoder.levels[: int(deepest[1])].parameters()  # "F3" -> 3
        if self.bottleneck is not None and deepest == "F5":
            yield from self.bottleneck.parameters()
        yield from head.parameters()

    def _check(self, image: Tensor) -> None:
        found = tuple(image.shape)
        if image.ndim != 5:
            raise_if_any([f"image: found {image.ndim} axes {found}; expected five, (batch, channel, H, W, D)"])
        problems = []
        if image.shape[1] != self.in_channels:
            problems.append(
                f"image: found {image.shape[1]} channels in {found}; the network takes {self.in_channels}, "
                "one per modality, on the second axis"
            )
        if any(size == 0 or size % STRIDE for size in image.shape[2:]):
            problems.append(f"image: found H, W, D = {found[2:]}; each must be a multiple of {STRIDE}; crop or pad it")
        raise_if_any(problems)
