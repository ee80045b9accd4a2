"""The command line: ``swmld --mount DIR`` is the daemon, the subcommands talk to it.

This is the one place where an error becomes a line and an exit code: 2 for what the user can mend, 1 for what
the host or the daemon could not do, 130 for Ctrl-C.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from typing import Annotated, Any

import typer

from swmld import __version__
from swmld.cli import (
    cache,
    completion,
    configuring,
    demo,
    doctor,
    explain,
    history,
    man,
    staged,
    stats,
    status,
    test_rules,
    trace,
    validate,
    warmup,
)
from swmld.cli import config as config_command
from swmld.cli import plugin as plugin_command
from swmld.cli import rules as rules_command
from swmld.cli.options import setting
from swmld.cli.starting import PROGRAM, Deliver, complain, told
from swmld.cli.text import prose
from swmld.config import layers
from swmld.config.models import Settings
from swmld.errors import UsageError

NEAR = 0.7
"""How alike two names of options are if one is taken for the other (``difflib``): --cachedir and --cache-dir
are (0.94), --bogus and --neighbours are not (0.53)."""
HELP = """Serve a directory through a local cache, at the speed of the local disk.

[bold]swmld --mount /mnt/ml[/bold] puts a cache in front of what /mnt/ml already holds (a network mount, a
slow disk), in place, and runs in the foreground until SIGTERM or Ctrl-C. Then the directory is as it was.

[bold]Examples[/bold]

  swmld --mount /mnt/ml                           cache what is there

  swmld --mount /mnt/ml --source /nfs/datasets    serve another directory

  swmld --mount /mnt/ml --config swmld.yaml --cache-size 500GiB

  swmld demo /tmp/swmld-demo                      see it work on a sample

