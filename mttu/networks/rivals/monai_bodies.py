"""MONAI's networks as bodies: wrapped, so that a forward pass has two halves, features and logits.

The halves are put together from MONAI's submodules in the order of MONAI's own `forward`; tests compare the two. Axes
are (B, C, H, W, D).
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from monai.networks.nets import UNETR, DenseNet121, DynUNet, SegResNet, SEResNet101, SwinUNETR, UNet, VNet, resnet50
from pydantic import Field
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from mttu.errors import InputError
from mttu.networks.rivals.options import AtMostFew, Few, FourCounts, Levels, Probability, Width


class _Segmenter(nn.Module):
    """A body that segments and has no IDH head of its own."""

    own_idh = False

    def __init__(self, network: nn.Module, stride: int, widths: Sequence[int], *, instance_norm: bool = False) -> None:
        """`instance_norm` says that the deepest level has one, which needs more than one voxel."""
        super().__init__()
        self.network: Any = network
        self.stride = stride
        self.smallest = 2 * stride if instance_norm else stride
        self.widths: Mapping[str, int] = {f"L{number}": width for number, width in enumerate(widths, 1)}

    def _name(self, levels: Sequence[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self.widths, levels, strict=True))


class UNetBody(_Segmenter):
    """MONAI's `UNet`: residual units, instance norm, PReLU; five levels."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 4,
        channels: Levels = (16, 32, 64, 128, 256),
        num_res_units: AtMostFew = 2,
        dropout: Probability = 0.0,
    ) -> None:
        widths = list(channels)
        steps = [2] * (len(widths) - 1)
        network = UNet(3, in_channels, num_classes, widths, steps, num_res_units=num_res_units, dropout=dropout)
        super().__init__(network, 2 ** len(steps), widths, instance_norm=True)

    def _walk(self) -> tuple[list[nn.Module], nn.Module, list[nn.Module]]:
        """What goes down, from the top; the bottom; what goes up, from the bottom."""
        down, up, block = [], [], self.network.model
        while isinstance(block, nn.Sequential) and len(block) == 3:  # down, skip connection around the next, up
            down.append(block[0])
            up.append(block[2])
            block = block[1].submodule
        return down, block, up[::-1]

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """L1 (B, 16, H/2, W/2, D/2) to L5 (B, 256, H/16, W/16, D/16)."""
        down, bottom, _ = self._walk()
        levels = [image]
        for block in (*down, bottom):
            levels.append(block(levels[-1]))
        return self._name(levels[1:])

    def segment(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, 4, H, W, D)."""
        *skips, x = (features[name] for name in self.widths)
        for block in self._walk()[2]:
            x = block(torch.cat([skips.pop(), x], dim=1))
        return x


class VNetBody(_Segmenter):
    """MONAI's `VNet`: 5x5x5 convolutions, batch norm, ELU; its widths are fixed."""

    def __init__(self, in_channels: int, num_classes: int = 4, dropout: Probability = 0.5) -> None:
        if 16 % in_channels:
            raise InputError(
                f"network.in_channels: vnet repeats the modalities to 16 channels, so their number is 1, 2, 4, 8 or "
                f"16; found {in_channels}"
            )
        network = VNet(
            3, in_channels, num_classes, dropout_prob_down=dropout, dropout_prob_up=(dropout, dropout), dropout_dim=3
        )
        super().__init__(network, 16, (16, 32, 64, 128, 256))

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """L1 (B, 16, H, W, D) to L5 (B, 256, H/16, W/16, D/16)."""
        network = self.network
        levels = [network.in_tr(image)]
        for block in (network.down_tr32, network.down_tr64, network.down_tr128, network.down_tr256):
            levels.append(block(levels[-1]))
        return self._name(levels)

    def segment(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, 4, H, W, D)."""
        network = self.network
        *skips, x = (features[name] for name in self.widths)
        for block in (network.up_tr256, network.up_tr128, network.up_tr64, network.up_tr32):
            x = block(x, skips.pop())
        return network.out_tr(x)


class DynUNetBody(_Segmenter):
    """MONAI's `DynUNet` in the shape that nnU-Net plans for BraTS: six levels, at most 320 channels, instance norm."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 4,
        channels: Levels = (32, 64, 128, 256, 320, 320),
        dropout: Probability = 0.0,
    ) -> None:
        widths = list(channels)
        steps = [2] * (len(widths) - 1)
        network = DynUNet(
            3,
            in_channels,
            num_classes,
            kernel_size=[3] * len(widths),
            strides=[1, *steps],
            upsample_kernel_size=steps,
            filters=widths,
            dropout=dropout or None,
        )
        del network.skip_layers  # the same modules once more, for MONAI's own forward; weights would be kept twice
        super().__init__(network, 2 ** len(steps), widths, instance_norm=True)

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """L1 (B, 32, H, W, D) to L6 (B, 320, H/32, W/32, D/32)."""
        network = self.network
        levels = [network.input_block(image)]
        for block in (*network.downsamples, network.bottleneck):
            levels.append(block(levels[-1]))
        return self._name(levels)

    def segment(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, 4, H, W, D)."""
        *skips, x = (features[name] for name in self.widths)
        for block in self.network.upsamples:
            x = block(x, skips.pop())
        return self.network.output_block(x)


class SegResNetBody(_Segmenter):
    """MONAI's `SegResNet`: residual blocks, group norm; four levels."""

    def __init__(
        self, in_channels: int, num_classes: int = 4, init_filters: Width = 32, dropout: Probability = 0.2
    ) -> None:
        network = SegResNet(3, init_filters, in_channels, num_classes, dropout_prob=dropout or None)
        super().__init__(network, 8, [init_filters * 2**level for level in range(4)])

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """L1 (B, 32, H, W, D) to L4 (B, 256, H/8, W/8, D/8)."""
        return self._name(self.network.encode(image)[1])

    def segment(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, 4, H, W, D)."""
        levels = [features[name] for name in self.widths][::-1]
        return self.network.decode(levels[0], levels)


class UNETRBody(_Segmenter):
    """MONAI's `UNETR`: a vision transformer of 12 layers on 16x16x16 patches, convolutions on the way up.

    Its position embedding is learned for one image size.
    """

    transformer = "network.vit"

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 4,
        patch_size: Sequence[int] = (128, 128, 128),
        feature_size: Width = 16,
        hidden_size: Width = 768,
        mlp_dim: Width = 3072,
        num_heads: Few = 12,
        dropout: Probability = 0.0,
    ) -> None:
        if any(axis % 16 for axis in patch_size):
            raise InputError(
                f"patch.size: unetr cuts it into cubes of 16 voxels, so each axis is a multiple of 16; found "
                f"{tuple(patch_size)}"
            )
        network = UNETR(
            in_channels,
            num_classes,
            tuple(patch_size),
            feature_size,
            hidden_size,
            mlp_dim,
            num_heads,
            dropout_rate=dropout,
        )
        super().__init__(network, 16, (hidden_size,) * 4)

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """L1 to L4 (B, 768, H/16, W/16, D/16): tokens after layers 4, 7 and 10, and after the last one's norm."""
        network = self.network
        last, hidden = network.vit(image)
        levels = [network.proj_feat(tokens) for tokens in (hidden[3], hidden[6], hidden[9], last)]
        return {**self._name(levels), "image": image}

    def segment(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, 4, H, W, D)."""
        network = self.network
        x = network.decoder5(features["L4"], network.encoder4(features["L3"]))
        x = network.decoder4(x, network.encoder3(features["L2"]))
        x = network.decoder3(x, network.encoder2(features["L1"]))
        return network.out(network.decoder2(x, network.encoder1(features["image"])))


class _LinspaceOnCpu(TorchFunctionMode):
    """SwinUNETR reads numbers from `torch.linspace` while it is built, which on `meta` have no values."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        return func(*args, **(given | {"device": "cpu"} if func is torch.linspace else given))


