"""`eigenstep explore`: the interactive page, live on this machine or written as one file."""

import webbrowser
from pathlib import Path

import click

from eigenstep.cli import common, options


@click.command()
@click.argument("report", type=Path, required=False, metavar="[REPORT.json]")
@click.option(
    "--export", "file", type=options.OutFile(), metavar="FILE.html", help="Write one self-contained file and stop."
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port on 127.0.0.1 [default: a free one].")
@click.option("--no-browser", is_flag=True, help="Do not open a browser, only say where the page is.")
def command(report: Path | None, file: Path | None, port: int, no_browser: bool) -> None:
    r"""An interactive page: race the rules, and see your own spectrum or log in it.

    REPORT is what `measure`, `diagnose`, `recommend` or a monitor wrote; the page opens others too. It is served on
    127.0.0.1 alone, nothing leaves this machine.

    \b
    eigenstep explore
    eigenstep explore results/measure/spectrum.json
    eigenstep explore --export page.html
    """
    from eigenstep import page

    content = None if report is None else page.read_report(report)
    name = "" if report is None else report.name
    if file is not None:
        common.say(f"written: {page.export(file, content, name)}; any browser opens it, offline")
        return
    try:
        with page.Server(content, name, port=port) as server:
            common.echo(f"the explorer is at {server.url} (Ctrl-C stops it)")
            if not no_browser:
                webbrowser.open(server.url)
            server.wait()
    except KeyboardInterrupt:
        common.say("stopped")
