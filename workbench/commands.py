"""What each command of the command line does. Every function takes the parsed arguments and gives the exit status."""

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from engine import times
from engine.errors import Conflict, Invalid, NotFound


def data_dir(arguments: argparse.Namespace) -> Path:
    """The data directory: the flag, else what the server's settings say (environment, file, `.workbench`)."""
    if given := getattr(arguments, "data_dir", None):
        return Path(given)
    from workbench import mount

    return mount.config_of(argparse.Namespace()).data_dir


def table(rows: Iterable[Sequence[object]], heads: Sequence[str], right: Sequence[int] = ()) -> str:
    """Rows as aligned text; columns in `right` are flush right."""
    texts = [tuple(map(str, heads)), *(tuple("" if cell is None else str(cell) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(heads))]
    return "\n".join("  ".join(
        cell.rjust(width) if column in right else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in texts)


def show(at: int | None) -> str:
    """Integer microseconds as `2023-01-31 14:30`, without the time at midnight."""
    return "" if at is None else times.iso(at)[:16].replace("T", " ").removesuffix(" 00:00")


# -- serving -----------------------------------------------------------------------------------------------------------


def serve(arguments: argparse.Namespace) -> int:
    """`workbench serve`."""
    from workbench import mount

    return mount.run_server(arguments)


def pages(arguments: argparse.Namespace) -> int:
    """`workbench pages --server URL`."""
    import asyncio

    from workbench.remote_pages import serve_pages

    return asyncio.run(serve_pages(arguments.server, arguments.host, arguments.port,
                                   [part.strip() for part in arguments.origins.split(",") if part.strip()]))


# -- candles -----------------------------------------------------------------------------------------------------------


def load(arguments: argparse.Namespace) -> int:
    """`workbench import FILE`."""
    from engine.candle_files import import_file

    done = import_file(arguments.file, data_dir=data_dir(arguments), exchange=arguments.exchange,
                       asset=arguments.asset, currency=arguments.currency, resolution=arguments.resolution,
                       overwrite=arguments.overwrite, adjusted=arguments.adjusted, time_format=arguments.time_format)
    for one in done:
        print(f"{one.market} {one.resolution}: {one.rows:,} bars from {show(one.first)} to {show(one.last)}; "
              f"{one.added:,} added, {one.kept:,} kept, {one.replaced:,} replaced")
    return 0


def _store(arguments: argparse.Namespace) -> Any:
    from engine.candle_store import CandleStore

    return CandleStore(data_dir(arguments) / "candles")


def candles_list(arguments: argparse.Namespace) -> int:
    """`workbench candles list`."""
    found = _store(arguments).datasets()
    if arguments.json:
        print(json.dumps([{"market": one.market.key, "resolution": times.resolution_name(one.resolution),
                           "first": times.iso(one.first), "last": times.iso(one.last), "rows": one.rows,
                           "bytes": one.bytes} for one in found], indent=2))
    elif not found:
        print(f"no candles in {data_dir(arguments)}; bring some with: workbench import FILE …", file=sys.stderr)
    else:
        print(table([(one.market.key, times.resolution_name(one.resolution), show(one.first), show(one.last),
                      f"{one.rows:,}", f"{one.bytes:,}") for one in found],
                    ("market", "bars", "first", "last", "rows", "bytes"), right=(4, 5)))
    return 0


def _chosen(arguments: argparse.Namespace) -> Any:
    store = _store(arguments)
    market = store.resolve(arguments.market)
    if arguments.resolution:
        resolution = times.resolution(arguments.resolution)
    else:
        resolution = min(one.resolution for one in store.datasets() if one.market == market)
    start, end = (None if text is None else times.micros(times.parse(text, field=field))
                  for text, field in ((arguments.start, "start"), (arguments.end, "end")))
    return store.read(market, resolution, start, end)


def candles_quality(arguments: argparse.Namespace) -> int:
    """`workbench candles quality MARKET`."""
    report = _chosen(arguments).quality().to_json()
    if arguments.json:
        print(json.dumps(report, indent=2))
        return 0
    for name in ("market", "resolution", "rows", "first", "last", "calendar", "periods_per_year", "periods_text",
                 "coverage", "gap_count", "missing_bars", "duplicates", "bad_bar_count", "zero_volume", "outlier_count",
                 "fingerprint"):
        print(f"{name:17} {report.get(name)}")
    for sentence in report.get("findings") or ["no findings: these candles are sound"]:
        print(f"- {sentence}")
    for gap in report.get("gaps", [])[:20]:
        print(f"  gap {gap['start'][:16]} to {gap['end'][:16]}: {gap['missing']} bars missing")
    return 0


def candles_export(arguments: argparse.Namespace) -> int:
    """`workbench candles export MARKET FILE`."""
    from engine.candle_files import arrow_stream, csv_text

    form = "csv" if arguments.file == "-" else arguments.file.rpartition(".")[2].lower()
    if form not in ("csv", "parquet", "arrow"):
        raise Invalid(f"{arguments.file} is no known form", field="FILE", remedy="end it in .csv, .parquet or .arrow")
    candles = _chosen(arguments)
    if form == "parquet":
        from engine.candle_parquet import encode

        body = encode(candles).to_pybytes()
    else:
        body = csv_text(candles) if form == "csv" else arrow_stream(candles)
    if arguments.file == "-":
        sys.stdout.buffer.write(body)
        sys.stdout.flush()
        return 0
    path = Path(arguments.file)
    try:
        path.write_bytes(body)
    except OSError as error:
        raise Invalid(f"{path} cannot be written: {error.strerror}", field="FILE") from None
    print(f"{len(candles):,} bars written to {path}", file=sys.stderr)
    return 0


# -- backtests ---------------------------------------------------------------------------------------------------------


def value_of(text: str) -> Any:
    """The value of a word: a number, true, false, or text."""
    lowered = text.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def words_of(given: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Markets and named words: `demo:AAPL/USD fast=10` -> (["demo:AAPL/USD"], {"fast": 10})."""
    markets = [word for word in given if "=" not in word]
    named: dict[str, Any] = {}
    for word in given:
        name, equals, text = word.partition("=")
        if not equals:
            continue
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name) or not text:
            raise Invalid(f"{word!r} is not NAME=VALUE", remedy="write it like fast=10")
        # Times and names stay text: 2012 as a start is a year, not seconds since 1970.
        named[name] = text if name in ("start", "end", "resolution", "currency", "benchmark") else value_of(text)
    for name in ("start", "end"):
        if re.fullmatch(r"\d{4}", str(named.get(name, ""))):
            named[name] += "-01-01" if name == "start" else "-12-31"
    return markets, named


def backtest(arguments: argparse.Namespace) -> int:
    """`workbench backtest STRATEGY MARKET … NAME=VALUE …`."""
    markets, words = words_of(arguments.words)
    if arguments.local:
        return _local_backtest(arguments, markets, words)
    if arguments.save:
        raise Invalid("--save needs --local", field="--save", remedy="results on a server are kept there")
    from workbench.connecting import connect
    from workbench.runs import RunFailed

    with connect(arguments.url, arguments.token, data_dir=data_dir(arguments), demo=False) as client:
        try:
            run = client.backtest(arguments.strategy, markets, name=arguments.name, tags=arguments.tag, **words)
        except RunFailed as failed:
            print(f"error: the run failed: {failed.message}", file=sys.stderr)
            return 1
        if run.state != "completed":
            print(f"the run was {run.state}", file=sys.stderr)
            return 1
        summary = run.summary
        _print_summary(summary, arguments.json)
        if arguments.html:
            print(f"report written to {run.to_html(arguments.html)}", file=sys.stderr)
        print(f"report at {run.url}", file=sys.stderr)
    return 0


def _local_backtest(arguments: argparse.Namespace, markets: list[str], words: dict[str, Any]) -> int:
    from engine import simulate
    from engine.reporter import Reporter
    from engine.spec import BacktestSpec
    from workbench.progress import progress_for
    from workbench.requests import backtest_body

    store = _store(arguments)
    body = backtest_body(arguments.strategy, [store.resolve(market).key for market in markets], **words)
    if body.get("benchmark"):
        body["benchmark"] = store.resolve(body["benchmark"], field="benchmark").key
    bar = progress_for(arguments.strategy)

    class Shown(Reporter):
        def progress(self, fraction: float, message: str = "") -> None:
            bar.update(fraction, message)

    result = simulate.run(BacktestSpec.read(body), store, Shown())
    bar.close("completed")
    if arguments.save:
        folder = Path(arguments.save)
        if (folder / "summary.json").exists():
            raise Conflict(f"{folder} holds a result already", field="--save", remedy="name a new folder")
        result.save(folder)
    if arguments.html:
        import asyncio

        from workbench import export

        asyncio.run(export.to_html(result, None, Path(arguments.html)))
    _print_summary(result.summary(), arguments.json)
    return 0


def _print_summary(summary: dict[str, Any], as_json: bool) -> None:
    from workbench.cards import number

    if as_json:
        print(json.dumps(summary, indent=2, default=str))
        return
    from engine.metrics import METRICS

    rows = []
    for key, value in summary["metrics"].items():
        metric = METRICS.get(key)
        rows.append((metric.name if metric else key, number(value, metric.unit if metric else "ratio")))
    print(table(rows, ("figure", "value"), right=(1,)))
    for warning in summary.get("warnings") or ():
        print(f"warning: {warning.get('message', warning)}", file=sys.stderr)


# -- tokens and database -----------------------------------------------------------------------------------------------


def token_create(arguments: argparse.Namespace) -> int:
    """`workbench token create NAME`."""
    from workbench import mount

    expires = None
    if arguments.expires:
        days = re.fullmatch(r"(\d{1,5})d", arguments.expires)
        expires = (times.now() + timedelta(days=int(days[1]))) if days else times.parse(
            arguments.expires, field="--expires")
    scopes = arguments.scope or ["read", "backtest"]

    async def work(users: Any) -> Any:
        return await users.create(arguments.name, scopes, expires_at=expires, owner="command line")

    token, text = mount.local_tokens(arguments, work)
    print(text)
    print(f"token {token.id} ({', '.join(token.scopes)}); it is not shown again", file=sys.stderr)
    return 0


def token_list(arguments: argparse.Namespace) -> int:
    """`workbench token list`."""
    from workbench import mount

    async def work(users: Any) -> Any:
        return await users.list()

    def day(at: Any) -> str:
        return "" if at is None else times.iso(at)[:16].replace("T", " ")

    rows = [(token.id, token.prefix, token.name, " ".join(token.scopes), day(token.created_at), day(token.last_used_at),
             "revoked" if token.revoked_at else f"until {day(token.expires_at)}" if token.expires_at else "")
            for token in mount.local_tokens(arguments, work)]
    heads = ("id", "prefix", "name", "scopes", "created", "last used", "state")
    if arguments.json:
        print(json.dumps([dict(zip(heads, row, strict=True)) for row in rows], indent=2))
    else:
        print(table(rows, heads))
    return 0


def token_revoke(arguments: argparse.Namespace) -> int:
    """`workbench token revoke ID`."""
    from workbench import mount

    async def work(users: Any) -> Any:
        fits = [token for token in await users.list()
                if arguments.id in (token.id, token.name) or arguments.id.startswith(token.prefix.rstrip("_"))]
        if len(fits) != 1:
            raise NotFound(f"{len(fits)} tokens fit {arguments.id!r}", field="id",
                           remedy="give an id that `workbench token list` shows")
        return await users.revoke(fits[0].id)

    token = mount.local_tokens(arguments, work)
    print(f"revoked {token.name} ({token.id})")
    return 0


def db_upgrade(arguments: argparse.Namespace) -> int:
    """`workbench db upgrade`."""
    from workbench import mount

    before, after = mount.upgrade_database(arguments)
    print(f"the database is at revision {after}" + (
        ", as it was" if before == after else f" (it was {'empty' if before is None else before})"))
    return 0


def db_check(arguments: argparse.Namespace) -> int:
    """`workbench db check`."""
    from workbench import mount

    print(f"{mount.check_database(arguments)} is well and fits this version")
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """`workbench doctor`."""
    from workbench.doctor import examine

    return examine(arguments)
