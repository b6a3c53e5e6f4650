// Asks a server that refuses everything for long; usage: patient.mjs FOLDER RETRY_AFTER
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const [folder, retryAfter] = process.argv.slice(2);
const { patientFetch } = await import(pathToFileURL(`${folder}/patient.mjs`));
let requests = 0;
const server = createServer((_request, response) => {
  requests += 1;
  const answer = requests > 5 ? 200 : 503;
  response.writeHead(answer, { 'Retry-After': retryAfter }).end('{}');
});
await new Promise((done) => server.listen(0, '127.0.0.1', done));
const response = await patientFetch(`http://127.0.0.1:${server.address().port}/sql`, {});
console.log(response.status, requests);
process.exit(0);
