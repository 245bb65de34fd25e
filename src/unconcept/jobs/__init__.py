"""One function for each command: options in, outcome out."""
