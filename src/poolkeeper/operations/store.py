"""The tables of operations, and every statement on them.

Only a transaction that finds ``(epoch, seq)`` as its worker last read them can commit a chunk, and
its rows are in the same transaction: so each chunk is committed once, whoever believes to own the
operation. A claim adds one to ``epoch`` under the lock that a committing chunk holds as well:
afterwards no chunk of an older claim can be committed. Leases only say when to try.

All times are those of the database: ``clock_timestamp()``, because ``now()`` stands still in a
transaction.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from poolkeeper.operations.kind import CommittedChunk
from poolkeeper.operations.model import UNFINISHED, OperationState, OperationStatus, may_become
from poolkeeper.schema import DURABLY, OPERATIONS, install_script, is_there
from poolkeeper.sqlstate import INVALID_SCHEMA_NAME, UNDEFINED_TABLE, UNIQUE_VIOLATION, sqlstate_of

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from poolkeeper.operations.kind import Chunk, Json, Prepared
    from poolkeeper.operations.owner import Owner

MISSING: Final = frozenset({UNDEFINED_TABLE, INVALID_SCHEMA_NAME})

SESSION_NAME: Final = "poolkeeper worker "
"""What ``application_name`` of a worker's sessions begins with; its id follows."""

ORPHAN_SECONDS: Final = 1.0
"""For so long a worker may be without any session before others take its operations: a lost
connection or a restart of the server is no reason to."""

_JSON: Final = ("spec", "fingerprint", "cursor")
_COLUMNS: Final = """\
 o.id, o.name, o.kind, o.state, o.spec::text as spec, o.fingerprint::text as fingerprint, o.epoch,
 o.seq, o.cursor::text as cursor, o.rows_done, o.rows_rejected, o.rows_total, o.bytes_done,
 o.bytes_total, o.owner, o.owner_place,
 extract(epoch from o.lease_until - clock_timestamp())::float8 as lease_seconds,
 o.outages, o.error, o.created_at, o.started_at, o.updated_at, o.finished_at,
 clock_timestamp() as at"""

_UNFINISHED: Final = ", ".join(f"'{state.value}'" for state in sorted(UNFINISHED, key=str))

_CREATE: Final = f"""
insert into poolkeeper.operations as o
    (id, name, kind, spec, fingerprint, cursor, rows_total, bytes_total)
values ($1, $2, $3, $4::text::jsonb, $5::text::jsonb, $6::text::jsonb, $7, $8)
returning {_COLUMNS}"""

_FIND: Final = f"""
select {_COLUMNS} from poolkeeper.operations o
 where o.name = $1 or o.id::text = $1
 order by o.id::text = $1 desc, o.state in ({_UNFINISHED}) desc, o.created_at desc limit 1"""

_FIND_DONE: Final = f"""
select {_COLUMNS} from poolkeeper.operations o
 where o.name = $1 and o.kind = $2 and o.state = 'done' and o.spec->'asked' = $3::text::jsonb
 order by o.created_at desc limit 1"""

_LIST: Final = f"""
select {_COLUMNS} from poolkeeper.operations o
 where o.state in ({_UNFINISHED}) or $1
 order by o.state in ({_UNFINISHED}) desc, o.created_at desc limit $2"""

# An owner without sessions is dead or cut off; its absence only counts where sessions can be
# told: behind a pooler they carry the name of whoever used them last.
_ORPHANED: Final = f"""
    o.owner_direct
    and greatest(o.updated_at, pg_postmaster_start_time())
        < clock_timestamp() - make_interval(secs => {ORPHAN_SECONDS})
    and not exists (select from pg_stat_activity
                     where application_name = '{SESSION_NAME}' || o.owner)"""

