"""Text encoders computed directly from their tensors, and tokenizers."""
