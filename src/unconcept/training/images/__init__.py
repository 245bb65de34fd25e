"""Training images, and masks of the objects in them."""