_CLAIM: Final = f"""
with free as (
    select o.id, o.owner, o.state from poolkeeper.operations o
     where (o.state = 'pending'
            or o.state = 'running' and o.id <> all ($8::uuid[])
               and (o.owner = $4 or o.lease_until < clock_timestamp() or {_ORPHANED}))
       and o.kind = any ($1::text[])
       and ($2::uuid is null or o.id = $2)
       and o.id <> all ($3::uuid[])
     order by o.created_at
       for update skip locked limit 1
)
update poolkeeper.operations o
   set epoch = o.epoch + 1, fruitless = o.fruitless + 1, state = 'running', owner = $4,
       owner_place = $5, owner_direct = $6,
       lease_until = clock_timestamp() + make_interval(secs => $7),
       started_at = coalesce(o.started_at, clock_timestamp()), updated_at = clock_timestamp(),
       error = null
  from free where free.id = o.id
returning {_COLUMNS}, o.fruitless,
          case when free.state = 'running' then free.owner end as taken_from"""

_TERMINATE: Final = f"""
select pg_terminate_backend(pid) from pg_stat_activity
 where application_name = '{SESSION_NAME}' || $1 and wait_event is distinct from 'SyncRep'
   and ($2::int[] is null or pid = any ($2))"""

_ATTACH: Final = f"""
update poolkeeper.operations o
   set outages = o.outages + $3, updated_at = clock_timestamp(),
       lease_until = clock_timestamp() + make_interval(secs => $4)
 where o.id = $1 and o.epoch = $2 and o.state = 'running'
returning {_COLUMNS}"""

_HEARTBEAT: Final = """
update poolkeeper.operations
   set updated_at = clock_timestamp(),
       lease_until = clock_timestamp() + make_interval(secs => $3)
 where id = $1 and epoch = $2 and state = 'running'"""

# From here to COMMIT the operation's row is locked, and nobody else could claim it: a worker that
# stands still here must not keep its session for longer than its lease.
_CHECKPOINT: Final = f"""
with moved as (
    update poolkeeper.operations o
       set seq = o.seq + 1, cursor = $4::text::jsonb, rows_done = o.rows_done + $5,
           rows_rejected = o.rows_rejected + $6, bytes_done = coalesce($7, o.bytes_done),
           fruitless = case when $12 then 0 else o.fruitless end, updated_at = clock_timestamp(),
           lease_until = clock_timestamp() + make_interval(secs => $8),
           state = case when $9 then 'done' else 'running' end,
           finished_at = case when $9 then clock_timestamp() end
     where o.id = $1 and o.epoch = $2 and o.seq = $3 and o.state = 'running'
    returning o.*
), noted as (
    insert into poolkeeper.chunks
        (operation, seq, epoch, owner, cursor_from, cursor_to, rows, rejected, checksum)
    select id, $3, epoch, owner, $10::text::jsonb, cursor, $5, $6, $11 from moved
)
select {_COLUMNS},
       set_config('idle_in_transaction_session_timeout',
                  greatest(round($8 * 1000), 500)::int::text, true)
  from moved o"""

_REJECT: Final = """
insert into poolkeeper.rejects (operation, seq, number, line, raw, sqlstate, message)
select $1, $2, number, line, raw, sqlstate, message
  from unnest($3::bigint[], $4::bytea[], $5::text[], $6::text[])
       with ordinality as r(line, raw, sqlstate, message, number)"""

_LEAVE: Final = """
update poolkeeper.operations
   set state = 'pending', owner = null, lease_until = null, error = $3,
       fruitless = greatest(0, fruitless - 1), updated_at = clock_timestamp()
 where id = $1 and epoch = $2 and state = 'running'"""

_FAIL: Final = """
update poolkeeper.operations
   set state = 'failed', error = $3, lease_until = null,
       updated_at = clock_timestamp(), finished_at = clock_timestamp()
 where id = $1 and epoch = $2 and state = 'running'"""

