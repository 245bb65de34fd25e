"""Builds commands from option dataclasses: one flag per field, with the string under the field as its help."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from functools import wraps
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from ..core.docstrings import field_descriptions
from ..jobs.options import Flag, PythonOnly
from .console import exit_codes, network, quiet_libraries
from .help import OWN_GROUP
from .options import NetworkOptions, PlanOptions
from .plan import show_plan


def command(function: Callable[..., None], has_plan: bool = False) -> Callable[..., None]:
    """Turn a function of option dataclasses into a function that typer can use as a command.

    Errors become one line and an exit code. With a plan, which `jobs.plans` has for its first dataclass, the command
    has `--dry-run`.
    """
    groups = {name: kind for name, kind in get_type_hints(function).items() if name != "return"}
    options = [option for kind in groups.values() for option in _options(kind)]
    if any(option.field.name in ("model", "models") for option in options):
        options += _options(NetworkOptions)
    if has_plan:
        options += _options(PlanOptions)

    @wraps(function)
    def run(**values: Any) -> None:
        with exit_codes(), network(bool(values.get("offline")), bool(values.get("quiet"))):
            quiet_libraries()
            built = {name: _build(kind, values) for name, kind in groups.items()}
            if values.get("dry_run"):
                show_plan(next(iter(built.values())), bool(values.get("as_json")), bool(values.get("quiet")))
            else:
                function(**built)

    parameters = [option.parameter() for option in sorted(options, key=lambda option: option.order)]
    vars(run)["__signature__"] = inspect.Signature(parameters)
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


class _Option:
    """One field of an option dataclass as an argument or flag of a command."""

    def __init__(self, field: Field[Any], hint: Any, help_text: str, group: str) -> None:
        self.field, self.group = field, group
        marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        self.flag = next((mark for mark in marks if isinstance(mark, Flag)), Flag())
        self.hidden = any(isinstance(mark, PythonOnly) for mark in marks)
        self.help = self.flag.help or help_text
        self.hint = get_args(hint)[0] if marks else hint

    @property
    def required(self) -> bool:
        return self.field.default is MISSING and self.field.default_factory is MISSING

    @property
    def negated(self) -> bool:
        """Whether its switch turns the field off."""
        return (self.flag.name or "").startswith("--no-")

    @property
    def order(self) -> tuple[bool, int]:
        """Sort key: arguments by position, then required flags, then the other flags."""
        return (self.flag.position is None, -int(self.required) if self.flag.position is None else self.flag.position)

    @property
    def annotation(self) -> Any:
        """The type annotation for typer."""
        kind = self.flag.kind or next((part for part in _parts(self.hint) if part is not NoneType), self.hint)
        kind = GenericAlias(list, (kind,)) if self.flag.repeats else kind
        return kind if self.required or self.default is not None else kind | None

    @property
    def default(self) -> Any:
        if self.negated:
            return False
        return None if self.flag.repeats else self.field.default

    def parameter(self) -> inspect.Parameter:
        """The parameter from which typer makes the argument or flag."""
        flag, required = self.flag, self.required
        shown: dict[str, Any] = {"metavar": flag.metavar, "show_default": flag.show_default}
        limits: dict[str, Any] = {"min": flag.least, "max": flag.most}
        info: Any = None
        if flag.position is not None:
            info = typer.Argument(help=self.help, **shown, **limits)
        elif flag.name is not None:
            info = typer.Option(flag.name, help=self.help, rich_help_panel=self.group, **shown, **limits)
        else:
            info = typer.Option(help=self.help, rich_help_panel=self.group, **shown, **limits)
        return inspect.Parameter(
            self.field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if required else self.default,
            annotation=Annotated[self.annotation, info],
        )

    def value(self, given: Any) -> Any:
        """Convert the value from typer to the field's value."""
        if self.negated:
            return not given
        if self.flag.assigns:
            return _assignments(given or [], self.flag.name or "") or None
        if self.flag.repeats:
            return tuple(given) if given else self.field.default
        return given


def _parts(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _assignments(words: list[str], flag: str) -> Mapping[str, Any]:
    from ..core.settings import parse_assignment

    return dict(parse_assignment(word, flag) for word in words)


def _options(kind: type) -> list[_Option]:
    """The options of a dataclass, without those that no flag sets."""
    hints, described = get_type_hints(kind, include_extras=True), field_descriptions(kind)
    found = [
        _Option(field, hints[field.name], described.get(field.name, ""), _help_group(kind, field.name))
        for field in fields(kind)
    ]
    return [option for option in found if not option.hidden]


def _help_group(kind: type, name: str) -> str:
    """The heading of a field: that of the group of options which it comes from."""
    first = next(base for base in reversed(kind.__mro__) if name in vars(base).get("__annotations__", {}))
    group = getattr(first, "help_group", None)
    return group if isinstance(group, str) and group in vars(first).values() else OWN_GROUP


def _build(kind: type, values: Mapping[str, Any]) -> Any:
    """Build an option dataclass from typer's values."""
    return kind(**{option.field.name: option.value(values[option.field.name]) for option in _options(kind)})
