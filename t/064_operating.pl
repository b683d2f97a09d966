# The operator's side of conflicts: counters that count conflicts and nothing
# else, a bounded history, losers put back, orphans found, and changes that a
# node cannot apply: seen, retried, skipped, while others flow.
#
# What has to be concurrent is written while applying is paused.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b', 'c' ], schema => <<'SQL');
CREATE DOMAIN small AS int;
CREATE TABLE t (id int PRIMARY KEY, v text, j jsonb);
CREATE TABLE other (id int PRIMARY KEY, v text);
CREATE TABLE measured (id int PRIMARY KEY, n small);
CREATE TABLE parent (id int PRIMARY KEY);
CREATE TABLE child (id int PRIMARY KEY, parent int CONSTRAINT child_parent REFERENCES parent);
SQL

# Write on two nodes without their seeing one another; then cross.
sub cross
{
	my ($first, $sql1, $second, $sql2) = @_;
	$g->sync;
	$g->sql_all('SELECT replp2p.pause_apply()');
	$g->sql($first, $sql1);
	$g->sql($second, $sql2);
	$g->sql_all('SELECT replp2p.resume_apply()');
	$g->sync;
}

# Everything that stat_conflicts counts for a table on a node.
sub counted
{
	my ($name, $table) = @_;
	return $g->sql($name, "SELECT coalesce(string_agg(conflict_type || ' ' || count, ', ' ORDER BY conflict_type), 'nothing')"
		. " FROM replp2p.stat_conflicts WHERE relation = '$table'::regclass");
}

# The failed change of a node: columns as psql prints them.
sub failed
{
	my ($name, $columns) = @_;
	$g->eventually($name, 'SELECT count(*) = 1 FROM replp2p.failed_changes') or die 'nothing fails';
	return $g->sql($name, "SELECT $columns FROM replp2p.failed_changes");
}

sub last_conflict
{
	my ($name, $where) = @_;
	return $g->sql($name, "SELECT max(id) FROM replp2p.conflicts WHERE $where");
}

#
# Counters
#

foreach my $round (1 .. 5)
{
	foreach my $name ($g->names)
	{
		$g->sql($name, "INSERT INTO t VALUES (1, '$name$round') ON CONFLICT (id) DO UPDATE SET v = EXCLUDED.v");
		$g->sync;
	}
}
$g->sql('a', 'DELETE FROM t');
$g->sync;
$g->sql('b', "INSERT INTO t VALUES (1, 'again')");
$g->sync;
is($g->sql($_, 'SELECT count(*) FROM replp2p.stat_conflicts'), 0,
	"edits in turn are in no counter on $_") foreach $g->names;
is($g->sql($_, 'SELECT count(*) FROM replp2p.conflicts'), 0, "nor in the history on $_") foreach $g->names;

cross('a', "UPDATE t SET v = 'early', j = 'null'", 'b', "UPDATE t SET v = 'late'");
is(counted($_, 't'), 'update_origin_differs 1', "a conflict is counted on $_") foreach $g->names;
is($g->sql('a', "SELECT conflict_type || ' ' || relationship FROM replp2p.conflicts"),
	'update_origin_differs concurrent', 'the history says how the two stood to one another');
is($g->sql('a', "SELECT count(*) FROM replp2p.stat_conflicts WHERE stats_reset < last_detected_at"), 1,
	'counted since stats_reset');

#
# Putting the loser back
#

is($g->sql('c', 'SELECT v FROM t WHERE id = 1'), 'late', 'the later update stands');
my $on_b = last_conflict('b', "relation = 't'::regclass");
$g->sql('b', "SELECT replp2p.revert_conflict($on_b)");
$g->sync;
$g->same('t', 'a row that lost is written again');
is($g->sql('c', "SELECT v || ' ' || (j IS NULL)::text FROM t WHERE id = 1"), 'early false',
	'exactly as it was, a null of jsonb is no SQL NULL');
is(counted($_, 't'), 'update_origin_differs 1', "that is no conflict on $_") foreach $g->names;

