"""The pages as a person uses them, in a real browser against a real server with its pool."""

import re
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.harness import ServerProcess, wait_until

pytestmark = pytest.mark.browser
expect.set_options(timeout=60_000)

CSV = "timestamp,open,high,low,close,volume\n" + "".join(
    f"2024-01-{day:02d}T00:00:00Z,{day},{day + 1},{day - 0.5},{day + 0.5},100\n" for day in range(1, 11))


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--demo", "--no-browser", "--workers", "1", program=("-m", "workbench", "serve")) as server:
        wait_until(lambda: "demo report at" in server.output, 60)
        api(server, "POST", "/runs", json={"strategy": "buy_and_hold", "markets": ["demo:IBM/USD"], "name": "Hold IBM",
                                           "tags": ["calm"]})
        wait_until(lambda: api(server, "GET", "/runs?state=completed")["total"] == 2, 120)
        yield server


def api(server: ServerProcess, method: str, path: str, **words):
    answer = httpx.request(method, f"{server.url}/workbench/api{path}", headers=server.headers, timeout=60, **words)
    assert answer.is_success, answer.text
    return answer.json() if answer.content else None


def enter(page: Page, server: ServerProcess, path: str = "/") -> None:
    page.goto(f"{server.url}/login?token={server.token}&next={path.replace('?', '%3F').replace('&', '%26')}")
    ready(page)


def ready(page: Page) -> None:
    page.wait_for_selector("html[data-ready=yes]")


def pick(page: Page, name: str) -> None:
    """Tick the row of a run in the table of runs."""
    page.locator(".tabulator-row", has_text=name).locator("input[type=checkbox]").first.check()


def test_nobody_enters_without_a_token(page: Page, server: ServerProcess) -> None:
    page.goto(f"{server.url}/runs?state=completed")
    assert page.url.startswith(f"{server.url}/login?next=")
    page.allowed_errors.append("401")  # type: ignore[attr-defined]
    page.get_by_label("Token").fill("wb_00000000_nonsense")
    page.keyboard.press("Enter")
    expect(page.get_by_text("not valid")).to_be_visible()
    page.get_by_label("Token").fill(server.token)
    page.keyboard.press("Enter")
    ready(page)
    assert page.url == f"{server.url}/runs?state=completed"
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    page.wait_for_url("**/login")
    page.goto(f"{server.url}/")
    assert "/login" in page.url


def test_the_login_link_leads_to_the_demo_report_and_leaves_no_token(page: Page, server: ServerProcess) -> None:
    link = re.search(r"demo report at (\S+)", server.output)[1]
    page.goto(link)
    ready(page)
    assert "token" not in page.url and "/run?id=" in page.url
    expect(page.get_by_text("Demo: SMA cross on Apple").first).to_be_visible()
    expect(page.get_by_text("Sharpe ratio").first).to_be_visible()
    cookies = page.context.cookies()
    (session,) = [cookie for cookie in cookies if cookie["name"].startswith("workbench_")]
    assert session["httpOnly"] and session["sameSite"] == "Lax"
    assert session["value"] not in page.content(), "the page must not hold what proves who is logged in"


def test_the_overview_shows_what_there_is_and_leads_on(page: Page, server: ServerProcess) -> None:
    enter(page, server)
    expect(page.get_by_role("link", name="Hold IBM")).to_be_visible()
    expect(page.get_by_role("link", name="demo:MSFT/USD")).to_be_visible()
    expect(page.locator("svg[aria-label='equity curve']").first).to_be_visible()
    page.get_by_role("link", name="Hold IBM").click()
    ready(page)
    expect(page.get_by_text("Total return").first).to_be_visible()


