"""Random augmentation of a batch of patches on its device (section V-B.1); drawing is separate from applying."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mttu.config import AugmentSettings


@dataclass(frozen=True)
class Augmentation:
    """Parameters of one patch, drawn once, so that its augmentation can be repeated."""

    flips: tuple[bool, ...]
    """Mirror along H, W, D."""
    angle_degrees: float
    """Rotation in the axial (H, W) plane."""
    scale: tuple[float, ...]
    """Factor of each modality."""
    shift: tuple[float, ...]
    """Value added to each modality inside the brain."""


def draw_augmentation(settings: AugmentSettings, channels: int, generator: np.random.Generator) -> Augmentation:
    """Draws the parameters of one patch; the number of draws never depends on the settings."""
    flips = generator.random(3) < settings.flip_probability
    angle = generator.uniform(-1, 1) * settings.rotation_degrees
    scale = 1 + generator.uniform(-1, 1, channels) * settings.intensity_scale
    shift = generator.uniform(-1, 1, channels) * settings.intensity_shift
    return Augmentation(tuple(flips.tolist()), float(angle), tuple(scale.tolist()), tuple(shift.tolist()))


def rotation_margin(size: Sequence[int], rotation_degrees: float) -> tuple[int, int, int]:
    """Voxels on each side of a patch (H, W, D) that a rotation of up to `rotation_degrees` can bring into it.

    The rotation is about the axial axis, to either side, so the margin along D is 0.
    """
    margins = []
    for side, other in ((size[0], size[1]), (size[1], size[0])):
        along, across = (side - 1) / 2, (other - 1) / 2  # from the centre to the last voxel
        angle = min(math.radians(rotation_degrees), math.atan2(across, along))  # where a corner reaches furthest
        reach = along * math.cos(angle) + across * math.sin(angle)
        margins.append(math.ceil(round(reach - along, 6)))  # rounded, or 1e-16 too much would add a voxel
    return margins[0], margins[1], 0


def augment_batch(
    image: Tensor, seg: Tensor, augmentations: Sequence[Augmentation], size: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Rotates a batch, scales and shifts its intensities inside the brain, then flips it.

    Args:
        image: (B, C, H', W', D') float32, 0 outside of the brain: patches with the margin of `rotation_margin` on
            both sides.
        seg: (B, H', W', D') uint8 classes.
        augmentations: One per sample.
        size: Patch size (H, W, D).

    Returns:
        Augmented image (B, C, H, W, D) and seg (B, H, W, D); voxels rotated in from outside the crop are background.
    """
    angles = [one.angle_degrees for one in augmentations]
    image, seg = _rotate(image, seg, angles, size) if any(angles) else _crop_centre(image, seg, size)
    scale = image.new_tensor([one.scale for one in augmentations])[:, :, None, None, None]
    shift = image.new_tensor([one.shift for one in augmentations])[:, :, None, None, None]
    # background is 0 in every modality, and stays 0
    brain = (image != 0).any(dim=1, keepdim=True)
    image = torch.where(brain, image * scale + shift, image)
    images, segs = [], []
    for index, one in enumerate(augmentations):
        axes = [axis for axis, flip in enumerate(one.flips) if flip]
        images.append(image[index].flip([axis + 1 for axis in axes]))
        segs.append(seg[index].flip(axes))
    return torch.stack(images), torch.stack(segs)


def _crop_centre(image: Tensor, seg: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    for axis, side in enumerate(size, 1):
        begin = (seg.shape[axis] - side) // 2
        image, seg = image.narrow(axis + 1, begin, side), seg.narrow(axis, begin, side)
    return image, seg


def _rotate(image: Tensor, seg: Tensor, angles: Sequence[float], size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Rotates about the axial axis, as a 2D resampling with the slices along D as channels.

    Only the voxels of the patch are sampled, straight from the larger crop.
    """
    height, width, _ = size
    batch, channels, crop_height, crop_width, depth = image.shape
    radians = torch.deg2rad(image.new_tensor(list(angles)))
    cos, sin, zero = radians.cos(), radians.sin(), torch.zeros_like(radians)
    # Normalised coordinates (x along W, y along H) of the patch to those of the crop around it, both from -1 to 1; the
    # ratios of their sides keep the rotation rigid and the scale 1.
    to_x = [cos * (width / crop_width), -sin * height / crop_width, zero]
    to_y = [sin * width / crop_height, cos * (height / crop_height), zero]
    theta = torch.stack(to_x + to_y, dim=1).view(batch, 2, 3)
    grid = F.affine_grid(theta, [batch, 1, height, width], align_corners=False)
    flat = image.permute(0, 1, 4, 2, 3).reshape(batch, channels * depth, crop_height, crop_width)
    turned = F.grid_sample(flat, grid, mode="bilinear", padding_mode="zeros", align_corners=False)  # (B, C*D, H, W)
    image = turned.view(batch, channels, depth, height, width).permute(0, 1, 3, 4, 2)
    labels = seg.permute(0, 3, 1, 2).to(image.dtype)  # (B, D, H', W')
    turned_labels = F.grid_sample(labels, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return image.contiguous(), turned_labels.to(seg.dtype).permute(0, 2, 3, 1).contiguous()
