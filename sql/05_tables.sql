--
-- Which tables are replicated and by what; no rewriting of those that are.
--
CREATE SCHEMA shop;
CREATE TABLE shop.plain (id integer PRIMARY KEY, v text);
CREATE TABLE shop.no_key (id integer);
CREATE TABLE shop.deferred (id integer PRIMARY KEY DEFERRABLE);
CREATE TABLE shop.by_index (id integer NOT NULL, code text NOT NULL);
CREATE UNIQUE INDEX by_index_code ON shop.by_index (code);
ALTER TABLE shop.by_index REPLICA IDENTITY USING INDEX by_index_code;
CREATE TABLE shop.full_with_key (id integer PRIMARY KEY);
ALTER TABLE shop.full_with_key REPLICA IDENTITY FULL;
CREATE TABLE shop.full_without_key (id integer);
ALTER TABLE shop.full_without_key REPLICA IDENTITY FULL;
CREATE TABLE shop.nothing (id integer PRIMARY KEY);
ALTER TABLE shop.nothing REPLICA IDENTITY NOTHING;
CREATE TABLE shop.computed (a integer, b integer GENERATED ALWAYS AS (a + 1) STORED PRIMARY KEY);
CREATE UNLOGGED TABLE shop.unlogged (id integer PRIMARY KEY);
CREATE TABLE shop.parted (id integer, v text) PARTITION BY RANGE (id);
CREATE TABLE shop.parted_1 PARTITION OF shop.parted (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (10);
CREATE TABLE shop."Odd ""name""" (id integer PRIMARY KEY);
CREATE TEMPORARY TABLE temporary (id integer PRIMARY KEY);
CREATE VIEW shop.a_view AS SELECT 1;

SELECT replace(relation::text, 'shop.', '') AS relation, replicated, identity, warning
FROM replp2p.tables WHERE relation::text ~ '^shop' OR relation::text ~ 'temporary'
ORDER BY relation::text COLLATE "C";

-- ours and the server's are none of the user's tables
SELECT count(*) FROM replp2p.tables WHERE relation::text ~ '^(replp2p|pg_|information_schema)';

-- out and in again
INSERT INTO shop.plain VALUES (1, 'one');
SELECT replp2p.exclude_table('shop.plain');
SELECT replp2p.exclude_table('shop.plain');
SELECT replicated, identity, warning FROM replp2p.tables WHERE relation = 'shop.plain'::regclass;
SELECT replp2p.include_table('shop.plain');
SELECT replp2p.include_table('shop.plain');
SELECT replicated, identity, warning FROM replp2p.tables WHERE relation = 'shop.plain'::regclass;
SELECT replp2p.exclude_table('shop.a_view');
SELECT replp2p.exclude_table('shop.unlogged');

-- a partitioned table takes its partitions along
SELECT replp2p.exclude_table('shop.parted');
SELECT relation, replicated FROM replp2p.tables WHERE relation::text ~ 'parted' ORDER BY relation::text;
SELECT replp2p.include_table('shop.parted');

-- changes of an excluded table get no seq
SELECT replp2p.exclude_table('shop.plain');
SELECT replp2p.current_token() IS NOT NULL AS captured;
SELECT seq AS before FROM replp2p.stat_capture \gset
INSERT INTO shop.plain VALUES (2, 'two');
SELECT replp2p.current_token() IS NOT NULL AS captured;
SELECT seq - :before AS more FROM replp2p.stat_capture;
SELECT replp2p.include_table('shop.plain');

-- no rewriting of a replicated table with rows
ALTER TABLE shop.plain ALTER COLUMN id TYPE bigint;
ALTER TABLE shop.plain ADD COLUMN r double precision DEFAULT random();
SELECT count(*) FROM shop.plain;
INSERT INTO shop.parted VALUES (1, 'one');
ALTER TABLE shop.parted ALTER COLUMN v TYPE integer USING length(v);

-- what does not rewrite, or keeps the rows' versions, is allowed
ALTER TABLE shop.plain ADD COLUMN d integer DEFAULT 7;
ALTER TABLE shop.plain ALTER COLUMN v TYPE varchar;
ALTER TABLE shop.plain ALTER COLUMN d SET NOT NULL;
VACUUM FULL shop.plain;
CLUSTER shop.plain USING plain_pkey;
-- so are tables without rows, and those that are not replicated
ALTER TABLE shop.full_with_key ALTER COLUMN id TYPE bigint;
INSERT INTO shop.unlogged VALUES (1);
ALTER TABLE shop.unlogged ALTER COLUMN id TYPE bigint;
SELECT replp2p.exclude_table('shop.plain');
ALTER TABLE shop.plain ALTER COLUMN id TYPE bigint;

-- a table that is dropped while it is excluded leaves no trace in the view
DROP TABLE shop.plain;
SELECT count(*) FROM replp2p.tables WHERE NOT replicated AND warning IS NULL;
SET client_min_messages = warning;
DROP SCHEMA shop CASCADE;
RESET client_min_messages;
