--
-- CREATE EXTENSION: all objects of the contract are there and say what they
-- are; nothing is left after DROP EXTENSION.
--
CREATE EXTENSION replp2p;
SELECT extname, extversion FROM pg_extension WHERE extname = 'replp2p';

-- the contract: functions and procedures
\pset format unaligned
SELECT p.prokind AS kind, p.proname || '(' || pg_get_function_arguments(p.oid) || ')' AS routine,
	   coalesce(pg_get_function_result(p.oid), '') AS result
FROM pg_proc p
WHERE p.pronamespace = 'replp2p'::regnamespace AND p.proname !~ '^get_stat_'
ORDER BY p.proname COLLATE "C";

-- the contract: columns of the views
SELECT c.relname AS view, string_agg(a.attname || ' ' || format_type(a.atttypid, NULL), ', '
									 ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'replp2p'::regnamespace AND c.relkind = 'v' AND a.attnum > 0
GROUP BY c.relname
ORDER BY c.relname COLLATE "C";

\pset format aligned

-- every object has a comment: none of these lacks one
CREATE VIEW without_comment AS
	SELECT pg_describe_object(d.classid, d.objid, 0) AS object
	FROM pg_depend d
		 LEFT JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
	WHERE d.refclassid = 'pg_extension'::regclass
	  AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'replp2p')
	  AND d.deptype = 'e'
	  AND d.classid IN ('pg_class'::regclass, 'pg_proc'::regclass, 'pg_event_trigger'::regclass)
	  AND (c.oid IS NULL OR c.relkind IN ('r', 'v'))
	  AND coalesce(obj_description(d.objid, d.classid::regclass::name), '') = '';
SELECT * FROM without_comment;
DROP VIEW without_comment;
SELECT obj_description('replp2p'::regnamespace, 'pg_namespace') IS NOT NULL AS schema_has_comment,
	   obj_description(oid, 'pg_extension') IS NOT NULL AS extension_has_comment
FROM pg_extension WHERE extname = 'replp2p';

-- a database that is no node: the views are empty
SELECT (SELECT count(*) FROM replp2p.stat_members) AS members,
	   (SELECT count(*) FROM replp2p.stat_lag) AS lag,
	   (SELECT count(*) FROM replp2p.stat_capture) AS capture,
	   (SELECT count(*) FROM replp2p.stat_apply) AS apply,
	   (SELECT count(*) FROM replp2p.stat_links) AS links,
	   (SELECT count(*) FROM replp2p.stat_server) AS server,
	   (SELECT count(*) FROM replp2p.stat_log) AS log,
	   (SELECT count(*) FROM replp2p.stat_join) AS "join",
	   (SELECT count(*) FROM replp2p.stat_conflicts) AS stat_conflicts,
	   (SELECT count(*) FROM replp2p.conflicts) AS conflicts;

-- the fingerprint says nothing, but always the same
SELECT replp2p.node_fingerprint() ~ '^[0-9a-f]+$' AS is_hash,
	   replp2p.node_fingerprint() = replp2p.node_fingerprint() AS is_stable;

-- preflight finds nothing that keeps this database from being a node
SELECT check_name FROM replp2p.preflight() WHERE status = 'CRITICAL';

-- what CREATE EXTENSION has made, DROP EXTENSION removes
DROP EXTENSION replp2p;
SELECT count(*) AS relations FROM pg_class WHERE relnamespace = to_regnamespace('replp2p');
SELECT count(*) AS routines FROM pg_proc WHERE pronamespace = to_regnamespace('replp2p');
SELECT count(*) AS event_triggers FROM pg_event_trigger WHERE evtname ~ 'replp2p';
CREATE EXTENSION replp2p;
