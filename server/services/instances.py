"""Live instances: watchers of markets, and strategies that trade on their candles, on paper or with real orders.

All of them survive the server: the table `instances` has what each was asked, what it remembers and where it was, and
is written in one transaction with the events of each group of minutes. After a restart every live instance goes on with
the minute after the last one that was kept.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Final

from engine import times
from engine.candle_store import CandleStore
from engine.errors import Busy, Conflict, Forbidden, Invalid, NotFound, Unavailable, WorkbenchError
from engine.gekko_broker import BrokeredGekko
from engine.model import Market, Principal
from server.services.histories import Histories
from server.services.instance_feeds import MINUTE, REPLAY, ExchangeFeed, Feed, ReplayFeed, replay_of
from server.services.instance_ledger import Ledger
from server.services.instance_plans import Plan, new_id, plan_of
from server.services.instance_records import DELETED, RETRY, InstanceRecords
from server.services.instance_rows import Instance, Told
from server.services.instance_runner import Runner
from server.services.instance_trading import TradeRunner, Trading
from server.services.instance_watch import Kept, MarketWatch
from server.services.lease import Lease
from server.services.markets import Markets
from server.store.database import Database
from server.store.events import EventLog

__all__ = ["DELETED", "Instances"]

MOST_LIVE: Final = 1000
LONGEST_PAST: Final = 366 * 86400  # seconds that an exchange is asked to go back

log = logging.getLogger("workbench.instances")


class Instances:
    """All instances. Raises `NotFound` for an unknown id, `Conflict` for one in another state.

    exchanges: where markets that are not replayed come from; None: nowhere. activity: where trades are recorded.
    keys: of exchanges; trade bots need one, and `live_trading`. lease: which server runs them, where several could.

    They are at work between `start` and `close`. Before, the service shows what the database has, and writes down what
    the server at work is to do: that one sees it when it calls `look`.
    """

    def __init__(self, *, db: Database, events: EventLog, markets: Markets, store: CandleStore,
                 exchanges: Any = None, keys: Any = None, activity: Any = None, live_trading: bool = False,
                 lease: Lease | None = None) -> None:
        self._records = InstanceRecords(db, events, lease)
        self._lease = lease
        self._markets = markets
        self._histories = Histories(store)
        self._exchanges = exchanges
        self._keys = keys
        self._live_trading = live_trading
        self._traders: dict[str, Trading] = {}
        self._all: dict[str, Instance] = {}
        self._watches: dict[tuple[Any, ...], MarketWatch] = {}
        self._places: dict[str, tuple[Any, ...]] = {}  # which watch a live instance listens to
        self._runners: dict[str, Runner] = {}
        self._joining: dict[str, asyncio.Task[None]] = {}
        self._archiving: set[str] = set()
        self._ending: set[asyncio.Task[Any]] = set()
        self._reading = asyncio.Lock()
        self._beginning: set[str] = set()
        self._asked: set[str] = set()  # to stop, by another server
        self._at_work = False
        self.ledger = Ledger(db, events, activity, self._about) if activity is not None else None

    # -- life of the service

    async def start(self) -> None:
        """Take up what a former life left; returns before the instances are at work again."""
        self._all = {instance.id: instance for instance in await self._records.all()}
        if self.ledger is not None:
            await self.ledger.start()
        self._at_work = True
        for instance in self._all.values():
            if instance.live:
                self._join(instance)

    async def close(self) -> None:
        """Stop listening everywhere. What was heard is kept; the instances go on in the next life."""
        self._at_work = False
        for task in list(self._joining.values()):
            task.cancel()
        await asyncio.gather(*self._joining.values(), return_exceptions=True)
        for trader in list(self._traders.values()):
            await trader.close()
        for watch in list(self._watches.values()):
            await watch.close()
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self.ledger is not None:
            await self.ledger.close()
        for kept in (self._traders, self._watches, self._places, self._runners):
            kept.clear()
        self._asked.clear()

    async def look(self) -> None:
        """Do what other servers were asked for: begin, stop and forget instances."""
        live, count = await self._records.asked()
        for id, asked in live.items():
            known = self._all.get(id)
            if known is None and id not in self._beginning:
                for instance in await self._records.all(id):
                    self._all[id] = instance
                    self._join(instance)
            elif known is not None and asked == "stop" and id not in self._asked:
                self._asked.add(id)
                self._spawn(self.stop(id))
        if count != len(self._all):
            over = {id for id, each in self._all.items() if not each.live}
            for id in over - await self._records.ids():
                self._all.pop(id, None)

    # -- looking

    async def list(self, state: str | None = None) -> list[Instance]:
        """All instances, or those in a state, oldest first."""
        await self._refresh()
        found = [each for each in self._all.values() if state in (None, each.state)]
        for each in found:
            await self._complete(each)
        return found

    async def get(self, id: str) -> Instance:
        await self._refresh()
        instance = self._known(id)
        await self._complete(instance)
        return instance

    async def told(self, id: str) -> int:
        """The number of the last event that an instance shows for sure."""
        await self._refresh()
        self._known(id)
        watch = self._watches.get(self._places.get(id, ()))
        async with watch.lock if watch is not None else nullcontext():  # between saving and showing there is no look
            return await self._records.last(id)

    def silence(self, id: str) -> str | None:
        """Why a live instance hears nothing at present; None when all is well."""
        watch = self._watches.get(self._places.get(id, ()))
        return watch.failure if watch is not None else None

    # -- changing

    async def begin(self, config: Mapping[str, Any], *, principal: Principal) -> Instance:
        """A new live instance. It begins to listen a moment later: a strategy may have to be compiled first.

        Raises `Invalid` with the field for what cannot work, `Busy` when there are too many; for real orders `NotFound`
        (field "keys") without a key and `Forbidden` where they are not allowed.
        """
        await self._refresh()
        if sum(each.live for each in self._all.values()) >= MOST_LIVE:
            raise Busy(f"{MOST_LIVE} instances are live", remedy="stop some")
        plan = await asyncio.to_thread(self._plan, config)
        if plan.kind == "tradebot":
            await self._may_trade(plan, principal)
        at = times.now()
        id = new_id(plan.kind, at)
        watch = self._watches.get(_place(plan, id))
        feed = watch.feed if watch is not None else self._feed(plan)
        instance = Instance(id=id, kind=plan.kind, state="live", market=plan.market,
                            owner=principal.name, config=plan.config, started_at=at)
        if watch is not None and watch.position is not None:  # it joins others, where they are
            instance.position = watch.position
        else:
            instance.position = await feed.begins() - MINUTE
        if plan.kind != "watcher":
            if plan.replay is None:
                instance.begin = feed.now()
            elif watch is not None and watch.position is not None:
                instance.begin = watch.position + MINUTE
        if plan.since is not None:
            if plan.replay is None and plan.since < (feed.now() or 0) - LONGEST_PAST:
                raise Invalid("this is too long ago", field="market.from",
                              remedy="import the candles and run a backtest")
            instance.position = min(instance.position, plan.since - MINUTE)

        self._beginning.add(instance.id)
        try:
            await self._records.create(instance)
            known = self._all.setdefault(instance.id, instance)
        finally:
            self._beginning.discard(instance.id)
        if self._at_work and known is instance:  # else it was taken up when the work began here, just now
            self._join(instance, plan)
        return known

    async def stop(self, id: str) -> Instance:
        """End a live instance; it moves to the archive. Raises `Unavailable` when the server that runs it does not do
        it in time."""
        await self._refresh()
        instance = self._live(id)
        if not self._at_work:
            return await self._records.end(id)
        joining = self._joining.get(id)
        if joining is not None:
            joining.cancel()
            await asyncio.gather(joining, return_exceptions=True)
        if (trader := self._traders.pop(id, None)) is not None:
            await trader.stop()
        await self._end(instance, "stopped", None)
        return instance

    async def halt(self) -> Sequence[Instance]:
        """Stop every trade bot, all at once: nothing more is ordered, open orders are taken back. Those stopped."""
        await self._refresh()
        bots = [each for each in self._all.values() if each.live and each.kind == "tradebot"]
        done = await asyncio.gather(*(self.stop(each.id) for each in bots), return_exceptions=True)
        for problem in done:
            if isinstance(problem, BaseException) and not isinstance(problem, Conflict):
                raise problem
        return bots

    async def remove(self, id: str) -> None:
        """Delete an instance from the archive, with its events. What it traded stays with its model."""
        await self._refresh()
        instance = self._known(id)
        if instance.live:
            raise Conflict("the instance is live", remedy="stop it first")
        if self.ledger is not None:
            await self.ledger.settled(id)
        await self._records.remove(id)
        self._all.pop(id, None)

    # -- at work

    def _watch_of(self, plan: Plan, place: tuple[Any, ...]) -> MarketWatch:
        watch = self._watches.get(place)
        if watch is None:
            watch = self._watches[place] = MarketWatch(self._feed(plan), self._markets, self._keep, self._fail)
        return watch

    def _feed(self, plan: Plan) -> Feed:
        if plan.replay is not None:
            return ReplayFeed(plan.replay, self._markets)
        return ExchangeFeed(plan.market, self._exchanges, plan.interval)

    def _let_go(self, place: tuple[Any, ...]) -> None:
        """End a watch to which nobody listens or is about to."""
        if place in self._watches and place not in self._places.values():
            self._spawn(self._watches.pop(place).close())

    def _join(self, instance: Instance, plan: Plan | None = None) -> None:
        task = asyncio.create_task(self._attach(instance, plan), name=f"instance {instance.id}")
        self._joining[instance.id] = task
        task.add_done_callback(lambda done: self._joining.pop(instance.id, None))

    async def _attach(self, instance: Instance, made: Plan | None) -> None:
        """Have a live instance listen, from where it was."""
        pause = RETRY
        while True:
            try:
                plan = made if made is not None else await asyncio.to_thread(self._plan, instance.config)
                await self._complete(instance)
                account = await self._account(instance) if plan.kind == "tradebot" else None
                runner = self._runners[instance.id] = await self._runner(instance, plan, account)
                await asyncio.to_thread(runner.prepare)
                if isinstance(runner, TradeRunner):
                    self._traders[instance.id] = Trading(
                        runner, account, self._settle, now=getattr(self._exchanges, "clock", time.time),
                        alone=lambda: self._lease is None or self._lease.sure)
                place = self._places[instance.id] = _place(plan, instance.id)
                await self._watch_of(plan, place).join(runner)
                return
            except Unavailable as error:  # the database is away: there is nothing to be lost by waiting
                log.warning("an instance cannot begin, trying again", extra={"facts": {
                    "instance": instance.id, "because": error.message}})
                await asyncio.sleep(pause)
                pause = min(2 * pause, 60.0)
            except Exception as error:
                await self._fail(self._runners.get(instance.id) or Runner(instance), error)
                return

    def _plan(self, config: Mapping[str, Any]) -> Plan:
        return plan_of(config, [each.market for each in self._histories.all()])

    async def _runner(self, instance: Instance, plan: Plan, account: Any) -> Runner:
        if account is None or plan.limits is None:
            return Runner(instance)
        free = 0.0
        if instance.memory is None:  # else its book is in its memory
            _, free = await account.balance(plan.market)
        return TradeRunner(instance, plan.limits, min(free, plan.limits.order))

    # -- real orders

    async def _may_trade(self, plan: Plan, principal: Principal) -> None:
        if self._keys is None or not await self._keys.has(plan.market.exchange):
            raise NotFound(f"there is no key for {plan.market.exchange}", field="keys",
                           remedy="store one with /api/addApiKey")
        if not self._live_trading:
            raise Forbidden("this server places no real orders", field="trader.enabled",
                            remedy="start it with --allow-live-trading, or use the paper trader")
        if not principal.may("admin"):
            raise Forbidden("this token may not place real orders", remedy="use one with the scope admin")

    async def _account(self, instance: Instance) -> Any:
        if not self._live_trading:
            raise Forbidden("the server was started without --allow-live-trading")
        values = await self._keys.values(instance.market.exchange)
        return await self._exchanges.account(instance.market.exchange, values)

    async def _settle(self, runner: TradeRunner, change: Callable[[BrokeredGekko], Sequence[Told]]) -> None:
        """Keep what became of an order."""
        watch = self._watches.get(self._places.get(runner.instance.id, ()))
        lock = watch.lock if watch is not None else asyncio.Lock()
        async with lock:
            assert runner.broker is not None
            said = change(runner.broker)
            if runner.instance.live:
                await self._keep([(runner, said)])
            else:
                log.error("an order was filled for an instance that is no more", extra={"facts": {
                    "instance": runner.instance.id, "said": [kind for kind, _ in said]}})

    async def _keep(self, kept: Kept) -> None:
        """Save what instances said, and where they are now. Returns when it is saved, however long that takes."""
        await self._records.keep(kept)
        for runner, _ in kept:
            if (trader := self._traders.get(runner.instance.id)) is not None:
                trader.wake()

    async def _fail(self, runner: Runner, error: Exception) -> None:
        """End an instance with an error. Called by its watch, or when it could not join one."""
        expected = isinstance(error, WorkbenchError)
        log.warning("an instance failed", exc_info=None if expected else error, extra={"facts": {
            "instance": runner.instance.id, "because": str(error)}})
        instance = runner.instance
        place = self._places.get(instance.id, ())
        watch = self._watches.get(place)
        if watch is not None:
            watch.leave(runner)
        await self._archive(instance, "failed", str(error) if expected else f"{type(error).__name__}: {error}")
        self._let_go(place)

    async def _end(self, instance: Instance, state: str, error: str | None) -> None:
        place = self._places.get(instance.id, ())
        watch = self._watches.get(place)
        if watch is None:
            await self._archive(instance, state, error)
            return
        async with watch.lock:
            self._live(instance.id)
            if (runner := self._runners.get(instance.id)) is not None:
                watch.leave(runner)
            await self._archive(instance, state, error)
        self._let_go(place)

    async def _archive(self, instance: Instance, state: str, error: str | None) -> None:
        if not instance.live or instance.id in self._archiving:
            raise _over(instance)
        self._archiving.add(instance.id)
        try:
            await self._records.archive(instance, state, error)
        finally:
            self._archiving.discard(instance.id)
        self._runners.pop(instance.id, None)
        self._places.pop(instance.id, None)
        if (trader := self._traders.pop(instance.id, None)) is not None:
            self._spawn(trader.stop())

    # -- inside

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._reap)

    def _reap(self, task: asyncio.Task[Any]) -> None:
        self._ending.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("an instance was not ended: %s", error)

    async def _refresh(self) -> None:
        """Where another server runs the instances, the database alone knows them."""
        if not self._at_work:
            self._all = {instance.id: instance for instance in await self._records.all()}

    def _known(self, id: str) -> Instance:
        instance = self._all.get(id) if isinstance(id, str) else None
        if instance is None:
            raise NotFound(f"there is no instance {id!r}"[:200], field="id")
        return instance

    def _live(self, id: str) -> Instance:
        instance = self._known(id)
        if not instance.live:
            raise _over(instance)
        return instance

    async def _complete(self, instance: Instance) -> None:
        """Read the lists of an instance that a former life made."""
        if instance.complete:
            return
        async with self._reading:
            if instance.complete:
                return
            lists: Any = await self._records.lists(instance.id)
            instance.lists, instance.complete = lists, True

    async def _about(self, id: str) -> tuple[str, Market, str] | None:
        instance = self._all.get(id)
        if instance is None:  # its first event may come before it is known here
            instance = next(iter(await self._records.all(id)), None)
        if instance is None:
            return None
        advisor, watch = instance.config.get("tradingAdvisor"), instance.config["watch"]
        method = advisor.get("method") if isinstance(advisor, Mapping) else None
        market = instance.market
        if market.exchange == REPLAY:  # prices are looked up where they are stored
            market = Market(watch["source"], market.asset, market.currency)
        return instance.kind, market, str(method or instance.kind)

    def replayed(self) -> Sequence[Market]:
        """The stored markets that the exchange "replay" can play without being told whose they are. Blocks."""
        found: dict[tuple[str, str], list[Market]] = {}
        for each in self._histories.all():
            market = each.market
            found.setdefault((market.asset.casefold(), market.currency.casefold()), []).append(market)
        return [markets[0] for markets in found.values() if len(markets) == 1]

    def stored(self, watch: Any) -> Any:
        """The `watch` under which the candles of another are stored: a replay's are those of its source. Blocks."""
        if not isinstance(watch, Mapping) or str(watch.get("exchange", "")).casefold() != REPLAY:
            return watch
        try:
            source = replay_of(watch, [each.market for each in self._histories.all()]).source
        except Invalid:
            return watch
        return {"exchange": source.exchange, "asset": source.asset, "currency": source.currency}


def _place(plan: Plan, id: str) -> tuple[Any, ...]:
    """Instances with the same place share a feed. What is played as fast as it goes, everybody hears from the
    beginning."""
    alone = plan.replay is not None and not plan.replay.speed
    return (plan.market.key, plan.replay, id if alone else "")


def _over(instance: Instance) -> Conflict:
    return Conflict("the instance has failed" if instance.state == "failed" else "the instance was stopped", field="id")
