"""The command line. ``main`` is the entry point ``amctc``; each command has a file of its own.

What a command needs is imported when it runs: ``amctc --help`` must not wait for ONNX Runtime.
"""

from __future__ import annotations

import click

from amctc import __version__
from amctc.cli.compensate import compensate
from amctc.cli.compress import compress
from amctc.cli.demo import demo
from amctc.cli.estimate import estimate
from amctc.cli.evaluate import evaluate
from amctc.cli.inspect import inspect
from amctc.cli.passes import passes
from amctc.cli.plan import plan
from amctc.cli.program import DEBUG, Program
from amctc.cli.run import run
from amctc.cli.search import search
from amctc.cli.sensitivity import sensitivity
from amctc.cli.targets import targets

__all__ = ["amctc", "main"]

SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(cls=Program, invoke_without_command=True, context_settings=SETTINGS)
@click.version_option(__version__, "-V", "--version", message="amctc %(version)s")
@click.option(DEBUG, is_flag=True, expose_value=False, help="Show the traceback of an error.")
@click.pass_context
def amctc(context: click.Context) -> None:
    """Compress ONNX models for Huawei Ascend NPUs and simulate the result bit for bit, without an NPU."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


amctc.add_section("Start here", demo)
amctc.add_section("Compress a model, measure the result", compress, search, compensate, evaluate, estimate)
amctc.add_section("Look inside", sensitivity, inspect, plan, passes, targets)
amctc.add_section("Compose a pipeline of your own", run)


def main() -> None:
    """Run the command line of this process and exit with its status."""
    amctc.main()
