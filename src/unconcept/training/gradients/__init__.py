"""What is done to gradients of several terms or losses before a step follows them."""
