"""Families of models: which layouts of networks the library knows."""

from typing import Literal, get_args

Family = Literal["sd1", "sd2", "sdxl", "sd3", "flux"]
FAMILIES: tuple[Family, ...] = get_args(Family)
