"""Wrong ways to resume, each of which somebody has shipped; planted in place of ours.

A green run means something only because these are red.
"""

from __future__ import annotations

from dataclasses import replace

from poolkeeper.operations import OperationState, runner, store, worker
from poolkeeper.operations.backfill.sql import Statements
from poolkeeper.operations.owner import Owner

NO_EPOCH = "$2::bigint is not null"
NO_SEQ = "$3::bigint is not null"


def checkpoint_after_the_rows(monkeypatch):
    """Two transactions: the rows, then where to go on."""

    class Mutant(runner.Runner):
        async def _checkpoint(self, lease, chunk):
            self._chunk = chunk
            before = self._status
            return replace(
                before,
                seq=before.seq + 1,
                cursor=chunk.cursor,
                rows_done=before.rows_done + chunk.rows,
                state=OperationState.DONE if chunk.done else before.state,
            )

        async def _commit(self, *arguments):
            await super()._commit(*arguments)
            after = await super()._checkpoint(await self._sessions.for_chunks(), self._chunk)
            assert after is not None

    monkeypatch.setattr(worker, "Runner", Mutant)


def checkpoint_before_the_rows(monkeypatch):
    """Two transactions: where to go on, then the rows."""

    class Mutant(runner.Runner):
        async def _checkpoint(self, lease, chunk):
            other = await self._pool.wait(None)
            try:
                return await super()._checkpoint(other, chunk)
            finally:
                self._pool.release(other)

    monkeypatch.setattr(worker, "Runner", Mutant)


def sent_again_from_memory(monkeypatch):
    """After a lost connection the chunk at hand is done again, whatever became of its COMMIT."""

    class Mutant(runner.Runner):
        _begun = False

        async def _attach(self, lease):
            if not self._begun:
                await super()._attach(lease)
                self._begun = True
                return
            await self._run.begin(lease, self._status.cursor)
            self._attached = True

    monkeypatch.setattr(worker, "Runner", Mutant)
    _no_seq(monkeypatch)


def lease_without_epoch(monkeypatch):
    """Whoever finds the operation running may commit a chunk of it."""
    _no_seq(monkeypatch)
    _in_place_of_epoch(monkeypatch, NO_EPOCH)


def epoch_forgotten_where_chunks_are_numbered(monkeypatch):
    """Only the number of the chunk is compared."""
    _in_place_of_epoch(monkeypatch, NO_EPOCH)


def owner_in_place_of_epoch(monkeypatch):
    """Host and process say whose it is; two containers have the same."""
    _no_seq(monkeypatch)
    _in_place_of_epoch(monkeypatch, f"{NO_EPOCH} and o.owner_place = '{Owner().place}'")


def _no_seq(monkeypatch):
    _edit(
        monkeypatch,
        "_CHECKPOINT",
        ("o.seq = $3", NO_SEQ),
        # their primary key would save it
        ("select id, $3, epoch", "select id, seq - 1, epoch"),
    )


def _in_place_of_epoch(monkeypatch, condition):
    _edit(monkeypatch, "_CHECKPOINT", ("o.epoch = $2", condition))
    _edit(monkeypatch, "_ATTACH", ("o.epoch = $2", condition))
    _edit(monkeypatch, "_HEARTBEAT", ("epoch = $2", condition.replace("o.", "")))


def _edit(monkeypatch, name, *changes):
    text = getattr(store, name)
    for old, new in changes:
        assert text.count(old) == 1, f"{name} has no {old!r}"
        text = text.replace(old, new)
    monkeypatch.setattr(store, name, text)


def locked_rows_skipped(monkeypatch):
    """What somebody else has locked is left for later, and the cursor moves on."""
    work = Statements.work

    def mutant(statements, after, to, **options):
        sql, values = work(statements, after, to, **options)
        unlocked = f"SELECT ctid FROM {statements.table} FOR UPDATE SKIP LOCKED"
        return f"{sql} {'AND' if ' WHERE ' in sql else 'WHERE'} ctid IN ({unlocked})", values

    monkeypatch.setattr(Statements, "work", mutant)
