--
-- Orphans of foreign keys; who sees what of failed changes, which are written by hand here.
--
CREATE EXTENSION replp2p;
CREATE ROLE regress_replp2p_user;
CREATE ROLE regress_replp2p_monitor IN ROLE pg_monitor;
CREATE SCHEMA regress_shop;
GRANT USAGE ON SCHEMA regress_shop TO regress_replp2p_user;
SET search_path = regress_shop;

-- calls that lead nowhere
SELECT * FROM replp2p.fk_violations('pg_settings');
SELECT * FROM replp2p.fk_violations(1);
SELECT replp2p.retry_failed(NULL);
SELECT replp2p.retry_failed(1);
SELECT replp2p.skip_failed(1);
SELECT * FROM replp2p.failed_changes;

-- orphans. Without triggers nobody keeps them out.
CREATE TABLE parent (a integer, "B c" text, PRIMARY KEY (a, "B c"));
CREATE TABLE simple (id integer PRIMARY KEY, a integer, b text,
	CONSTRAINT "simple ""fk" FOREIGN KEY (a, b) REFERENCES parent);
CREATE TABLE strict (id integer PRIMARY KEY, a integer, b text,
	CONSTRAINT strict_fk FOREIGN KEY (a, b) REFERENCES parent MATCH FULL);
CREATE TABLE tree (id bigint PRIMARY KEY, above integer CONSTRAINT tree_fk REFERENCES tree);
CREATE TABLE parted (id integer PRIMARY KEY) PARTITION BY RANGE (id);
CREATE TABLE parted_low PARTITION OF parted FOR VALUES FROM (0) TO (100);
CREATE TABLE parted_high PARTITION OF parted FOR VALUES FROM (100) TO (200);
CREATE TABLE leaves (id integer, p integer CONSTRAINT leaves_fk REFERENCES parted) PARTITION BY LIST (p);
CREATE TABLE leaves_1 PARTITION OF leaves FOR VALUES IN (1, 2);
CREATE TABLE leaves_other PARTITION OF leaves DEFAULT;
SET session_replication_role = replica;
INSERT INTO parent VALUES (1, 'one');
INSERT INTO simple VALUES (1, 1, 'one'), (2, 1, 'two'), (3, NULL, 'two'), (4, NULL, NULL);
INSERT INTO strict VALUES (1, 1, 'one'), (2, 1, 'two'), (3, NULL, 'two'), (4, NULL, NULL);
INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 9);
INSERT INTO parted VALUES (1), (150);
INSERT INTO leaves VALUES (1, 1), (2, 2), (3, 150), (4, 160), (5, NULL);
RESET session_replication_role;
SELECT * FROM replp2p.fk_violations() ORDER BY constraint_name COLLATE "C", foreign_key::text;
SELECT * FROM replp2p.fk_violations('leaves_1');
SELECT * FROM replp2p.fk_violations('simple');
SELECT count(*) FROM replp2p.fk_violations('parent');
SET ROLE regress_replp2p_user;
SELECT count(*) FROM replp2p.fk_violations();
SELECT * FROM replp2p.fk_violations('tree');
RESET ROLE;
GRANT SELECT ON simple, tree TO regress_replp2p_user;
SET ROLE regress_replp2p_user;
SELECT constraint_name FROM replp2p.fk_violations();
SELECT * FROM replp2p.fk_violations('simple');
RESET ROLE;
ALTER TABLE tree ENABLE ROW LEVEL SECURITY;
SET ROLE regress_replp2p_user;
SELECT * FROM replp2p.fk_violations('tree');
RESET ROLE;

-- who sees what of a failed change
INSERT INTO replp2p.failed_transactions (slot, seq, stamp, change, schema_name, table_name, operation, key,
	remote_row, error_message, error_detail, sqlstate, attempts)
VALUES (1, 5, 800000000000001, 1, 'regress_shop', 'simple', 'INSERT', '{"id": 1}', '{"id": 1, "a": 2}', 'it fails', 'for 2', 'XX000', 1),
	(2, 5, NULL, 1, 'nowhere', 'Gone', 'INSERT', '{"id": 1}', '{"id": 1, "a": 2}', 'no table', NULL, 'XX000', 1);
SELECT seq, stamp IS NULL AS unknown, relation, operation, key, remote_row, error_message, error_detail FROM replp2p.failed_changes ORDER BY relation;
SET ROLE regress_replp2p_user;
SELECT relation, key, remote_row, error_message, error_detail FROM replp2p.failed_changes ORDER BY relation;
SELECT replp2p.skip_failed(1);
SELECT replp2p.retry_failed(1);
SET ROLE regress_replp2p_monitor;
SELECT relation, key, remote_row, error_message, error_detail FROM replp2p.failed_changes ORDER BY relation;
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA regress_shop CASCADE;
DROP EXTENSION replp2p;
RESET client_min_messages;
RESET search_path;
DROP ROLE regress_replp2p_user, regress_replp2p_monitor;
