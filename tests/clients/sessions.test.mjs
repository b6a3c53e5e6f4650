// Pool.query goes over HTTP if asked; sessions are refused in a way that can be read.
import assert from 'node:assert/strict';
import test from 'node:test';
import ws from 'ws';
import { Client, neonConfig, Pool, sql, url } from './driver.mjs';

const { host } = new URL(process.env.SQL_ENDPOINT);
Object.assign(neonConfig, {
  webSocketConstructor: ws,
  poolQueryViaFetch: true,
  useSecureWebSocket: false,
  pipelineTLS: false,
  pipelineConnect: 'password',
  wsProxy: () => `${host}/v2`,
});

test('Pool.query works over HTTP', async () => {
  const pool = new Pool({ connectionString: url });
  const { rows, rowCount, command } = await pool.query('select $1::int as a, $2::timestamptz as b', [1, new Date(0)]);
  assert.deepEqual([rows, rowCount, command], [[{ a: 1, b: new Date(0) }], 1, 'SELECT']);
  const arrays = await pool.query({ text: 'select 1 as a', rowMode: 'array' });
  assert.deepEqual(arrays.rows, [[1]]);
  await assert.rejects(pool.query('select nothing'), { code: '42703' });
  await pool.end();
});

const refusal = async (session) => {
  const reason = await session().then(() => assert.fail('a session was opened'), (error) => error);
  return String(reason.message ?? reason.error?.message);
};

test('a client that wants a session is told 501', async () => {
  const client = new Client({ connectionString: url });
  client.on('error', () => {});
  assert.match(await refusal(() => client.connect()), /Unexpected server response: 501/);
});

test('a pool that wants a session is told 501', async () => {
  const pool = new Pool({ connectionString: url });
  pool.on('error', () => {});
  assert.match(await refusal(() => pool.connect()), /Unexpected server response: 501/);
});

test('the refusal says what to use instead', async () => {
  const socket = new ws(`ws://${host}/v2`);
  const body = await new Promise((done, failed) => {
    socket.on('unexpected-response', async (_request, response) => {
      assert.equal(response.headers['content-type'], 'application/problem+json');
      done(JSON.parse((await response.toArray()).join('')));
    });
    socket.on('error', failed);
    socket.on('open', () => failed(new Error('a session was opened')));
  });
  assert.match(body.detail, /poolQueryViaFetch.*sql\.transaction/s);
  assert.deepEqual(await sql`select 1 as a`, [{ a: 1 }]);
});
