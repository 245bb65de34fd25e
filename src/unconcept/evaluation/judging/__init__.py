"""From pictures to rates."""
