"""MA-MTLN, the multi-attention guided multi-task learning network.

Zhang et al., IEEE TMI 40(6) 2021, 1618-1631; doi:10.1109/TMI.2021.3062902; gastric tumours in CT. Facts are from the
authors' published code, which has no licence and of which nothing is copied.

As published: trunk (SE-ResNeXt-50 in 3D with group norm and PReLU, the last stage dilated), four scales of 64 channels,
bi-directional visual attention (BiVA), fusion of the scales, adaptive spatial attention (ASA) on each, segmentation
branch from coarse to fine, classification branch from fine to coarse.
Our choice for brain MRI: strides are isotropic, where those for CT are (1, 2, 2) in the stem, in the trunk's stages and
between scales; so is the largest dilation of BiVA, 7 instead of (5, 7, 7).
Left out or simpler:
- the second fusion of the scales and the two segmentation heads on fused scales, which serve deep supervision only;
- the PReLU on BiVA's sum weights is a ReLU: the weights start at 1, and its slope matters below 0 only;
- convolutions before a norm have no bias.
Unverified: the reduction in squeeze and excitation uses a ReLU here.
The image has 32^3 voxels or more: with fewer, norms of one channel per group would see one voxel at 1/16.

Axes are (B, C, H, W, D). With the default options and a 128^3 patch:
    trunk: image (B, 4, 128^3) -> (B, 128, 32^3), (B, 256, 16^3), (B, 512, 8^3), (B, 512, 8^3)
    BiVA, fusion and ASA -> S1 (B, 64, 32^3), S2 (B, 64, 16^3), S3 (B, 64, 8^3), S4 (B, 64, 8^3)
    S1 to S4 -> segmentation logits (B, 4, 128^3);  S1 to S4 -> IDH logits (B, 2)
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mttu.networks.rivals.options import Few, FourCounts, Width
from mttu.networks.rivals.pooled_classifier import PooledClassifier

TrunkWidths = Annotated[tuple[Annotated[Width, Field(ge=2)], ...], Field(min_length=4, max_length=4)]
SCALES = ("S1", "S2", "S3", "S4")
HALVINGS = {"S1": 0, "S2": 1, "S3": 2, "S4": 2}
"""How often each scale halves the axes of S1, which has a quarter of the image's."""
VISUAL_DILATIONS = {"S1": (1, 3, 5, 7), "S2": (1, 3, 5), "S3": (1, 3), "S4": (1, 3)}


def normed(
    in_channels: int,
    channels: int,
    kernel: int,
    norm_groups: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    conv_groups: int = 1,
    activation: bool = True,
) -> nn.Sequential:
    """Convolution without bias, group norm and PReLU; at most as many groups in the norm as channels."""
    padding = dilation * (kernel - 1) // 2
    conv = nn.Conv3d(in_channels, channels, kernel, stride, padding, dilation, conv_groups, bias=False)
    layers: list[nn.Module] = [conv, nn.GroupNorm(min(norm_groups, channels), channels)]
    return nn.Sequential(*layers, *([nn.PReLU()] if activation else []))


class SqueezeExcitation(nn.Module):
    """Scales each channel by a factor in (0, 1) computed from the averages of all channels, by a layer of 4 or more."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(4, channels // reduction)
        self.layers = nn.Sequential(
            nn.Linear(channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape (B, channels, H, W, D)."""
        factors: Tensor = self.layers(x.mean(dim=(2, 3, 4)))
        return x * factors[:, :, None, None, None]


