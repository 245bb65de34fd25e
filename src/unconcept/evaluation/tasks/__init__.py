"""Units of work with a result that is kept."""