def test_a_backtest_from_form_to_report(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/new?strategy=sma_cross&market=demo:MSFT/USD")
    expect(page.locator(".choices__list--multiple .choices__item", has_text="demo:MSFT/USD")).to_be_visible()
    page.get_by_label("fast", exact=True).first.fill("12")
    page.get_by_label("fast", exact=True).first.press("Tab")
    page.get_by_label("Name", exact=True).fill("From the form")
    page.get_by_label("Name", exact=True).press("Tab")
    page.get_by_role("button", name="Run backtest").click()
    page.wait_for_url("**/run?id=*")
    ready(page)
    expect(page.get_by_text("Total return").first).to_be_visible(timeout=60_000)
    expect(page.get_by_text("From the form").first).to_be_visible()
    run_id = page.url.partition("id=")[2]
    run = api(server, "GET", f"/runs/{run_id}")
    assert (run["state"], run["spec"]["params"]["fast"], run["markets"]) == ("completed", 12, ["demo:MSFT/USD"])


def test_mistakes_stand_next_to_their_fields_and_nothing_runs(page: Page, server: ServerProcess) -> None:
    before = api(server, "GET", "/runs")["total"]
    enter(page, server, "/new?strategy=sma_cross")
    for label, value in (("fast", "-3"), ("Cash", "-5")):
        field = page.get_by_label(label, exact=True).first
        expect(field).to_be_visible()
        field.fill(value)
        field.press("Tab")
    page.get_by_role("button", name="Run backtest").click()
    expect(page.get_by_role("alert").first).to_be_visible()
    expect(page.get_by_text(re.compile("to correct"))).to_be_visible()
    assert api(server, "GET", "/runs")["total"] == before


def test_runs_are_found_sorted_compared_and_deleted(page: Page, server: ServerProcess) -> None:
    wanted = {"strategy": "buy_and_hold", "markets": ["demo:FB/USD"], "name": "Doomed"}
    doomed = api(server, "POST", "/runs", json=wanted)
    wait_until(lambda: api(server, "GET", f"/runs/{doomed['id']}")["state"] == "completed", 60)
    enter(page, server, "/runs")
    expect(page.locator(".tabulator-row").first).to_be_visible()
    page.get_by_label("Search").fill("IBM")
    page.get_by_label("Search").press("Enter")
    expect(page.locator(".tabulator-row")).to_have_count(1)
    expect(page).to_have_url(f"{server.url}/runs?q=IBM")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".tabulator-row", has_text="Demo: SMA")).to_be_visible()
    page.locator(".tabulator-col", has_text="Return").first.click()
    expect(page).to_have_url(re.compile(r"sort=metrics\.total_return"))

    pick(page, "Doomed")
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_role("button", name="Really delete").click()
    expect(page.get_by_text("Deleted 1 run")).to_be_visible()
    expect(page.locator(".tabulator-row", has_text="Doomed")).to_have_count(0)

    pick(page, "Hold IBM")
    pick(page, "Demo: SMA")
    page.get_by_role("button", name="Compare 2").click()
    page.wait_for_url("**/compare?ids=*")
    ready(page)
    expect(page.get_by_text("What was asked differently")).to_be_visible()


def test_a_report_leads_to_the_form_with_what_it_was_asked(page: Page, server: ServerProcess) -> None:
    (run,) = api(server, "GET", "/runs?tag=demo")["items"]
    enter(page, server, f"/run?id={run['id']}")
    page.get_by_role("button", name="Change and run").click()
    page.wait_for_url(f"**/new?run={run['id']}")
    ready(page)
    expect(page.get_by_label("Name", exact=True)).to_have_value(run["name"])
    expect(page.locator(".choices__list--multiple .choices__item")).to_have_text(re.compile("demo:AAPL/USD"))
    expect(page.get_by_label("fast", exact=True).first).to_have_value(str(run["spec"]["params"]["fast"]))
    expect(page.get_by_role("button", name="Run backtest")).to_be_enabled()


