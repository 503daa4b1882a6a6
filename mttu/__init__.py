"""mttu: glioma segmentation and IDH genotyping from MRI, supervised and self-trained (MTTU-Net)."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("mttu")
except PackageNotFoundError:  # a source tree on the path without installation
    __version__ = "0+unknown"
