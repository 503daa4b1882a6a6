"""One call for each step of the network that has a kernel of its own on a CPU, which saves memory and time."""
