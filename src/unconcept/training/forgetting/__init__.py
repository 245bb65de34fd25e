"""Parts of methods that unlearn pictures: losses on them, and inner steps that are taken back."""
