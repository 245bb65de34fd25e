"""The range of seeds, and the derivation of many seeds from one so that they share no noise."""

from .errors import require

SEED_BOUND = 2**31  # methods multiply theirs by primes and counts, and a generator holds 64 bits
BLOCK_SEED_STEP = 7_919  # a prime: between the seeds of blocks of one training
RANK_SEED_STEP = 1_000_003_000  # between the seeds of processes that share a training
_STEP = 1_000_003  # a prime, above what anything counts to


def check_seed(name: str, seed: int) -> None:
    """Raise `SettingsError` unless 0 <= seed < SEED_BOUND, so that seeds derived from it fit into a generator."""
    require(0 <= seed < SEED_BOUND, f"{name}: seed must be 0 to {SEED_BOUND - 1}, got {seed}")


def numbered_seed(seed: int, number: int) -> int:
    """The seed of draw `number` that is derived from `seed`, below 2**63 for any seed of a published prompt."""
    return (seed * _STEP + number) % 2**63


def picture_seeds(seed: int, count: int) -> list[int]:
    """Return the seeds of `count` images; another `seed` shares none of them."""
    return [seed * count + i for i in range(count)]
