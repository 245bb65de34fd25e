"""The help of a command: its flags under the headings of the groups that they come from."""

from typing import Any

from typer.core import TyperCommand

OWN_GROUP = "options"  # flags that only this command has


class GroupedCommand(TyperCommand):
    """A command whose `--help` lists its flags by group, its own first."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for the arguments and one for each group."""
        sections: dict[str, list[tuple[str, str]]] = {"arguments": [], OWN_GROUP: []}
        for parameter in self.get_params(ctx):
            line = parameter.get_help_record(ctx)
            is_option = parameter.param_type_name == "option"
            group = getattr(parameter, "rich_help_panel", None) or OWN_GROUP
            if line is not None:
                sections.setdefault(group if is_option else "arguments", []).append(line)
        for title, lines in sections.items():
            if lines:
                with formatter.section(title.capitalize()):
                    formatter.write_dl(lines)
