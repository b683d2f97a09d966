/* sql/replp2p--0.1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION replp2p" to load this file. \quit

CREATE SCHEMA replp2p;
REVOKE ALL ON SCHEMA replp2p FROM PUBLIC;
GRANT USAGE ON SCHEMA replp2p TO PUBLIC;

--
-- Tables. Users read them through views; only the extension writes them.
--

-- This node, once create_group or join_group has committed. One row at most.
CREATE TABLE replp2p.local_node (
	singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	node_id bytea NOT NULL,					-- 16 bytes
	epoch integer NOT NULL,
	node_name name NOT NULL,
	dsn text NOT NULL,
	group_id bytea NOT NULL,				-- 16 bytes
	group_name name NOT NULL,
	public_key bytea NOT NULL,
	system_identifier bigint NOT NULL,
	database_oid oid NOT NULL,
	status text NOT NULL CHECK (status IN ('creating', 'joining', 'catchup', 'active', 'leaving', 'evicted')),
	force_leave boolean NOT NULL DEFAULT false,
	sponsor_dsn text,						-- while joining
	sponsor_id bytea,
	membership_serial bigint NOT NULL DEFAULT 0,
	handler_serial bigint NOT NULL DEFAULT 0
);

-- The membership log: replicated in the stream, each row signed by its author.
CREATE TABLE replp2p.membership (
	author_id bytea NOT NULL,
	author_epoch integer NOT NULL,
	serial bigint NOT NULL,
	change "char" NOT NULL CHECK (change IN ('c', 'a', 'l', 'd', 'e', 'f')),
	subject_id bytea NOT NULL,
	subject_epoch integer NOT NULL,
	node_name name NOT NULL,
	dsn text NOT NULL,
	public_key bytea NOT NULL,
	made_at timestamptz NOT NULL,
	frozen_seq bigint NOT NULL DEFAULT 0,	-- change f: the author stores the subject up to this
	signature bytea NOT NULL,
	PRIMARY KEY (author_id, author_epoch, serial)
);

-- What the membership log comes to here: the members by local slot.
CREATE TABLE replp2p.members (
	slot smallint PRIMARY KEY,
	node_id bytea NOT NULL,
	epoch integer NOT NULL,
	node_name name NOT NULL,
	dsn text NOT NULL,
	public_key bytea NOT NULL,
	status text NOT NULL CHECK (status IN ('admitted', 'left', 'evicted')),
	left_seq bigint,
	paused boolean NOT NULL DEFAULT false,
	accepted_stamp bigint NOT NULL DEFAULT 0,
	required_seq bigint NOT NULL DEFAULT 0,	-- a joiner's snapshot covers up to this
	UNIQUE (node_id, epoch)
);

-- Invites made here; the secret itself is in the token only.
CREATE TABLE replp2p.invites (
	secret_hash bytea PRIMARY KEY,			-- BLAKE2b-256
	created_at timestamptz NOT NULL DEFAULT now(),
	expires_at timestamptz NOT NULL,
	used_at timestamptz,
	used_by bytea,							-- public key of who joined by it
	granted_to name,						-- role that pg_read_all_data was lent to for the join
	copied_at timestamptz					-- the joiner has said that its copy is complete
);

-- What a join has to copy, and has copied; empty before and after. Tables in join_tables are shut.
CREATE TABLE replp2p.join_tables (
	relation oid PRIMARY KEY,
	donor_relation oid NOT NULL,			-- at the donor
	donor_file oid NOT NULL,				-- its relfilenode there
	key_columns text,						-- quoted; unique and never NULL
	donor_id bytea,							-- NULL = the sponsor; until all is as it is there
	donor_vector bytea						-- of the first snapshot of another donor
);

-- Ranges of a table's blocks at its donor.
CREATE TABLE replp2p.join_pieces (
	piece integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	relation oid NOT NULL,
	first_block bigint NOT NULL,
	end_block bigint NOT NULL,				-- -1: to the end
	bytes bigint NOT NULL,					-- about
	copied_from text,						-- pg_current_snapshot() there; NULL = not copied
	copied_xmin bigint,						-- of that
	rows bigint
);

-- Hashes of the schema, and of statements that made indexes.
CREATE TABLE replp2p.join_steps (
	step bytea PRIMARY KEY
);

-- What the schema has made here, to be dropped if the join is given up.
CREATE TABLE replp2p.join_objects (
	class oid NOT NULL,
	object oid NOT NULL,
	PRIMARY KEY (class, object)
);

-- Tables that are not replicated. Read by decoding under its historic snapshot.
CREATE TABLE replp2p.excluded_tables (
	relation oid PRIMARY KEY
) WITH (user_catalog_table = true);

-- Changes of conflict handlers and column merges: replicated in the stream, rows are only added.
CREATE TABLE replp2p.handler_changes (
	author_id bytea NOT NULL,
	author_epoch integer NOT NULL,
	serial bigint NOT NULL,
	schema_name name NOT NULL,
	table_name name NOT NULL,
	column_name name NOT NULL,				-- '': the handler of the table
	setting text NOT NULL,					-- last_writer_wins, vector_clock, custom; none, counter, max, min
	function_name text NOT NULL,			-- of handler custom, with its schema, quoted where need be
	made_at timestamptz NOT NULL,
	PRIMARY KEY (author_id, author_epoch, serial)
);

-- What they come to here, by the local oid, until superseded. Read by decoding under its historic snapshot.
CREATE TABLE replp2p.table_handlers (
	author_id bytea NOT NULL,				-- also the origin of the change's version
	author_epoch integer NOT NULL,
	serial bigint NOT NULL,
	schema_name name NOT NULL,
	table_name name NOT NULL,
	column_name name NOT NULL,
	setting text NOT NULL,
	function_name text NOT NULL,
	relation oid NOT NULL,					-- 0: there was no such table here
	column_number smallint NOT NULL,		-- 0: the handler of the table, or no such column here
	seq bigint,								-- with stamp the version; NULL: that of the row's xmin
	stamp bigint,
	settled boolean NOT NULL DEFAULT false,
	settle_at bytea,						-- vector: settled once this is stable
	PRIMARY KEY (author_id, author_epoch, serial)
) WITH (user_catalog_table = true);

-- The history behind the view conflicts; this node's own, not replicated. Images are
-- exact, {{column, value}, ...} (see rowimage.h); a side is r = row, d = delete.
CREATE TABLE replp2p.conflict_history (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	detected_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	relation oid NOT NULL,					-- 0: there was no such table here
	conflict_type text NOT NULL,
	resolution text NOT NULL,
	message text,
	key jsonb,
	key_image text[],
	local_row jsonb,
	local_image text[],
	local_side "char",
	remote_row jsonb,
	remote_image text[],
	remote_side "char",
	applied_row jsonb,
	loser "char" CHECK (loser IN ('l', 'r')),	-- local, remote; NULL: neither
	local_slot smallint,
	local_seq bigint,
	local_stamp bigint,
	remote_slot smallint NOT NULL,
	remote_seq bigint NOT NULL,
	remote_stamp bigint NOT NULL,
	relationship text CHECK (relationship IN ('before', 'after', 'concurrent'))	-- NULL: skipped, met nothing
);
CREATE INDEX conflict_history_detected_at ON replp2p.conflict_history (detected_at);

-- The transactions that apply cannot get past: at most the next one of each origin.
-- Only apply writes it. This node's own, not replicated; so is the next.
CREATE TABLE replp2p.failed_transactions (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	slot smallint NOT NULL UNIQUE,
	seq bigint NOT NULL,
	stamp bigint,
	change bigint,							-- number of what failed; NULL: no single change
	schema_name name,						-- as the origin calls it; NULL: as above
	table_name name,
	more_tables text[],						-- the others of a TRUNCATE, qualified and quoted
	operation text,
	key jsonb,
	key_image text[],
	remote_row jsonb,
	remote_image text[],
	error_message text NOT NULL,
	error_detail text,
	error_hint text,
	sqlstate text NOT NULL,
	attempts bigint NOT NULL,
	first_attempt timestamptz NOT NULL DEFAULT clock_timestamp(),
	last_attempt timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- Changes of those transactions that are to be skipped, by skip_failed().
CREATE TABLE replp2p.skipped_changes (
	slot smallint NOT NULL,
	seq bigint NOT NULL,
	change bigint NOT NULL,
	relation oid NOT NULL,					-- 0: there is no such table here
	more_relations oid[] NOT NULL,			-- the others of a TRUNCATE, likewise
	operation text NOT NULL,
	key jsonb,
	key_image text[],
	remote_row jsonb,
	remote_image text[],
	error_message text NOT NULL,
	PRIMARY KEY (slot, seq, change)
);

-- The versions behind the view siblings, for showing only. This node's own, not replicated; a
-- join copies them.
CREATE TABLE replp2p.sibling_rows (
	relation regclass NOT NULL,
	key_hash bytea NOT NULL,				-- 16 bytes, this node's own
	node_id bytea NOT NULL,
	epoch integer NOT NULL,
	seq bigint NOT NULL,
	stamp bigint NOT NULL,
	key jsonb NOT NULL,
	key_image bytea NOT NULL,				-- src/pg/rowbody.c
	row_data jsonb,							-- NULL: a delete
	is_winner boolean NOT NULL,
	kind text NOT NULL,
	PRIMARY KEY (relation, key_hash, node_id, epoch, seq)
);

-- Rows that a greater row keeps out of their table, as both claim a value of one unique index:
-- live data. This node's own, not replicated; a join copies them.
CREATE TABLE replp2p.displaced_rows (
	relation regclass NOT NULL,
	key_hash bytea NOT NULL,				-- 16 bytes, this node's own
	displaced_at timestamptz NOT NULL DEFAULT clock_timestamp(),
	key jsonb NOT NULL,						-- this and row_data for people
	row_data jsonb NOT NULL,
	image bytea NOT NULL,					-- src/pg/rowbody.c
	node_id bytea NOT NULL,					-- its version; all zero: older than everything
	epoch integer NOT NULL,
	seq bigint NOT NULL,
	stamp bigint NOT NULL,
	by_key jsonb NOT NULL,					-- the greatest of those that displace it, and its version
	by_node_id bytea NOT NULL,
	by_epoch integer NOT NULL,
	by_seq bigint NOT NULL,
	by_stamp bigint NOT NULL,
	known_seq bigint NOT NULL,				-- of this node's own: known when the row was displaced, and so less
	PRIMARY KEY (relation, key_hash)
);
CREATE INDEX displaced_rows_version ON replp2p.displaced_rows
	(relation, stamp, node_id, epoch, seq, key_hash);

-- The versions of rows in their tables that displace others, kept for good.
CREATE TABLE replp2p.displacing_rows (
	relation regclass NOT NULL,
	key_hash bytea NOT NULL,
	key_image bytea NOT NULL,				-- src/pg/rowbody.c
	node_id bytea NOT NULL,
	epoch integer NOT NULL,
	seq bigint NOT NULL,
	stamp bigint NOT NULL,
	PRIMARY KEY (relation, key_hash)
);

COMMENT ON SCHEMA replp2p IS 'replp2p: peer-to-peer multi-master replication';
COMMENT ON TABLE replp2p.local_node IS 'this node, one row at most; internal, see the view stat_members';
COMMENT ON TABLE replp2p.membership IS 'the signed membership log, replicated to every node; internal, see the view stat_members';
COMMENT ON TABLE replp2p.members IS 'the members that the membership log comes to on this node; internal, see the view stat_members';
COMMENT ON TABLE replp2p.invites IS 'hashes of the invites made on this node; internal, see create_invite()';
COMMENT ON TABLE replp2p.join_tables IS 'the tables that a join is copying, which are shut until it is complete; internal, see the view stat_join';
COMMENT ON TABLE replp2p.join_pieces IS 'parts of tables that a join copies and has copied; internal, see the view stat_join';
COMMENT ON TABLE replp2p.join_steps IS 'the schema and the indexes that a join has made; internal';
COMMENT ON TABLE replp2p.join_objects IS 'what a join has made, to be dropped if it is given up; internal';
COMMENT ON TABLE replp2p.excluded_tables IS 'tables that are not replicated; internal, see the view tables';
COMMENT ON TABLE replp2p.handler_changes IS 'changes of conflict handlers and column merges, replicated to every node; internal, see the view tables';
COMMENT ON TABLE replp2p.table_handlers IS 'the conflict handlers and column merges that hold on this node, and since which versions; internal, see the view tables';
COMMENT ON TABLE replp2p.conflict_history IS 'the conflicts that this node decided; internal, see the view conflicts';
COMMENT ON TABLE replp2p.failed_transactions IS 'the transactions that this node cannot apply; internal, see the view failed_changes';
COMMENT ON TABLE replp2p.skipped_changes IS 'changes that this node is to leave out; internal, see skip_failed()';
COMMENT ON TABLE replp2p.sibling_rows IS 'the concurrent versions of contested rows; internal, see the view siblings';
COMMENT ON TABLE replp2p.displaced_rows IS 'rows that others keep out of their table by a unique value; internal, see the view displaced';
COMMENT ON TABLE replp2p.displacing_rows IS 'versions of the rows that displace others; internal';
COMMENT ON INDEX replp2p.displaced_rows_version IS 'the order in which displaced rows are judged';
COMMENT ON INDEX replp2p.conflict_history_detected_at IS 'for removing the oldest conflicts';

--
-- Membership.
--

CREATE FUNCTION replp2p.create_group(node_name name, dsn text, group_name name DEFAULT 'replp2p')
RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_create_group';
COMMENT ON FUNCTION replp2p.create_group(name, text, name) IS
'make this database the first node of a new group; dsn is how the other nodes will reach it; returns the node id; takes effect after commit, see wait_for_ready()';

CREATE FUNCTION replp2p.create_invite(expires_in interval DEFAULT '1 hour')
RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_create_invite';
COMMENT ON FUNCTION replp2p.create_invite(interval) IS
'make a token with which one node can join the group, once, by way of this node; it is a secret';

CREATE FUNCTION replp2p.join_group(node_name name, dsn text, invite text)
RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_join_group';
COMMENT ON FUNCTION replp2p.join_group(name, text, text) IS
'make this database a node of the group that the invite is for; copies schema and data in the background after commit, see stat_join and wait_for_ready(); returns the node id';

CREATE FUNCTION replp2p.wait_for_ready(timeout interval DEFAULT '10 minutes')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_wait_for_ready';
COMMENT ON FUNCTION replp2p.wait_for_ready(interval) IS
'wait until this node is active after create_group() or join_group(); not in the same transaction';

CREATE FUNCTION replp2p.leave_group(force boolean DEFAULT false)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_leave_group';
COMMENT ON FUNCTION replp2p.leave_group(boolean) IS
'leave the group once all other members have applied all changes of this node, or at once if forced; the data stays';

CREATE FUNCTION replp2p.evict_node(node_name name)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_evict_node';
COMMENT ON FUNCTION replp2p.evict_node(name) IS
'declare a member gone for good: the others keep all of its changes that reached any of them, and wait for it no longer';

CREATE FUNCTION replp2p.set_node_dsn(node_name name, dsn text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_set_node_dsn';
COMMENT ON FUNCTION replp2p.set_node_dsn(name, text) IS
'tell the group under which dsn this node is reached from now on; of a peer: reach it so from here, until it tells itself';

CREATE FUNCTION replp2p.accept_stamps(node_name name)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_accept_stamps';
COMMENT ON FUNCTION replp2p.accept_stamps(name) IS
'apply what this node holds back of a node whose clock is ahead (replp2p.max_clock_skew)';

CREATE FUNCTION replp2p.preflight(
	dsn text DEFAULT NULL,
	OUT check_name text,
	OUT status text,
	OUT detail text,
	OUT hint text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 20 AS 'MODULE_PATHNAME', 'rp_preflight';
COMMENT ON FUNCTION replp2p.preflight(text) IS
'check whether this database can create or join a group, and with a dsn whether a peer can connect by it; changes nothing';

CREATE FUNCTION replp2p.check_prerequisites()
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_sql_check_prerequisites';
COMMENT ON FUNCTION replp2p.check_prerequisites() IS
'raise an error with a hint if a setting of the server keeps replp2p from working; CREATE EXTENSION calls it';

--
-- Watching.
--

CREATE FUNCTION replp2p.health(
	OUT check_name text,
	OUT status text,
	OUT detail text,
	OUT hint text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 20 AS 'MODULE_PATHNAME', 'rp_health';
COMMENT ON FUNCTION replp2p.health() IS
'judge this node and what it sees of the group: one row per check that is OK, one per finding (WARNING, CRITICAL) of one that is not';

CREATE FUNCTION replp2p.stat_reset()
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_stat_reset';
COMMENT ON FUNCTION replp2p.stat_reset() IS
'set the counters of the views stat_* of this node to zero, and stats_reset to now';

CREATE FUNCTION replp2p.get_stat_members(
	OUT node_name name,
	OUT node_id text,
	OUT state text,
	OUT self boolean,
	OUT epoch integer,
	OUT dsn text,
	OUT phase text,
	OUT last_seen timestamptz,
	OUT rtt interval,
	OUT clock_offset interval,
	OUT left_seq bigint)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'rp_get_stat_members';
COMMENT ON FUNCTION replp2p.get_stat_members() IS 'the rows behind the view stat_members';

CREATE VIEW replp2p.stat_members AS
	SELECT g.node_name, g.node_id, g.state, g.self, g.epoch, g.dsn, g.phase,
		   g.last_seen, g.rtt, g.clock_offset,
		   (SELECT min(m.made_at)
			FROM replp2p.membership m
			WHERE m.subject_id = decode(g.node_id, 'hex')
			  AND m.subject_epoch = g.epoch
			  AND m.change IN ('c', 'a')) AS admitted_at,
		   g.left_seq
	FROM replp2p.get_stat_members() g;
COMMENT ON VIEW replp2p.stat_members IS
'the members of the group as this node sees them; state is joining, syncing, active, unreachable, leaving, left or evicted';

CREATE FUNCTION replp2p.get_stat_lag(
	OUT origin name,
	OUT source name,
	OUT applied_seq bigint,
	OUT known_seq bigint,
	OUT lag_transactions bigint,
	OUT lag_bytes bigint,
	OUT lag interval,
	OUT last_applied_stamp timestamptz,
	OUT state text,
	OUT last_error text,
	OUT last_error_at timestamptz,
	OUT transactions_applied bigint,
	OUT changes_applied bigint,
	OUT conflicts bigint,
	OUT stats_reset timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'rp_get_stat_lag';
COMMENT ON FUNCTION replp2p.get_stat_lag() IS 'the rows behind the view stat_lag';

CREATE VIEW replp2p.stat_lag AS
	SELECT * FROM replp2p.get_stat_lag();
COMMENT ON VIEW replp2p.stat_lag IS
'per origin how far its changes are applied here; known_seq is the greatest that any member has said it stores; lag_bytes is an estimate by the average size in the log, NULL if there is none; lag keeps growing while known changes are not applied, and is at most the age of the last applied one';

CREATE FUNCTION replp2p.get_stat_capture(
	OUT pid integer,
	OUT slot_name name,
	OUT ready boolean,
	OUT captured_lsn pg_lsn,
	OUT confirmed_lsn pg_lsn,
	OUT seq bigint,
	OUT last_stamp timestamptz,
	OUT floor timestamptz,
	OUT captured_transactions bigint,
	OUT captured_changes bigint,
	OUT captured_batches bigint,
	OUT captured_bytes bigint,
	OUT skipped_changes bigint,
	OUT log_syncs bigint,
	OUT restarts bigint,
	OUT last_error text,
	OUT last_error_at timestamptz,
	OUT stats_reset timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'rp_get_stat_capture';
COMMENT ON FUNCTION replp2p.get_stat_capture() IS 'the row behind the view stat_capture';

CREATE VIEW replp2p.stat_capture AS
	SELECT * FROM replp2p.get_stat_capture();
COMMENT ON VIEW replp2p.stat_capture IS
'how far capture has decoded the WAL of this node, and what it has written to its change log; captured_bytes are counted before compression, skipped_changes are updates and deletes without a usable replica identity';

CREATE FUNCTION replp2p.get_stat_apply(
	OUT pid integer,
	OUT state text,
	OUT started_at timestamptz,
	OUT transactions_applied bigint,
	OUT commits_applied bigint,
	OUT changes_applied bigint,
	OUT conflicts bigint,
	OUT errors bigint,
	OUT restarts bigint,
	OUT last_error text,
	OUT last_error_at timestamptz,
	OUT stats_reset timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'rp_get_stat_apply';
COMMENT ON FUNCTION replp2p.get_stat_apply() IS 'the row behind the view stat_apply';

CREATE VIEW replp2p.stat_apply AS
	SELECT * FROM replp2p.get_stat_apply();
COMMENT ON VIEW replp2p.stat_apply IS
'the apply worker of this node and its totals over all origins; commits_applied counts local commits, which hold several transactions each while it catches up; state is the worst of any origin (see stat_lag), or stopped';

CREATE FUNCTION replp2p.get_stat_links(
	OUT node_name name,
	OUT connected boolean,
	OUT last_contact timestamptz,
	OUT rtt interval,
	OUT bytes_received bigint,
	OUT batches_received bigint,
	OUT errors bigint,
	OUT last_error text,
	OUT connect_failed_at timestamptz,
	OUT cut boolean,
	OUT stats_reset timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'rp_get_stat_links';
COMMENT ON FUNCTION replp2p.get_stat_links() IS 'the rows behind the view stat_links';

CREATE VIEW replp2p.stat_links AS
	SELECT * FROM replp2p.get_stat_links();
COMMENT ON VIEW replp2p.stat_links IS
'the links from this node to each peer; cut says that replp2p.unreachable_peers names the peer';

CREATE FUNCTION replp2p.get_stat_server(
	OUT requests_served bigint,
	OUT bytes_sent bigint,
	OUT refused_strangers bigint,
	OUT refused_messages bigint,
	OUT refused_batches bigint,
	OUT stats_reset timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'rp_get_stat_server';
COMMENT ON FUNCTION replp2p.get_stat_server() IS 'the row behind the view stat_server';

CREATE VIEW replp2p.stat_server AS
	SELECT * FROM replp2p.get_stat_server();
COMMENT ON VIEW replp2p.stat_server IS
'what this node has served to its peers, and refused: sessions with keys of no member, malformed or forged messages, batches with a wrong signature';

CREATE FUNCTION replp2p.get_stat_log(
	OUT origin name,
	OUT oldest_seq bigint,
	OUT stored_seq bigint,
	OUT durable_seq bigint,
	OUT stable_seq bigint,
	OUT log_bytes bigint,
	OUT held_by name,
	OUT held_transactions bigint)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'rp_get_stat_log';
COMMENT ON FUNCTION replp2p.get_stat_log() IS 'the rows behind the view stat_log';

CREATE VIEW replp2p.stat_log AS
	SELECT * FROM replp2p.get_stat_log();
COMMENT ON VIEW replp2p.stat_log IS
'the change logs on this node''s disk, one per origin; held_by is the member whose last known ack for the origin is the smallest, held_transactions how many it still lacks';

CREATE FUNCTION replp2p.get_stat_join(
	OUT phase text,
	OUT tables_total bigint,
	OUT tables_processed bigint,
	OUT indexes_total bigint,
	OUT indexes_processed bigint,
	OUT bytes_total bigint,
	OUT bytes_processed bigint,
	OUT rows_processed bigint,
	OUT started_at timestamptz,
	OUT waits_for text,
	OUT last_error text,
	OUT donors text)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 1 AS 'MODULE_PATHNAME', 'rp_get_stat_join';
COMMENT ON FUNCTION replp2p.get_stat_join() IS 'the row behind the view stat_join';

CREATE VIEW replp2p.stat_join AS
	SELECT * FROM replp2p.get_stat_join();
COMMENT ON VIEW replp2p.stat_join IS
'the progress of join_group() on this node; no row on a node that has not joined since the server was started';

--
-- Conflicts. A stamp in a table is microseconds since 2000; shown as a time.
-- Whoever may read a table may see its conflicts, unless row security would
-- hide rows of it from him.
--

CREATE VIEW replp2p.conflicts WITH (security_barrier) AS
	SELECT h.id,
		   h.detected_at,
		   h.relation::regclass AS relation,
		   h.conflict_type,
		   h.resolution,
		   h.key,
		   h.local_row,
		   h.remote_row,
		   h.applied_row,
		   l.node_name AS local_origin,
		   r.node_name AS remote_origin,
		   h.local_seq,
		   h.remote_seq,
		   timestamptz '2000-01-01 00:00:00+00' + nullif(h.local_stamp, 0) * interval '1 microsecond' AS local_stamp,
		   timestamptz '2000-01-01 00:00:00+00' + h.remote_stamp * interval '1 microsecond' AS remote_stamp,
		   h.relationship,
		   h.message
	FROM replp2p.conflict_history h
		 LEFT JOIN replp2p.members l ON l.slot = h.local_slot
		 LEFT JOIN replp2p.members r ON r.slot = h.remote_slot
		 LEFT JOIN pg_catalog.pg_class c ON c.oid = h.relation
	WHERE CASE WHEN c.oid IS NULL THEN pg_has_role(current_user, 'pg_read_all_data', 'USAGE')
			   ELSE has_table_privilege(c.oid, 'SELECT')
					AND has_schema_privilege(c.relnamespace, 'USAGE')
					AND NOT row_security_active(c.oid)
		  END;
COMMENT ON VIEW replp2p.conflicts IS
'truly concurrent changes that this node decided, with both rows; only of tables that the reader may select from; kept for replp2p.conflict_history_days';

CREATE VIEW replp2p.siblings WITH (security_barrier) AS
	SELECT s.relation,
		   s.key,
		   s.row_data AS row,
		   m.node_name AS origin,
		   s.seq,
		   timestamptz '2000-01-01 00:00:00+00' + s.stamp * interval '1 microsecond' AS stamp,
		   s.is_winner,
		   s.kind
	FROM replp2p.sibling_rows s
		 JOIN pg_catalog.pg_class c ON c.oid = s.relation
		 LEFT JOIN replp2p.members m ON m.node_id = s.node_id AND m.epoch = s.epoch
	WHERE has_table_privilege(c.oid, 'SELECT')
	  AND has_schema_privilege(c.relnamespace, 'USAGE')
	  AND NOT row_security_active(c.oid);
COMMENT ON VIEW replp2p.siblings IS
'the concurrent versions of rows of vector_clock tables, the one that is in the table among them, until a later write covers them; only of tables that the reader may select from';

-- What a custom handler is told beside the rows: f(older T, newer T, conflict replp2p.conflict).
CREATE TYPE replp2p.conflict AS (
	relation text,							-- qualified
	key jsonb,
	older_node text,						-- node id
	older_stamp timestamptz,
	older_kind text,						-- insert, update, delete
	newer_node text,
	newer_stamp timestamptz,
	newer_kind text
);
COMMENT ON TYPE replp2p.conflict IS
'third argument of a custom conflict handler: of which row, and when, where and by what its two versions were made; if older is the result of an earlier call, of the last version in it';

CREATE VIEW replp2p.displaced WITH (security_barrier) AS
	SELECT d.relation,
		   d.key,
		   d.row_data AS row,
		   o.node_name AS origin,
		   nullif(d.seq, 0) AS seq,
		   timestamptz '2000-01-01 00:00:00+00' + nullif(d.stamp, 0) * interval '1 microsecond' AS stamp,
		   d.by_key AS displaced_by,
		   b.node_name AS displaced_by_origin,
		   nullif(d.by_seq, 0) AS displaced_by_seq,
		   timestamptz '2000-01-01 00:00:00+00' + nullif(d.by_stamp, 0) * interval '1 microsecond' AS displaced_by_stamp,
		   d.displaced_at
	FROM replp2p.displaced_rows d
		 JOIN pg_catalog.pg_class c ON c.oid = d.relation
		 LEFT JOIN replp2p.members o ON o.node_id = d.node_id AND o.epoch = d.epoch
		 LEFT JOIN replp2p.members b ON b.node_id = d.by_node_id AND b.epoch = d.by_epoch
	WHERE has_table_privilege(c.oid, 'SELECT')
	  AND has_schema_privilege(c.relnamespace, 'USAGE')
	  AND NOT row_security_active(c.oid);
COMMENT ON VIEW replp2p.displaced IS
'rows that a later row with the same value of a second unique key keeps out of their table, on every node alike; each comes back when that goes, or is superseded when its primary key is written again; only of tables that the reader may select from';
CREATE FUNCTION replp2p.get_stat_conflicts(
	OUT relation regclass,
	OUT conflict_type text,
	OUT count bigint,
	OUT last_detected_at timestamptz,
	OUT stats_reset timestamptz)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'rp_get_stat_conflicts';
COMMENT ON FUNCTION replp2p.get_stat_conflicts() IS 'the rows behind the view stat_conflicts';

CREATE VIEW replp2p.stat_conflicts AS
	SELECT * FROM replp2p.get_stat_conflicts();
COMMENT ON VIEW replp2p.stat_conflicts IS
'how many conflicts this node has met per table and type since stats_reset, however long the history is; kept over a clean shutdown, reset by a crash and by stat_reset(); relation is NULL for tables beyond the first thousand';

CREATE FUNCTION replp2p.revert_conflict(id bigint)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_revert_conflict';
COMMENT ON FUNCTION replp2p.revert_conflict(bigint) IS
'write the loser of a conflict again, as a new write of this node by the caller: its row over the row of that key, or its delete';

CREATE FUNCTION replp2p.fk_violations(
	relation regclass DEFAULT NULL,
	OUT constraint_name name,
	OUT referencing regclass,
	OUT referenced regclass,
	OUT key jsonb,
	OUT foreign_key jsonb)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 100 AS 'MODULE_PATHNAME', 'rp_fk_violations';
COMMENT ON FUNCTION replp2p.fk_violations(regclass) IS
'rows of a table (of all tables that the caller may read) whose foreign key leads to no row: concurrent changes can leave them';

CREATE FUNCTION replp2p.set_conflict_handler(
	relation regclass,
	handler text,
	handler_function regprocedure DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_set_conflict_handler';
COMMENT ON FUNCTION replp2p.set_conflict_handler(regclass, text, regprocedure) IS
'set how concurrent versions of a row are decided, on all nodes: last_writer_wins, vector_clock, or custom by an IMMUTABLE function f(older, newer, replp2p.conflict); in force on each node from where the change comes in the stream';

CREATE FUNCTION replp2p.set_column_merge(relation regclass, column_name name, merge text)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_set_column_merge';
COMMENT ON FUNCTION replp2p.set_column_merge(regclass, name, text) IS
'set how a column of concurrent versions of a row is merged, on all nodes: counter (adds what each added; sets REPLICA IDENTITY FULL), max, min or none';

CREATE FUNCTION replp2p.get_table_handlers(
	OUT author_id text,
	OUT author_epoch integer,
	OUT serial bigint,
	OUT relation regclass,
	OUT schema_name name,
	OUT table_name name,
	OUT column_name name,
	OUT setting text,
	OUT function_name text,
	OUT seq bigint,
	OUT stamp bigint,
	OUT settled boolean)
RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10 AS 'MODULE_PATHNAME', 'rp_get_table_handlers';
COMMENT ON FUNCTION replp2p.get_table_handlers() IS
'the changes of conflict handlers and column merges that count on this node, with their versions; for joining nodes, and behind the view tables';

--
-- What is replicated.
--

CREATE FUNCTION replp2p.exclude_table(relation regclass)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_exclude_table';
COMMENT ON FUNCTION replp2p.exclude_table(regclass) IS
'no longer replicate the changes that are made to a table on this node';

CREATE FUNCTION replp2p.include_table(relation regclass)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_include_table';
COMMENT ON FUNCTION replp2p.include_table(regclass) IS
'replicate the changes that are made to a table on this node again, from now on';

-- Reads catalogs only and locks no table, so that it answers at any time.
CREATE VIEW replp2p.tables AS
	-- of each handler and merge the greatest change; one that is not captured yet will be the greatest
	WITH handlers AS MATERIALIZED (
		SELECT DISTINCT ON (relation, column_name) relation, column_name, setting, function_name
		FROM replp2p.get_table_handlers()
		ORDER BY relation, column_name, stamp DESC NULLS FIRST, author_id DESC, author_epoch DESC,
				 seq DESC, serial DESC
	)
	SELECT c.oid::regclass AS relation,
		   c.relpersistence = 'p' AND NOT x.excluded AS replicated,
		   coalesce(k.identity, 'none') AS identity,
		   CASE WHEN x.excluded THEN NULL
				WHEN c.relpersistence <> 'p'
				THEN 'not replicated: the changes of an unlogged table are not in the WAL'
				WHEN k.identity IS NULL AND c.relkind = 'r'
				THEN 'updates and deletes are not replicated: add a primary key, or set REPLICA IDENTITY USING INDEX'
				WHEN m.counters AND c.relreplident <> 'f'
				THEN 'counters count only what is set: set REPLICA IDENTITY FULL'
		   END AS warning,
		   coalesce(h.setting, 'last_writer_wins') AS handler,
		   h.function_name AS handler_function,
		   m.merges
	FROM pg_catalog.pg_class c
		 CROSS JOIN LATERAL (
			SELECT EXISTS (SELECT FROM replp2p.excluded_tables e WHERE e.relation = c.oid) AS excluded
		 ) x
		 LEFT JOIN LATERAL (
			-- FULL: the primary key identifies, the rest of the old row comes with it;
			-- generated columns are not sent, so a key with one is none
			SELECT CASE WHEN i.indisprimary THEN 'primary key' ELSE n.relname::text END AS identity
			FROM pg_catalog.pg_index i
				 JOIN pg_catalog.pg_class n ON n.oid = i.indexrelid
			WHERE i.indrelid = c.oid
			  AND i.indisvalid AND i.indisunique AND i.indimmediate AND i.indpred IS NULL
			  AND CASE c.relreplident WHEN 'i' THEN i.indisreplident
									  WHEN 'n' THEN false
									  ELSE i.indisprimary
				  END
			  AND NOT EXISTS (
				SELECT FROM pg_catalog.pg_attribute a
				WHERE a.attrelid = c.oid AND a.attgenerated <> ''
				  AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
			  )
		 ) k ON true
		 LEFT JOIN handlers h ON h.relation = c.oid AND h.column_name IS NULL
		 CROSS JOIN LATERAL (
			SELECT jsonb_object_agg(g.column_name, g.setting) AS merges,
				   coalesce(bool_or(g.setting = 'counter'), false) AS counters
			FROM handlers g
			WHERE g.relation = c.oid AND g.column_name IS NOT NULL AND g.setting <> 'none'
		 ) m
	WHERE c.relkind IN ('r', 'p')
	  AND c.relpersistence <> 't'
	  AND c.oid >= 16384
	  AND c.relnamespace <> 'replp2p'::regnamespace
	  AND (pg_has_role(current_user, 'pg_monitor', 'USAGE')
		   OR has_table_privilege(c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER'));
COMMENT ON VIEW replp2p.tables IS
'the tables of this database: whether they are replicated (or would be, if it were a node), and by what a row is found on the other nodes: primary key, the name of an index, or none; and how concurrent changes are decided';

CREATE FUNCTION replp2p.refuse_rewrite()
RETURNS event_trigger
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_refuse_rewrite';
COMMENT ON FUNCTION replp2p.refuse_rewrite() IS
'refuse an ALTER TABLE that would rewrite a replicated table: its rows would lose their versions';

CREATE EVENT TRIGGER replp2p_table_rewrite ON table_rewrite
	EXECUTE FUNCTION replp2p.refuse_rewrite();
COMMENT ON EVENT TRIGGER replp2p_table_rewrite IS
'keeps the versions of rows: no ALTER TABLE may rewrite a replicated table that has rows';

--
-- Consistency.
--

CREATE FUNCTION replp2p.current_token()
RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_current_token';
COMMENT ON FUNCTION replp2p.current_token() IS
'a text that stands for all that is committed on this node by now, for wait_for_token() on another';

CREATE FUNCTION replp2p.wait_for_token(token text, timeout interval DEFAULT '30 s')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_wait_for_token';
COMMENT ON FUNCTION replp2p.wait_for_token(text, interval) IS
'wait until all that the token stands for is visible on this node: to statements that begin afterwards, so in a REPEATABLE READ transaction to none of it';

CREATE FUNCTION replp2p.wait_for_replication(
	token text DEFAULT NULL,
	nodes integer DEFAULT NULL,
	timeout interval DEFAULT '30 s')
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_wait_for_replication';
COMMENT ON FUNCTION replp2p.wait_for_replication(text, integer, interval) IS
'wait until so many other nodes (all, if NULL) have durably applied all that the token (current_token(), if NULL) stands for';

--
-- Operating.
--

CREATE FUNCTION replp2p.pause_apply(origin name DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_pause_apply';
COMMENT ON FUNCTION replp2p.pause_apply(name) IS
'stop applying the changes of one origin, or of all, on this node; they are still received';

CREATE FUNCTION replp2p.resume_apply(origin name DEFAULT NULL)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_resume_apply';
COMMENT ON FUNCTION replp2p.resume_apply(name) IS
'go on after pause_apply()';

-- Who may read the table sees all; a monitor all but what may hold values of rows.
CREATE VIEW replp2p.failed_changes WITH (security_barrier) AS
	SELECT f.id,
		   m.node_name AS origin,
		   f.seq,
		   timestamptz '2000-01-01 00:00:00+00' + f.stamp * interval '1 microsecond' AS stamp,
		   CASE WHEN f.table_name IS NOT NULL
				THEN concat_ws(', ', format('%I.%I', f.schema_name, f.table_name), array_to_string(f.more_tables, ', '))
		   END AS relation,
		   f.operation,
		   CASE WHEN r.may_read THEN f.key END AS key,
		   CASE WHEN r.may_read THEN f.remote_row END AS remote_row,
		   f.error_message,
		   CASE WHEN r.may_read THEN f.error_detail END AS error_detail,
		   f.error_hint,
		   f.sqlstate,
		   f.attempts,
		   f.first_attempt,
		   f.last_attempt
	FROM replp2p.failed_transactions f
		 LEFT JOIN replp2p.members m ON m.slot = f.slot
		 LEFT JOIN (pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace)
				ON n.nspname = f.schema_name AND c.relname = f.table_name
		 CROSS JOIN LATERAL (
			SELECT CASE WHEN c.oid IS NULL THEN pg_has_role(current_user, 'pg_read_all_data', 'USAGE')
						ELSE has_table_privilege(c.oid, 'SELECT')
							 AND has_schema_privilege(n.oid, 'USAGE')
							 AND NOT row_security_active(c.oid)
				   END AS may_read
		 ) r
	WHERE r.may_read OR pg_has_role(current_user, 'pg_monitor', 'USAGE');
COMMENT ON VIEW replp2p.failed_changes IS
'the transactions that this node cannot apply, each with the change that fails and why; they are tried again by themselves, and gone from here when they went through';

CREATE FUNCTION replp2p.retry_failed(id bigint)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_retry_failed';
COMMENT ON FUNCTION replp2p.retry_failed(bigint) IS
'try a failed change again at the commit of this transaction, and not only when its delay is over';

CREATE FUNCTION replp2p.skip_failed(id bigint)
RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_skip_failed';
COMMENT ON FUNCTION replp2p.skip_failed(bigint) IS
'never apply a failed change on this node, which then differs from the others; the rest of its transaction is applied, and the view conflicts keeps the change as skipped';

--
-- For peers. The role by which peers connect needs CONNECT on the database and
-- EXECUTE on exchange(), and no more. Each session proves the keys of both
-- nodes, whatever the role.
--

CREATE PROCEDURE replp2p.exchange(INOUT message bytea)
LANGUAGE C AS 'MODULE_PATHNAME', 'rp_exchange';
COMMENT ON PROCEDURE replp2p.exchange(bytea) IS
'one sealed request of a peer and its reply; only nodes of the group call it';

CREATE FUNCTION replp2p.export_snapshot(OUT snapshot text, OUT vector bytea)
RETURNS record
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_export_snapshot';
COMMENT ON FUNCTION replp2p.export_snapshot() IS
'export the snapshot that a joining node copies from, and its version vector; refuses itself outside of the session of a joining node';

CREATE FUNCTION replp2p.get_changed_keys(row_type anyelement, after bytea, upto bytea)
RETURNS SETOF anyelement
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_get_changed_keys';
COMMENT ON FUNCTION replp2p.get_changed_keys(anyelement, bytea, bytea) IS
'the keys of a table (given as NULL of its row type) that transactions after one version vector, up to another, have changed; refuses itself outside of the session of a joining node';

CREATE FUNCTION replp2p.node_fingerprint()
RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'rp_node_fingerprint';
COMMENT ON FUNCTION replp2p.node_fingerprint() IS
'a hash by which a node recognises that a dsn leads to itself';

--
-- Rights: nothing for PUBLIC but what is listed here.
--

REVOKE ALL ON ALL TABLES IN SCHEMA replp2p FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA replp2p FROM PUBLIC;

-- Harmless by themselves: tokens say nothing of data, the rest judges its caller.
GRANT EXECUTE ON FUNCTION
	replp2p.node_fingerprint(),
	replp2p.export_snapshot(),
	replp2p.get_changed_keys(anyelement, bytea, bytea),
	replp2p.get_table_handlers(),
	replp2p.current_token(),
	replp2p.wait_for_token(text, interval),
	replp2p.wait_for_replication(text, integer, interval),
	replp2p.revert_conflict(bigint),
	replp2p.fk_violations(regclass)
	TO PUBLIC;
GRANT SELECT ON replp2p.conflicts, replp2p.siblings, replp2p.displaced, replp2p.failed_changes, replp2p.tables TO PUBLIC;

GRANT EXECUTE ON FUNCTION
	replp2p.health(),
	replp2p.preflight(text),
	replp2p.get_stat_members(),
	replp2p.get_stat_lag(),
	replp2p.get_stat_capture(),
	replp2p.get_stat_apply(),
	replp2p.get_stat_links(),
	replp2p.get_stat_server(),
	replp2p.get_stat_log(),
	replp2p.get_stat_join(),
	replp2p.get_stat_conflicts()
	TO pg_monitor;
GRANT SELECT ON
	replp2p.stat_members,
	replp2p.stat_lag,
	replp2p.stat_capture,
	replp2p.stat_apply,
	replp2p.stat_links,
	replp2p.stat_server,
	replp2p.stat_log,
	replp2p.stat_join,
	replp2p.stat_conflicts
	TO pg_monitor;

-- Last: fail with a clear error where the server's settings don't allow it to work.
SELECT replp2p.check_prerequisites();
