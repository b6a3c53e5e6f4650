// Inserts numbers while the database comes and goes, and reports what became of each.
// Usage: outage.mjs FOLDER once COUNT | during WORKERS [again]. Lines on standard input drive it.
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';
import { neonConfig, query } from './driver.mjs';

const [folder, mode, count, repeat] = process.argv.slice(2);
const documented = (name) => import(pathToFileURL(`${folder}/${name}`));
const { patientFetch } = await documented('patient.mjs');
const again = repeat ? (await documented('again.mjs')).again : (statement) => statement();

const plainFetch = globalThis.fetch;
globalThis.fetch = async (...request) => {
  const response = await plainFetch(...request);
  if (response.status !== 200) console.log(`refused ${response.status}`);
  return response;
};
neonConfig.fetchFunction = patientFetch;

const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const done = [];
const failed = [];
let next = 0;

async function insert() {
  const number = (next += 1);
  const conflict = repeat ? 'on conflict (id) do nothing' : '';
  try {
    await again(() => query(`insert into witness values ($1) ${conflict}`, [number]));
    done.push(number);
    if (done.length % 50 === 0) console.log(`inserted ${done.length}`);
  } catch (error) {
    failed.push([number, error.message]);
  }
}

await query('select 1');
console.log('ready');
await lines.next();
if (mode === 'once') {
  await Promise.all(Array.from({ length: Number(count) }, insert));
} else {
  let stopped = false;
  lines.next().then(() => (stopped = true));
  const worker = async () => {
    while (!stopped) await insert();
  };
  await Promise.all(Array.from({ length: Number(count) }, worker));
}
console.log(JSON.stringify({ done, failed }));
process.exit(0);
