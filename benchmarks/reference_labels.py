"""Labels of the rows that methods are measured against in `benchmarks.references`."""

UNTOUCHED = "untouched"  # A
NEVER_SAW = "never saw it"  # W1
OTHER_WORD = "never saw it, another word"  # W1 learns the concept under a word that no model knows
BASELINES = (UNTOUCHED, NEVER_SAW, OTHER_WORD)
