"""Names of tensors in other layouts, in both directions."""
