// Values arrive in JavaScript as Neon's documentation says they do.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import test from 'node:test';
import { query, sql, value } from './driver.mjs';

const same = async (expression, expected) =>
  assert.deepEqual(await value(`select ${expression} as v`), expected, expression);

test('integers, and those too large for a number', async () => {
  await same("'-32768'::int2", -32768);
  await same('2147483647::int4', 2147483647);
  await same('9223372036854775807::int8', '9223372036854775807');
  await same('4294967295::oid', 4294967295);
});

test('numeric keeps every digit', async () => {
  await same("'12345678901234567890.123456789'::numeric", '12345678901234567890.123456789');
  await same("'NaN'::numeric", 'NaN');
});

test('floating point, and what is no number', async () => {
  await same("'0.1'::float8", 0.1);
  await same("'1e300'::float8", 1e300);
  await same("'1.5'::float4", 1.5);
  await same("'Infinity'::float8", Infinity);
  await same("'-Infinity'::float8", -Infinity);
  await same("'NaN'::float8", NaN);
});

test('booleans and null', async () => {
  await same('true', true);
  await same('false', false);
  await same('null::int', null);
  await same('null::text', null);
});

test('text of any alphabet', async () => {
  for (const text of ['', ' ', 'naïve', '日本語', 'مرحبا', '👩‍👩‍👧‍👦', '\u0001\t\n\r\\"\'', '\u2028\u2029', '$1']) {
    assert.equal(await value('select $1::text', [text]), text);
  }
  const long = '🐘'.repeat(100_000);
  assert.equal(await value('select $1::text', [long]), long);
});

test('points in time become dates', async () => {
  await same("'2026-02-28 12:34:56.789+02'::timestamptz", new Date('2026-02-28T10:34:56.789Z'));
  await same("'2026-02-28 12:34:56.789'::timestamp", new Date(2026, 1, 28, 12, 34, 56, 789));
  await same("'2026-02-28'::date", new Date(2026, 1, 28));
  await same("'infinity'::timestamptz", Infinity);
  await same("'12:34:56.789'::time", '12:34:56.789');
});

test('intervals become objects of their parts', async () => {
  const parts = await value("select '1 year 2 months 3 days 04:05:06.789'::interval");
  assert.deepEqual(
    { ...parts },
    { years: 1, months: 2, days: 3, hours: 4, minutes: 5, seconds: 6, milliseconds: 789 },
  );
});

test('JSON becomes its value', async () => {
  const document = { a: [1, null, { b: 'ü' }], c: true };
  assert.deepEqual(await value('select $1::jsonb', [document]), document);
  assert.deepEqual(await value('select $1::json', [document]), document);
  await same("'3'::jsonb", 3);
  await same("'null'::jsonb", null);
  await same("'\"text\"'::jsonb", 'text');
});

test('bytea becomes a buffer', async () => {
  const bytes = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  assert.deepEqual(Buffer.from(await value('select $1::bytea', [bytes])), bytes);
  assert.equal((await value("select ''::bytea")).length, 0);
});

test('arrays of any depth, with nulls', async () => {
  await same("'{1,2,NULL}'::int[]", [1, 2, null]);
  await same("'{{1,2},{3,4}}'::int[]", [[1, 2], [3, 4]]);
  await same("'{}'::text[]", []);
  await same(`array['a', 'b,c', 'd"e', 'f\\g', 'NULL', null, '{}']`, ['a', 'b,c', 'd"e', 'f\\g', 'NULL', null, '{}']);
  await same("'{t,f}'::bool[]", [true, false]);
  await same("array[9223372036854775807]::int8[]", ['9223372036854775807']);
  await same(`array['{"a":1}', '[2]']::jsonb[]`, [{ a: 1 }, [2]]);
  assert.deepEqual(await value("select array['2026-01-01T00:00:00Z'::timestamptz]"), [new Date('2026-01-01T00:00:00Z')]);
});

test('uuid, inet, ranges, enums and composite types stay text', async () => {
  await same("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid", 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
  await same("'192.168.0.1/24'::inet", '192.168.0.1/24');
  await same("'[1,10)'::int4range", '[1,10)');
  await same("row(1, 'a')", '(1,a)');
  const mood = `mood_${process.env.TEST_PREFIX}`;
  await query(`create type ${mood} as enum ('glad', 'so so')`);
  await same(`'so so'::${mood}`, 'so so');
  await query(`drop type ${mood}`);
});

test('points become coordinates', async () => {
  assert.deepEqual({ ...(await value("select '(1,2.5)'::point")) }, { x: 1, y: 2.5 });
});

test('columns keep their names and order; of two with one name the last wins', async () => {
  const [row] = await sql`select 1 as b, 2 as a, 3 as "Ä ö"`;
  assert.deepEqual(Object.entries(row), [['b', 1], ['a', 2], ['Ä ö', 3]]);
  assert.deepEqual(await sql`select 1 as x, 2 as x`, [{ x: 2 }]);
  assert.deepEqual(await query('select 1 as x, 2 as x', [], { arrayMode: true }), [[1, 2]]);
});

test('a result of a hundred thousand rows', async () => {
  const rows = await sql`select i, md5(i::text) as hash from generate_series(1, 100000) as i`;
  assert.equal(rows.length, 100_000);
  assert.deepEqual(rows[99_999], { i: 100_000, hash: createHash('md5').update('100000').digest('hex') });
});

test('a result with a thousand columns', async () => {
  const columns = Array.from({ length: 1000 }, (_, i) => `${i} as c${i}`);
  const [row] = await query(`select ${columns.join()}`);
  assert.equal(row.c999, 999);
  assert.equal(Object.keys(row).length, 1000);
});