_MOVE: Final = f"""
update poolkeeper.operations o
   set state = $2, lease_until = null, updated_at = clock_timestamp(),
       fruitless = case when $2 = 'pending' then 0 else o.fruitless end,
       error = case when $2 = 'pending' then null else o.error end,
       finished_at = case when $2 = 'cancelled' then clock_timestamp() end,
       spec = (o.spec - $5::text[]) || coalesce($4::text::jsonb, '{{}}')
 where o.id = $1 and o.state = any ($3::text[])
returning {_COLUMNS}"""

_REPLACE: Final = """
update poolkeeper.operations
   set state = 'cancelled', updated_at = clock_timestamp(), finished_at = clock_timestamp()
 where id = $1 and epoch = $2 and seq = $3 and state = 'failed'"""

_PRUNE: Final = """
delete from poolkeeper.operations
 where id = any (array(
    select id from poolkeeper.operations
     where state in ('done', 'cancelled')
       and finished_at < clock_timestamp() - make_interval(secs => $1)
     order by finished_at limit $2 for update skip locked))"""

_TUNE: Final = f"""
update poolkeeper.operations o set spec = (o.spec - $3::text[]) || $2::text::jsonb
 where o.id = $1 and o.state in ({_UNFINISHED})
returning {_COLUMNS}"""


