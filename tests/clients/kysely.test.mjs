// kysely with kysely-neon.
import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { Kysely, sql as raw } from 'kysely';
import { NeonDialect } from 'kysely-neon';
import { neon, url } from './driver.mjs';

const person = `person_${process.env.TEST_PREFIX}`;
const db = new Kysely({ dialect: new NeonDialect({ neon: neon(url) }) });

before(() =>
  db.schema
    .createTable(person)
    .addColumn('id', 'serial', (column) => column.primaryKey())
    .addColumn('name', 'text', (column) => column.notNull().unique())
    .addColumn('born', 'date')
    .execute());

after(async () => {
  await db.schema.dropTable(person).execute();
  await db.destroy();
});

test('insert, select, update and delete', async () => {
  const rows = await db.insertInto(person).values([{ name: 'Ada' }, { name: 'Grace' }]).returning(['id', 'name']).execute();
  assert.deepEqual(rows, [{ id: 1, name: 'Ada' }, { id: 2, name: 'Grace' }]);
  const found = await db.selectFrom(person).select(['name']).where('name', 'like', 'G%').executeTakeFirstOrThrow();
  assert.deepEqual(found, { name: 'Grace' });
  const { numUpdatedRows } = await db.updateTable(person).set({ born: new Date(1815, 11, 10) }).where('id', '=', 1).executeTakeFirst();
  assert.equal(numUpdatedRows, 1n);
  const { born } = await db.selectFrom(person).select('born').where('id', '=', 1).executeTakeFirst();
  assert.deepEqual(born, new Date(1815, 11, 10));
  const { numDeletedRows } = await db.deleteFrom(person).where('id', '=', 2).executeTakeFirst();
  assert.equal(numDeletedRows, 1n);
});

test('of many inserted rows their number is known', async () => {
  const values = Array.from({ length: 500 }, (_, i) => ({ name: `guest ${i}` }));
  const { numInsertedOrUpdatedRows } = await db.insertInto(person).values(values).executeTakeFirst();
  assert.equal(numInsertedOrUpdatedRows, 500n);
});

test('merge counts its rows', async () => {
  const { rows, numAffectedRows } = await raw`merge into ${raw.table(person)} p using (values ('new one')) as v (name)
    on p.name = v.name when not matched then insert (name) values (v.name)`.execute(db);
  assert.deepEqual([rows, numAffectedRows], [[], 1n]);
});

test('raw SQL and introspection', async () => {
  const { rows } = await raw`select ${42}::int as answer`.execute(db);
  assert.deepEqual(rows, [{ answer: 42 }]);
  const tables = await db.introspection.getTables();
  assert.deepEqual(tables.find(({ name }) => name === person).columns.map(({ name }) => name), ['id', 'name', 'born']);
});

test('an error has its code', async () => {
  await assert.rejects(db.insertInto(person).values({ name: 'Ada' }).execute(), { code: '23505', table: person });
});

test('transactions say that they do not exist', async () => {
  await assert.rejects(db.transaction().execute(async () => {}), /doesn't support interactive transactions/);
});
