// Tries to get in with a wrong token, in both ways, and prints what it is told.
import { neon, url } from './driver.mjs';

const attempts = [neon(url, { authToken: 'guessed' }), neon(url.replace(':none@', ':guessed@'))];
const told = attempts.map((sql) => sql`select 1`.then(() => ({}), ({ code, message }) => ({ code, message })));
console.log(JSON.stringify(await Promise.all(told)));
