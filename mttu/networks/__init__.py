"""MTTU-Net: encoder, bottleneck, decoder and IDH head, put together by settings."""

from mttu.networks.mttu_net import MttuNet, build_network

__all__ = ["MttuNet", "build_network"]