class ResNextBlock(nn.Module):
    """Bottleneck block with a grouped convolution (expansion 2); squeeze and excitation before the residual sum."""

    def __init__(
        self, in_channels: int, channels: int, cardinality: int, norm_groups: int, stride: int, dilation: int
    ) -> None:
        super().__init__()
        middle = channels // 2
        self.layers = nn.Sequential(
            normed(in_channels, middle, 1, norm_groups),
            normed(middle, middle, 3, norm_groups, stride=stride, dilation=dilation, conv_groups=cardinality),
            normed(middle, channels, 1, norm_groups, activation=False),
            SqueezeExcitation(channels),
        )
        self.shortcut: nn.Module = (
            nn.Identity()
            if in_channels == channels and stride == 1
            else normed(in_channels, channels, 1, norm_groups, stride=stride, activation=False)
        )
        self.activation = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, H, W, D) to (B, channels, H, W, D), or to half of each axis with stride 2."""
        return self.activation(self.layers(x) + self.shortcut(x))


class WeightedSum(nn.Module):
    """Sum of feature maps with learnable weights, at least 0 and of sum 1, then swish."""

    def __init__(self, num_maps: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(num_maps))

    def forward(self, *maps: Tensor) -> Tensor:
        """Keeps the shape (B, C, H, W, D), which all maps share."""
        weights = self.weights.relu()
        weights = weights / (weights.sum() + 1e-4)
        return F.silu(reduce(torch.add, (weight * x for weight, x in zip(weights, maps, strict=True))))


class VisualAttention(nn.Module):
    """Each branch gates the input by a dilated 3x3x3 convolution and a sigmoid; the gated inputs are mixed and added.

    Before the dilated one, the first branch has a 1x1x1 convolution, the second one 3x3x3, the third two, and so on.
    """

    def __init__(self, channels: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.branches = nn.ModuleList()
        for index, dilation in enumerate(dilations):
            before = [nn.Conv3d(channels, channels, 3, padding=1) for _ in range(index)]
            before = before or [nn.Conv3d(channels, channels, 1)]
            dilated = nn.Conv3d(channels, channels, 3, padding=dilation, dilation=dilation)
            self.branches.append(nn.Sequential(*before, dilated, nn.Sigmoid()))
        self.mix = nn.Conv3d(len(dilations) * channels, channels, 1)
        self.activation = nn.PReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Keeps the shape (B, channels, H, W, D)."""
        gated = torch.cat([branch(x) * x for branch in self.branches], dim=1)
        return self.activation(self.mix(gated) + x)


class BiDirectionalAttention(nn.Module):
    """BiVA: the scales are summed from coarse to fine with visual attention, then from fine to coarse."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleDict({name: VisualAttention(channels, VISUAL_DILATIONS[name]) for name in SCALES})
        self.down_sums = nn.ModuleDict({name: WeightedSum(2) for name in ("S1", "S2", "S3")})
        self.up_sums = nn.ModuleDict({name: WeightedSum(2 if name == "S1" else 3) for name in SCALES})
        self.halve = nn.ModuleDict(
            {name: normed(channels, channels, 1, norm_groups // 2, stride=2) for name in ("S2", "S3")}
        )

    def forward(self, scales: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Keeps the shapes of the scales S1 to S4, (B, channels, H, W, D) each."""
        attended = {"S4": self.attentions["S4"](scales["S4"])}
        for below, name in (("S4", "S3"), ("S3", "S2"), ("S2", "S1")):
            coarser = _resize(attended[below], scales[name])
            attended[name] = self.attentions[name](self.down_sums[name](scales[name], coarser))
        out = {"S1": self.up_sums["S1"](scales["S1"], attended["S1"])}
        for above, name in (("S1", "S2"), ("S2", "S3"), ("S3", "S4")):
            finer = self.halve[name](out[above]) if name in self.halve else out[above]
            out[name] = self.up_sums[name](scales[name], attended[name], finer)
        return out


