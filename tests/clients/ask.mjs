// Asks one question and prints the answer or the error as JSON.
import { query } from './driver.mjs';

const answer = await query('select 42 as answer').then(
  (rows) => ({ rows }),
  ({ name, code, message, sourceError }) => ({ name, code, message, cause: sourceError?.cause?.code }),
);
console.log(JSON.stringify(answer));
