"""Networks of other authors that MONAI does not have, from their published descriptions.

Each has `stride` and `smallest` (the image's H, W and D are multiples of the one and no less than the other), `widths`
(channels of each feature level that an IDH head can read, the deepest last), `own_idh` (whether it has an IDH
classifier of its own), `encode` (image to features), `segment` and, with `own_idh`, `classify` (features to logits),
and `parameters_of`.
"""

from mttu.networks.rivals.cmsvnet import CmsvNet
from mttu.networks.rivals.dmfnet import DmfNet
from mttu.networks.rivals.ma_mtln import MaMtln
from mttu.networks.rivals.sgpnet import SgpNetStyle

__all__ = ["CmsvNet", "DmfNet", "MaMtln", "SgpNetStyle"]
