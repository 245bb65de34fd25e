"""Views of a pipeline or of checkpoint files, one a layout of networks."""
