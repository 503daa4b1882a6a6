"""Steps of the network that have a kernel of their own on a CPU, which saves memory and time.

Every device calls them; elsewhere they are plain PyTorch.
"""
