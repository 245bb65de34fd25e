"""Training images, masks of the objects in them, and a network that tells them apart."""
