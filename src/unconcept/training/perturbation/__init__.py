"""Small changes of pictures that make them hard to learn: the loss they raise, the budget they keep, where they are."""
