// What a program passes is what PostgreSQL gets.
import assert from 'node:assert/strict';
import test from 'node:test';
import { neon, query, sql, table, url, value } from './driver.mjs';

test('numbers, bigints, booleans, null and undefined', async () => {
  assert.equal(await value('select $1::int + 1', [41]), 42);
  assert.equal(await value('select $1::float8', [-1.5e-7]), -1.5e-7);
  assert.equal(await value('select $1::int8', [9007199254740993n]), '9007199254740993');
  assert.equal(await value('select $1::numeric', ['0.1000']), '0.1000');
  assert.equal(await value('select not $1::bool', [true]), false);
  assert.equal(await value('select $1::int is null', [null]), true);
  assert.equal(await value('select $1::int is null', [undefined]), true);
  assert.equal(await value('select $1::float8', [Infinity]), Infinity);
});

test('a date is the same instant again, whatever the time zone', async () => {
  for (const instant of ['2026-07-01T00:00:00.001Z', '1970-01-01T00:00:00Z', '1960-01-01T00:00:00Z']) {
    assert.deepEqual(await value('select $1::timestamptz', [new Date(instant)]), new Date(instant));
  }
  assert.equal(await value("select $1::timestamptz = '2026-07-01T12:00:00Z'", [new Date('2026-07-01T12:00:00Z')]), true);
});

test('buffers', async () => {
  const bytes = Buffer.from('00ff5c27', 'hex');
  assert.equal(await value('select length($1::bytea)', [bytes]), 4);
  const [{ hex }] = await sql`select encode(${bytes}, 'hex') as hex`;
  assert.equal(hex, '00ff5c27');
});

test('arrays, nested and with nulls', async () => {
  assert.deepEqual(await value('select $1::int[]', [[1, null, 3]]), [1, null, 3]);
  assert.deepEqual(await value('select $1::int[]', [[[1, 2], [3, 4]]]), [[1, 2], [3, 4]]);
  assert.deepEqual(await value('select $1::text[]', [['a"b', 'c\\d', 'e,f', 'NULL', '']]), ['a"b', 'c\\d', 'e,f', 'NULL', '']);
  assert.equal(await value('select $1 = any($2::int[])', [2, [1, 2, 3]]), true);
  assert.deepEqual(await value('select $1::jsonb[]', [[{ a: 'x"y' }, { b: [1] }]]), [{ a: 'x"y' }, { b: [1] }]);
});

test('objects are JSON', async () => {
  assert.equal(await value("select $1::jsonb ->> 'a'", [{ a: "it's" }]), "it's");
  assert.equal(await value("select $1::jsonb -> 0 ->> 'a'", [JSON.stringify([{ a: 1 }])]), '1');
});

test('a template is never put together as text', async () => {
  const name = await table('id int, label text');
  const hostile = "x'); drop table " + name + '; --';
  await query(`insert into ${name} values ($1, $2)`, [1, hostile]);
  const [row] = await sql`select ${hostile}::text as label, ${1}::int + ${2}::int as sum`;
  assert.deepEqual(row, { label: hostile, sum: 3 });
  assert.equal(await value(`select count(*)::int from ${name}`), 1);
});

test('templates may contain templates and trusted text', { skip: !sql.unsafe && 'since 1.0' }, async () => {
  const name = await table('id int, label text');
  await sql`insert into ${sql.unsafe(name)} values (1, 'a'), (2, 'b'), (3, 'c')`;
  const several = sql`id > ${1} and id < ${3}`;
  assert.deepEqual(await sql`select label from ${sql.unsafe(name)} where ${several}`, [{ label: 'b' }]);
});

test('as many parameters as PostgreSQL takes, and no more', async () => {
  const places = (count) => Array.from({ length: count }, (_, i) => `$${i + 1}::int`).join();
  const numbers = (count) => Array.from({ length: count }, (_, i) => i);
  assert.equal(await value(`select array_length(array[${places(10_000)}], 1)`, numbers(10_000)), 10_000);
  await assert.rejects(query(`select ${places(65_536)}`, numbers(65_536)), { code: '54023' });
});

test('object, array and full results, for one query and for all', async () => {
  assert.deepEqual(await sql`select 1 as a, 2 as b`, [{ a: 1, b: 2 }]);
  assert.deepEqual(await query('select 1 as a, 2 as b', [], { arrayMode: true }), [[1, 2]]);
  const full = await query('select 1 as a', [], { fullResults: true });
  assert.deepEqual(full.rows, [{ a: 1 }]);
  assert.deepEqual([full.command, full.rowCount, full.rowAsArray, full.viaNeonFetch], ['SELECT', 1, false, true]);
  assert.deepEqual(full.fields.map(({ name, dataTypeID, format }) => ({ name, dataTypeID, format })), [{ name: 'a', dataTypeID: 23, format: 'text' }]);
  const both = neon(url, { arrayMode: true, fullResults: true });
  const result = await both`select 'x' as a, null as b`;
  assert.deepEqual([result.rows, result.rowAsArray], [[['x', null]], true]);
});

test('a full result knows the column a value came from', async () => {
  const name = await table('id int, label varchar(7)');
  const { fields } = await query(`select label, id, 1 as made from ${name}`, [], { fullResults: true });
  const oid = await value(`select '${name}'::regclass::oid`);
  assert.deepEqual(
    fields.map(({ tableID, columnID, dataTypeSize, dataTypeModifier }) => [tableID, columnID, dataTypeSize, dataTypeModifier]),
    [[oid, 2, -1, 11], [oid, 1, 4, -1], [0, 0, 4, -1]],
  );
});

test('commands tell how many rows they touched', async () => {
  const name = await table('id int');
  const tell = async (text) => {
    const { command, rowCount, rows, fields } = await query(text, [], { fullResults: true });
    return [command, rowCount, rows, fields.length];
  };
  assert.deepEqual(await tell(`insert into ${name} values (1), (2), (3)`), ['INSERT', 3, [], 0]);
  assert.deepEqual(await tell(`update ${name} set id = 0 where id > 1`), ['UPDATE', 2, [], 0]);
  assert.deepEqual(await tell(`delete from ${name} where id = 9`), ['DELETE', 0, [], 0]);
  assert.deepEqual(await tell(`delete from ${name} where id = 1 returning id`), ['DELETE', 1, [{ id: 1 }], 1]);
  assert.deepEqual((await tell(`truncate ${name}`)).slice(0, 2), ['TRUNCATE', null]);
  assert.deepEqual(await tell(`select from ${name}`), ['SELECT', 0, [], 0]);
});

test('the connection string may have any parameter, port and escape', async () => {
  const odd = url.replace('@', '%20x@').replace(/\/(\w+)$/, ':6543/$1?sslmode=require&channel_binding=require');
  assert.deepEqual(await neon(odd)`select 1 as a`, [{ a: 1 }]);
});
