"""Ray: training, data preparation and sessions. The only package that imports ray, and a thin one."""
