"""Text encoders and tokenizers, driven from their tensors."""