class SwinUNETRBody(_Segmenter):
    """MONAI's `SwinUNETR`: attention in shifted windows of 7x7x7 tokens, convolutions on the way up."""

    transformer = "network.swinViT"

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 4,
        feature_size: Annotated[Width, Field(multiple_of=12)] = 48,  # its 3 heads and group sizes need that
        norm: Literal["instance", "batch"] = "instance",
    ) -> None:
        with _LinspaceOnCpu():
            network = SwinUNETR(in_channels, num_classes, feature_size=feature_size, norm_name=norm)
        super().__init__(network, 32, [feature_size * 2**level for level in range(5)], instance_norm=norm == "instance")

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """L1 (B, 48, H/2, W/2, D/2) to L5 (B, 768, H/32, W/32, D/32)."""
        return {**self._name(self.network.swinViT(image, self.network.normalize)), "image": image}

    def segment(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, 4, H, W, D)."""
        network = self.network
        x = network.decoder5(network.encoder10(features["L5"]), features["L4"])
        x = network.decoder4(x, network.encoder4(features["L3"]))
        x = network.decoder3(x, network.encoder3(features["L2"]))
        x = network.decoder2(x, network.encoder2(features["L1"]))
        return network.out(network.decoder1(x, network.encoder1(features["image"])))


class _Classifier(nn.Module):
    """A body that has an IDH head of its own and does not segment; our head can read its stages, too."""

    own_idh = True
    idh_levels: Sequence[str] = ("L4",)
    stride = 8

    def __init__(self, network: nn.Module, widths: Mapping[str, int]) -> None:
        super().__init__()
        self.network: Any = network
        self.widths = widths


class SEResNet101Body(_Classifier):
    """MONAI's `SEResNet101`, in the paper SENet101."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 2,
        layers: FourCounts = (3, 4, 23, 3),
        dropout: Probability = 0.2,
    ) -> None:
        network = SEResNet101(
            layers,
            spatial_dims=3,
            in_channels=in_channels,
            num_classes=num_classes,
            dropout_prob=dropout or None,
        )
        super().__init__(network, {f"L{number}": 256 * 2 ** (number - 1) for number in range(1, 5)})

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """L1 (B, 256, H/4, W/4, D/4) to L4 (B, 2048, H/32, W/32, D/32)."""
        x, levels = self.network.layer0(image), {}
        for name, stage in zip(self.widths, ("layer1", "layer2", "layer3", "layer4"), strict=True):
            levels[name] = x = getattr(self.network, stage)(x)
        return levels

    def classify(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, 2)."""
        return self.network.logits(features["L4"])


class DenseNet121Body(_Classifier):
    """MONAI's `DenseNet121`."""

    stride = 32
    """It halves the image five times and rounds down; of less than 32 voxels nothing would be left."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 2,
        init_features: Width = 64,
        growth_rate: Width = 32,
        block_config: FourCounts = (6, 12, 24, 16),
        dropout: Probability = 0.0,
    ) -> None:
        network = DenseNet121(
            3, in_channels, num_classes, init_features, growth_rate, block_config, dropout_prob=dropout
        )
        widths, width = {}, init_features
        for number, count in enumerate(block_config, 1):
            width += count * growth_rate
            widths[f"L{number}"] = width
            width //= 2
        super().__init__(network, widths)

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """L1 (B, 256, H/4, W/4, D/4) to L4 (B, 1024, H/32, W/32, D/32), the last after its norm."""
        x, levels = image, {}
        for name, block in self.network.features.named_children():
            x = block(x)
            if name.startswith("denseblock"):
                levels[f"L{name.removeprefix('denseblock')}"] = x
        levels["L4"] = x
        return levels

    def classify(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, 2)."""
        x = torch.relu(features["L4"])  # MONAI's would be in place, and change the features
        return self.network.class_layers[1:](x)


class ResNet50Body(_Classifier):
    """MONAI's `resnet50`; its first convolution keeps the size, the pooling after it halves."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int = 2,
        widen_factor: Annotated[float, Field(ge=1 / 64, le=16)] = 1.0,
    ) -> None:
        network = resnet50(
            spatial_dims=3, n_input_channels=in_channels, num_classes=num_classes, widen_factor=widen_factor
        )
        widths = {f"L{number}": 4 * int(64 * 2 ** (number - 1) * widen_factor) for number in range(1, 5)}
        super().__init__(network, widths)

    def encode(self, image: Tensor) -> dict[str, Tensor]:
        """L1 (B, 256, H/2, W/2, D/2) to L4 (B, 2048, H/16, W/16, D/16)."""
        network, levels = self.network, {}
        x = network.maxpool(network.act(network.bn1(network.conv1(image))))
        for name, stage in zip(self.widths, ("layer1", "layer2", "layer3", "layer4"), strict=True):
            levels[name] = x = getattr(network, stage)(x)
        return levels

    def classify(self, features: dict[str, Tensor]) -> Tensor:
        """Logits (B, 2)."""
        return self.network.fc(self.network.avgpool(features["L4"]).flatten(1))
