"""Settings under which a trained method takes a moment on a tiny model."""

QUICK = {
    "advunlearn": {
        "iterations": 3,
        "warmup_iter": 1,
        "attack_step": 2,
        "retain_batch": 2,
        "ddim_steps": 2,
        "pool": 1,
        "dataset_retain": "",
        "templates": ["{}"],
        "lr": 1e-3,
    },
    "concept-ablation": {"iterations": 2, "pictures": 2, "picture_steps": 2, "batch_size": 2, "lr": 1e-3},
    "esd": {"iterations": 3, "ddim_steps": 2, "pool": 1, "lr": 1e-3},
    "mace": {"max_train_steps": 2, "pictures": 2, "picture_steps": 2, "learning_rate": 1e-2},
    "sculpting-memory": {
        "num_epochs": 2,
        "pictures": 4,
        "warmup_steps": 1,
        "mask_update_interval": 1,
        "picture_steps": 2,
        "lr": 1e-2,
    },
    "few-shot": {"epochs": 2, "pictures": 3, "picture_steps": 2, "lr": 1e-3},
    "kscu": {"iterations": 3, "steps": 3, "variants": 2, "lr": 1e-3},
    "slug": {"pictures": 2, "picture_steps": 2, "templates": ["a {}"]},
    "receler": {
        "iterations": 2,
        "ddim_steps": 2,
        "advrs_iters": 2,
        "eraser_rank": 4,
        "num_advrs_prompts": 2,
        "lr": 1e-2,
    },
    "spm": {"iterations": 3, "max_denoising_steps": 2, "lr_warmup_steps": 0, "lr": 1e-2},
}