class ScaleFusion(nn.Module):
    """All scales at the size of S1, concatenated, then three convolutions."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.layers = _three_convolutions(len(SCALES) * channels, channels, norm_groups)

    def forward(self, scales: Mapping[str, Tensor]) -> Tensor:
        """Maps the scales S1 to S4 to (B, channels, H, W, D), the size of S1."""
        return self.layers(torch.cat([_resize(scales[name], scales["S1"]) for name in SCALES], dim=1))


class AdaptiveSpatialAttention(nn.Module):
    """ASA: a scale and the fused scales, weighted voxel by voxel, make the attention that the fused scales get."""

    def __init__(self, channels: int, norm_groups: int, halvings: int, compressed: int = 16) -> None:
        super().__init__()
        self.halvings = halvings
        self.halve = normed(channels, channels, 3, norm_groups // 2, stride=2) if halvings else nn.Identity()
        self.compress = nn.ModuleList(normed(channels, compressed, 1, norm_groups // 2) for _ in range(2))
        self.weigh = nn.Conv3d(2 * compressed, 2, 1)
        self.attention = nn.Sequential(
            normed(channels, channels, 1, norm_groups),
            normed(channels, channels, 3, norm_groups),
            nn.Conv3d(channels, channels, 3, padding=1),
            nn.Sigmoid(),
        )
        self.refine = _three_convolutions(2 * channels, channels, norm_groups)

    def forward(self, scale: Tensor, fused: Tensor) -> Tensor:
        """Keeps the shape of the scale (B, channels, H, W, D); `fused` (B, channels, ...) has the size of S1."""
        for _ in range(self.halvings):  # the same convolution each time
            fused = self.halve(fused)
        pair = (scale, fused)
        compressed = [compress(x) for compress, x in zip(self.compress, pair, strict=True)]
        shares = self.weigh(torch.cat(compressed, dim=1)).softmax(dim=1).chunk(2, dim=1)  # (B, 1, H, W, D) each
        attention = reduce(torch.add, (self.attention(x) * x * share for x, share in zip(pair, shares, strict=True)))
        return self.refine(torch.cat([scale, attention * fused], dim=1))


class GatedConvolution(nn.Module):
    """A scale gated by what it and its neighbour say, then a 3x3x3 convolution."""

    def __init__(self, neighbour_channels: int, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            normed(neighbour_channels + channels, channels, 1, norm_groups),
            nn.Conv3d(channels, channels, 1),
            nn.Sigmoid(),
        )
        self.conv = normed(channels, channels, 3, norm_groups)

    def forward(self, neighbour: Tensor, scale: Tensor) -> Tensor:
        """Keeps the shape of the scale (B, channels, H, W, D); the neighbour has the same size."""
        return self.conv(self.attention(torch.cat([neighbour, scale], dim=1)) * scale)


class SegmentationBranch(nn.Module):
    """From coarse to fine: S3 and S4 gate S2, the result gates S1, the result is mapped to logits."""

    def __init__(self, channels: int, num_classes: int, norm_groups: int) -> None:
        super().__init__()
        self.gate2 = GatedConvolution(2 * channels, channels, norm_groups)
        self.gate1 = GatedConvolution(channels, channels, norm_groups)
        self.head = nn.Conv3d(channels, num_classes, 1)

    def forward(self, scales: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, num_classes, H, W, D) at four times the size of S1."""
        x = _resize(torch.cat([scales["S4"], scales["S3"]], dim=1), scales["S2"])
        x = _resize(self.gate2(x, scales["S2"]), scales["S1"])
        logits = self.head(self.gate1(x, scales["S1"]))
        # as published the head comes after the upsampling; the two commute, and this way is cheaper
        return F.interpolate(logits, scale_factor=4, mode="trilinear", align_corners=False)


