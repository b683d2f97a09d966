--
-- Conflict handlers and column merges: what may be set, by whom, and where it shows.
-- (What they do takes several nodes.)
--
CREATE EXTENSION replp2p;
CREATE TABLE early (id integer PRIMARY KEY);
SELECT replp2p.set_conflict_handler('early', 'vector_clock');
DROP TABLE early;
CREATE PROCEDURE look_until(query text) LANGUAGE plpgsql AS $$
DECLARE
	yes boolean;
BEGIN
	FOR i IN 1 .. 600 LOOP
		EXECUTE query INTO yes;
		COMMIT;
		EXIT WHEN yes;
		PERFORM pg_sleep(0.05);
		COMMIT;
	END LOOP;
	IF yes IS NOT TRUE THEN
		RAISE EXCEPTION 'gave up waiting for: %', query;
	END IF;
END
$$;

CREATE FUNCTION own_dsn() RETURNS text LANGUAGE sql AS $$
	SELECT format('host=%s port=%s dbname=%s user=%s',
		split_part(current_setting('unix_socket_directories'), ',', 1),
		current_setting('port'), current_database(), current_user)
$$;
SELECT replp2p.create_group('one', own_dsn()) ~ '^[0-9a-f]{32}$' AS is_id;
SELECT replp2p.wait_for_ready('1 minute');
SELECT replp2p.set_conflict_handler('pg_class', 'vector_clock');

CREATE SCHEMA shop;
CREATE TABLE shop.item (
	id integer PRIMARY KEY,
	name text NOT NULL,
	stock integer NOT NULL,
	sold bigint NOT NULL,
	price numeric(10, 2) NOT NULL,
	weight double precision NOT NULL,
	maybe integer,
	computed integer GENERATED ALWAYS AS (stock + 1) STORED NOT NULL
);
CREATE VIEW shop.handlers AS
	SELECT handler, handler_function, merges FROM replp2p.tables WHERE relation = 'shop.item'::regclass;
SELECT * FROM shop.handlers;

-- the handler
SELECT replp2p.set_conflict_handler('shop.item', 'last_writer_wins');
SELECT replp2p.set_conflict_handler('shop.item', 'vector_clock');
SELECT * FROM shop.handlers;
SELECT replp2p.set_conflict_handler('shop.item', 'vector_clock');
SELECT replp2p.set_conflict_handler('shop.item', 'first_writer_wins');
SELECT replp2p.set_conflict_handler('shop.item', NULL);
SELECT replp2p.set_conflict_handler(NULL, 'vector_clock');
SELECT replp2p.set_conflict_handler(0, 'vector_clock');

-- functions
CREATE FUNCTION shop."Pick"(older shop.item, newer shop.item, replp2p.conflict) RETURNS shop.item
	LANGUAGE sql IMMUTABLE AS 'SELECT newer';
SELECT replp2p.set_conflict_handler('shop.item', 'custom');
SELECT replp2p.set_conflict_handler('shop.item', 'vector_clock', 'shop."Pick"(shop.item, shop.item, replp2p.conflict)');
SELECT replp2p.set_conflict_handler('shop.item', 'custom', 'shop."Pick"(shop.item, shop.item, replp2p.conflict)');
SELECT * FROM shop.handlers;
CREATE FUNCTION shop.two(older shop.item, newer shop.item) RETURNS shop.item
	LANGUAGE sql IMMUTABLE AS 'SELECT newer';
SELECT replp2p.set_conflict_handler('shop.item', 'custom', 'shop.two(shop.item, shop.item)');
CREATE FUNCTION shop.id(older shop.item, newer shop.item, replp2p.conflict) RETURNS integer
	LANGUAGE sql IMMUTABLE AS 'SELECT 1';
SELECT replp2p.set_conflict_handler('shop.item', 'custom', 'shop.id(shop.item, shop.item, replp2p.conflict)');
CREATE FUNCTION shop.moody(older shop.item, newer shop.item, replp2p.conflict) RETURNS shop.item
	LANGUAGE sql STABLE AS 'SELECT newer';
SELECT replp2p.set_conflict_handler('shop.item', 'custom', 'shop.moody(shop.item, shop.item, replp2p.conflict)');

-- merges; a function and a counter exclude one another
SELECT replp2p.set_column_merge('shop.item', 'stock', 'counter');
SELECT replp2p.set_conflict_handler('shop.item', 'vector_clock');
SELECT replp2p.set_column_merge('shop.item', 'stock', 'counter');
SELECT relreplident FROM pg_class WHERE oid = 'shop.item'::regclass;
SELECT replp2p.set_column_merge('shop.item', 'stock', 'counter');
SELECT replp2p.set_column_merge('shop.item', 'sold', 'max');
SELECT replp2p.set_column_merge('shop.item', 'price', 'min');
SELECT * FROM shop.handlers;
SELECT replp2p.set_column_merge('shop.item', 'sold', 'none');
SELECT replp2p.set_column_merge('shop.item', 'sold', 'none');
SELECT merges FROM shop.handlers;
SELECT replp2p.set_column_merge('shop.item', 'price', 'average');
SELECT replp2p.set_column_merge('shop.item', 'nothing', 'max');
SELECT replp2p.set_column_merge('shop.item', 'ctid', 'max');
SELECT replp2p.set_column_merge('shop.item', 'id', 'max');
SELECT replp2p.set_column_merge('shop.item', 'name', 'max');
SELECT replp2p.set_column_merge('shop.item', 'weight', 'counter');
SELECT replp2p.set_column_merge('shop.item', 'maybe', 'counter');
SELECT replp2p.set_column_merge('shop.item', 'computed', 'max');
SELECT replp2p.set_column_merge('shop.item', NULL, 'max');

-- by oid here: renaming keeps it
ALTER TABLE shop.item RENAME COLUMN stock TO left_over;
ALTER TABLE shop.item RENAME TO article;
SELECT handler, merges FROM replp2p.tables WHERE relation = 'shop.article'::regclass;
ALTER TABLE shop.article RENAME TO item;
ALTER TABLE shop.item REPLICA IDENTITY DEFAULT;
SELECT warning FROM replp2p.tables WHERE relation = 'shop.item'::regclass;
ALTER TABLE shop.item REPLICA IDENTITY FULL;

-- what is rolled back never was
BEGIN;
SELECT replp2p.set_conflict_handler('shop.item', 'last_writer_wins');
SELECT handler FROM shop.handlers;
ROLLBACK;
SELECT handler FROM shop.handlers;
BEGIN READ ONLY;
SELECT replp2p.set_conflict_handler('shop.item', 'last_writer_wins');
ROLLBACK;

-- the changes as they travel
SELECT serial, schema_name, table_name, column_name, setting, function_name
FROM replp2p.handler_changes ORDER BY serial;
