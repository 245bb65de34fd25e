"""What another package brings to the library: one entry of each kind. The tests install it into a folder."""
