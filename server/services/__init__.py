"""What the workbench does, behind every dialect. Services are opened and closed as one; they return the nouns of
`engine.model` and raise `engine.errors`."""

from dataclasses import dataclass

from engine import model_runner
from engine.candle_store import CandleStore
from engine.errors import WorkbenchError
from server.config import Config
from server.exchanges.directory import Exchanges
from server.pool import Pool
from server.pool_models import ModelHosts
from server.services.activity import Activity
from server.services.activity_backtests import DetachedBacktests
from server.services.alerts import Alerts
from server.services.credits import Credits
from server.services.deliveries import Deliveries
from server.services.deployments import Deployments
from server.services.hooks import Hooks
from server.services.imports import Imports
from server.services.instances import Instances
from server.services.keys import Keys
from server.services.lease import Duty, Lease
from server.services.markets import Markets
from server.services.model_reads import ModelReads
from server.services.optimizations import Optimizations
from server.services.profit import Profit
from server.services.retention import Retention
from server.services.rules import Rules
from server.services.runs import Runs
from server.services.subscribers import Subscribers
from server.services.users import Users
from server.services.versions import Versions
from server.store.database import Database
from server.store.events import EventLog

__all__ = ["Services"]


@dataclass(kw_only=True, eq=False)
class Services:
    """Everything that handlers call. `admin_token` is the text of the admin token, None without authentication."""

    config: Config
    db: Database
    events: EventLog
    store: CandleStore
    pool: Pool
    users: Users
    activity: Activity
    detached: DetachedBacktests
    alerts: Alerts
    hooks: Hooks
    subscribers: Subscribers
    credits: Credits
    deliveries: Deliveries
    rules: Rules
    deployments: Deployments
    hosts: ModelHosts | None
    markets: Markets
    models: ModelReads
    profit: Profit
    runs: Runs
    optimizations: Optimizations
    exchanges: Exchanges
    keys: Keys
    imports: Imports
    instances: Instances
    lease: Lease
    admin_token: str | None

    @classmethod
    async def open(cls, config: Config, *, compute: bool = True) -> "Services":
        """Open the database (migrated), the stores and the services; the pool starts in the background. Without
        `compute` it does not start, and runs stay queued."""
        config.make_data_dir()
        db = Database(config.database)
        await db.open()
        services = None
        try:
            users = Users(db)
            admin_token = await users.ensure_admin(config.data_dir, config.token)
            events = EventLog(db)
            lease = Lease(db)
            store = CandleStore(config.data_dir / "candles")
            pool = Pool(data_dir=config.data_dir.absolute(), workers=config.workers, scheduler=config.scheduler,
                        run_timeout=config.run_timeout, run_memory=config.run_memory)
            runs = Runs(db=db, events=events, pool=pool, store=store, data_dir=config.data_dir.absolute())
            activity = Activity(db=db, events=events, users=users)
            markets = Markets(store=store, db=db, events=events)
            profit = Profit(db=db, events=events, store=store)
            exchanges = Exchanges(config.data_dir / "exchanges", config.exchanges)
            keys = Keys(db=db, events=events, exchanges=exchanges, data_dir=config.data_dir)
            alerts = Alerts(db=db, events=events, store=store, data_dir=config.data_dir)
            detached = DetachedBacktests(db=db, events=events, activity=activity, folder=runs.folder)
            hosts = ModelHosts(config.model_hosts) if config.model_hosts else None
            services = cls(
                config=config, db=db, events=events, store=store, pool=pool, users=users, admin_token=admin_token,
                activity=activity,
                detached=detached, hosts=hosts,
                deployments=Deployments(db=db, events=events, activity=activity, detached=detached,
                                        versions=Versions(db=db, events=events, data_dir=config.data_dir,
                                                          elsewhere=hosts is not None),
                                        data_dir=config.data_dir,
                                        runner=hosts.run if hosts else model_runner.run),
                alerts=alerts, hooks=Hooks(db, alerts),
                subscribers=Subscribers(db, users), credits=Credits(db, events, config.credit_threshold),
                deliveries=Deliveries(db=db, events=events, data_dir=config.data_dir, allowed=config.notice_networks),
                rules=Rules(db=db, events=events, profit=profit),
                markets=markets, exchanges=exchanges, keys=keys,
                imports=Imports(db=db, events=events, store=store, exchanges=exchanges),
                models=ModelReads(db), profit=profit, runs=runs,
                instances=Instances(db=db, events=events, markets=markets, store=store, activity=activity,
                                    exchanges=exchanges, keys=keys, live_trading=config.allow_live_trading,
                                    lease=lease),
                lease=lease,
                optimizations=Optimizations(db=db, events=events, runs=runs))
            if compute:
                await pool.start()
            await runs.start()
            await services.optimizations.start()
            await services.alerts.start()
            for service in (services.imports, services.instances, Retention(events, config.chatter_days)):
                await lease.add(Duty(begin=service.start, look=service.look, end=service.close))
            await lease.start()
            await services.deliveries.start()
            await services.profit.start()
            await services.rules.start()
            await services.credits.start()
            return services
        except BaseException:
            await (services or db).close()
            raise

    async def database_answers(self) -> bool:
        """Whether the database can be asked something now."""
        try:
            await self.db.read(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())
        except WorkbenchError:
            return False
        return True

    async def close(self) -> None:
        """Stop taking work and close everything, what depends on others first."""
        await self.lease.close()  # with the duties: imports, instances, models
        await self.deployments.close()
        if self.hosts is not None:
            await self.hosts.close()
        await self.rules.close()
        await self.profit.close()
        await self.deliveries.close()
        await self.credits.close()
        await self.subscribers.close()
        await self.alerts.close()
        await self.exchanges.close()
        await self.optimizations.close()
        await self.runs.close()
        await self.pool.close()
        await self.markets.close()
        await self.activity.close()
        await self.db.close()
