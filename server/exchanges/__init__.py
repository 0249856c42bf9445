"""The exchanges, behind one thin face over ccxt. The engine knows no network and the event loop no waiting: ccxt is
imported on first use and lives on a thread with a loop of its own (`server.exchanges.thread`).

What services use, on the server's own loop (`services.exchanges`, of `server.exchanges.directory.Exchanges`):

    names() -> list[str]                        listed exchanges: well-known ones and those of the operator's file
    await capabilities() -> list[dict]          Gekko's capability objects, from what is known now (asks nobody)
    await listing(market) -> Listing            the market on the exchange, whose markets are loaded once a day.
                                                Raises NotFound (with near names), Unavailable
    await page(market, start, end) -> Page      the next minutes from `start` (seconds) on; `until` says how far
    candles(market, since=None, interval=20.0)  async iterator of finished minutes, live: from `since` (seconds,
                                                included; None: the minute that runs now), in order, without holes.
                                                Catches up first, then listens to the exchange's WebSocket and asks at
                                                most every `interval` seconds for what that does not say. Never ends by
                                                itself; raises Unavailable when the exchange stays away
    await account(name, values) -> Account      trading with a key's values (`await services.keys.values(name)`)

A minute is a plain dict, ready for `PaperGekko.push`: start (whole seconds since 1970), open, high, low, close, vwp,
volume, trades. A minute without trades repeats the close before it, with volume and trades 0.

    await account.balance(market) -> (asset, currency)     free amounts; Forbidden for a key that the exchange refuses
    await account.ticker(market) -> Ticker                 bid, ask, last
    await account.create(market, side=, amount=, price=None, id="") -> Placed    price None: at the market's
    await account.fetch(market, order_id) -> Placed
    await account.cancel(market, order_id) -> Placed       an order that is done already is returned as it is
    await account.find(market, id) -> Placed | None        by the client's own id, for what got no answer
    await account.close()
    Placed: id, client_id, side, amount, filled, remaining, price (mean of the fills or None), cost, fee, fee_currency,
            status ("open" | "closed" | "canceled" | "rejected"), at (seconds)

Orders are never repeated by themselves: after a timeout `create` raises Unavailable and the caller looks with `find`.
Texts of errors hold neither keys nor signed addresses.
"""
