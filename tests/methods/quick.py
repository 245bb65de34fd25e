"""Settings under which a trained method takes a moment on a tiny model."""

QUICK = {
    "concept-ablation": {"iterations": 2, "pictures": 2, "picture_steps": 2, "batch_size": 2, "lr": 1e-3},
    "esd": {"iterations": 3, "ddim_steps": 2, "pool": 1, "lr": 1e-3},
    "kscu": {"iterations": 3, "steps": 3, "variants": 2, "lr": 1e-3},
}
