"""Opens Jinja templates whose variables are text, never markup: in pages of HTML and in model cards of Markdown."""

from collections.abc import Callable
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ..core.escapes import markdown_text, shell_text, visible_text, yaml_text
from .markdown import format_detectable, format_p


@cache
def html_templates(package: str) -> Environment:
    """Return the templates of a package's pages; those of this package, style and figures among them, are in reach.

    An unknown name in one raises an error instead of printing nothing.
    """
    return _environment(package, visible_text, autoescape=True)


@cache
def markdown_templates(package: str) -> Environment:
    """Return the templates of a package's cards.

    The filters `yaml` and `shell` are for front matter and for lines to copy; everything else is escaped as Markdown.
    """
    pages = _environment(package, markdown_text, autoescape=False)
    pages.filters["yaml"] = lambda text: Markup(yaml_text(text))
    pages.filters["shell"] = lambda text: Markup(shell_text(text))
    return pages


def _environment(package: str, escape: Callable[[str], str], autoescape: bool) -> Environment:
    def finalize(value: object) -> object:
        return escape(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    pages = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("unconcept.report")]),
        autoescape=autoescape,
        undefined=StrictUndefined,
        finalize=finalize,
    )
    pages.filters["quoted"] = lambda text: f'"{text}"'
    pages.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    pages.filters["p"] = format_p
    pages.filters["detectable"] = format_detectable
    pages.filters["points"] = lambda value: f"{100 * value:+.1f}"
    return pages
