"""Model files on disk: configs, tensors and tokenizers by part."""
