"""Kernels for a CPU: the same results as the modules that they replace, with less memory and time."""
