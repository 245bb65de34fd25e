"""Parts of methods that unlearn pictures and classes: examples, losses, adapters, saliency, inner and stored steps."""
