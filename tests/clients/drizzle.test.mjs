// drizzle-orm/neon-http on the driver under test.
import assert from 'node:assert/strict';
import test, { after, before } from 'node:test';
import { eq, relations, sql as raw } from 'drizzle-orm';
import { drizzle } from 'drizzle-orm/neon-http';
import { migrate } from 'drizzle-orm/neon-http/migrator';
import { integer, jsonb, pgTable, serial, text, timestamp, uuid } from 'drizzle-orm/pg-core';
import { sql } from './driver.mjs';

const authors = pgTable(`authors_${process.env.TEST_PREFIX}`, {
  id: serial('id').primaryKey(),
  name: text('name').notNull().unique('one_name'),
  key: uuid('key').defaultRandom(),
  born: timestamp('born', { withTimezone: true }),
  tags: text('tags').array(),
  facts: jsonb('facts'),
});
const books = pgTable(`books_${process.env.TEST_PREFIX}`, {
  id: serial('id').primaryKey(),
  author: integer('author').references(() => authors.id),
  title: text('title').notNull(),
});
const authorsRelations = relations(authors, ({ many }) => ({ books: many(books) }));
const booksRelations = relations(books, ({ one }) => ({
  author: one(authors, { fields: [books.author], references: [authors.id] }),
}));
const db = drizzle({ client: sql, schema: { authors, books, authorsRelations, booksRelations } });

before(async () => {
  await db.execute(raw`create table ${authors} (id serial primary key, name text not null,
    key uuid default gen_random_uuid(), born timestamptz, tags text[], facts jsonb, constraint one_name unique (name))`);
  await db.execute(raw`create table ${books} (id serial primary key, author int references ${authors}, title text not null)`);
});

after(() => db.execute(raw`drop table ${books}, ${authors}`));

test('insert returning, select, update and delete', async () => {
  const born = new Date('1929-10-21T00:00:00Z');
  const [made] = await db.insert(authors).values({ name: 'Ursula', born, tags: ['a,b', 'ü'], facts: { prize: ['Hugo'] } }).returning();
  assert.equal(made.id, 1);
  assert.match(made.key, /^[0-9a-f-]{36}$/);
  assert.deepEqual([made.born, made.tags, made.facts], [born, ['a,b', 'ü'], { prize: ['Hugo'] }]);
  assert.deepEqual(await db.select().from(authors).where(eq(authors.name, 'Ursula')), [made]);
  const changed = await db.update(authors).set({ facts: null }).where(eq(authors.id, 1));
  assert.equal(changed.rowCount, 1);
  assert.deepEqual(await db.delete(authors).where(eq(authors.id, 1)).returning({ name: authors.name }), [{ name: 'Ursula' }]);
});

test('relational queries and joins', async () => {
  const [{ id }] = await db.insert(authors).values({ name: 'Stanisław' }).returning({ id: authors.id });
  await db.insert(books).values([{ author: id, title: 'Solaris' }, { author: id, title: 'Eden' }]);
  const found = await db.query.authors.findFirst({
    columns: { name: true },
    with: { books: { columns: { title: true }, orderBy: books.title } },
  });
  assert.deepEqual(found, { name: 'Stanisław', books: [{ title: 'Eden' }, { title: 'Solaris' }] });
  const joined = await db.select({ name: authors.name, title: books.title }).from(books).innerJoin(authors, eq(books.author, authors.id)).orderBy(books.id);
  assert.deepEqual(joined, [{ name: 'Stanisław', title: 'Solaris' }, { name: 'Stanisław', title: 'Eden' }]);
  assert.equal(await db.$count(books), 2);
});

test('a batch is one transaction', async () => {
  const [inserted, all] = await db.batch([
    db.insert(authors).values({ name: 'Octavia' }).returning({ name: authors.name }),
    db.select({ name: authors.name }).from(authors).orderBy(authors.id),
  ]);
  assert.deepEqual(inserted, [{ name: 'Octavia' }]);
  assert.equal(all.at(-1).name, 'Octavia');
  const failing = db.batch([
    db.insert(authors).values({ name: 'Iain' }),
    db.insert(authors).values({ name: 'Octavia' }),
  ]);
  await assert.rejects(failing, (error) => (error.cause ?? error).code === '23505');
  assert.deepEqual(await db.select().from(authors).where(eq(authors.name, 'Iain')), []);
});

test('an error has its code and constraint as cause', async () => {
  await db.insert(authors).values({ name: 'Ted' });
  await assert.rejects(db.insert(authors).values({ name: 'Ted' }), ({ cause }) => {
    assert.deepEqual([cause.name, cause.code, cause.constraint], ['NeonDbError', '23505', 'one_name']);
    return true;
  });
});

test('prepared statements and raw SQL', async () => {
  const prepared = db.select({ name: authors.name }).from(authors).where(eq(authors.name, raw.placeholder('name'))).prepare('by_name');
  assert.deepEqual(await prepared.execute({ name: 'nobody' }), []);
  const { rows } = await db.execute(raw`select ${1}::int as one`);
  assert.deepEqual(rows, [{ one: 1 }]);
});

test('migrations run once', async () => {
  const schema = `migrations_${process.env.TEST_PREFIX}`;
  for (const _ of [1, 2]) await migrate(db, { migrationsFolder: './migrations', migrationsSchema: schema });
  const { rows } = await db.execute(raw`select count(*)::int as count from migrated`);
  assert.deepEqual(rows, [{ count: 2 }]);
  await db.execute(raw.raw(`drop schema ${schema} cascade`));
  await db.execute(raw`drop table migrated`);
});

test('an interactive transaction says that it does not exist', async () => {
  await assert.rejects(db.transaction(async () => {}), /No transactions support in neon-http driver/);
});
