"""Networks that read pictures: CLIP's vision towers and the network of `moji`'s judge."""
