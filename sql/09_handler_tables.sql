--
-- Conflict handlers: of which tables, by whom; and when changes are forgotten. (Goes on from 08.)
--
-- tables that it is not for
CREATE TABLE shop.no_key (n integer NOT NULL);
CREATE TABLE shop.by_index (code integer NOT NULL, n integer NOT NULL);
CREATE UNIQUE INDEX by_index_code ON shop.by_index (code);
ALTER TABLE shop.by_index REPLICA IDENTITY USING INDEX by_index_code;
CREATE UNLOGGED TABLE shop.unlogged (id integer PRIMARY KEY, n integer NOT NULL);
CREATE TABLE shop.parted (id integer PRIMARY KEY, n integer NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE shop.parted_1 PARTITION OF shop.parted FOR VALUES FROM (0) TO (10);
SELECT replp2p.set_conflict_handler('shop.no_key', 'vector_clock');
SELECT replp2p.set_conflict_handler('shop.by_index', 'vector_clock');
SELECT replp2p.set_column_merge('shop.by_index', 'n', 'max');
SELECT replp2p.set_column_merge('shop.by_index', 'n', 'counter');
SELECT replp2p.set_conflict_handler('shop.unlogged', 'vector_clock');
SELECT replp2p.set_conflict_handler('shop.handlers', 'vector_clock');
SELECT replp2p.set_conflict_handler('replp2p.membership', 'vector_clock');
SELECT replp2p.set_conflict_handler('shop.parted', 'vector_clock');
SELECT replp2p.set_conflict_handler(relid, 'vector_clock') FROM pg_partition_tree('shop.parted') WHERE isleaf;
SELECT relation, handler FROM replp2p.tables WHERE relation::text ~ 'parted' ORDER BY relation::text;
SELECT replp2p.exclude_table('shop.parted_1');
SELECT replp2p.set_conflict_handler('shop.parted_1', 'last_writer_wins');

-- whose it is
CREATE ROLE regress_replp2p_owner;
CREATE ROLE regress_replp2p_other;
GRANT USAGE ON SCHEMA shop TO regress_replp2p_owner, regress_replp2p_other;
GRANT EXECUTE ON FUNCTION replp2p.set_conflict_handler(regclass, text, regprocedure),
	replp2p.set_column_merge(regclass, name, text) TO regress_replp2p_owner, regress_replp2p_other;
ALTER TABLE shop.item OWNER TO regress_replp2p_owner;
SET ROLE regress_replp2p_other;
SELECT replp2p.set_conflict_handler('shop.item', 'last_writer_wins');
SELECT replp2p.set_column_merge('shop.item', 'left_over', 'none');
RESET ROLE;
CREATE FUNCTION shop.stranger(older shop.item, newer shop.item, replp2p.conflict) RETURNS shop.item
	LANGUAGE sql IMMUTABLE SECURITY DEFINER AS 'SELECT newer';
CREATE FUNCTION shop.hidden(older shop.item, newer shop.item, replp2p.conflict) RETURNS shop.item
	LANGUAGE sql IMMUTABLE AS 'SELECT newer';
REVOKE EXECUTE ON FUNCTION shop.hidden FROM PUBLIC;
SET ROLE regress_replp2p_owner;
SELECT replp2p.set_conflict_handler('shop.item', 'custom', 'shop.stranger(shop.item, shop.item, replp2p.conflict)');
SELECT replp2p.set_conflict_handler('shop.item', 'custom', 'shop.hidden(shop.item, shop.item, replp2p.conflict)');
SELECT replp2p.set_conflict_handler('shop.item', 'last_writer_wins');
SELECT replp2p.set_column_merge('shop.item', 'left_over', 'none');
RESET ROLE;
SELECT * FROM shop.handlers;

-- in a group of one all is settled soon, and superseded changes go; so do those of tables that are gone
SELECT replp2p.set_conflict_handler('shop.item', 'vector_clock');
DROP TABLE shop.by_index;
CALL look_until('SELECT count(*) = count(*) FILTER (WHERE settled) AND count(*) = 5 FROM replp2p.table_handlers');
SELECT relation::regclass, column_name, setting, seq IS NOT NULL AS known, settled FROM replp2p.table_handlers
ORDER BY relation::regclass::text, column_name;

SELECT replp2p.leave_group(force => true);
CALL look_until('SELECT count(*) = 0 FROM replp2p.local_node');
SELECT count(*) FROM replp2p.handler_changes;
SELECT count(*) FROM replp2p.table_handlers;
SET client_min_messages = warning;
DROP SCHEMA shop CASCADE;
RESET client_min_messages;
DROP EXTENSION replp2p;
DROP FUNCTION own_dsn();
DROP PROCEDURE look_until(text);
DROP ROLE regress_replp2p_owner, regress_replp2p_other;