class Store:
    """The statements; every method takes the connection to run them on, and nothing is kept."""

    # The tables -------------------------------------------------------------------------------

    @staticmethod
    async def is_there(connection: Any) -> bool:
        """Whether the tables exist."""
        try:
            return bool(await connection.execute(is_there(OPERATIONS)) != "SELECT 0")
        except Exception as error:
            if sqlstate_of(error) in MISSING and not connection.is_closed():
                return False
            raise

    @staticmethod
    async def install(connection: Any) -> None:
        """Make the tables, or bring them up to date."""
        try:
            await connection.execute(install_script())
        except Exception:
            if not connection.is_closed():
                await connection.execute("rollback")
            raise

    # One operation, from outside --------------------------------------------------------------

    @staticmethod
    async def create(
        connection: Any, id_: UUID, name: str, kind: str, prepared: Prepared
    ) -> OperationStatus | None:
        """Add an operation; None if there is an unfinished one of that name."""
        try:
            row = await connection.fetchrow(
                _CREATE,
                id_,
                name,
                kind,
                _dump(prepared.spec),
                _dump(prepared.fingerprint),
                _dump(prepared.cursor),
                prepared.rows_total,
                prepared.bytes_total,
            )
        except Exception as error:
            if sqlstate_of(error) == UNIQUE_VIOLATION:
                return None
            raise
        return _status(row)

    @staticmethod
    async def find(connection: Any, key: str) -> OperationStatus | None:
        """The operation with that id, else the unfinished or else latest one of that name."""
        row = await connection.fetchrow(_FIND, key)
        return None if row is None else _status(row)

    @staticmethod
    async def find_done(
        connection: Any, name: str, kind: str, asked: Json
    ) -> OperationStatus | None:
        """The latest one that has done just this."""
        row = await connection.fetchrow(_FIND_DONE, name, kind, _dump(asked))
        return None if row is None else _status(row)

    @staticmethod
    async def recent(
        connection: Any, *, finished: bool = True, limit: int = 100
    ) -> list[OperationStatus]:
        """Operations: unfinished ones, then the others, the latest first."""
        return [_status(row) for row in await connection.fetch(_LIST, finished, limit)]

    @staticmethod
    async def move(
        connection: Any,
        id_: UUID,
        state: OperationState,
        changes: Json | None = None,
        replacing: Sequence[str] = (),
    ) -> OperationStatus | None:
        """Change the state as a person asks; None if it is in a state that does not allow it.

        A worker that runs it finds out at its next checkpoint, which then fails.

        Args:
            connection: Where.
            id_: Of the operation.
            state: What it becomes. PENDING is reached from PAUSED and FAILED only.
            changes: What to put into its spec at the same time,
            replacing: in place of these.
        """
        allowed = [old for old in may_become(state) if old != "running" or state.value != "pending"]
        row = await connection.fetchrow(
            _MOVE, id_, state.value, allowed, _dump(changes), list(replacing)
        )
        return None if row is None else _status(row)

    @staticmethod
    async def replace(connection: Any, failed: OperationStatus) -> None:
        """Cancel one that has failed, unless it was retried since it was looked at."""
        await connection.execute(_REPLACE, failed.id, failed.epoch, failed.seq)

    @staticmethod
    async def tune(
        connection: Any, id_: UUID, changes: Json, replacing: Sequence[str]
    ) -> OperationStatus | None:
        """Change options of an unfinished operation; a worker that has it goes on with the old."""
        row = await connection.fetchrow(_TUNE, id_, _dump(changes), list(replacing))
        return None if row is None else _status(row)

    @staticmethod
    async def delete(connection: Any, id_: UUID) -> bool:
        """Forget a finished operation, with its chunks and rejects."""
        tag = await connection.execute(
            "delete from poolkeeper.operations where id = $1 and state in ('done', 'cancelled')",
            id_,
        )
        return bool(tag != "DELETE 0")

    @staticmethod
    async def prune(connection: Any, older_than: float, limit: int) -> int:
        """Forget finished operations, the oldest first; returns how many."""
        tag: str = await connection.execute(_PRUNE, older_than, limit)
        return int(tag.rpartition(" ")[2])

    @staticmethod
    async def rejects(connection: Any, id_: UUID, limit: int) -> list[dict[str, Any]]:
        """Rows left out, in order."""
        rows = await connection.fetch(
            "select line, raw, sqlstate, message from poolkeeper.rejects where operation = $1"
            " order by seq, number limit $2",
            id_,
            limit,
        )
        return [dict(row) for row in rows]

    @staticmethod
    async def chunks(connection: Any, id_: UUID) -> Sequence[CommittedChunk]:
        """What is committed, in order."""
        rows = await connection.fetch(
            "select seq, cursor_from::text as a, cursor_to::text as b, rows, checksum"
            " from poolkeeper.chunks where operation = $1 order by seq",
            id_,
        )
        return [
            CommittedChunk(row["seq"], json.loads(row["a"]), json.loads(row["b"]), *row[3:5])
            for row in rows
        ]

    # One operation, from its worker -----------------------------------------------------------

    @staticmethod
    async def claim(
        connection: Any,
        owner: Owner,
        *,
        direct: bool,
        kinds: Sequence[str],
        only: UUID | None = None,
        but: Sequence[UUID] = (),
    ) -> Claim | None:
        """Take an operation that waits or whose worker has gone; None if there is none.

        One that is the owner's already, though it does not know, counts as waiting.

        Args:
            connection: A session of the owner's own.
            owner: Who claims it.
            direct: Whether the server lists the owner's sessions under their own name.
            kinds: What the owner can do.
            only: Take no other than this one.
            but: Take none of these.
        """
        row = await connection.fetchrow(
            _CLAIM,
            list(kinds),
            only,
            list(but),
            owner.id,
            owner.place,
            direct,
            owner.lease_seconds,
            list(owner.at_work),
        )
        if row is None:
            return None
        return Claim(_status(row), row["fruitless"], row["taken_from"])

    @staticmethod
    async def terminate(
        connection: Any, owner: str, backends: Collection[int] | None = None
    ) -> None:
        """End sessions of a worker that nobody is at the other end of any more.

        They may hold locks for long: between two messages of one statement (COPY, Parse and Bind)
        no time limit of the server's applies.

        Args:
            connection: Where.
            owner: The worker.
            backends: Which of its sessions; None: all of them.
        """
        pids = None if backends is None else list(backends)
        await connection.execute(_TERMINATE, owner, pids)

    @staticmethod
    async def attach(
        connection: Any, id_: UUID, epoch: int, *, lease: float, outages: int = 0
    ) -> OperationStatus | None:
        """Read the checkpoint of a claim anew; None if the claim does not hold any more."""
        row = await connection.fetchrow(_ATTACH, id_, epoch, outages, lease)
        return None if row is None else _status(row)

    @staticmethod
    async def heartbeat(connection: Any, id_: UUID, epoch: int, *, lease: float) -> bool:
        """Prolong a claim; False if it does not hold any more."""
        return bool(await connection.execute(_HEARTBEAT, id_, epoch, lease) != "UPDATE 0")

    @staticmethod
    async def checkpoint(
        connection: Any, before: OperationStatus, chunk: Chunk, *, lease: float
    ) -> OperationStatus | None:
        """Note a chunk, in its own transaction; None if the claim does not hold any more.

        Then nothing of that transaction may be committed.
        """
        row = await connection.fetchrow(
            _CHECKPOINT,
            before.id,
            before.epoch,
            before.seq,
            _dump(chunk.cursor),
            chunk.rows,
            len(chunk.rejects),
            chunk.bytes_done,
            lease,
            chunk.done,
            _dump(before.cursor),
            chunk.checksum,
            chunk.progresses,
        )
        if row is None:
            return None
        if chunk.rejects:
            await connection.execute(
                _REJECT,
                before.id,
                before.seq,
                [reject.line for reject in chunk.rejects],
                [reject.raw for reject in chunk.rejects],
                [reject.sqlstate for reject in chunk.rejects],
                [storable(reject.message) for reject in chunk.rejects],
            )
        return _status(row)

    @staticmethod
    async def leave(connection: Any, id_: UUID, epoch: int, error: str | None = None) -> None:
        """Lay an operation down unfinished, so that the next worker need not wait."""
        await connection.execute(_LEAVE, id_, epoch, None if error is None else storable(error))

    @staticmethod
    async def fail(connection: Any, id_: UUID, epoch: int, error: str) -> None:
        """Give an operation up."""
        await connection.execute(_FAIL, id_, epoch, storable(error))


