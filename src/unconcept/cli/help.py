"""The help of commands: those of a group under headings, and the flags of each under the groups that they come from."""

from typing import Any

from typer.core import TyperCommand, TyperGroup

OWN_GROUP = "options"  # flags that only this command has
_WHOLE = 1000  # characters of a command's first sentence, which is never cut


class GroupedCommands(TyperGroup):
    """A group of commands whose `--help` lists them by their `rich_help_panel`, each with its whole first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command: Any = self.get_command(ctx, name)
            title = getattr(command, "rich_help_panel", None) or "commands"
            sections.setdefault(str(title), []).append((name, command.get_short_help_str(_WHOLE)))
        width = max(len(name) for lines in sections.values() for name, _ in lines)
        for title, lines in sections.items():
            with formatter.section(title.capitalize()):
                formatter.write_dl([(name.ljust(width), line) for name, line in lines])


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
