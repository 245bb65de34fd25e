"""The harness: what is drawn, how it is judged, what is reported."""
