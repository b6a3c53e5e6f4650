"""Clients of the server that write rows nobody else writes, and remember what they were told."""

import asyncio
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

import asyncpg

from tests.server.load.http import Connection, HungError, NoAnswerError, RefusedError, Response
from tests.server.load.judge import HUNG, LOST, REFUSED, Answer, Work

TABLE = "create table if not exists work (id bigint not null, row int not null)"
INSERT = "insert into work (id, row) values ($1::bigint, $2::int)"


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to send work.

    Attributes:
        rows: How many rows it leaves, all or none.
        keyed: Whether it has an idempotency key: then it may be repeated, and asked about.
    """

    name: str
    path: str
    rows: int
    keyed: bool = False

    def body(self, work: int) -> dict:
        """The request for a work."""
        if not self.rows:
            return {"query": "select $1::bigint as id", "params": [str(work)]}
        inserts = [
            {"query": INSERT, "params": [str(work), str(row)]} for row in range(1, self.rows + 1)
        ]
        if self.path == "/v1/transaction":
            return {"statements": inserts}
        return inserts[0] if self.rows == 1 else {"queries": inserts}


SELECT = Kind("select", "/sql", 0)
SINGLE = Kind("sql", "/sql", 1)
BATCH = Kind("batch", "/sql", 2)
QUERY = Kind("query", "/v1/query", 1, keyed=True)
TRANSACTION = Kind("transaction", "/v1/transaction", 2, keyed=True)
KINDS = (SELECT, SINGLE, BATCH, QUERY, TRANSACTION)


class Clients:
    """Each sends one request after another until told to stop, as programs do that mean it.

    After a failure most wait as long as ``Retry-After`` says; every fifth asks again at once, so
    that it is known when asking again really works. Works with a key are repeated with that key
    after a 503 by half of the clients, and asked about after a 502 by all.

    Args:
        url: Of the server.
        number: How many clients.
        kinds: What they send, in turn.
        patience: Seconds until a client calls a request hung.
        impatience: Seconds until those who do not heed ``Retry-After`` ask again.
    """

    def __init__(
        self,
        url: str,
        number: int = 50,
        kinds: Sequence[Kind] = KINDS,
        *,
        patience: float = 30.0,
        impatience: float = 0.05,
    ) -> None:
        self.works: list[Work] = []
        self.last_words: list[str] = []
        self._url = url
        self._number = number
        self._kinds = kinds
        self._patience = patience
        self._impatience = impatience
        self._ids = itertools.count(1)
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._news = asyncio.Event()

    @property
    def answers(self) -> list[Answer]:
        """Every answer anybody got."""
        return [answer for work in self.works for answer in work.answers]

    async def start(self, successes: int | None = None) -> None:
        """Start all and return after that many successes; by default some for each client."""
        self._tasks = [asyncio.create_task(self._client(n)) for n in range(self._number)]
        await self.successes(5 * self._number if successes is None else successes)

    async def successes(self, number: int, since: float = 0.0) -> float:
        """Wait for so many successes of requests sent after ``since``; when the first came."""
        async with asyncio.timeout(60):
            while len(found := self._successes(since)) < number:
                self._news.clear()
                await self._news.wait()
        return min(found)

    def _successes(self, since: float) -> list[float]:
        # The newest are last, and there may be many thousands.
        found = []
        for work in reversed(self.works):
            if not work.answers:
                continue
            if work.answers[0].began < since - self._patience:
                break
            found += [a.ended for a in work.answers if a.status == 200 and a.began >= since]
        return found

    async def stop(self) -> None:
        """Let each finish what it does; one that does not come back is a failure."""
        self._stop.set()
        done, hanging = await asyncio.wait(self._tasks, timeout=4 * self._patience)
        assert not hanging, f"{len(hanging)} clients hang"
        for task in done:
            task.result()

    async def _client(self, number: int) -> None:
        connection = Connection(self._url)
        kinds = itertools.cycle(self._kinds)
        for _ in range(number % len(self._kinds)):
            next(kinds)
        try:
            while not self._stop.is_set():
                await self._do(connection, number, next(kinds))
        finally:
            await connection.close()

    async def _do(self, connection: Connection, number: int, kind: Kind) -> None:
        work = Work(next(self._ids), kind.name, kind.rows, str(uuid4()) if kind.keyed else None)
        self.works.append(work)
        answer = await self.send(connection, kind, work)
        while answer.status == 503 and work.key and number % 2 and not self._stop.is_set():
            await self._wait(number, answer)
            answer = await self.send(connection, kind, work)
        if answer.status == 502 and work.key:
            await self.ask_about(connection, work)
        elif answer.status != 200:
            await self._wait(number, answer)

    async def _wait(self, number: int, answer: Answer) -> None:
        heeds = answer.retry_after is not None and number % 5
        seconds = float(answer.retry_after) if heeds else self._impatience
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return

    async def send(self, connection: Connection, kind: Kind, work: Work) -> Answer:
        """Send a work once and note the answer with it."""
        headers = {"Idempotency-Key": work.key} if work.key else {}
        answer = await ask(
            connection, kind.path, kind.body(work.id), headers, patience=self._patience
        )
        work.answers.append(answer)
        self._news.set()
        return answer

    async def ask_about(self, connection: Connection, work: Work) -> None:
        """Ask the ledger until it knows: also while the database is away."""
        async with asyncio.timeout(4 * self._patience):
            while True:
                try:
                    response = await connection.ask("GET", f"/v1/transactions/{work.key}")
                except (RefusedError, NoAnswerError):
                    return
                if response.status == 200:
                    work.verdict = response.json()["outcome"]
                    return
                assert response.status in {502, 503}, response
                await asyncio.sleep(self._impatience)


async def ask(
    connection: Connection,
    path: str,
    body: object,
    headers: dict[str, str] | None = None,
    *,
    patience: float,
) -> Answer:
    """Post a request; what became of it, also if it was not answered."""
    time = asyncio.get_running_loop().time
    began = time()
    try:
        response = await connection.ask("POST", path, body, headers, patience=patience)
    except RefusedError as error:
        return Answer(began, time(), REFUSED, message=str(error))
    except NoAnswerError as error:
        return Answer(began, time(), LOST, message=str(error))
    except HungError as error:
        return Answer(began, time(), HUNG, message=str(error))
    said = _failure(response) if response.status != 200 else {}
    return Answer(
        began,
        time(),
        response.status,
        said.get("outcome"),
        response.headers.get("retry-after"),
        str(said.get("message") or said.get("detail") or ""),
    )


def _failure(response: Response) -> dict:
    try:
        return response.json()
    except json.JSONDecodeError:
        return {"message": response.content.decode(errors="replace")}


async def rows_in(url: str) -> dict[int, Counter[int]]:
    """How often each row is in the table, past the server."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("select id, row, count(*) from work group by id, row")
    finally:
        await connection.close()
    found: dict[int, Counter[int]] = defaultdict(Counter)
    for work, row, count in rows:
        found[work][row] = count
    return found