cross('a', 'DELETE FROM t WHERE id = 1', 'b', "UPDATE t SET v = 'survivor' WHERE id = 1");
is($g->sql('a', 'SELECT v FROM t'), 'survivor', 'an update overcomes an earlier delete');
$g->sql('a', 'SELECT replp2p.revert_conflict(' . last_conflict('a', "conflict_type = 'update_deleted'") . ')');
$g->sync;
$g->same('t', 'a delete that lost is done again');
is($g->sql('c', 'SELECT count(*) FROM t'), 0, 'on all nodes');

cross('a', "INSERT INTO t VALUES (2, 'early')", 'b', "INSERT INTO t VALUES (2, 'late')");
$g->sql('a', 'DELETE FROM t WHERE id = 2');
$g->sql('a', 'SELECT replp2p.revert_conflict(' . last_conflict('a', "conflict_type = 'insert_exists'") . ')');
$g->sync;
$g->same('t', 'a row that lost comes back where there is none');
is($g->sql('b', 'SELECT v FROM t WHERE id = 2'), 'early', 'as it was');

#
# The history is bounded, the counters are not
#

my $n = 200;
$g->sql('a', "INSERT INTO other SELECT i, 'start' FROM generate_series(1, $n) i");
$g->sync;
$g->set('c', 'replp2p.conflict_history_rows', 50);
$g->eventually('c', "SELECT setting = '50' FROM pg_settings WHERE name = 'replp2p.conflict_history_rows'");
my @single = map { "UPDATE other SET v = 'e' WHERE id = $_;" } 1 .. $n / 2;
cross('a', "UPDATE other SET v = 'early'", 'b', CORE::join('', @single) . "UPDATE other SET v = 'late' WHERE id > $n / 2");
is(counted('c', 'other'), "update_origin_differs $n", 'all conflicts are counted');
my $kept = $g->sql('c', 'SELECT count(*) FROM replp2p.conflicts');
cmp_ok($kept, '<=', 56, "the history keeps to its number of rows, and a tenth more ($kept)");
cmp_ok($kept, '>=', 49, 'and does not keep less');
is($g->sql('a', "SELECT count(*) FROM replp2p.conflicts WHERE relation = 'other'::regclass"), $n,
	'where the limit is higher it keeps them all');

$g->sql('c', "UPDATE replp2p.conflict_history SET detected_at = now() - interval '31 days'");
$g->sql('a', "UPDATE other SET v = 'start'");
cross('a', "UPDATE other SET v = 'early' WHERE id <= 7", 'b', "UPDATE other SET v = 'late' WHERE id <= 7");
ok($g->sql('c', 'SELECT count(*) BETWEEN 1 AND 7 FROM replp2p.conflicts'), 'what is too old goes');
is(counted('c', 'other'), 'update_origin_differs ' . ($n + 7), 'and stays counted');

$g->node('c')->restart;
$g->up('c');
ok($g->eventually('c', "SELECT count(*) = 1 FROM replp2p.stat_conflicts WHERE relation = 'other'::regclass AND count = $n + 7"),
	'counters survive a restart');
my $since = $g->sql('c', 'SELECT max(stats_reset) FROM replp2p.stat_conflicts');
$g->sql('c', "SELECT replp2p.stat_reset()");
is($g->sql('c', 'SELECT count(*) FROM replp2p.stat_conflicts'), 0, 'stat_reset() clears them');
cross('a', "UPDATE other SET v = 'early' WHERE id <= 3", 'b', "UPDATE other SET v = 'late' WHERE id <= 3");
is(counted('c', 'other'), 'update_origin_differs 3', 'from then on they count again');
ok($g->sql('c', "SELECT min(stats_reset) > '$since' FROM replp2p.stat_conflicts"), 'stats_reset says since when');
$g->node('c')->stop('immediate');
$g->node('c')->start;
$g->up('c');
$g->eventually('c', "SELECT pid IS NOT NULL FROM replp2p.stat_apply");
$g->sync;
is($g->sql('c', 'SELECT count(*) FROM replp2p.stat_conflicts'), 0, 'a crash resets them');
$g->set('c', 'replp2p.conflict_history_rows');

