"""From GlowBack's requests to the workbench's: what a backtest or an optimization asks for, as spec and dimensions."""

from pathlib import Path
from typing import Any, Final

from engine import times
from engine.candle_store import CandleStore
from engine.errors import WorkbenchError
from engine.sources import csv_files, market_of
from engine.spec import BacktestSpec
from server.dialects.glowback_models import BacktestRequest, Findings, OptimizationRequest, finding, validate

SOURCES: Final = {"default": "store", "csv": "csv", "sample": "sample"}
RESOLUTIONS: Final = {"day": "1d", "hour": "1h", "minute": "1m"}
LARGEST: Final = 1e300  # of a spec's parameters
SECONDS: Final = {"hour": 3_600, "minute": 60}
CSV_FIELD: Final = "csv_data_path"


def spec_of(request: BacktestRequest, store: CandleStore, csv_root: Path | None,
            loc: tuple[str | int, ...] = ("body",)) -> BacktestSpec:
    """The spec of a request. Blocks (it looks at the disk). Raises `Findings` for CSV paths outside the root.

    What GlowBack lets through and fails later (unknown symbols, a reversed range, ticks) stays in the spec's options,
    so that the run fails with its words.
    """
    folder = _folder(request, csv_root, loc) if request.data_source == "csv" and request.csv_data_path else None
    start, end = times.iso(request.start_date), times.iso(request.end_date)
    reversed_range = request.end_date < request.start_date
    plain = {key: storable(value) for key, value in request.strategy.params.items()
             if _plain(value)}
    options: dict[str, Any] = {
        "symbols": request.symbols, "resolution": request.resolution,
        **request.execution.model_dump(exclude_none=True), "figures": "glowback",
    }
    if reversed_range:
        options |= {"start": start, "end": end}
    if any(value is not None and not _plain(value) for value in request.strategy.params.values()):
        options["strategy_params"] = storable(request.strategy.params)
    if csv_root is not None and folder is not None:
        options["csv_root"] = str(csv_root.resolve())
    return BacktestSpec(
        strategy=request.strategy.name, params=plain, markets=tuple(_markets(request, store)),
        resolution=RESOLUTIONS.get(request.resolution, "1d"), start=None if reversed_range else start,
        end=None if reversed_range else end, cash=request.initial_capital, currency=request.currency,
        direction="both", data_mode=request.data_quality_mode, fill_model="glowback", fill_options=options,  # type: ignore[arg-type]
        source=SOURCES[request.data_source], source_path=None if folder is None else str(folder))  # type: ignore[arg-type]


def _plain(value: Any) -> bool:
    """Whether a strategy's parameter can stand among a spec's own; others travel in its options."""
    return isinstance(value, bool | str) or (isinstance(value, int | float) and abs(value) <= LARGEST)


def storable(value: Any) -> Any:
    """JSON-like data with whole numbers too long for 64 bits as floats (or as text, beyond those)."""
    if isinstance(value, dict):
        return {key: storable(each) for key, each in value.items()}
    if isinstance(value, list):
        return [storable(each) for each in value]
    if isinstance(value, int) and not -2**63 <= value < 2**63:
        return float(value) if abs(value) < 10**300 else str(value)
    return value


def _markets(request: BacktestRequest, store: CandleStore) -> list[str]:
    """The markets' keys, one for each symbol, each once; one that cannot be resolved gets a name that says so."""
    keys = []
    for symbol in request.symbols:
        key = market_of(symbol, request.data_source, request.currency).key
        if request.data_source == "default":
            try:
                key = store.resolve(symbol).key
            except WorkbenchError:
                key = market_of(symbol, "unknown", request.currency).key
        keys.append(key)
    return list(dict.fromkeys(keys))


def _folder(request: BacktestRequest, csv_root: Path | None, loc: tuple[str | int, ...]) -> Path:
    """The folder that a request names, links followed, if it and the symbols' files lie below the root."""
    given = request.csv_data_path or ""
    loc = (*loc, CSV_FIELD)
    if csv_root is None:
        raise Findings([finding(loc, "this server reads no CSV files: start it with --csv-root FOLDER "
                                     "(or WORKBENCH_CSV_ROOT), and name a folder below that", given)])
    outside = Findings([finding(loc, "the folder must lie below the server's CSV root", given)])
    try:
        root = csv_root.resolve()
        folder = (root / given).resolve()
        if not folder.is_relative_to(root):
            raise outside
        for symbol in dict.fromkeys(request.symbols):
            try:
                paths = list(csv_files(folder, symbol, SECONDS.get(request.resolution, 86_400)))
            except ValueError:
                continue  # cannot name a file: the run fails for lack of data
            if any(not path.resolve().is_relative_to(root) for path in paths):
                raise outside
    except (OSError, ValueError, RuntimeError):  # null characters, names too long, circles of links
        raise Findings([finding(loc, "this is not a folder below the server's CSV root", given)]) from None
    return folder


def base_of(request: OptimizationRequest, store: CandleStore, csv_root: Path | None) -> BacktestSpec:
    """The backtest that an optimization varies; without a data source on sample data, as the original's is."""
    loc = ("body", "base_backtest")
    base = validate(BacktestRequest, {"data_source": "sample", **request.base_backtest}, loc)
    if base.end_date < base.start_date:
        given = request.base_backtest["end_date"]
        raise Findings([finding((*loc, "end_date"), "end_date is before start_date", given)])
    return spec_of(base, store, csv_root, loc)
