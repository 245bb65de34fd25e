"""Text files with one entry a line."""

from pathlib import Path

from .errors import RequestError


def read_lines(path: Path | None) -> list[str]:
    """Read the stripped lines of a file, without blank lines and lines that start with #. No path means no lines."""
    if path is None:
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: {error}; give a UTF-8 text file with one entry a line") from None
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
