"""Networks other than MTTU-Net behind one interface: those of Table VI, others of today, and those of other packages.

`body` says what such a network has to offer, `rival` what the rest of the code sees of it, `registry` which there are.
Those that MONAI does not have are written from their published descriptions.
"""

from mttu.networks.rivals.cmsvnet import CmsvNet
from mttu.networks.rivals.dmfnet import DmfNet
from mttu.networks.rivals.ma_mtln import MaMtln
from mttu.networks.rivals.sgpnet import SgpNetStyle

__all__ = ["CmsvNet", "DmfNet", "MaMtln", "SgpNetStyle"]
