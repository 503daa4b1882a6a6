"""MTTU-Net, put together by settings from encoder, bottleneck, decoder and IDH head; and other networks beside it."""

from mttu.networks.build import Network, build_network
from mttu.networks.mttu_net import MttuNet

__all__ = ["MttuNet", "Network", "build_network"]
