"""Models on the Hugging Face Hub, named by their id."""

import re

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def is_hub_id(name: str) -> bool:
    """Whether a name has the form of a Hub id, OWNER/NAME."""
    return _HUB_ID.fullmatch(name) is not None
