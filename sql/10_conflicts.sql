--
-- Putting losers of conflicts back, as far as one database shows it: the history is
-- written by hand.
--
CREATE EXTENSION replp2p;
CREATE ROLE regress_replp2p_user;
CREATE SCHEMA regress_shop;
SET search_path = regress_shop;

-- calls that lead nowhere
SELECT replp2p.revert_conflict(NULL);
SELECT replp2p.revert_conflict(1);
SELECT * FROM replp2p.stat_conflicts;
BEGIN READ ONLY;
SELECT replp2p.revert_conflict(1);
ROLLBACK;

-- a row with values that jsonb does not hold exactly
CREATE TABLE "odd ""name""" (
	id integer GENERATED ALWAYS AS IDENTITY,
	"Second key" text COLLATE "C",
	n numeric(6, 2),
	j jsonb,
	js json,
	a integer[],
	f double precision,
	at timestamptz,
	span interval,
	c char(5),
	doubled integer GENERATED ALWAYS AS (id * 2) STORED,
	PRIMARY KEY (id, "Second key")
);
CREATE FUNCTION conflict(relation regclass, loser "char", side "char", key text[], image text[]) RETURNS bigint
LANGUAGE sql AS $$
	INSERT INTO replp2p.conflict_history (relation, conflict_type, resolution, loser, local_side, local_image,
		remote_side, remote_image, key_image, remote_slot, remote_seq, remote_stamp, relationship)
	VALUES (relation, 'update_origin_differs', 'apply_remote', loser, side, image, side, image, key,
		0, 1, 1, 'concurrent')
	RETURNING id
$$;
SELECT conflict('"odd ""name"""', 'l', 'r', '{{id,7},{Second key,k}}',
	E'{{id,7},{"Second key",k},{n,12.50},{j,"null"},{js,"{\\"b\\": 1,  \\"a\\": 2, \\"a\\": 3}"},'
	'{a,"[2:3]={1,NULL}"},{f,0.1},{at,"2024-02-03 04:05:06.789+00"},{span,"-1 days +02:03:04"},{c,"ab   "}}')
	AS id \gset
SET datestyle = 'SQL, DMY';
SET intervalstyle = 'sql_standard';
SELECT replp2p.revert_conflict(:id);
RESET datestyle;
RESET intervalstyle;
SELECT *, js::text = '{"b": 1,  "a": 2, "a": 3}' AS exact FROM "odd ""name""" \gx
-- over a row that is there; and SQL NULL is not the null of jsonb
SELECT conflict('"odd ""name"""', 'r', 'r', '{{id,7},{Second key,k}}',
	'{{id,7},{"Second key",k},{n,1},{j,NULL},{js,NULL},{a,"{}"},{f,NaN},{at,infinity},{span,NULL},{c,x}}') AS id \gset
SELECT replp2p.revert_conflict(:id);
SELECT *, j IS NULL AS is_null FROM "odd ""name""" \gx
-- columns that came and went
ALTER TABLE "odd ""name""" DROP COLUMN span, ADD COLUMN fresh text DEFAULT 'new';
UPDATE "odd ""name""" SET fresh = 'kept';
SELECT replp2p.revert_conflict(:id);
SELECT fresh, n FROM "odd ""name""";
DELETE FROM "odd ""name""";
SELECT replp2p.revert_conflict(:id);
SELECT id, fresh, n FROM "odd ""name""";
-- a delete that lost
SELECT conflict('"odd ""name"""', 'l', 'd', '{{id,7},{Second key,k}}', NULL) AS id \gset
SELECT replp2p.revert_conflict(:id);
SELECT count(*) FROM "odd ""name""";
SELECT replp2p.revert_conflict(:id);
-- no image, no loser, no key column, no table
SELECT conflict('"odd ""name"""', 'l', 'r', '{{id,7},{Second key,k}}', NULL) AS id \gset
SELECT replp2p.revert_conflict(:id);
SELECT conflict('"odd ""name"""', NULL, 'r', '{{id,7}}', '{{id,7}}') AS id \gset
SELECT replp2p.revert_conflict(:id);
ALTER TABLE "odd ""name""" RENAME "Second key" TO renamed;
SELECT conflict('"odd ""name"""', 'l', 'r', '{{id,7},{Second key,k}}', '{{id,7},{Second key,k}}') AS id \gset
SELECT replp2p.revert_conflict(:id);
DROP TABLE "odd ""name""";
SELECT replp2p.revert_conflict(:id);

-- a table that is all key
CREATE TABLE pairs (a integer, b integer, PRIMARY KEY (a, b));
SELECT conflict('pairs', 'l', 'r', '{{a,1},{b,2}}', '{{a,1},{b,2}}') AS id \gset
SELECT replp2p.revert_conflict(:id);
SELECT replp2p.revert_conflict(:id);
SELECT * FROM pairs;
-- a rule in its way
CREATE RULE nothing AS ON INSERT TO pairs DO INSTEAD NOTHING;
DELETE FROM pairs;
SELECT replp2p.revert_conflict(:id);
SELECT * FROM pairs;

-- rights: those of the write, and no more is seen than the view shows
CREATE TABLE guarded (id integer PRIMARY KEY, v text);
GRANT USAGE ON SCHEMA regress_shop TO regress_replp2p_user;
SELECT conflict('guarded', 'l', 'r', '{{id,1}}', '{{id,1},{v,lost}}') AS id \gset
SELECT conflict('guarded', 'l', 'd', '{{id,1}}', NULL) AS deleted \gset
SET ROLE regress_replp2p_user;
SELECT replp2p.revert_conflict(:id);
RESET ROLE;
GRANT SELECT ON guarded TO regress_replp2p_user;
SET ROLE regress_replp2p_user;
SELECT replp2p.revert_conflict(:id);
SELECT replp2p.revert_conflict(:deleted);
RESET ROLE;
GRANT INSERT ON guarded TO regress_replp2p_user;
SET ROLE regress_replp2p_user;
SELECT replp2p.revert_conflict(:id);
SELECT * FROM guarded;
SELECT replp2p.revert_conflict(:id);
RESET ROLE;
GRANT UPDATE, DELETE ON guarded TO regress_replp2p_user;
SET ROLE regress_replp2p_user;
SELECT replp2p.revert_conflict(:id);
SELECT replp2p.revert_conflict(:deleted);
RESET ROLE;
-- a trigger that says no; a row without a key
INSERT INTO guarded VALUES (1, 'stays');
CREATE TRIGGER no BEFORE UPDATE ON guarded FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
UPDATE guarded SET v = 'lost';
SELECT replp2p.revert_conflict(:id);
DROP TRIGGER no ON guarded;
CREATE TABLE keyless (v text, w text DEFAULT 'w');
SELECT conflict('keyless', 'r', 'r', NULL, '{{v,one}}') AS keyless \gset
SELECT replp2p.revert_conflict(:keyless);
SELECT * FROM keyless;
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
SET ROLE regress_replp2p_user;
SELECT replp2p.revert_conflict(:id);
RESET ROLE;

SET client_min_messages = warning;
DROP SCHEMA regress_shop CASCADE;
DROP EXTENSION replp2p;
RESET client_min_messages;
RESET search_path;
DROP ROLE regress_replp2p_user;
