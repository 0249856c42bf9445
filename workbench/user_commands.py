"""`workbench user …`: subscribers of the alerts, and their credits, in a local database."""

import argparse
import getpass
import json
import sys
from typing import Any

from engine import times
from engine.errors import Invalid
from workbench.commands import table

__all__ = ["arguments_of"]


def arguments_of(user: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The commands below `workbench user`; those that need to know the database."""
    deed = user.add_subparsers(dest="what", metavar="WHAT", required=True)
    add = deed.add_parser("add", help="make an account that receives alerts; asks for its password")
    add.add_argument("email")
    add.add_argument("--access", choices=("FREE", "FULL"), default="FULL", help="alerts in real time need FULL")
    add.add_argument("--credits", type=int, default=0, help="credits to begin with; an alert costs one")
    add.add_argument("--renew", type=int, default=0, metavar="N", help="add N credits whenever the last is used")
    add.set_defaults(run=user_add)
    passwd = deed.add_parser("passwd", help="set an account's password, which ends its logins")
    passwd.add_argument("email")
    passwd.set_defaults(run=user_passwd)
    credits = deed.add_parser("credits", help="give credits (below zero: take back), or show the ledger")
    credits.add_argument("email")
    credits.add_argument("amount", nargs="?", type=int)
    credits.add_argument("--note", default="", help="why")
    credits.set_defaults(run=user_credits)
    shown = deed.add_parser("list", help="every account")
    shown.add_argument("--json", action="store_true", help="print JSON")
    shown.set_defaults(run=user_list)
    return [add, passwd, credits, shown]


def read_password() -> str:
    """A password from the terminal, typed twice, or the first line of what is piped in."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass("password: ")
    if getpass.getpass("again: ") != password:
        raise Invalid("these are two passwords", remedy="type the same one twice")
    return password


def user_add(arguments: argparse.Namespace) -> int:
    """`workbench user add EMAIL`."""
    from workbench import mount

    password = read_password()

    async def work(subscribers: Any, credits: Any) -> Any:
        made = await subscribers.create(arguments.email, password, access=arguments.access,
                                        automatic_renewal=arguments.renew > 0, renewal=arguments.renew)
        if arguments.credits:
            await credits.grant(made.id, arguments.credits, "at the beginning")
        return made

    made = mount.local_subscribers(arguments, work)
    print(f"subscriber {made.id}: {made.email}, {made.access}, {arguments.credits} credits")
    return 0


def user_passwd(arguments: argparse.Namespace) -> int:
    """`workbench user passwd EMAIL`."""
    from workbench import mount

    password = read_password()

    async def work(subscribers: Any, credits: Any) -> None:
        await subscribers.change((await subscribers.named(arguments.email)).id, password=password)

    mount.local_subscribers(arguments, work)
    print(f"{arguments.email} has a new password")
    return 0


def user_credits(arguments: argparse.Namespace) -> int:
    """`workbench user credits EMAIL [AMOUNT]`."""
    from workbench import mount

    async def work(subscribers: Any, credits: Any) -> Any:
        account = await subscribers.named(arguments.email)
        if arguments.amount is not None:
            return await credits.grant(account.id, arguments.amount, arguments.note), None
        return account.balance, await credits.entries(account.id)

    balance, entries = mount.local_subscribers(arguments, work)
    if entries is not None:
        print(table([(times.iso(entry.at)[:19].replace("T", " "), entry.kind, f"{entry.amount:+d}", entry.alert_id,
                      entry.note) for entry in entries], ("at", "kind", "credits", "alert", "note"), right=(2, 3)))
    print(f"{balance} credits")
    return 0


def user_list(arguments: argparse.Namespace) -> int:
    """`workbench user list`."""
    from workbench import mount

    async def work(subscribers: Any, credits: Any) -> Any:
        return await subscribers.list()

    heads = ("id", "email", "access", "balance", "renewal", "last login")
    rows = [(one.id, one.email, one.access, one.balance, one.renewal if one.automatic_renewal else 0,
             times.iso(one.last_login_at)[:16].replace("T", " ") if one.last_login_at else None)
            for one in mount.local_subscribers(arguments, work)]
    if arguments.json:
        print(json.dumps([dict(zip(heads, row, strict=True)) for row in rows], indent=2))
    else:
        print(table(rows, heads, right=(3, 4)))
    return 0
