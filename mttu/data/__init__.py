"""From folders of NIfTI files to patches: labels, manifest, preparation, cache, phantom, loaders, augmentation."""
