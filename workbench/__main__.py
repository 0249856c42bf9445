"""The command line: `workbench serve`, `backtest`, `import`, `candles`, `token`, `user`, `db`, `pages`, `doctor`.

Exit status: 0 done, 1 it failed (a run failed, the server refused), 2 the command was wrong, 3 nothing answers or it
cannot be done now, 130 interrupted. What is asked for goes to stdout, everything else to stderr. `--debug` shows
tracebacks.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from engine import __version__
from engine.errors import Invalid, NotFound, Unavailable, WorkbenchError
from workbench import commands, user_commands


def parser() -> argparse.ArgumentParser:
    """All commands and their flags."""
    top = argparse.ArgumentParser(prog="workbench", description="A self-hosted analytics workbench for people who "
                                  "trade with programs.")
    top.add_argument("--version", action="version", version=f"workbench {__version__}")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    names = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return names.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")

    serve = command("serve", "start the server: API, streams and pages on one port")
    serve.set_defaults(run=commands.serve, settings=True)

    pages = command("pages", "serve only the pages, in front of a server elsewhere")
    pages.add_argument("--server", metavar="URL", required=True, help="where the workbench server is")
    pages.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    pages.add_argument("--port", type=int, default=8889, help="port; 0 picks a free one (default 8889)")
    pages.add_argument("--origins", default="", help="names by which browsers reach it: desk.example,desk:8889")
    pages.set_defaults(run=commands.pages)

    load = command("import", "store candles from a CSV, Parquet, Arrow or JSON file, or from Gekko's history (SQLite)")
    load.add_argument("file", metavar="FILE")
    load.add_argument("--exchange", help="for example nasdaq or binance; a history file of Gekko's says it itself")
    load.add_argument("--asset", help="for example AAPL; left out for a file with a symbol column")
    load.add_argument("--currency", help="for example USD")
    load.add_argument("--resolution", help="1m, 1h, 1d …; read off the times unless given")
    load.add_argument("--overwrite", action="store_true", help="replace bars that are already there")
    load.add_argument("--adjusted", action="store_true", help="scale prices by adjusted close / close")
    load.add_argument("--time-format", help="strptime form of the times, when they are unusual")
    _data_dir(load)
    load.set_defaults(run=commands.load)

    candles = command("candles", "list, judge and export stored candles")
    what = candles.add_subparsers(dest="what", metavar="WHAT", required=True)
    listed = what.add_parser("list", help="every stored dataset")
    listed.set_defaults(run=commands.candles_list)
    quality = what.add_parser("quality", help="gaps, bad bars, calendar of one dataset")
    quality.set_defaults(run=commands.candles_quality)
    export = what.add_parser("export", help="write candles to a CSV, Parquet or Arrow file")
    export.set_defaults(run=commands.candles_export)
    for each in (quality, export):
        each.add_argument("market", help="demo:AAPL/USD, or AAPL when only one fits")
        each.add_argument("--resolution", help="default: the finest that is stored")
        each.add_argument("--start", help="first bar, such as 2012-01-01")
        each.add_argument("--end", help="last bar")
    export.add_argument("file", metavar="FILE", help="NAME.csv, NAME.parquet or NAME.arrow; - for CSV on stdout")
    for each in (listed, quality):
        each.add_argument("--json", action="store_true", help="print JSON")
    for each in (listed, quality, export):
        _data_dir(each)

    backtest = command("backtest", "run a backtest on a server, or on the local candles when --local")
    backtest.add_argument("strategy", help="for example sma_cross")
    backtest.add_argument("words", nargs="+", metavar="MARKET|NAME=VALUE",
                          help="markets (demo:AAPL/USD) and words: fast=10 cash=50000 start=2005-01-01 fee_rate=0.001")
    backtest.add_argument("--name", default="", help="a name to find it by")
    backtest.add_argument("--tag", action="append", default=[], help="a tag; may be given again")
    backtest.add_argument("--json", action="store_true", help="print the summary as JSON")
    backtest.add_argument("--html", metavar="FILE", help="write the report to FILE")
    backtest.add_argument("--local", action="store_true", help="use no server: compute here, on the data directory's "
                          "candles; nothing is recorded")
    backtest.add_argument("--save", metavar="DIR", help="with --local: write the result's tables to DIR")
    _server(backtest)
    _data_dir(backtest)
    backtest.set_defaults(run=commands.backtest)

    token = command("token", "create, list and revoke tokens of a local data directory")
    deed = token.add_subparsers(dest="what", metavar="WHAT", required=True)
    create = deed.add_parser("create", help="make a token; it is printed once")
    create.add_argument("name")
    create.add_argument("--scope", action="append", default=[], help="admin, read, ingest, backtest, deploy, alerts; "
                        "may be given again (default: read and backtest)")
    create.add_argument("--expires", metavar="WHEN", help="2027-01-31, or a number of days such as 30d")
    create.set_defaults(run=commands.token_create)
    shown = deed.add_parser("list", help="every token, without its secret")
    shown.add_argument("--json", action="store_true", help="print JSON")
    shown.set_defaults(run=commands.token_list)
    revoke = deed.add_parser("revoke", help="make a token worthless")
    revoke.add_argument("id", help="the id or prefix that list shows")
    revoke.set_defaults(run=commands.token_revoke)
    for each in (create, shown, revoke):
        _database(each)

    for each in user_commands.arguments_of(command("user", "accounts that receive alerts: add, passwd, credits, list")):
        _database(each)

    db = command("db", "bring the database up to date, or check it")
    deed = db.add_subparsers(dest="what", metavar="WHAT", required=True)
    for name, run, text in (("upgrade", commands.db_upgrade, "make the tables, or bring them to this version"),
                            ("check", commands.db_check, "say whether the database fits this version")):
        each = deed.add_parser(name, help=text)
        each.set_defaults(run=run)
        _database(each)

    doctor = command("doctor", "check Python, packages, disk, database, port, browser, workers")
    doctor.add_argument("--port", type=int, default=argparse.SUPPRESS, help="port to check (default: the server's)")
    doctor.add_argument("--quick", action="store_true", help="leave out what takes seconds")
    _database(doctor)
    doctor.set_defaults(run=commands.doctor)
    return top


def _data_dir(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data-dir", default=argparse.SUPPRESS, metavar="DIR",
                         help="the data directory (default: the server's: WORKBENCH_DATA_DIR, else WORKBENCH_CONFIG's, "
                         "else .workbench)")


def _database(command: argparse.ArgumentParser) -> None:
    _data_dir(command)
    command.add_argument("--database-url", default=argparse.SUPPRESS, metavar="URL",
                         help="the database, when it is not the data directory's own")


def _server(command: argparse.ArgumentParser) -> None:
    command.add_argument("--url", help="the server (default: WORKBENCH_URL, else http://127.0.0.1:8888)")
    command.add_argument("--token", help="default: WORKBENCH_TOKEN, else that of the data directory; prefer those, a "
                         "command line can be seen by others")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    top = parser()
    if "serve" in words[:2]:  # the server's flags come from its own table, which only `serve` needs to import
        from workbench.mount import add_serve_arguments

        serve = next(action for action in top._actions if isinstance(action, argparse._SubParsersAction))
        add_serve_arguments(serve.choices["serve"])
    arguments = top.parse_args(words)
    try:
        return int(arguments.run(arguments) or 0)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing to complain about
        return 0
    except WorkbenchError as error:
        if arguments.debug:
            raise
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 2 if isinstance(error, Invalid | NotFound) else 3 if isinstance(error, Unavailable) else 1


if __name__ == "__main__":
    sys.exit(main())
