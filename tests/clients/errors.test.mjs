// A failed statement is a NeonDbError with what PostgreSQL said, field by field.
import assert from 'node:assert/strict';
import test from 'node:test';
import { neonConfig, NeonDbError, query, sql, table, value } from './driver.mjs';

const failure = async (text, params) => {
  const error = await query(text, params).then(() => assert.fail(`no error: ${text}`), (reason) => reason);
  assert.ok(error instanceof NeonDbError, String(error));
  return error;
};

test('a syntax error has its position', async () => {
  const error = await failure('select 1 as a b');
  assert.equal(error.message, 'syntax error at or near "b"');
  assert.deepEqual([error.code, error.severity, error.position], ['42601', 'ERROR', '15']);
  assert.equal(error.routine, 'scanner_yyerror');
  assert.ok(error.file && error.line);
});

test('an unknown name comes with a hint', async () => {
  const error = await failure('select relnam from pg_class');
  assert.equal(error.code, '42703');
  assert.match(error.hint, /relname/);
});

test('a violated constraint has its name, table, schema and detail', async () => {
  const name = await table('id int primary key, age int constraint of_age check (age >= 18), label text not null');
  await query(`insert into ${name} values (1, 18, 'a')`);
  const twice = await failure(`insert into ${name} values (1, 18, 'a')`);
  assert.deepEqual([twice.code, twice.constraint, twice.table, twice.schema], ['23505', `${name}_pkey`, name, 'public']);
  assert.equal(twice.detail, 'Key (id)=(1) already exists.');
  const young = await failure(`insert into ${name} values (2, $1, 'a')`, [17]);
  assert.deepEqual([young.code, young.constraint], ['23514', 'of_age']);
  const bare = await failure(`insert into ${name} (id) values (3)`);
  assert.deepEqual([bare.code, bare.column], ['23502', 'label']);
});

test('an exception raised by the application keeps every field', async () => {
  const error = await failure(`do $$ begin raise exception 'no stock' using errcode = 'P0042',
    detail = 'item 7', hint = 'order more', schema = 's', table = 't', column = 'c',
    datatype = 'd', constraint = 'k'; end $$`);
  const { message, code, detail, hint, schema, table: table_, column, dataType, constraint, where } = error;
  assert.deepEqual(
    [message, code, detail, hint, schema, table_, column, dataType, constraint],
    ['no stock', 'P0042', 'item 7', 'order more', 's', 't', 'c', 'd', 'k'],
  );
  assert.match(where, /PL\/pgSQL function inline_code_block line 1 at RAISE/);
});

test('an error inside a function shows the inner statement', async () => {
  const error = await failure("do $$ begin execute 'selec 1'; end $$");
  assert.equal(error.internalQuery, 'selec 1');
  assert.equal(error.internalPosition, '1');
});

test('values that do not fit', async () => {
  assert.equal((await failure('select $1::int', ['x'])).code, '22P02');
  assert.equal((await failure('select 1 / $1::int', [0])).code, '22012');
  assert.equal((await failure('select $1::timestamptz', ['soon'])).code, '22007');
  assert.equal((await failure('select 1', [1])).code, '08P01');
  assert.equal((await failure('select $1::int')).code, '08P01');
  assert.equal((await failure('select $1::text', ['a\0b'])).code, '22021');
});

test('two statements in one text are refused, and neither runs', async () => {
  const name = await table('id int');
  assert.equal((await failure(`insert into ${name} values (1); insert into ${name} values (2)`)).code, '42601');
  assert.equal(await value(`select count(*)::int from ${name}`), 0);
});

test('COPY and LISTEN have no place here', async () => {
  assert.equal((await failure('copy (select 1) to stdout')).code, '0A000');
  await query('listen somewhere');
  assert.deepEqual(await sql`select * from pg_listening_channels()`, []);
});

test('a statement that takes too long is cancelled', async () => {
  const limited = sql.transaction([query("set local statement_timeout = '20ms'"), query('select pg_sleep(600)')]);
  await assert.rejects(limited, { code: '57014', message: 'canceling statement due to statement timeout' });
});

test('a request may be given up by its signal, and its statement ends', async () => {
  const marker = `abandoned_${process.env.TEST_PREFIX}`;
  const running = () => value(`select count(*)::int from pg_stat_activity where state = 'active' and query like '%/* ${marker} */%' and pid <> pg_backend_pid()`);
  const leaving = new AbortController();
  const abandoned = query(`select pg_sleep(600) /* ${marker} */`, [], { fetchOptions: { signal: leaving.signal } });
  const rejected = assert.rejects(abandoned, /abort/i);
  while ((await running()) === 0);
  leaving.abort();
  await rejected;
  while ((await running()) > 0);
});

test('what one request sets, the next does not see', async () => {
  await query("set intervalstyle = 'sql_standard'");
  await query("select set_config('datestyle', 'German', false)");
  await query('create temporary table leftover (id int)');
  assert.equal(await value('show intervalstyle'), 'postgres');
  assert.equal(await value("select to_regclass('pg_temp.leftover') is null"), true);
  await query('begin').catch(() => {});
  assert.equal(await value('select pg_current_xact_id_if_assigned() is null'), true);
});

test('a result above the limit is a readable error', async () => {
  const error = await failure("select repeat('x', 1024 * 1024) from generate_series(1, 20)");
  assert.match(error.message, /HTTP status 507.*response is too large \(max is 10485760 bytes\)/s);
});

test('a request above the limit is a readable error', async () => {
  const error = await failure('select length($1)', ['x'.repeat(11 * 1024 * 1024)]);
  assert.match(error.message, /HTTP status 413.*request is too large \(max is 10485760 bytes\)/s);
});

test('a server that is not there is named', async () => {
  const endpoint = neonConfig.fetchEndpoint;
  neonConfig.fetchEndpoint = 'http://127.0.0.1:1/sql';
  try {
    const error = await failure('select 1');
    assert.match(error.message, /Error connecting to database/);
    assert.ok(error.sourceError);
  } finally {
    neonConfig.fetchEndpoint = endpoint;
  }
});
