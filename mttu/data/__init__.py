"""From a manifest to patches: labels, volumes, preparation, cache, loaders, augmentation."""