#
# Orphans
#

$g->sql('a', 'INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1)');
cross('a', 'DELETE FROM parent WHERE id = 2', 'b', 'INSERT INTO child VALUES (2, 2)');
is($g->sql($_, "SELECT constraint_name, referencing, referenced, key, foreign_key FROM replp2p.fk_violations('child')"),
	'child_parent|child|parent|{"id": 2}|{"parent": 2}', "a child whose parent went meanwhile is found on $_") foreach $g->names;
$g->sql('c', 'INSERT INTO parent VALUES (2)');
$g->sync;
is($g->sql($_, 'SELECT count(*) FROM replp2p.fk_violations()'), 0, "once it has one, it is none on $_") foreach $g->names;

#
# A change that fails on one node: a column is missing there
#

$g->sql($_, 'ALTER TABLE t ADD COLUMN extra int') foreach ('a', 'b');
$g->sql('b', "SELECT replp2p.pause_apply('a')");    # what b writes must not depend on it
my $before = $g->sql('a', 'SELECT seq FROM replp2p.stat_capture');
$g->sql('a', "BEGIN; INSERT INTO other VALUES (1001, 'before'); INSERT INTO t VALUES (3, 'x', '[1]', 7); COMMIT");
is(failed('c', 'origin, relation, operation, key, remote_row, sqlstate, error_message'),
	'a|public.t|INSERT|{"id": 3}|{"j": [1], "v": "x", "id": 3, "extra": 7}|42703|table "public.t" has no column "extra" here',
	'the change that fails is shown');
is(failed('c', "seq - $before"), 1, 'with its transaction');
ok($g->eventually('c', 'SELECT attempts > 1 AND last_attempt > first_attempt AND stamp < now() FROM replp2p.failed_changes'),
	'and tried again');
is($g->sql('c', "SELECT state FROM replp2p.stat_lag WHERE origin = 'a'"), 'error', 'its origin is stopped');
$g->sql('b', "INSERT INTO other VALUES (1002, 'flows')");
ok($g->eventually('c', 'SELECT count(*) = 1 FROM other WHERE id = 1002'), 'another origin flows');
is($g->sql('c', 'SELECT count(*) FROM other WHERE id = 1001'), 0, 'the rest of the transaction waits');
is($g->sql($_, 'SELECT count(*) FROM replp2p.failed_changes'), 0, "nothing fails on $_") foreach ('a', 'b');

$g->node('c')->restart;
$g->up('c');
my $attempts = failed('c', 'attempts');
ok($g->eventually('c', "SELECT attempts > $attempts FROM replp2p.failed_changes"), 'the line outlives a restart');
isnt($g->node('c')->psql('postgres', 'SELECT replp2p.retry_failed(999999)'), 0, 'only what fails can be retried');
my $id = failed('c', 'id');
$g->sql('c', "BEGIN; ALTER TABLE t ADD COLUMN extra int; SELECT replp2p.retry_failed($id); COMMIT");
$g->sql('b', "SELECT replp2p.resume_apply('a')");
$g->sync;
$g->same('t', 'mended, it goes on');
is($g->sql('c', 'SELECT count(*) FROM other WHERE id = 1001'), 1, 'with all of its transaction');
is($g->sql('c', 'SELECT count(*) FROM replp2p.failed_changes'), 0, 'and the line is gone');

#
# A value that one node refuses: skipped there
#

$g->sql('c', 'ALTER DOMAIN small ADD CONSTRAINT small CHECK (VALUE < 10)');
$g->sql('a', <<'SQL');
BEGIN;
INSERT INTO measured VALUES (1, 1);
INSERT INTO measured VALUES (2, 20);
INSERT INTO measured VALUES (3, 3);
INSERT INTO measured VALUES (4, 40);
COMMIT;
SQL
is(failed('c', 'operation, key, remote_row, sqlstate'), 'INSERT|{"id": 2}|{"n": 20, "id": 2}|23514',
	'a value that the domain refuses here is shown all the same');
