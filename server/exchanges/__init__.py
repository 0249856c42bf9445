"""The exchanges, behind one thin face over ccxt. The engine knows no network and the event loop no waiting: ccxt is
imported on first use and lives on a thread with a loop of its own (`server.exchanges.thread`).

What services use, on the server's own loop (`services.exchanges: Exchanges`):

    exchanges.names() -> list[str]                         exchanges that may be used (ids of ccxt, and one's own)
    await exchanges.capabilities() -> list[dict]           Gekko's capability objects, from what is known now (no network)
    await exchanges.listing(market) -> Listing             the market on the exchange; loads its markets once.
                                                           Raises NotFound (with near names), Unavailable
    await exchanges.page(market, start, end) -> Page       the next minutes from `start` (seconds) on, `Page.until` says how far
    exchanges.candles(market, since=None, interval=20.0)   async iterator of finished minutes, live: from `since` (seconds,
                                                           inclusive; None: the minute that runs now), in order, without
                                                           holes or doubles; catches up first, then asks every `interval`
                                                           seconds. Never ends by itself; Unavailable after `patience` s of failures
    await exchanges.account(name, values) -> Account       trading with a key's values (`services.keys.values(name)`)

A minute is a plain dict, ready for `PaperGekko.push`: start (whole seconds since 1970), open, high, low, close, vwp,
volume, trades. A minute without trades repeats the close before it, with volume and trades 0.

    account = await exchanges.account("binance", values)   raises Forbidden for a key that the exchange refuses
    await account.balance(market) -> (asset, currency)     free amounts
    await account.ticker(market) -> Ticker                 bid, ask, last
    await account.create(market, side=, amount=, price=None, id="") -> Placed   price None: at market; id: the client's own
    await account.fetch(market, order_id) -> Placed
    await account.cancel(market, order_id) -> Placed       an order that is done already is returned as it is
    await account.find(market, id) -> Placed | None        by the client's own id, for what got no answer
    await account.close()
    Placed: id, client_id, side, amount, filled, remaining, price (average of the fills, None), cost, fee, status
            ("open" | "closed" | "canceled" | "rejected"), at (seconds)

Orders are never repeated by themselves: after a timeout `create` raises Unavailable and the caller looks with `find`.
Texts of errors hold neither keys nor signed addresses.
"""
