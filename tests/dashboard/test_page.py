"""The dashboard as people see it, on a database that works."""

import contextlib
import re
import threading

import pytest

from tests.dashboard.conftest import serve
from tests.server.processes import active, barrier, until

expect = pytest.importorskip("playwright.sync_api").expect


@contextlib.contextmanager
def holding(server, holders, waiters=0):
    """So many requests hold a connection, and so many more wait for one, until the end."""
    threads = [
        threading.Thread(target=server.sql, args=("select 1 from pg_advisory_lock_shared(77)",))
        for _ in range(holders + waiters)
    ]
    try:
        with barrier(server.database_url):
            for thread in threads:
                thread.start()
            until(lambda: active(server.database_url, "pg_advisory_lock_shared") == holders)
            yield
    finally:
        for thread in threads:
            thread.join()


def big(page, chart):
    return page.locator(f"[data-chart={chart}] .big .value")


def test_a_stranger_reads_that_all_is_well_and_what_to_try(server, browser):
    """Before the first request there is an example, which works as it stands."""
    with serve(server.database_url, "--max-size=3") as fresh:
        page = browser.open(fresh.start().url)
        expect(page.locator("#banner-title")).to_have_text("All is well")
        expect(page.locator("#banner-text")).to_contain_text("0 of 3 connections are in use")
        expect(page).to_have_title("All is well · poolkeeper")
        expect(page.locator("#curl")).to_contain_text(f"curl -s {fresh.url}/sql")
        fresh.sql("select 1")
        expect(page.locator("#first-steps")).to_be_hidden()


def test_the_numbers_move_while_requests_run(server, browser):
    """Throughput and latency show what is going on, within a second or two."""
    page = browser.open(server.url)
    done = threading.Event()

    def work():
        while not done.is_set():
            server.sql("select 1")

    worker = threading.Thread(target=work)
    worker.start()
    try:
        expect(big(page, "throughput")).to_have_text(re.compile(r"^[1-9]"))
        expect(big(page, "latency")).to_have_text(re.compile(r"\d (µs|ms|s)$"))
        expect(page.locator("[data-chart=throughput] .sub")).to_contain_text("succeeded")
    finally:
        done.set()
        worker.join()
    page.get_by_label("Query").check()
    expect(big(page, "latency")).to_have_text(re.compile(r"\d (µs|ms|s)$"))


def test_a_full_pool_shows_who_holds_what_and_who_waits(server, browser):
    """The banner says that requests wait, the table which statements hold the connections."""
    page = browser.open(server.url)
    with holding(server, holders=3, waiters=2):
        expect(page.locator("#banner-title")).to_have_text("2 requests wait for a connection")
        expect(page.locator("#banner-text")).to_contain_text("All 3 connections are in use")
        expect(big(page, "connections")).to_have_text("3")
        expect(big(page, "waiting")).to_have_text("2")
        rows = page.locator("#running tbody tr")
        expect(rows).to_have_count(5)
        expect(rows.filter(has_text="running")).to_have_count(3)
        expect(rows.filter(has_text="waiting")).to_have_count(2)
        first = rows.first.locator("td")
        expect(first.nth(2)).to_contain_text("pg_advisory_lock_shared")
        expect(first.nth(4)).to_have_text(re.compile(r"^\d+$"))
        # what a screen reader is told is the state, once, and not each number
        expect(page.locator("#announcer")).to_have_text("Requests wait for a connection.")
    expect(page.locator("#running-empty")).to_be_visible()
    expect(page.locator("#banner-title")).to_have_text("All is well")


def test_what_strangers_write_stays_text(server, browser):
    """A statement cannot become a part of the page."""
    hostile = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
    server.sql(f"select * from nowhere -- {hostile}")
    server.sql(f'select "{hostile}" from pg_class')
    page = browser.open(server.url)
    rows = page.locator("#errors tbody tr")
    expect(rows.first).to_contain_text("<img src=x onerror=")
    expect(rows.first).to_contain_text("does not exist")
    assert page.locator("main img, main script").count() == 0
    assert "owned" not in page.title()


def test_an_error_is_listed_with_its_status_kind_outcome_and_request(server, browser):
    page = browser.open(server.url)
    answer = server.sql("select 1/0")
    row = page.locator("#errors tbody tr").first
    expect(row).to_contain_text(answer.headers["x-request-id"])
    for text in ("400", "sql-error", "rolled back", "division by zero", "select 1/0", "/sql"):
        expect(row).to_contain_text(text)


def test_a_slow_statement_is_kept_in_full(server, browser):
    """Its beginning is shown, and all of it on demand, also when the next one comes."""
    statement = f"select pg_sleep(1.01) /* {'long ' * 60}end */"
    page = browser.open(server.url)
    server.sql(statement)
    details = page.locator("#slow tbody tr details")
    expect(details).to_contain_text("pg_sleep(1.01)")
    details.locator("summary").click()
    expect(details.locator("pre")).to_have_text(statement)
    server.sql("select pg_sleep(1.02)")
    expect(page.locator("#slow tbody tr").first).to_contain_text("pg_sleep(1.02)")
    assert details.evaluate("node => node.open")


