"""All networks other than MTTU-Net: those of this package, and those that other packages add by an entry point."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from mttu.config.network import BOTH, PLUG_INS, RIVALS, Task, list_plug_ins
from mttu.errors import InputError, raise_if_any


@dataclass(frozen=True)
class Entry:
    """One network: how it is built, and what is told of it."""

    build: Callable[..., Any]
    """Called with the number of modalities and the options by name; returns a `mttu.networks.rivals.body.Body`. The
    options that the settings may name are its keyword parameters."""
    tasks: tuple[Task, ...] = BOTH
    """Tasks that it can do; with our IDH head, any that segments can do both."""
    title: str = ""
    """Name in tables."""
    source: str = ""
    """Publication, and where the code is from."""
    parameters_m: float | None = None
    """Published number of parameters, in millions."""
    gmacs: float | None = None
    """Published multiply-adds at 128^3, in billions."""
    limits: str = ""
    """What it refuses, what is different from the publication, what stays frozen; a sentence or two."""
    one_size: bool = False
    """Whether it is built for one image size, which `build` gets as `patch_size`."""


def _lazily(module: str, name: str) -> Callable[[], Callable[..., Any]]:
    def load() -> Callable[..., Any]:
        build: Callable[..., Any] = getattr(import_module(f"mttu.networks.rivals.{module}"), name)
        return build

    return load


_OWN: dict[str, tuple[Callable[[], Callable[..., Any]], dict[str, Any]]] = {
    "unet": (
        _lazily("monai_bodies", "UNetBody"),
        {
            "title": "3D U-Net",
            "source": "Cicek et al., MICCAI 2016; MONAI's UNet (residual units, five levels of 16 to 256 channels)",
            "limits": "Sizes are multiples of 16, at least 32.",
        },
    ),
    "vnet": (
        _lazily("monai_bodies", "VNetBody"),
        {
            "title": "V-Net",
            "source": "Milletari et al., 3DV 2016; MONAI's VNet",
            "limits": "1, 2, 4, 8 or 16 modalities; widths are fixed; sizes are multiples of 16.",
        },
    ),
    "dmfnet": (
        _lazily("dmfnet", "DmfNet"),
        {
            "title": "DMFNet",
            "source": "Chen et al., MICCAI 2019, arXiv:1904.03355; written anew from the publication",
            "parameters_m": 3.88,
            "gmacs": 27.04,
            "limits": "Sizes are multiples of 16.",
        },
    ),
    "unetr": (
        _lazily("monai_bodies", "UNETRBody"),
        {
            "title": "UNETR",
            "source": "Hatamizadeh et al., WACV 2022; MONAI's UNETR (ViT-B/16)",
            "limits": "Built for patch.size, a multiple of 16 on each axis; other sizes are refused. The norms for "
            "cross attention, which MONAI builds and never runs, are frozen.",
            "one_size": True,
        },
    ),
    "seresnet101": (
        _lazily("monai_bodies", "SEResNet101Body"),
        {
            "title": "SENet101",
            "source": "Hu et al., CVPR 2018; MONAI's SEResNet101",
            "limits": "IDH alone.",
        },
    ),
    "densenet121": (
        _lazily("monai_bodies", "DenseNet121Body"),
        {
            "title": "DenseNet121",
            "source": "Huang et al., CVPR 2017; MONAI's DenseNet121",
            "limits": "IDH alone; sizes are multiples of 32.",
        },
    ),
    "resnet50": (
        _lazily("monai_bodies", "ResNet50Body"),
        {
            "title": "ResNet50",
            "source": "He et al., CVPR 2016; MONAI's resnet50, whose first convolution does not halve the image",
            "limits": "IDH alone.",
        },
    ),
    "sgpnet-style": (
        _lazily("sgpnet", "SgpNetStyle"),
        {
            "title": "SGPNet-style",
            "source": "After Wang et al., Comput. Intell. Neurosci. 2021, 5520281, whose details were not at hand",
            "limits": "Not SGPNet: a residual U-Net with an IDH branch. Sizes are multiples of 16.",
        },
    ),
    "cmsvnet": (
        _lazily("cmsvnet", "CmsvNet"),
        {
            "title": "CMSVNet",
            "source": "Zhou et al., Med. Image Anal. 70 (2021) 101918; written anew from reviews of the publication",
            "limits": "Sizes are multiples of 16.",
        },
    ),
    "ma-mtln": (
        _lazily("ma_mtln", "MaMtln"),
        {
            "title": "MA-MTLN",
            "source": "Zhang et al., IEEE TMI 40(6) 2021, 1618-1631; written anew",
            "limits": "Strides are isotropic; no deep supervision. Sizes are multiples of 16, at least 32.",
        },
    ),
    "dynunet": (
        _lazily("monai_bodies", "DynUNetBody"),
        {
            "title": "nnU-Net (DynUNet)",
            "source": "Isensee et al., Nat. Methods 2021; MONAI's DynUNet in the shape that nnU-Net plans for BraTS",
            "limits": "Without deep supervision. Sizes are multiples of 32, at least 64.",
        },
    ),
    "segresnet": (
        _lazily("monai_bodies", "SegResNetBody"),
        {
            "title": "SegResNet",
            "source": "Myronenko, BraTS 2018; MONAI's SegResNet, 32 initial channels, without the autoencoder",
            "limits": "Sizes are multiples of 8.",
        },
    ),
    "swinunetr": (
        _lazily("monai_bodies", "SwinUNETRBody"),
        {
            "title": "SwinUNETR",
            "source": "Hatamizadeh et al., BraTS 2021, arXiv:2201.01266; MONAI's SwinUNETR, 48 features",
            "parameters_m": 62.1,
            "limits": "Sizes are multiples of 32, at least 64; with norm=batch at least 32.",
        },
    ),
}


_TASKS = (["idh"], ["segmentation"], ["idh", "segmentation"])


def find_entry(name: str) -> Entry:
    """The entry of a network; names of this package come before those of others.

    Raises:
        InputError: There is none of this name, or the package that adds it cannot be imported or adds something else.
    """
    if name in _OWN:
        load, told = _OWN[name]
        return Entry(load(), RIVALS[name], **told)
    points = list(entry_points(group=PLUG_INS, name=name))
    if not points:
        raise InputError(f"network.kind: {name!r} is unknown; known: {', '.join((*RIVALS, *list_plug_ins()))}")
    where = f"network.kind: {name}: {find_origin(name)}"
    if len(points) > 1:
        raise InputError(f"{where}: {len(points)} installed packages add a network of this name; remove all but one")
    try:
        entry = points[0].load()()
    except Exception as error:  # whatever a foreign package raises
        raise InputError(f"{where}: {type(error).__name__}: {error}; mend or remove the package") from error
    if not isinstance(entry, Entry):
        raise InputError(f"{where}: returned {type(entry).__name__}; expected mttu.networks.rivals.registry.Entry")
    if not isinstance(entry.tasks, tuple | list) or sorted(map(str, entry.tasks)) not in _TASKS:
        raise InputError(f"{where}: tasks {entry.tasks!r}; expected 'segmentation', 'idh' or both, once each")
    texts = {"title": entry.title, "source": entry.source, "limits": entry.limits}
    raise_if_any(
        [f"{where}: {name} {text!r}; expected text" for name, text in texts.items() if not isinstance(text, str)]
    )
    return entry


def find_origin(name: str) -> str:
    """Where a network of another package comes from, for messages; an empty text for one of this package."""
    points = [] if name in _OWN else list(entry_points(group=PLUG_INS, name=name))
    return f"entry point {points[0].value}" if points else ""


def list_names() -> tuple[str, ...]:
    """Names of all networks but MTTU-Net, those of this package first."""
    return (*RIVALS, *list_plug_ins())
