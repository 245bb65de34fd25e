"""`moji`, the embedded model: its table of concepts, its captions, its weights and its judge."""