def test_the_charts_have_their_numbers_as_text_and_as_a_table(server, browser):
    """Nothing is known only to those who see curves, or can point at them."""
    page = browser.open(server.url)
    chart = page.locator("[data-chart=connections]")
    expect(chart.locator("[role=img]")).to_have_attribute(
        "aria-label", re.compile(r"^Connections now: in use \d, .* limit 3$")
    )
    chart.locator("summary").click()
    table = chart.locator("table")
    expect(table.locator("thead th")).to_have_text(["Now", "Lowest", "Highest", "Average"])
    expect(table.locator("tbody tr").filter(has_text="limit")).to_contain_text("3")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_follow_the_system_until_somebody_chooses(server, browser, scheme):
    """The choice outlives the page."""
    page = browser.open(server.url, color_scheme=scheme)
    dark = "rgb(13, 16, 21)"
    background = "getComputedStyle(document.body).backgroundColor"
    assert (page.evaluate(background) == dark) == (scheme == "dark")
    page.locator("#theme").click()
    assert (page.evaluate(background) == dark) == (scheme == "light")
    page.reload()
    assert (page.evaluate(background) == dark) == (scheme == "light")


def test_nothing_is_wider_than_the_screen(server, browser):
    """Wide tables scroll inside their cards."""
    page = browser.open(server.url)
    server.sql(f"select '{'x' * 300}' from nowhere")
    expect(page.locator("#errors tbody tr").first).to_contain_text("xxx")
    for width in (1440, 768, 390, 360):
        page.set_viewport_size({"width": width, "height": 740})
        page.evaluate("new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def fits(locator):
    """Whether nothing of it has to be scrolled to sideways."""
    return locator.evaluate("node => node.scrollWidth <= node.clientWidth")


def test_on_a_phone_nothing_is_cut_off_at_the_right(server, browser):
    """The rows of a wide table become blocks with the names of the columns."""
    page = browser.open(server.url, viewport={"width": 360, "height": 740})
    for chart in page.locator(".as-table").all():
        chart.locator("summary").click()
        expect(chart.locator("table")).to_be_visible()
        assert fits(chart.locator(".scroll"))
    with holding(server, holders=1):
        row = page.locator("#running tbody tr").first
        expect(row).to_contain_text("pg_advisory_lock_shared")
        assert fits(page.locator("#running-scroll"))
        backend = row.get_by_role("cell").nth(4)
        label = "node => getComputedStyle(node, '::before').content"
        assert backend.evaluate(label) == '"Backend"'
        expect(page.get_by_role("columnheader", name="Backend")).to_have_count(1)


def test_failures_of_one_kind_are_one_entry(server, browser):
    """With their number."""
    page = browser.open(server.url)
    statement = 'select * from "often"'
    for _ in range(5):
        server.sql(statement)
    row = page.locator("#errors tbody tr").filter(has_text=statement)
    expect(row.first).to_contain_text(re.compile(r"[2-5] of this kind until \d\d:"))


def test_the_strip_of_outages_begins_with_the_server(server, browser):
    """It claims nothing about the time before."""
    page = browser.open(server.url)
    born = server.get("/status").json()["server"]["started_at"]
    clock = "async at => (await import('/dashboard/format.js')).clock(at)"
    expect(page.locator("#strip-from")).to_have_text(page.evaluate(clock, born))


def test_everything_is_reached_and_used_by_keyboard(server, browser):
    """Tab comes by every control; pausing and resuming need no mouse."""
    server.sql("select * from nowhere")
    page = browser.open(server.url)
    expect(page.locator("#errors tbody tr").first).to_be_visible()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                """() => {
                    const node = document.activeElement;
                    const chart = node.closest("[data-chart]")?.dataset.chart;
                    return node.id || node.name || [node.tagName, chart].join(" ") || "";
                }"""
            )
        )
    wanted = {"theme", "pause", "reconnect", "span", "duration", "errors-scroll"}
    wanted |= {f"SUMMARY {name}" for name in ("connections", "waiting", "throughput", "latency")}
    assert wanted <= reached

    page.locator("#pause").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#confirm")).to_be_visible()
    expect(page.locator("#confirm-no")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("#confirm")).to_be_hidden()
    expect(page.locator("#pause")).to_be_focused()

    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#banner-title")).to_have_text("Paused by an operator")
    page.locator("#resume").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#banner-title")).to_have_text("All is well")


def test_axe_finds_nothing_to_complain_about(server, browser, axe):
    """Roles, names, contrast, headings: on the page with numbers, errors and outstanding work."""
    server.sql("select * from nowhere")
    page = browser.open(server.url)
    with holding(server, holders=3, waiters=1):
        expect(page.locator("#running tbody tr")).to_have_count(4)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert violations(page, axe) == []


def violations(page, axe):
    """What axe objects to in the page as it is, in short."""
    page.evaluate(axe)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [(rule["id"], [node["target"] for node in rule["nodes"]]) for rule in found]