my $first = failed('c', 'id');
$g->sql('c', "CREATE ROLE clerk; GRANT EXECUTE ON FUNCTION replp2p.skip_failed(bigint) TO clerk");
my (undef, undef, $error) = $g->node('c')->psql('postgres', "SET ROLE clerk; SELECT replp2p.skip_failed($first)");
like($error, qr/must be owner of the table/, 'who does not own the table may not skip');
$g->sql('c', "ALTER TABLE measured OWNER TO clerk; SET ROLE clerk; SELECT replp2p.skip_failed($first)");
ok($g->eventually('c', "SELECT count(*) = 1 FROM replp2p.failed_changes WHERE key ->> 'id' = '4'"),
	'the next one that fails comes up, as a failed change of its own');
is($g->sql('c', 'SELECT count(*) FROM measured'), 0, 'a transaction is still applied whole or not at all');
isnt($g->node('c')->psql('postgres', "SELECT replp2p.skip_failed($first)"), 0, 'the old id hits nothing');
# a transaction that stays open keeps nobody up
my $open = $g->node('c')->background_psql('postgres');
$open->query_safe('BEGIN; SELECT replp2p.skip_failed(' . failed('c', 'id') . ')');
$attempts = failed('c', 'attempts');
ok($g->eventually('c', "SELECT attempts > $attempts FROM replp2p.failed_changes"), 'apply does not wait for an open transaction');
$open->query_safe('COMMIT');
$open->quit;
$g->sync;
is($g->sql('c', "SELECT string_agg(id::text, ',' ORDER BY id) FROM measured"), '1,3', 'the others are applied');
is($g->sql('c', 'SELECT count(*) FROM replp2p.failed_changes'), 0, 'nothing fails any more');
is($g->sql('c', "SELECT remote_row ->> 'n', remote_origin, message FROM replp2p.conflicts WHERE conflict_type = 'skipped' ORDER BY id"),
	"20|a|value for domain public.small violates check constraint \"small\"\n40|a|value for domain public.small violates check constraint \"small\"",
	'the history keeps what was skipped, and why');
is(counted('c', 'measured'), 'skipped 2', 'it is counted');
is($g->sql('c', 'SELECT count(*) FROM replp2p.skipped_changes'), 0, 'nothing is left of the order to skip');

# repaired by writing it after all
$g->sql('c', 'ALTER DOMAIN small DROP CONSTRAINT small');
$g->sql('c', "SELECT replp2p.revert_conflict(id) FROM replp2p.conflicts WHERE conflict_type = 'skipped'");
$g->sync;
$g->same('measured', 'reverting the skip mends the node');

#
# A table that is missing; and a delete that is skipped
#

$g->sql('a', <<'SQL');
CREATE TABLE elsewhere (id int PRIMARY KEY, at timestamptz);
BEGIN;
INSERT INTO elsewhere VALUES (1, '2024-05-06 07:08:09+00');
INSERT INTO other VALUES (1003, 'with it');
COMMIT;
SQL
foreach my $name ('b', 'c')
{
	is(failed($name, "relation, operation, remote_row, sqlstate"),
		'public.elsewhere|INSERT|{"at": "2024-05-06T07:08:09+00:00", "id": 1}|42P01', "a missing table is shown on $name");
}
$g->sql('b', 'CREATE TABLE elsewhere (id int PRIMARY KEY, at timestamptz)');
$g->sql('c', 'SELECT replp2p.skip_failed(' . failed('c', 'id') . ')');
$g->sync;
is($g->sql($_, 'SELECT count(*) FROM other WHERE id = 1003'), 1, "$_ goes on") foreach ('b', 'c');
is($g->sql('b', 'SELECT count(*) FROM elsewhere'), 1, 'created, it is filled');
is($g->sql('c', "SELECT relation::oid, remote_row ->> 'id' FROM replp2p.conflicts WHERE conflict_type = 'skipped' AND relation = 0"), '0|1',
	'skipped, it is in the history');
