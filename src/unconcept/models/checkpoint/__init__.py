"""Model files on disk: the config, tensors and tokenizer of each part."""
