"""Uploaded models through the service: versions, lives, restarts, backtests, kills. Real processes in real boxes."""

import asyncio
import os
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from engine import archive
from engine.deployment import Deployment, Version
from engine.errors import Invalid, NotFound, Unavailable
from engine.model import Run
from engine.model_scratch import PREFIX
from server.config import Config
from server.services import Services
from server.services.versions import UPLOAD
from tests.harness import until

pytestmark = pytest.mark.anyio

FOREVER = """
import time
from blankly_external import report
report("order", id="1", symbol="BTC-USD", side="buy", size=1.0, price=10.0)
print("up", flush=True)
while True: time.sleep(0.05)
"""
BACKTEST = """
from blankly_external import Reporter
class Strategy:
    def __init__(self): Reporter.export_strategy(self)
    def backtest(self, **args):
        print("backtesting", args["start"])
        day = 86400
        Reporter.export_backtest_result({
            "symbols": ["BTC-USD"], "quote_asset": "USD", "start_time": args["start"],
            "stop_time": args["start"] + 9 * day,
            "account_values": [{"time": args["start"] + n * day, "value": 1000.0 + 10 * n} for n in range(10)],
            "trades": [{"symbol": "BTC-USD", "size": 1.0, "side": "buy", "id": "a", "time": args["start"] + day,
                        "price": 100.0}],
            "metrics": {"sharpe": {"value": 1.5, "display_name": "Sharpe", "type": "number"}}, "indicators": {}})
Strategy()
"""