class ClassificationBranch(nn.Module):
    """From fine to coarse: S1 gates S2, the result gates S3, the result and S4 are pooled and classified."""

    def __init__(self, channels: int, norm_groups: int) -> None:
        super().__init__()
        self.halve1 = normed(channels, channels, 3, norm_groups // 2, stride=2)
        self.gate2 = GatedConvolution(channels, channels, norm_groups)
        self.halve2 = normed(channels, channels, 3, norm_groups // 2, stride=2)
        self.gate3 = GatedConvolution(channels, channels, norm_groups)
        self.classifier = PooledClassifier([channels, channels])

    def forward(self, scales: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, 2)."""
        x = self.gate2(self.halve1(scales["S1"]), scales["S2"])
        x = self.gate3(self.halve2(x), scales["S3"])
        return self.classifier([x, scales["S4"]])


class MaMtln(nn.Module):
    """MA-MTLN.

    Args:
        in_channels: Channels of the image, one per modality.
        num_classes: Channels of the segmentation logits.
        stem_width: Channels of the stem.
        trunk_widths: Channels of the trunk's four stages; half of each is a multiple of `cardinality`.
        blocks: Residual blocks of the trunk's four stages.
        cardinality: Groups of the trunk's grouped convolutions.
        width: Channels of each scale after the trunk.
        norm_groups: Groups of the group norms, half of it where the authors' code has 16; even, divides the widths.
    """

    stride = 16
    smallest = 32
    own_idh = True

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 4,
        *,
        stem_width: Width = 64,
        trunk_widths: TrunkWidths = (128, 256, 512, 512),
        blocks: FourCounts = (3, 4, 6, 3),
        cardinality: Few = 32,
        width: Width = 64,
        norm_groups: Annotated[Few, Field(multiple_of=2)] = 32,
    ) -> None:
        super().__init__()
        self.widths: Mapping[str, int] = {"S3": width, "S4": width}
        self.stem = nn.Sequential(
            normed(in_channels, stem_width, 7, norm_groups, stride=2), nn.MaxPool3d(3, stride=2, padding=1)
        )
        self.trunk = nn.ModuleDict()
        above = stem_width
        for name, channels, count, stride, dilation in zip(
            SCALES, trunk_widths, blocks, (1, 2, 2, 1), (1, 1, 1, 2), strict=True
        ):
            first = ResNextBlock(above, channels, cardinality, norm_groups, stride, dilation)
            rest = (ResNextBlock(channels, channels, cardinality, norm_groups, 1, dilation) for _ in range(count - 1))
            self.trunk[name] = nn.Sequential(first, *rest)
            above = channels
        self.narrow = nn.ModuleDict(
            {name: normed(channels, width, 1, norm_groups) for name, channels in zip(SCALES, trunk_widths, strict=True)}
        )
        self.bi_directional = BiDirectionalAttention(width, norm_groups)
        self.fusion = ScaleFusion(width, norm_groups)
        self.spatial = nn.ModuleDict(
            {name: AdaptiveSpatialAttention(width, norm_groups, HALVINGS[name]) for name in SCALES}
        )
        self.segmentation = SegmentationBranch(width, num_classes, norm_groups)
        self.classification = ClassificationBranch(width, norm_groups)

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """The refined scales S1 to S4 by name from the image (B, in_channels, H, W, D)."""
        x, scales = self.stem(image), {}
        for name, stage in self.trunk.items():
            x = stage(x)
            scales[name] = self.narrow[name](x)
        scales = self.bi_directional(scales)
        fused = self.fusion(scales)
        return {name: self.spatial[name](scales[name], fused) for name in SCALES}

    def segment(self, features: Mapping[str, Tensor]) -> Tensor:
        """Logits (B, num_classes, H, W, D); softmax is the caller's."""
        return self.segmentation(features)

    def classify(self, features: Mapping[str, Tensor]) -> Tensor:
        """IDH logits (B, 2), float32; softmax is the caller's."""
        return self.classification(features)


def _three_convolutions(in_channels: int, channels: int, norm_groups: int) -> nn.Sequential:
    return nn.Sequential(
        normed(in_channels, channels, 1, norm_groups),
        normed(channels, channels, 3, norm_groups),
        normed(channels, channels, 3, norm_groups),
    )


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="trilinear", align_corners=False)
