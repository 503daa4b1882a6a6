"""A trained checkpoint for other programs: a MONAI bundle, or a program of torch.export. Research use only."""

from mttu.export.bundle import export_bundle
from mttu.export.program import Agreement, export_program

__all__ = ["Agreement", "export_bundle", "export_program"]
