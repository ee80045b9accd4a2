"""``swmld man``: the man page, made from the same commands and options as ``--help``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer

from swmld import __version__
from swmld.cli.text import prose

HELP = """Print the man page, made from the same text as --help.

[bold]Examples[/bold]

  swmld man | man -l -

  swmld man > /usr/local/share/man/man8/swmld.8
"""
EXIT_CODES = (("0", "All is well."), ("1", "The host, the source or the daemon could not do it."),
              ("2", "What was given cannot work; one line on standard error says why."),
              ("130", "Stopped with Ctrl-C."))  # fmt: skip
FILES = (("/etc/swmld/", "The configuration where none is given, if it has default/, frameworks/, "
                         "environments/ or custom/; see swmld config init."),
         ("/etc/swmld/swmld.yaml", "Where the systemd unit looks for the configuration; see --config."),
         ("/var/cache/swmld/", "The caches, one directory a mount; see --cache-dir."),
         ("/run/swmld/", "The control sockets, one a mount; see --run-dir."))  # fmt: skip


def register(app: typer.Typer) -> None:
    app.command("man", help=prose(HELP))(man)


def man(ctx: typer.Context) -> None:
    """Print the page."""
    print(page(ctx.find_root().command), end="")


def page(root: Any) -> str:
    """The roff text of the whole command tree under ``root``, a command of the parser's."""
    lines = [f'.TH SWMLD 8 "" "swmld {__version__}" "System Administration"', ".SH NAME"]
    lines += [r"swmld \- serve a directory through a local cache", ".SH SYNOPSIS"]
    lines += [r"\fBswmld\fR \fB\-\-mount\fR \fIDIR\fR [\fIoptions\fR]"]
    lines += [f".br\n{bold('swmld ' + path)} {roff(_usage(command))}" for path, command in subcommands(root)]
    lines += [".SH DESCRIPTION", *_help(root), ".SH OPTIONS", *_options(root), ".SH COMMANDS"]
    for path, command in subcommands(root):
        lines += [f".SS {bold('swmld ' + path)}", *_help(command), *_options(command)]
    for title, rows in (("EXIT STATUS", EXIT_CODES), ("FILES", FILES)):
        lines += [f".SH {title}"]
        lines += [f".TP\n{bold(word)}\n{roff(text)}" for word, text in rows]
    return "\n".join(lines) + "\n"


def subcommands(command: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command that is shown below ``command``, with its words, such as ``cache ls``."""
    for name, child in sorted(getattr(command, "commands", {}).items()):
        if child.hidden:
            continue
        below = getattr(child, "commands", None)
        if not below or child.invoke_without_command:
            yield prefix + name, child
        if below:
            yield from subcommands(child, f"{prefix}{name} ")


def options(command: Any) -> Iterator[tuple[str, str]]:
    """What each option or argument of ``command`` is called, with its value, and its help."""
    for parameter in command.params:
        value = getattr(parameter, "metavar", None) or ""
        if parameter.param_type_name == "argument":
            yield value, parameter.help or ""
            continue
        names = ", ".join([*parameter.opts, *parameter.secondary_opts])
        yield f"{names} {value}".strip(), parameter.help or ""


def roff(text: str) -> str:
    """``text`` such that roff prints it as it is."""
    text = re.sub(r"\[/?bold\]", "", text).replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def bold(text: str) -> str:
    """``text`` in bold."""
    return rf"\fB{roff(text)}\fR"


def _usage(command: Any) -> str:
    arguments = [p.metavar for p in command.params if p.param_type_name == "argument"]
    return " ".join([*arguments, "[options]"])


def _help(command: Any) -> list[str]:
    """Paragraphs; an indented one is an example and keeps its line."""
    lines: list[str] = []
    for paragraph in re.split(r"\n\s*\n", (command.help or "").strip("\n")):
        example = paragraph.startswith("  ")
        lines += [
            ".PP",
            f".RS\n.nf\n{roff(paragraph.strip())}\n.fi\n.RE" if example else roff(paragraph.strip()),
        ]
    return lines


def _options(command: Any) -> list[str]:
    return [f".TP\n{bold(name)}\n{roff(text)}" for name, text in options(command)]
