"""Networks other than MTTU-Net behind one interface: those of Table VI, others of today, and those of other packages.

`body` says what such a network has to offer, `rival` what the rest of the code sees of it, `registry` which there are.
Those that MONAI does not have are written from their published descriptions.
"""
