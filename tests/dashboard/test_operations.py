"""Operations on the dashboard: seen as they go, and steered."""

import secrets

import pytest

from tests.dashboard.test_page import violations
from tests.server.operations.asking import BACKFILL, ask, create, make_things, serve, things
from tests.server.processes import barrier, until

expect = pytest.importorskip("playwright.sync_api").expect


@pytest.fixture
def url(postgres_server):
    """A database in which changing the rows from the 501st on waits for the barrier."""
    url = postgres_server.create_database(f"panel_{secrets.token_hex(6)}")
    make_things(url, held_from=501)
    return url


def row(page, name):
    return page.locator("#operations tbody tr", has_text=name)


def cell(page, name, label):
    return row(page, name).locator(f"td[data-label={label}]")


def test_an_operation_is_seen_and_steered(url, browser):
    """Its progress, its worker, and what may be done to it in each state; cancelling asks first."""
    with serve(url) as server:
        server.start()
        page = browser.open(server.url)
        expect(page.locator("#banner-title")).to_have_text("All is well")
        expect(page.locator("#operations-card")).to_be_hidden()
        with barrier(url):
            create(server, {**BACKFILL, "lock_timeout": 3600})
            expect(cell(page, "update things", "State")).to_have_text("running")
            expect(cell(page, "update things", "Rows")).to_have_text("500")
            bar = page.get_by_role("progressbar", name="Progress of update things")
            expect(bar).to_be_visible()
            assert 0 < bar.evaluate("bar => bar.value") < 1
            expect(cell(page, "update things", "Worker")).to_contain_text(":")
            expect(page.locator("#operations-sum")).to_have_text("1 unfinished")
            page.get_by_role("button", name="Pause update things").click()
            expect(cell(page, "update things", "State")).to_have_text("paused")
            expect(page.locator("#announcer")).to_have_text("update things is paused.")
            expect(page.get_by_role("button", name="Pause update things")).to_have_count(0)
        page.get_by_role("button", name="Resume update things").click()
        expect(cell(page, "update things", "State")).to_have_text("done")
        expect(cell(page, "update things", "Progress")).to_have_text("100 %")
        expect(row(page, "update things").get_by_role("button")).to_have_count(0)
        with barrier(url):
            create(server, {**BACKFILL, "name": "second", "again": True, "lock_timeout": 3600})
            page.get_by_role("button", name="Cancel second").click()
            expect(page.locator("#confirm-text")).to_contain_text("second: It cannot be taken up")
            page.get_by_role("button", name="Cancel the operation").click()
            expect(cell(page, "second", "State")).to_have_text("cancelled")


def test_a_failure_is_told_and_can_be_retried(url, browser):
    """With its reason; a reason that is markup stays text."""
    with serve(url) as server:
        server.start()
        server.sql('alter table things add constraint "<b>odd</b>" check (n = 0)')
        create(server)
        page = browser.open(server.url)
        expect(cell(page, "update things", "State")).to_have_text("failed")
        expect(cell(page, "update things", "Operation")).to_contain_text("<b>odd</b>")
        server.sql('alter table things drop constraint "<b>odd</b>"')
        page.get_by_role("button", name="Retry update things").click()
        expect(cell(page, "update things", "State")).to_have_text("done")
        expect(page.locator("#announcer")).to_have_text("update things is done.")


def test_who_may_only_read_gets_no_buttons(url, browser, tmp_path):
    """The panel is there."""
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(
        '[[token]]\nname = "reader"\nsecret = "the-one-that-reads"\nread_only = true\n'
        '[[token]]\nname = "writer"\nsecret = "the-one-that-writes"\n'
    )
    with barrier(url), serve(url, f"--token-file={tokens}") as server:
        server.start()
        create(server, authorization="Bearer the-one-that-writes")
        page = browser.open(server.url)
        page.locator("#gate-token").fill("the-one-that-reads")
        page.get_by_role("button", name="Open the dashboard").click()
        expect(cell(page, "update things", "State")).to_be_visible()
        expect(row(page, "update things").get_by_role("button")).to_have_count(0)
        # The browser complains of the answer to the first try, which came without a token.
        assert all("401" in text for text in browser.complaints)
        browser.complaints.clear()


def test_pages_of_a_server_without_operations_ask_nothing(url, browser):
    """Not even whether there are any; until somebody wants one."""
    with serve(url) as server, serve(url) as other:
        server.start()
        other.start()
        page = browser.open(server.url)
        with barrier(url):
            create(other)
            expect(page.locator("#banner-title")).to_have_text("All is well")
            [facts] = server.sql(
                "select count(*)::int as n from pg_stat_activity"
                " where datname = current_database() and application_name like 'poolkeeper worker%'"
                " and client_port is not null"
            ).json()["rows"]
            before = facts["n"]
            expect(page.locator("#operations-card")).to_be_hidden()
            ask(server, "GET", "?all=true")
            expect(page.locator("#operations-card")).to_be_visible()
            assert before > 0
        until(lambda: 0 not in things(url))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_panel_fits_a_phone_and_axe_finds_nothing(url, browser, axe, scheme):
    """Nothing is cut off, everything has a name."""
    with barrier(url), serve(url) as server:
        server.start()
        create(
            server, {**BACKFILL, "name": "a name that goes on for much longer than a phone is wide"}
        )
        create(server, {"kind": "custom", "step": "a-step-of-nobody's"})
        page = browser.open(server.url, viewport={"width": 360, "height": 800}, color_scheme=scheme)
        expect(page.locator("#operations tbody tr")).to_have_count(2)
        expect(row(page, "a name").get_by_role("button")).to_have_count(2)
        wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert page.evaluate(wide)
        assert violations(page, axe) == []
        page.set_viewport_size({"width": 1280, "height": 900})
        assert page.evaluate(wide)
        assert violations(page, axe) == []