class House:
    """A server without a network and without a pool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def open(self) -> None:
        self.services = await Services.open(Config(data_dir=self.folder / "data", token=""), compute=False)
        self.deployments = self.services.deployments
        await self.deployments.start()
        self.versions = self.deployments.versions
        if not await self.services.activity.projects():
            await self.services.activity.create_project("mine", id="p")

    async def close(self) -> None:
        await self.services.close()

    async def model(self, name: str = "bot") -> str:
        return (await self.services.activity.create_model("p", name, dialect="blankly")).id

    async def upload(self, model: str, script: str, **more: Any) -> Version:
        path = self.folder / "upload"
        archive.pack({"bot.py": script.encode(), **{name: text.encode() for name, text in more.items()}}, path)
        return (await self.versions.add(model, path, file="model.zip", description="first"))[0]

    async def reaches(self, model: str, state: str) -> Deployment:
        async def there() -> Deployment | None:
            found = await self.deployments.get(model)
            return found if found.state == state else None

        return await until(there, 60)

    async def ends(self, run: str | None) -> Run:
        async def there() -> Run | None:
            found = await self.services.runs.get(str(run))
            return found if found.finished else None

        return await until(there, 60)

    async def lines(self, model: str) -> list[str]:
        return [event.data["line"] for event in await self.services.events.page(f"model/{model}/log")]

    async def told(self, stream: str, type: str) -> list[Mapping[str, Any]]:
        return [event.data for event in await self.services.events.page(stream, types=[type])]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    made = House(tmp_path)
    await made.open()
    yield made
    await made.close()


async def test_versions_are_numbered_and_stored_once(house: House) -> None:
    model = await house.model()
    first = await house.upload(model, "print(1)")
    second = await house.upload(model, "print(2)", **{"keys.json": '{"secret": "s-1"}'})
    again = await house.upload(model, "print(1)")
    assert [found.number for found in await house.versions.list(model)] == [3, 2, 1]
    assert first.sha256 == again.sha256 != second.sha256
    files = [path for path in (house.folder / "data" / "archives").rglob("*") if path.is_file()]
    assert len(files) == 2 and all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    assert (await house.versions.difference(first, second)).added == ("keys.json",)
    assert await house.versions.text(first, "bot.py") == "print(1)"
    with pytest.raises(Invalid, match="secrets"):
        await house.versions.text(second, "keys.json")
    with pytest.raises(NotFound):
        await house.upload("nobody", "print(1)")
    other = await house.model("other")
    with pytest.raises(NotFound):
        await house.versions.get(first.id, model=other)
    assert [data["number"] for data in await house.told(f"model/{model}", "version")] == [1, 2, 3]


async def test_a_python_that_is_not_installed_is_refused_before_anything_is_kept(house: House) -> None:
    model = await house.model()
    path = house.folder / "upload"
    archive.pack({"bot.py": b"print(1)"}, path)
    with pytest.raises(Invalid, match=r"Python 3\.99 is not installed") as caught:
        await house.versions.add(model, path, python="3.99")
    assert caught.value.problems[0].field == "pythonVersion"
    assert await house.versions.list(model) == [] and not (house.folder / "data/archives").exists()
    await house.versions.add(model, path, python="3.11")


async def test_what_uploads_left_that_were_cut_off_is_swept_away_at_the_start(house: House) -> None:
    data = house.folder / "data"
    (data / "archives" / "ab").mkdir(parents=True)
    for folder in (data, data / "archives", data / "archives" / "ab"):
        for name in ("old", "new"):
            (folder / f"{UPLOAD}{name}").write_bytes(b"half an archi")
        os.utime(folder / f"{UPLOAD}old", (0, 0))
    await house.close()
    await house.open()
    left = [path.name for path in data.rglob(f"{UPLOAD}*")]
    assert left == [f"{UPLOAD}new"] * 3, "another server may be busy with the new ones"


async def test_what_a_killed_server_left_of_its_models_is_gone_after_the_start(house: House) -> None:
    left = house.folder / "data" / "models" / f"{PREFIX}left"
    (left / "model").mkdir(parents=True)
    (left / "model" / "keys.json").write_text("secret")
    await house.close()
    await house.open()
    assert not left.exists()


async def test_a_damaged_archive_is_refused_and_nothing_of_it_is_kept(house: House) -> None:
    model = await house.model()
    path = house.folder / "upload"
    archive.pack({"bot.py": b"print(1)", "blankly.json": b"{}", "data.csv": b"1,2,3\n" * 100}, path)
    path.write_bytes(path.read_bytes().replace(zlib.crc32(b"print(1)").to_bytes(4, "little"), b"\1\2\3\4"))
    with pytest.raises(Invalid, match="damaged"):
        await house.versions.add(model, path)
    assert await house.versions.list(model) == []
    assert [each for each in (house.folder / "data").rglob("*.zip") if each.is_file()] == []


async def test_a_live_model_runs_until_it_is_stopped(house: House) -> None:
    model = await house.model()
    deployed = await house.deployments.run(await house.upload(model, FOREVER), by="me")
    assert (deployed.wanted, deployed.plan) == ("running", "nano")

    async def up() -> bool:
        return await house.lines(model) == ["up"]

    await until(up, 60)
    found = await house.services.activity.model(model)
    assert found.running and found.message == "Monitoring Active" and found.orders == 1
    run = await house.services.runs.get(str((await house.deployments.get(model)).run))
    assert (run.kind, run.state, run.strategy) == ("live", "running", model)
    await house.deployments.stop(model)
    await house.reaches(model, "stopped")
    assert (await house.ends(run.id)).state == "completed"
    found = await house.services.activity.model(model)
    assert found.running is False and found.message == "Manually Exited" and found.ended_at
    assert (await house.deployments.stop(model)).state == "stopped"


async def test_one_that_ends_is_completed_and_one_that_fails_is_tried_again(house: House) -> None:
    good, bad = await house.model("good"), await house.model("bad")
    await house.deployments.run(await house.upload(good, "print('done')"))
    await house.deployments.run(await house.upload(bad, "raise SystemExit(3)"))
    completed = await house.reaches(good, "completed")
    assert (await house.ends(completed.run)).state == "completed" and completed.wanted == "stopped"
    waiting = await house.reaches(bad, "waiting")
    assert waiting.error == "exit code 3" and waiting.restarts >= 1 and waiting.next_at

    async def again() -> bool:
        return (await house.deployments.get(bad)).restarts >= 2

    await until(again, 60)
    assert {run.state for run in (await house.services.runs.list(strategy=bad, states=["failed"])).items} == {"failed"}
    await house.deployments.stop(bad)
    await house.reaches(bad, "stopped")


async def test_a_new_version_takes_the_place_of_the_old(house: House) -> None:
    model = await house.model()
    await house.deployments.run(await house.upload(model, FOREVER))
    first = await house.reaches(model, "running")
    second = await house.upload(model, FOREVER.replace('"up"', '"second"'))
    await house.deployments.run(second)

    async def there() -> bool:
        return "second" in await house.lines(model)

    await until(there, 60)
    now = await house.deployments.get(model)
    assert now.version == second.id and now.run != first.run
    assert (await house.ends(first.run)).state == "completed"


async def test_what_should_run_does_so_again_after_a_restart(house: House) -> None:
    model = await house.model()
    await house.deployments.run(await house.upload(model, FOREVER))
    before = await house.reaches(model, "running")
    await house.close()
    await house.open()

    async def again() -> bool:
        found = await house.deployments.get(model)
        return found.state == "running" and found.run != before.run

    await until(again, 60)
    assert (await house.services.runs.get(str(before.run))).finished


async def test_a_backtest_of_an_upload_is_a_run_with_a_result(house: House) -> None:
    model = await house.model()
    version = await house.upload(model, BACKTEST)
    run = await house.deployments.backtest(version, {"start": 1577836800}, description="try", by="me")
    assert run.state == "queued"
    done = await house.ends(run.id)
    assert done.state == "completed", done.error
    assert done.metrics["total_return"] == pytest.approx(0.09)
    assert (await house.services.runs.table(run.id, "equity")).num_rows == 10
    assert any("backtesting 1577836800" in data["message"] for data in await house.told(f"run/{run.id}", "log"))
    states = [data["state"] for data in await house.told(f"run/{run.id}", "state")]
    assert states == ["queued", "running", "completed"]
    failed = await house.ends((await house.deployments.backtest(version, {})).id)
    assert failed.state == "failed" and str(failed.error).startswith("KeyError: 'start'")


async def test_a_backtest_that_a_restart_cut_off_begins_again_once(house: House) -> None:
    model = await house.model()
    version = await house.upload(model, "import time; print('up', flush=True); time.sleep(600)")
    run = await house.deployments.backtest(version, {})
    for attempt in (1, 2):
        async def up(attempt: int = attempt) -> bool:
            return len(await house.told(f"run/{run.id}", "log")) == attempt

        await until(up, 60)
        await house.close()
        await house.open()
    done = await house.ends(run.id)
    assert (done.state, done.error) == ("failed", "server restarted")
    told = await house.told(f"run/{run.id}", "state")
    assert [data["state"] for data in told] == ["queued", "running", "queued", "running", "failed"]
    assert told[2]["message"] == "server restarted"


async def test_what_ends_while_the_database_is_away_is_written_when_it_is_back(house: House) -> None:
    """It is away for every writing of an end, twice each."""
    write, tried = house.services.db.write, Counter[str]()

    async def away(work: Any) -> Any:
        name = work.__qualname__.partition(".<locals>")[0]
        if name in ("Lives.end_run", "Deployments._after", "DetachedBacktests.result"):
            tried[name] += 1
            if tried[name] < 3:
                raise Unavailable("the database is away", remedy="wait")
        return await write(work)

    house.services.db.write = away  # type: ignore[method-assign]
    live, backtest = await house.model("live"), await house.model("backtest")
    await house.deployments.run(await house.upload(live, "print('done')"))
    run = await house.deployments.backtest(await house.upload(backtest, BACKTEST), {"start": 1577836800})
    found = await house.reaches(live, "completed")
    assert (await house.ends(found.run)).state == "completed"
    assert (await house.ends(run.id)).state == "completed"
    assert len((await house.services.runs.list(strategy=live)).items) == 1, "it lived once"
    assert len(tried) == 3 and min(tried.values()) >= 3


async def test_a_backtest_can_be_cancelled(house: House) -> None:
    model = await house.model()
    run = await house.deployments.backtest(await house.upload(model, "import time; print('up'); time.sleep(60)"), {})

    async def up() -> bool:
        return bool(await house.told(f"run/{run.id}", "log"))

    await until(up, 60)
    await house.services.runs.cancel(run.id)
    assert (await house.ends(run.id)).state == "cancelled"
    await until(lambda: not house.deployments.lives.busy, 30)


async def test_schedules_and_plans_are_checked(house: House) -> None:
    version = await house.upload(await house.model(), "print(1)")
    for wrong, field in (({"plan": "huge"}, "plan"), ({"schedule": "every day"}, "schedule"),
                         ({"schedule": "0 0 31 2 *"}, "schedule")):
        with pytest.raises(Invalid) as caught:
            await house.deployments.run(version, **wrong)
        assert caught.value.problems[0].field == field
    with pytest.raises(NotFound):
        await house.deployments.get(version.model)
    waiting = await house.deployments.run(version, schedule="30 14 * * 1-5")
    assert waiting.state == "waiting"
    found = await house.reaches(version.model, "waiting")

    async def planned() -> bool:
        return (await house.deployments.get(version.model)).next_at is not None

    await until(planned)
    assert found.schedule == "30 14 * * 1-5"


async def test_many_models_at_once(house: House) -> None:
    wanted = [await house.model(f"bot {number}") for number in range(6)]
    await asyncio.gather(*[house.deployments.run(await house.upload(model, FOREVER)) for model in wanted])
    for model in wanted:
        await house.reaches(model, "running")
    await asyncio.gather(*(house.deployments.stop(model) for model in wanted))
    for model in wanted:
        await house.reaches(model, "stopped")


async def test_a_screener_runs_at_each_time_of_its_schedule(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a schedule finer than cron's minutes, which nobody would wait for here."""
    monkeypatch.setattr("server.services.deployments.next_time",
                        lambda schedule, after: after + timedelta(seconds=0.3))
    model = await house.model("screener")
    script = "from blankly_external import report\nreport('screener', result={'AAPL': 1})\nprint('looked')\n"
    await house.deployments.run(await house.upload(model, script), schedule="* * * * *")

    async def thrice() -> bool:
        return len(await house.told(f"model/{model}", "screener")) >= 3

    await until(thrice, 60)
    await house.deployments.stop(model)
    await house.reaches(model, "stopped")
    runs = (await house.services.runs.list(strategy=model, kind="live")).items
    assert len(runs) >= 3 and {run.state for run in runs} == {"completed"}
