"""The dashboard while the database or the server itself is gone."""

import re
from urllib.parse import urlsplit

import pytest

from tests.dashboard.conftest import serve
from tests.dashboard.test_page import violations

expect = pytest.importorskip("playwright.sync_api").expect


def title(page):
    return page.locator("#banner-title")


def test_an_outage_is_told_while_it_lasts_and_listed_when_it_is_over(
    crashable_postgres, browser, axe
):
    """What is broken, since when, why, what next, what clients get; then how long it was."""
    with serve(crashable_postgres.dsn(), "--max-size=3") as server:
        page = browser.open(server.start().url)
        server.sql("select 1")
        expect(title(page)).to_have_text("All is well")
        crashable_postgres.crash()
        expect(title(page)).to_have_text(re.compile(r"^Database unreachable for \d+ s$"))
        expect(page.locator("#banner")).to_have_attribute("data-level", "bad")
        expect(page.locator("#banner-text")).to_contain_text("Connection refused")
        facts = page.locator("#banner-facts")
        for fact in ("Since", "Noticed because", "Next attempt", "Clients get", "503"):
            expect(facts).to_contain_text(fact)
        expect(page.locator("#announcer")).to_have_text(re.compile("^Database unreachable: .+"))
        expect(page.locator("#outages tbody tr")).to_contain_text("so far")
        expect(page).to_have_title(re.compile(r"^Database unreachable for \d+ s · poolkeeper$"))
        page.set_viewport_size({"width": 360, "height": 740})
        scroll = page.locator("#outages-scroll")
        assert scroll.evaluate("node => node.scrollWidth <= node.clientWidth")
        assert violations(page, axe) == []

        crashable_postgres.start()
        expect(title(page)).not_to_have_text(re.compile("unreachable"))
        row = page.locator("#outages tbody tr")
        expect(row).to_have_count(1)
        expect(row.locator("td").nth(1)).to_have_text(re.compile(r"^[\d.]+ (ms|s)$"))
        expect(row).to_contain_text("connection failed")
        # the last failed connection is young, then all is well
        expect(title(page)).to_have_text("All is well")
        expect(page.locator("#announcer")).to_have_text("All is well.")


def test_the_page_says_when_the_server_is_gone_and_goes_on_when_it_is_back(postgres, browser, axe):
    """It keeps what it knew, and needs no reload."""
    with serve(postgres.url) as server:
        page = browser.open(server.start().url)
        port = urlsplit(server.url).port
        server.process.kill()
        expect(title(page)).to_have_text(re.compile(r"^Server unreachable for \d+ s$"))
        expect(page.locator("#link-text")).to_have_text("not connected")
        expect(page.locator("[data-chart=connections] .big")).to_be_visible()
        assert violations(page, axe) == []
    with serve(postgres.url, f"--port={port}") as again:
        again.start()
        expect(title(page)).to_have_text("All is well")
        expect(page.locator("#link-text")).to_contain_text("live")
        expect(page.locator("#about")).to_contain_text(f"process {again.process.pid}")
        expect(page.locator("#announcer")).to_have_text("All is well.")


def test_an_open_page_sees_the_drain_and_does_not_delay_it(postgres, browser):
    """Its stream ends in order, so the exit need not cut it."""
    with serve(postgres.url, "--drain-delay=2") as server:
        page = browser.open(server.start().url)
        with server.client.stream("GET", f"{server.url}/dashboard/events") as stream:
            server.signal()
            expect(title(page)).to_have_text("Shutting down")
            text = "".join(stream.iter_text())
        assert '"state":"draining"' in text
        code, _log = server.end()
        assert code == 0
        expect(title(page)).to_have_text(re.compile(r"^Server shut down \d+ s ago$"))


class TestTokens:
    """A server that asks for a token."""

    SECRET = "correct-horse-battery"

    @pytest.fixture
    def server(self, postgres):
        with serve(postgres.url, env={"POOLKEEPER_TOKEN": self.SECRET}) as process:
            yield process.start()

    def test_the_shell_is_open_the_numbers_need_a_token(self, server, browser, axe):
        """A wrong one is refused in words; the right one lasts as long as the tab."""
        page = browser.open(server.url)
        field = page.get_by_label("Token", exact=True)
        expect(field).to_be_focused()
        expect(page.locator("#live")).to_be_hidden()
        assert violations(page, axe) == []

        field.fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#gate-error")).to_contain_text("does not know this token")

        field.fill(self.SECRET)
        page.keyboard.press("Enter")
        expect(title(page)).to_have_text("All is well")
        expect(page.locator("#gate")).to_be_hidden()
        page.reload()
        expect(title(page)).to_have_text("All is well")
        assert not any(self.SECRET in url for url in browser.requests)

        page.locator("#pause").click()
        page.locator("#confirm-yes").click()
        expect(title(page)).to_have_text("Paused by an operator")

        page.get_by_role("button", name="Forget token").click()
        expect(page.get_by_label("Token", exact=True)).to_be_visible()
        assert page.evaluate("sessionStorage.length") == 0
        # the browser's own words for the answers 401
        refused = [text for text in browser.complaints if "401" in text]
        assert browser.complaints == refused
        browser.complaints.clear()