class Claim:
    """An operation that has just been claimed.

    Attributes:
        status: The operation.
        fruitless: How often it was claimed since its last committed chunk, this time included.
        taken_from: The worker it was taken from, if that had not laid it down.
    """

    def __init__(self, status: OperationStatus, fruitless: int, taken_from: str | None) -> None:
        self.status = status
        self.fruitless = fruitless
        self.taken_from = taken_from


TRANSACTION_TIMEOUT_SINCE: Final = 17

BOUNDS: Final = (
    "set local client_connection_check_interval = 500;"
    "set local tcp_keepalives_idle = 1; set local tcp_keepalives_interval = 1;"
    "set local tcp_keepalives_count = 3; set local statement_timeout = 0;" + DURABLY
)

LONGEST_PAUSE_SECONDS: Final = 60.0


def bounds(lease_seconds: float, server_major: int) -> str:
    """What a chunk's transaction begins with.

    A session whose worker has gone ends by itself, and with it the locks it holds; one whose worker
    is there may take as long as it likes, but for pauses between two statements, which are bounded
    by four leases, and by a minute at the least, until the checkpoint. Chunks are as durable as the
    server makes them: whoever watches them takes them for that.
    """
    pause = max(LONGEST_PAUSE_SECONDS, 4 * lease_seconds)
    script = f"{BOUNDS}set local idle_in_transaction_session_timeout = {round(pause * 1000)}"
    if server_major >= TRANSACTION_TIMEOUT_SINCE:
        script += "; set local transaction_timeout = 0"
    return script


def storable(text: str) -> str:
    """A text without what PostgreSQL refuses in texts: NUL, and halves of surrogate pairs."""
    return text.replace("\0", "\\0").encode(errors="backslashreplace").decode()


def _dump(value: Json | None) -> str | None:
    return None if value is None else json.dumps(value)


def _status(row: Any) -> OperationStatus:
    values = dict(row)
    for name in _JSON:
        if values[name] is not None:
            values[name] = json.loads(values[name])
    return OperationStatus.of(values)