Sizes are written 4MiB, 100GiB or 500GB; times 500ms, 10s or 5min. Options win over environment variables
(SWMLD_CACHE_SIZE for --cache-size), these over the configuration, which wins over the defaults.
"""

app = typer.Typer(
    add_completion=False, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)
for module in (
    status,
    stats,
    trace,
    warmup,
    cache,
    rules_command,
    config_command,
    validate,
    test_rules,
    plugin_command,
    explain,
    history,
    staged,
    doctor,
    demo,
    man,
    completion,
):
    module.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, help=prose(HELP))
def serve(
    ctx: typer.Context,
    mount: Annotated[str | None, setting("mount")] = None,
    source: Annotated[str | None, setting("source")] = None,
    cache_dir: Annotated[str | None, setting("cache_dir")] = None,
    cache_size: Annotated[str | None, setting("cache_size")] = None,
    free_floor: Annotated[str | None, setting("free_floor")] = None,
    chunk_size: Annotated[str | None, setting("chunk_size")] = None,
    read_only: Annotated[bool | None, setting("read_only", "--read-only/--read-write")] = None,
    passthrough: Annotated[bool | None, setting("passthrough", "--passthrough/--no-passthrough")] = None,
    native: Annotated[bool | None, setting("native", "--native/--no-native")] = None,
    fuse_uring: Annotated[bool | None, setting("fuse_uring", "--fuse-uring/--no-fuse-uring")] = None,
    check: Annotated[str | None, setting("check")] = None,
    check_interval: Annotated[str | None, setting("check_interval")] = None,
    metadata_timeout: Annotated[str | None, setting("metadata_timeout")] = None,
    engine: Annotated[str | None, setting("engine")] = None,
    fetch_parallel: Annotated[str | None, setting("fetch_parallel")] = None,
    prefetch_parallel: Annotated[str | None, setting("prefetch_parallel")] = None,
    sub_read: Annotated[str | None, setting("sub_read")] = None,
    fetch_timeout: Annotated[str | None, setting("fetch_timeout")] = None,
    source_wait: Annotated[str | None, setting("source_wait")] = None,
    source_grace: Annotated[str | None, setting("source_grace")] = None,
    write: Annotated[str | None, setting("write")] = None,
    staging_size: Annotated[str | None, setting("staging_size")] = None,
    hedge: Annotated[bool | None, setting("hedge", "--hedge/--no-hedge")] = None,
    readahead_max: Annotated[str | None, setting("readahead_max")] = None,
    neighbours: Annotated[str | None, setting("neighbours")] = None,
    neighbours_max_files: Annotated[str | None, setting("neighbours_max_files")] = None,
    follow: Annotated[bool | None, setting("follow", "--follow/--no-follow")] = None,
    rules: Annotated[list[str] | None, setting("rules")] = None,
    environment: Annotated[str | None, setting("environment")] = None,
    plugins: Annotated[list[str] | None, setting("plugins")] = None,
    use_plugins: Annotated[bool | None, setting("use_plugins", "--use-plugins/--no-plugins")] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="PATH|off",
            rich_help_panel="Operation",
            help="Read settings and rules from a YAML file, or "
            "from a directory with default/, frameworks/, environments/ and custom/. Default: /etc/swmld if "
            "it has one of these and no --rules are given; off: none.",
        ),
    ] = None,
    probe: Annotated[str | None, setting("probe")] = None,
    probe_rate: Annotated[str | None, setting("probe_rate")] = None,
    metrics_address: Annotated[str | None, setting("metrics_address")] = None,
    run_dir: Annotated[str | None, setting("run_dir")] = None,
    state_dir: Annotated[str | None, setting("state_dir")] = None,
    log_level: Annotated[str | None, setting("log_level")] = None,
    log_format: Annotated[str | None, setting("log_format")] = None,
    show_demo: Annotated[
        bool,
        typer.Option("--demo", help="Fill DIR with a small sample, read it twice, show the rates and end."),
    ] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    if ctx.invoked_subcommand is not None:
        _nothing_before(ctx)
        return
    options = {key: ctx.params.get(key) for key in Settings.model_fields}
    options |= {"rules": rules or None, "plugins": plugins or None}
    resolved, found = configuring.settled(config, options)
    settings = resolved.settings
    fixed = {*layers.of_options(options).values, *layers.of_variables(os.environ).values}
    if show_demo:
        places = demo.Places(cache=cache_dir, run=run_dir, state=state_dir)
        demo.run(settings.mount, demo.mode_options(settings.passthrough, settings.native), places)
        return
    from swmld.cli import preflight

    preflight.check(settings)
    watched = configuring.watched(settings, found)
    if ctx.obj is not None:
        deliver: Deliver = ctx.obj
        deliver(settings, fixed, watched)
        return
    from swmld import app as daemon

    raise typer.Exit(daemon.run(settings, fixed, watched))


def _nothing_before(ctx: typer.Context) -> None:
    """``swmld --mount DIR stats``: the daemon's options would be dropped unseen. ``config`` shows them."""
    if ctx.invoked_subcommand == "config":
        return
    for option in ctx.command.params:
        source = ctx.get_parameter_source(option.name or "")
        if source is not None and source.name == "COMMANDLINE":
            off = ctx.params[option.name or ""] is False and option.secondary_opts
            raise UsageError(
                f"{(off or option.opts)[0]} before {ctx.invoked_subcommand} has no effect; expected: "
                f"{PROGRAM} {ctx.invoked_subcommand} with its own options behind it"
            )


def main() -> None:
    """Entry point of the ``swmld`` program."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str], deliver: Deliver | None = None) -> int:
    """Run one command; the exit code. Unexpected exceptions pass, with their traceback. ``deliver``
    takes what a daemon is told, in its place."""
    command: Any = typer.main.get_command(app)
    if "_SWMLD_COMPLETE" in os.environ:
        completion.prepare()
    try:
        return told(
            lambda: command.main(args=arguments, prog_name=PROGRAM, standalone_mode=False, obj=deliver) or 0
        )
    except typer.Abort:
        return 130
    except Exception as error:
        # The parser's own errors (an unknown option, a missing argument) know how to be told.
        if not hasattr(error, "format_message"):
            raise
        complain(_told(error))
        return int(getattr(error, "exit_code", 2))


# The parser's words for a value of another type.
_VALUES = re.compile(r"Input should be a valid (integer|number), unable to parse string as an? \w+")
_EXPECTED = {"integer": "expected a whole number", "number": "expected a number"}


def _told(error: Any) -> str:
    """An error of the parser, with the help that tells more."""
    text = _VALUES.sub(lambda said: _EXPECTED[said[1]], error.format_message().rstrip("."))
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities"):
        known = {name.lstrip("-"): name for name in error.possibilities or ()}
        near = [known[name] for name in difflib.get_close_matches(option.lstrip("-"), known, cutoff=NEAR)]
        text = error.message + (f"; did you mean {' or '.join(near)}?" if near else "")
    context = getattr(error, "ctx", None)
    return f"{text} (see {context.command_path if context is not None else PROGRAM} --help)"


if __name__ == "__main__":
    main()