def test_a_page_that_can_hear_no_more_loads_itself_anew(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/settings")
    page.allowed_errors.append("'close' on 'WebSocket'")  # type: ignore[attr-defined]
    page.evaluate("""() => {
        document.body.dataset.old = "yes"
        setTimeout(() => { throw new Error("Failed to execute 'close' on 'WebSocket': the close code") })
    }""")
    page.wait_for_selector("body:not([data-old])")
    ready(page)


def test_a_run_appears_in_an_open_list(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/runs")
    expect(page.locator(".tabulator-row").first).to_be_visible()
    api(server, "POST", "/runs", json={"strategy": "buy_and_hold", "markets": ["demo:GOOG/USD"], "name": "Fresh"})
    expect(page.locator(".tabulator-row", has_text="Fresh")).to_contain_text("completed", timeout=60_000)


def test_candles_are_imported_by_dropping_a_file(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/markets")
    expect(page.get_by_role("link", name="demo:AAPL/USD")).to_be_visible()
    page.locator("input[type=file]").set_input_files({"name": "x_ABC_USD.csv", "mimeType": "text/csv",
                                                      "buffer": CSV.encode()})
    expect(page.get_by_label("Asset")).to_have_value("ABC")
    expect(page.get_by_role("button", name="Import", exact=True)).to_be_enabled()
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_text("10 added")).to_be_visible()
    page.get_by_role("link", name="Look at it").click()
    ready(page)
    expect(page.get_by_text("Fingerprint")).to_be_visible()
    expect(page.locator(".bk-Canvas canvas, canvas").first).to_be_visible()


def test_a_bad_file_is_explained_with_its_line(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/markets")
    page.locator("input[type=file]").set_input_files({"name": "x_BAD_USD.csv", "mimeType": "text/csv",
                                                      "buffer": CSV.replace(",5,6,", ",five,6,").encode()})
    expect(page.get_by_role("button", name="Import", exact=True)).to_be_enabled()
    page.get_by_role("button", name="Import", exact=True).click()
    expect(page.get_by_role("alert").filter(has_text="line 6")).to_be_visible()


def test_tokens_are_shown_once_and_can_be_revoked(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/settings")
    page.get_by_label("Name", exact=True).fill("robot")
    page.get_by_label("Name", exact=True).press("Tab")
    page.get_by_role("button", name="Create token").click()
    secret = page.get_by_label("the new token").inner_text()
    me = httpx.get(f"{server.url}/workbench/api/me", headers={"Authorization": f"Bearer {secret}"}).json()
    assert (me["name"], me["scopes"]) == ("robot", ["backtest", "read"])
    page.reload()
    ready(page)
    expect(page.get_by_role("button", name="Revoke robot")).to_be_visible()
    assert secret not in page.content()
    page.get_by_role("button", name="Revoke robot").click()
    page.get_by_role("button", name="Really revoke").click()
    expect(page.get_by_text("robot is revoked")).to_be_visible()
    assert httpx.get(f"{server.url}/workbench/api/me", headers={"Authorization": f"Bearer {secret}"}).status_code == 401


def test_a_reader_may_look_but_not_act(context: BrowserContext, page: Page, server: ServerProcess) -> None:
    text = api(server, "POST", "/tokens", json={"name": "reader", "scopes": ["read"]})["token"]
    page.goto(f"{server.url}/login?token={text}&next=/new")
    ready(page)
    expect(page.get_by_role("button", name="Run backtest")).to_be_enabled()
    page.get_by_role("button", name="Run backtest").click()
    expect(page.get_by_role("alert").first).to_contain_text(re.compile("scope|may not", re.IGNORECASE))
    page.goto(f"{server.url}/settings")
    ready(page)
    expect(page.get_by_text("Only an administrator")).to_be_visible()


def test_the_theme_is_remembered(page: Page, server: ServerProcess) -> None:
    enter(page, server)
    assert page.locator("html").get_attribute("data-theme") == "light"
    page.get_by_role("button", name="Dark theme").click()
    page.wait_for_selector("html[data-theme=dark]")
    ready(page)
    page.goto(f"{server.url}/markets")
    assert page.locator("html").get_attribute("data-theme") == "dark"


def test_the_keyboard_reaches_the_content(page: Page, server: ServerProcess) -> None:
    enter(page, server)
    page.keyboard.press("Tab")
    expect(page.locator(".wb-skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    for path in ("/", "/runs", "/new", "/markets", "/settings"):
        page.goto(server.url + path)
        ready(page)
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        assert page.locator("nav a[aria-current=page]").count() == 1


def test_an_unknown_run_is_explained(page: Page, server: ServerProcess) -> None:
    enter(page, server, "/run?id=nothing")
    expect(page.get_by_role("alert").filter(has_text="nothing")).to_be_visible()


def test_a_forged_page_socket_is_refused(server: ServerProcess) -> None:
    """Without a session neither the page, its script, nor its socket opens; and nobody's word for a user counts."""
    for path in ("/", "/runs", "/runs/autoload.js?bokeh-autoload-element=x", "/metadata"):
        answer = httpx.get(server.url + path, headers={"Cookie": "user=admin; is_guest=1"}, follow_redirects=False)
        assert answer.status_code in (302, 303, 401, 403), (path, answer.status_code)
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Origin": server.url,
               "Sec-WebSocket-Protocol": "bokeh, eyJzZXNzaW9uX2lkIjogIngifQ"}
    assert httpx.get(f"{server.url}/runs/ws", headers=upgrade).status_code == 403
