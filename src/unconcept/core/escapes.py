"""Names are text, not markup: one function for each context that a name from a file or an argument is written into."""

import html
import json
import re
import shlex

from .errors import SettingsError, UnconceptError

# Control characters, lone surrogates, line separators, and marks that hide text or change its direction.
_INVISIBLE = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff"
    "\\ufff9-\\ufffb\\ufffe\\uffff\\ud800-\\udfff\\U000e0000-\\U000e007f]"
)
_SURROGATE = re.compile("[\\ud800-\\udfff]")
_MARKDOWN_MARKS = re.compile(r"[\\`*_\[\]<>|#~!&$@]|(?<=:)//|(?<=www)\.")
_MARKDOWN_BLOCK = re.compile(r"^ *(\d*)([-+=](?=\s|[-+=]*$)|[.)](?=\s|$))")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s]*@")  # user and password of a URL
_NO_FILE_NAME = re.compile(r"[^\w.,=+@-]+")
_FILE_NAME_LENGTH = 80
_YAML_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"'})
_SHELL_ESCAPES = str.maketrans({"\\": "\\\\", "'": "\\'"})


def require_unicode(text: str, place: str, error: type[UnconceptError] = SettingsError) -> None:
    """Raise `error` for a lone surrogate: a byte of an argument that is no UTF-8, or half of a character in JSON."""
    if _SURROGATE.search(text):
        raise error(f"{place} '{visible_text(text)[:200]}' is no valid Unicode text: write it in UTF-8")


def visible_text(text: str) -> str:
    r"""The text on one line for a terminal, a log or a page: invisible characters as escapes such as \n and \x1b."""
    return _INVISIBLE.sub(_python_escape, text)


def without_credentials(text: str) -> str:
    """The text without users and passwords in its URLs, which no message or record shows."""
    return _CREDENTIALS.sub("", text)


def html_text(text: str) -> str:
    """The text inside an element or a quoted attribute of HTML or SVG."""
    return html.escape(visible_text(text), quote=True)


def markdown_text(text: str) -> str:
    """The text inside a line, list or table cell of Markdown, where it can become no markup, link or HTML."""
    text = _MARKDOWN_MARKS.sub(lambda found: "".join(f"\\{mark}" for mark in found[0]), visible_text(text))
    return _MARKDOWN_BLOCK.sub(r"\1\\\2", text)


def yaml_text(text: str) -> str:
    """The text as a quoted scalar of YAML."""
    return f'"{visible_text(text.translate(_YAML_ESCAPES))}"'


def json_text(data: object, indent: int | None = None) -> str:
    """The data as JSON that is readable and can be printed: only invisible characters are escaped in its strings."""
    text = json.dumps(data, indent=indent, ensure_ascii=False)
    return _INVISIBLE.sub(_json_escape, text)


def shell_text(text: str) -> str:
    """The text as one word of a shell's command line, on one line, to copy."""
    if not _INVISIBLE.search(text):
        return shlex.quote(text)
    return f"$'{_INVISIBLE.sub(_shell_escape, text.translate(_SHELL_ESCAPES))}'"


def file_name_text(text: str) -> str:
    """The text as part of a file's name, which cannot leave its folder or hide."""
    return _NO_FILE_NAME.sub("-", visible_text(text)).strip("-.")[:_FILE_NAME_LENGTH]


def _python_escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _json_escape(found: re.Match[str]) -> str:
    """An escape of each half of a character in UTF-16. A line feed of JSON stands between its strings, never in one."""
    code = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "\n" if found[0] == "\n" else "".join(f"\\u{code[i : i + 4]}" for i in range(0, len(code), 4))


def _shell_escape(found: re.Match[str]) -> str:
    """The bytes of a character in octal, as $'...' reads them; a surrogate of an argument is one byte."""
    return "".join(f"\\{byte:03o}" for byte in found[0].encode("utf-8", "surrogateescape"))
