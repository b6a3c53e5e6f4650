// The driver under test, pointed at the server under test; nothing else is changed.
import { after } from 'node:test';

export const driver = await import(process.env.NEON_DRIVER);
export const { neon, neonConfig, NeonDbError, Pool, Client } = driver;
if (process.env.SQL_ENDPOINT) neonConfig.fetchEndpoint = process.env.SQL_ENDPOINT;

export const url = process.env.DATABASE_URL;
export const sql = neon(url);

// Before 1.0 the template function took text and parameters itself.
export const query = (text, params, options) =>
  sql.query ? sql.query(text, params, options) : sql(text, params, options);

export const value = async (text, params) => {
  const [row] = await query(text, params);
  return Object.values(row)[0];
};

let made = 0;

// A table of this file's own, gone with it.
export async function table(columns) {
  const name = `${process.env.TEST_PREFIX}_${(made += 1)}`;
  await query(`create table ${name} (${columns})`);
  after(() => query(`drop table ${name}`));
  return name;
}
