"""Labels of the rows that methods are measured against in `benchmarks.references`."""

UNTOUCHED = "untouched"  # A
NEVER_SAW = "never saw it"  # W1
DENOISER_ONLY = "only its denoiser never saw it"  # W1d, whose text encoder is A's; where it is there
OTHER_WORD = "never saw it, another word"  # W1 learns the concept under a word that no model knows
BASELINES = {UNTOUCHED: "A", NEVER_SAW: "W1", DENOISER_ONLY: "W1d", OTHER_WORD: "W1"}  # and their models
