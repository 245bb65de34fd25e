"""Parts of methods that unlearn pictures and classes: examples, losses on them, adapters, inner steps taken back."""