$g->sql('c', 'CREATE TABLE elsewhere (id int PRIMARY KEY, at timestamptz)');

# What is skipped is known: a delete that was left out still beats an older update, also of a tracked table.
$g->sql_all("CREATE TABLE gone (id int PRIMARY KEY, v text); CREATE TABLE kept (id int PRIMARY KEY, v text)");
$g->sql('a', "SELECT replp2p.set_conflict_handler('kept', 'vector_clock'); INSERT INTO gone VALUES (1, 'start'); INSERT INTO kept VALUES (1, 'start')");
$g->sync;
$g->sql_all("SELECT replp2p.pause_apply()");
$g->sql('b', "UPDATE $_ SET v = 'older'") foreach ('gone', 'kept');
$g->sql('a', "DELETE FROM $_") foreach ('gone', 'kept');
$g->sql('c', "ALTER TABLE $_ DROP CONSTRAINT ${_}_pkey") foreach ('gone', 'kept');
$g->sql('c', "SELECT replp2p.resume_apply('a')");
foreach my $table ('gone', 'kept')
{
	ok($g->eventually('c', "SELECT relation = 'public.$table' AND operation = 'DELETE' FROM replp2p.failed_changes"), "a delete fails in $table");
	# no try may be under way, which knows of no skip, waits for the table, and finds the key
	$g->sql('c', "SELECT replp2p.pause_apply('a')");
	$g->eventually('c', "SELECT state = 'paused' FROM replp2p.stat_lag WHERE origin = 'a'");
	$g->sql('c', "BEGIN; ALTER TABLE $table ADD PRIMARY KEY (id); SELECT replp2p.skip_failed(id) FROM replp2p.failed_changes; COMMIT");
	$g->sql('c', "SELECT replp2p.resume_apply('a')");
}
$g->sql_all("SELECT replp2p.resume_apply()");
$g->sync;
foreach my $table ('gone', 'kept')
{
	is($g->sql('a', "SELECT count(*) FROM $table"), 0, "the delete stands in $table");
}
is($g->sql('c', 'SELECT v FROM gone'), 'start', 'where it was skipped the row is as it was');
is($g->sql('c', 'SELECT count(*) FROM kept'), 0, 'of a tracked table it is what all of its versions come to, once a further one comes');

# A TRUNCATE of several tables
$g->sql_all('CREATE TABLE first (id int PRIMARY KEY); CREATE TABLE "Second" (id int PRIMARY KEY)');
$g->sql('c', 'CREATE TABLE here_alone (id int PRIMARY KEY, first int REFERENCES first); ALTER TABLE first OWNER TO clerk');
$g->sql('a', 'INSERT INTO first VALUES (1); INSERT INTO "Second" VALUES (1)');
$g->sync;
$g->sql('a', 'TRUNCATE first, "Second"');
is(failed('c', 'relation, operation'), 'public.first, public."Second"|TRUNCATE', 'a TRUNCATE that fails names all of its tables');
(undef, undef, $error) = $g->node('c')->psql('postgres', 'SET ROLE clerk; SELECT replp2p.skip_failed(' . failed('c', 'id') . ')');
like($error, qr/must be owner of the table/, 'who owns one of them may not skip it');
$g->sql('c', 'SELECT replp2p.skip_failed(' . failed('c', 'id') . ')');
$g->sync;
is($g->sql('c', q(SELECT string_agg(relation::text, ' ' ORDER BY id) FROM replp2p.conflicts WHERE conflict_type = 'skipped' AND relation IN ('first'::regclass, '"Second"'::regclass))),
	'first "Second"', 'skipped, the history has each of them');
is(counted('c', $_), 'skipped 1', "$_ counts it") foreach ('first', '"Second"');

is($g->sql('b', "SELECT count(*) FROM replp2p.conflicts WHERE conflict_type = 'skipped'"), 0, 'b has skipped nothing');

$g->stop;
done_testing();
