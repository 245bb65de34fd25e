"""Jobs: one function for each command, which takes options and returns an outcome."""
