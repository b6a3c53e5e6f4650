// Several statements as one transaction.
import assert from 'node:assert/strict';
import test from 'node:test';
import { neon, query, sql, table, url, value } from './driver.mjs';

const rows = (name) => value(`select count(*)::int from ${name}`);

test('all of a batch takes effect, in order', async () => {
  const name = await table('id serial, label text');
  const results = await sql.transaction([
    query(`insert into ${name} (label) values ('a') returning id`),
    query(`insert into ${name} (label) values ($1)`, ['b']),
    sql`select ${'c'}::text as label`,
    query(`select string_agg(label, '' order by id) as labels from ${name}`),
  ]);
  assert.deepEqual(results, [[{ id: 1 }], [], [{ label: 'c' }], [{ labels: 'ab' }]]);
});

test('none of a batch takes effect when one statement fails', async () => {
  const name = await table('id int primary key');
  const failing = sql.transaction([
    query(`insert into ${name} values (1)`),
    query(`insert into ${name} values (2)`),
    query(`insert into ${name} values (1)`),
  ]);
  await assert.rejects(failing, { name: 'NeonDbError', code: '23505', constraint: `${name}_pkey` });
  assert.equal(await rows(name), 0);
});

test('a deferred constraint fails the batch at its end', async () => {
  const name = await table('id int unique deferrable initially deferred');
  const failing = sql.transaction([query(`insert into ${name} values (1)`), query(`insert into ${name} values (1)`)]);
  await assert.rejects(failing, { code: '23505' });
  assert.equal(await rows(name), 0);
});

test('a batch is one transaction, and separate queries are not', async () => {
  const id = 'select pg_current_xact_id()::text as id';
  const [[first], [second]] = await sql.transaction([query(id), query(id)]);
  assert.equal(first.id, second.id);
  assert.notEqual(await value(id), await value(id));
});

test('an empty batch is nothing', async () => {
  assert.deepEqual(await sql.transaction([]), []);
});

test('a function may make the batch', async () => {
  const results = await sql.transaction((txn) => [txn`select 1 as a`, txn`select ${2}::int as a`]);
  assert.deepEqual(results, [[{ a: 1 }], [{ a: 2 }]]);
});

test('isolation level, read only and deferrable are what was asked for', async () => {
  const levels = {
    ReadUncommitted: 'read uncommitted',
    ReadCommitted: 'read committed',
    RepeatableRead: 'repeatable read',
    Serializable: 'serializable',
  };
  for (const [isolationLevel, expected] of Object.entries(levels)) {
    const [[row]] = await sql.transaction([sql`show transaction_isolation`], { isolationLevel });
    assert.equal(row.transaction_isolation, expected);
  }
  const [[readOnly], [deferrable]] = await sql.transaction(
    [sql`show transaction_read_only`, sql`show transaction_deferrable`],
    { isolationLevel: 'Serializable', readOnly: true, deferrable: true },
  );
  assert.deepEqual([readOnly, deferrable], [{ transaction_read_only: 'on' }, { transaction_deferrable: 'on' }]);
  const [[writable]] = await sql.transaction([sql`show transaction_read_only`], { readOnly: false });
  assert.deepEqual(writable, { transaction_read_only: 'off' });
});

test('a read-only batch writes nothing', async () => {
  const name = await table('id int');
  const writing = sql.transaction([query(`insert into ${name} values (1)`)], { readOnly: true });
  await assert.rejects(writing, { code: '25006' });
  assert.equal(await rows(name), 0);
});

test('an unknown isolation level is refused', async () => {
  await assert.rejects(sql.transaction([sql`select 1`], { isolationLevel: 'Chaos' }), /isolation level/);
});

test('a batch cannot end its own transaction', async () => {
  const name = await table('id int');
  for (const ending of ['commit', 'rollback', '/* x */ end', 'begin']) {
    const batch = [query(`insert into ${name} values (1)`), query(ending), query(`insert into ${name} values (2)`)];
    await assert.rejects(sql.transaction(batch), { code: '2D000' });
  }
  assert.equal(await rows(name), 0);
});

test('savepoints work within a batch', async () => {
  const name = await table('id int');
  await sql.transaction([
    query(`insert into ${name} values (1)`),
    query('savepoint here'),
    query(`insert into ${name} values (2)`),
    query('rollback to savepoint here'),
  ]);
  assert.deepEqual(await query(`select id from ${name}`), [{ id: 1 }]);
});

test('array mode and full results hold for a whole batch', async () => {
  const options = { arrayMode: true, fullResults: true };
  const [first, second] = await sql.transaction([sql`select 1 as a`, sql`select 'x' as a, 'y' as b`], options);
  assert.deepEqual([first.rows, second.rows], [[[1]], [['x', 'y']]]);
  assert.deepEqual([first.command, first.rowCount, second.fields.length], ['SELECT', 1, 2]);
  const always = neon(url, options);
  const [third] = await always.transaction([always`select 1 as a`]);
  assert.deepEqual(third.rows, [[1]]);
});

test('of two writers at serializable one is told to try again', async () => {
  const name = await table('id int, balance int');
  await query(`insert into ${name} values (1, 0), (2, 0)`);
  await query(`create sequence ${name}_arrived owned by ${name}.id`);
  // Sequences know no transactions: both writers have read before either writes.
  const meeting = `do $$ begin perform nextval('${name}_arrived');
    while (select last_value from ${name}_arrived) < 2 loop perform pg_sleep(0.005); end loop; end $$`;
  const transfer = (from, to) =>
    sql.transaction(
      [
        query(`select sum(balance) from ${name} where id = $1`, [from]),
        query(meeting),
        query(`update ${name} set balance = balance + 1 where id = $1`, [to]),
      ],
      { isolationLevel: 'Serializable' },
    );
  const outcomes = await Promise.allSettled([transfer(1, 2), transfer(2, 1)]);
  const refused = outcomes.filter(({ status }) => status === 'rejected');
  assert.deepEqual(refused.map(({ reason }) => reason.code), ['40001']);
  assert.equal(await value(`select sum(balance)::int from ${name}`), 1);
});
