# The life of nodes: two groups in the same clusters, tables and columns that
# come later, pausing, moving, restarting, copying, renaming, leaving, coming back,
# being dropped. Whatever ends leaves no slot, origin, worker or file behind, and
# the others go on.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $dsn = \&Replp2p::dsn;
my $g = Replp2p->group([ 'a', 'b', 'c' ], conf => "replp2p.dead_after = 3s\n", schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text);
CREATE TABLE bulk (id int PRIMARY KEY, v text);
SQL
my %node = map { $_ => $g->node($_) } $g->names;

# What one database has outside of itself, as "slots origins workers folders".
sub traces
{
	my ($name, $oid) = @_;
	my $counts = $g->sql($name, <<"SQL");
SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'replp2p_$oid') || ' ' ||
	(SELECT count(*) FROM pg_replication_origin WHERE roname ~ '^replp2p_${oid}_') || ' ' ||
	(SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^replp2p' AND datid = $oid)
SQL
	my @folders = glob($node{$name}->data_dir . "/replp2p/$oid*");
	return "$counts " . scalar @folders;
}

# One test: a database has nothing outside of itself, soon.
sub nothing_left
{
	my ($name, $oid, $what) = @_;
	ok($g->wait_until(sub { traces($name, $oid) eq '0 0 0 0' }), "$what: no slot, origin, worker or file is left")
		or diag('slots, origins, workers, folders: ' . traces($name, $oid));
}

# One test: a statement works.
sub works
{
	my ($name, $sql, $what) = @_;
	my $err = '';
	is($node{$name}->psql('postgres', $sql, stderr => \$err), 0, $what) or diag($err);
}

sub oid_of
{
	my ($name, $db) = @_;
	return $g->sql($name, "SELECT oid FROM pg_database WHERE datname = '$db'");
}

# Wait until what one database has written is in another.
sub follow
{
	my ($from, $from_db, $to, $to_db) = @_;
	my $token = $from->safe_psql($from_db, 'SELECT replp2p.current_token()');
	$to->safe_psql($to_db, "SELECT replp2p.wait_for_token('$token', '1 minute')");
}

sub lag
{
	my ($name, $origin, $column) = @_;
	return $g->sql($name, "SELECT $column FROM replp2p.stat_lag WHERE origin = '$origin'");
}

#
# A second group in databases of the same clusters.
#

sub join_second
{
	my ($name, $from) = @_;
	my $node = $node{$name};
	my $invite = $node{$from}->safe_psql('second', 'SELECT replp2p.create_invite()');
	$node->safe_psql('second', sprintf("SELECT replp2p.join_group('%s', '%s', '%s')", $name, $dsn->($node, 'second'), $invite));
	$node->safe_psql('second', "SELECT replp2p.wait_for_ready('1 minute')");
}

$node{$_}->safe_psql('postgres', 'CREATE DATABASE second') foreach 'a', 'b';
$node{$_}->safe_psql('second', 'CREATE EXTENSION replp2p') foreach 'a', 'b';
$node{a}->safe_psql('second', 'CREATE TABLE t (id int PRIMARY KEY, v text)');
$node{a}->safe_psql('second', sprintf("SELECT replp2p.create_group('a', '%s', 'second')", $dsn->($node{a}, 'second')));
$node{a}->safe_psql('second', "SELECT replp2p.wait_for_ready('1 minute')");
join_second('b', 'a');
$node{a}->safe_psql('second', "INSERT INTO t VALUES (1, 'second a')");
$g->sql('a', "INSERT INTO t VALUES (1, 'first a')");
$node{b}->safe_psql('second', "INSERT INTO t VALUES (2, 'second b')");
$g->sql('b', "INSERT INTO t VALUES (2, 'first b')");
$g->sync;
follow($node{a}, 'second', $node{b}, 'second');
follow($node{b}, 'second', $node{a}, 'second');
$g->same('t', 'the first group');
is($node{$_}->safe_psql('second', 'SELECT * FROM t ORDER BY 1'), "1|second a\n2|second b", "the second group on $_") foreach 'a', 'b';
is($g->sql('c', 'SELECT * FROM t ORDER BY 1'), "1|first a\n2|first b", 'neither sees the other');
is($node{a}->safe_psql('second', 'SELECT count(*) FROM replp2p.stat_members'), 2, 'each has its own members');

#
# Tables and columns that come later, or are missing.
#

$g->sql_all('CREATE TABLE later (id int PRIMARY KEY, v text)');
$g->sql($_, "INSERT INTO later VALUES (ascii('$_'), '$_')") foreach $g->names;
$g->sync;
$g->same('later', 'a table that was made later');

# b must not have seen a's change, else its own next one has to wait for it
foreach my $case (
	[ 'missing', 'CREATE TABLE missing (id int PRIMARY KEY)', 'INSERT INTO missing VALUES (1)', qr/table "public.missing" does not exist here/ ],
	[ 'later', 'ALTER TABLE later ADD COLUMN w int', 'INSERT INTO later VALUES (1, NULL, 2)', qr/has no column "w" here/ ])
{
	my ($table, $ddl, $change, $error) = @$case;
	$g->sql($_, $ddl) foreach 'a', 'b';
	$g->sql('b', "SELECT replp2p.pause_apply('a')");
	$g->sql('a', $change);
	ok($g->eventually('c', "SELECT state = 'error' FROM replp2p.stat_lag WHERE origin = 'a'"), "$ddl: without it the origin waits");
	like(lag('c', 'a', 'last_error'), $error, 'with a clear error');
	ok(lag('c', 'a', 'lag > interval \'0\' AND lag_transactions > 0'), 'and lag');
	is($g->sql('c', "SELECT bool_or(status = 'CRITICAL' OR status = 'WARNING') FROM replp2p.health() WHERE detail ~ 'a'"), 't', 'health() tells');
	$g->sql('b', "INSERT INTO t VALUES (100 + (SELECT max(id) FROM t), 'others flow')");
	follow($node{b}, 'postgres', $node{c}, 'postgres');
	pass('others flow');
	$g->sql('b', 'SELECT replp2p.resume_apply()');
	$g->sql('c', $ddl);
	$g->sync;
	$g->same($table, 'it goes on by itself when that is there');
	isnt(lag('c', 'a', 'state'), 'error', 'and the error is over');
}

#
# Tables in and out; pausing.
#

$g->sql('a', "SELECT replp2p.exclude_table('later')");
$g->sql('a', "INSERT INTO later VALUES (1000, 'stays')");
$g->sql('b', "INSERT INTO later VALUES (1001, 'comes')");
$g->sync;
is($g->sql('b', 'SELECT count(*) FROM later WHERE id = 1000'), 0, 'what is written to an excluded table stays here');
is($g->sql('a', 'SELECT count(*) FROM later WHERE id = 1001'), 1, 'what others write to it comes');
$g->sql('a', "DELETE FROM later WHERE id = 1000; SELECT replp2p.include_table('later'); INSERT INTO later VALUES (1002, 'goes')");
$g->sync;
$g->same('later', 'included, it is replicated again');

$g->sql('c', "SELECT replp2p.pause_apply('a')");
my $count = $g->sql('c', 'SELECT count(*) FROM t');
$g->sql('b', "INSERT INTO t VALUES (2000, 'not paused')");
follow($node{b}, 'postgres', $node{c}, 'postgres');
$g->sql('a', "INSERT INTO t VALUES (2001, 'paused')");
ok($g->eventually('c', "SELECT state = 'paused' AND lag_transactions > 0 FROM replp2p.stat_lag WHERE origin = 'a'"),
	'a paused origin is received, and lags');
is($g->sql('c', 'SELECT count(*) FROM t'), $count + 1, 'and is not applied; the other is');
$node{c}->restart;
ok($g->up('c'), 'after a restart');
ok($g->eventually('c', "SELECT state = 'paused' FROM replp2p.stat_lag WHERE origin = 'a'"), 'it is still paused');
$g->sql('c', "SELECT replp2p.resume_apply('a')");
$g->sync;
$g->same('t', 'resumed');

#
# Restart of all; moving.
#

$node{$_}->stop foreach $g->names;
$node{$_}->start foreach $g->names;
$g->sql($_, "INSERT INTO t VALUES (3000 + ascii('$_'), 'after the restart')") foreach $g->names;
$g->sync;
$g->same('t', 'after a restart of all clusters');
follow($node{a}, 'second', $node{b}, 'second');

my $by_socket = sprintf 'host=%s port=%d dbname=postgres user=%s', $node{b}->host, $node{b}->port, scalar getpwuid($<);
$g->sql('b', "SELECT replp2p.set_node_dsn('b', '$by_socket')");
ok($g->eventually($_, "SELECT dsn = '$by_socket' FROM replp2p.stat_members WHERE node_name = 'b'"), "$_ hears of b's new dsn")
	foreach 'a', 'b', 'c';
# by TCP there is no way to b's first database any more
my $hba = slurp_file($node{b}->data_dir . '/pg_hba.conf');
unlink $node{b}->data_dir . '/pg_hba.conf';
$node{b}->append_conf('pg_hba.conf', "host postgres all 127.0.0.1/32 reject\n$hba");
$node{b}->restart;
$g->sql($_, "INSERT INTO t VALUES (3100 + ascii('$_'), 'moved')") foreach $g->names;
$g->sync;
$g->same('t', 'all talk to b by its new dsn');
is($g->sql('b', "SELECT count(*) FROM pg_stat_activity WHERE client_addr IS NOT NULL AND datname = 'postgres'"), 0, 'and only by that');

#
# Copying and renaming a node's database, with its peers connected.
#

my $second = oid_of('a', 'second');
works('a', 'CREATE DATABASE copy TEMPLATE second', 'a database that is a node is a template');
is($node{a}->safe_psql('copy', 'SELECT * FROM t ORDER BY 1'), "1|second a\n2|second b", 'the copy has its rows');
is(traces('a', oid_of('a', 'copy')), '0 0 0 0', 'and nothing else');
foreach my $call ('create_invite()', "create_group('copy', '" . $dsn->($node{a}, 'copy') . "')", 'current_token()', 'leave_group()', 'wait_for_ready(\'1 s\')')
{
	my $message = '';
	$node{a}->psql('copy', "SELECT replp2p.$call", stderr => \$message);
	like($message, qr/ERROR:  this database is (?:a copy of a node|not a node).*HINT: /s, "$call in the copy: a clear error");
}
$node{a}->safe_psql('copy', "INSERT INTO t VALUES (3, 'in the copy')");
$node{a}->safe_psql('copy', 'DROP EXTENSION replp2p; CREATE EXTENSION replp2p');
$node{a}->safe_psql('copy', sprintf("SELECT replp2p.create_group('copy', '%s')", $dsn->($node{a}, 'copy')));
$node{a}->safe_psql('copy', "SELECT replp2p.wait_for_ready('1 minute')");
pass('after DROP EXTENSION it can be a node of its own');
$node{a}->safe_psql('second', "INSERT INTO t VALUES (4, 'the original goes on')");
follow($node{a}, 'second', $node{b}, 'second');
is($node{b}->safe_psql('second', 'SELECT string_agg(id::text, \' \' ORDER BY id) FROM t'), '1 2 4', 'the original goes on');

works('a', 'ALTER DATABASE second RENAME TO renamed', 'a database that is a node can be renamed');
ok($node{a}->poll_query_until('renamed', 'SELECT ready FROM replp2p.stat_capture'), 'its workers come back');
$node{a}->safe_psql('renamed', "INSERT INTO t VALUES (5, 'renamed')");
my $moved = Replp2p::dsn($node{a}, 'renamed');
$node{b}->safe_psql('second', "SELECT replp2p.set_node_dsn('a', '$moved')");
follow($node{a}, 'renamed', $node{b}, 'second');
pass('a peer is told where it is now, and follows');
works('a', 'ALTER DATABASE renamed RENAME TO second', 'and back');
$moved = Replp2p::dsn($node{a}, 'second');
$node{b}->safe_psql('second', "SELECT replp2p.set_node_dsn('a', '$moved')");
follow($node{a}, 'second', $node{b}, 'second');
is($node{b}->safe_psql('second', 'SELECT v FROM t WHERE id = 5'), 'renamed', 'what it wrote under another name has come');

#
# Dropping databases that are nodes.
#

my $copy = oid_of('a', 'copy');
like(traces('a', $copy), qr/^1 1 3 1$/, 'before: slot, its own origin, workers, folder');
$node{a}->safe_psql('postgres', 'DROP DATABASE copy');
nothing_left('a', $copy, 'DROP DATABASE');

my $b_second = oid_of('b', 'second');
works('b', 'DROP DATABASE second', 'one that peers are connected to can be dropped');
nothing_left('b', $b_second, 'DROP DATABASE, peers connected');
ok($node{a}->poll_query_until('second', "SELECT state = 'unreachable' FROM replp2p.stat_members WHERE node_name = 'b'"),
	'the other takes it for unreachable');
$node{a}->safe_psql('postgres', 'DROP DATABASE second WITH (FORCE)');
nothing_left('a', $second, 'DROP DATABASE WITH (FORCE)');
$g->sql('a', "INSERT INTO t VALUES (4000, 'untouched')");
$g->sync;
$g->same('t', 'the first group is untouched');

#
# Leaving, with logs that were kept for the one who leaves; coming back.
#

my $postgres = oid_of('c', 'postgres');
my $old_id = $g->sql('c', 'SELECT node_id FROM replp2p.stat_members WHERE self');
$g->sql('c', "SELECT replp2p.pause_apply('a')");
$g->sql('a', "INSERT INTO bulk SELECT x, (SELECT string_agg(md5(x || ' ' || y), '') FROM generate_series(1, 32) y) FROM generate_series(1, 40000) x");
follow($node{a}, 'postgres', $node{b}, 'postgres');
ok($g->eventually('a', "SELECT log_bytes > 36e6 AND held_by = 'c' FROM replp2p.stat_log WHERE origin = 'a'"), 'a log is kept for c')
	or diag($g->sql('a', 'TABLE replp2p.stat_log'));

$g->sql('c', "INSERT INTO t VALUES (5000, 'the last of c'); SELECT replp2p.leave_group()");
nothing_left('c', $postgres, 'leave_group');
is($g->sql('c', 'SELECT count(*) FROM replp2p.stat_members'), 0, 'c is no node');
is($g->sql('c', "SELECT v FROM t WHERE id = 5000"), 'the last of c', 'its data stays');
ok($g->eventually($_, "SELECT state = 'left' AND left_seq > 0 FROM replp2p.stat_members WHERE node_name = 'c'"), "$_ shows it as left")
	foreach 'a', 'b';
is($g->sql($_, 'SELECT v FROM t WHERE id = 5000'), 'the last of c', "$_ has its last change") foreach 'a', 'b';
@{ $g->{names} } = ('a', 'b');
$g->sql($_, "INSERT INTO t VALUES (5100 + ascii('$_'), 'without c')") foreach 'a', 'b';
$g->sync;
$g->same('t', 'the others go on');
foreach my $name ('a', 'b')
{
	ok($g->eventually($name, "SELECT coalesce(max(log_bytes), 0) < 20e6 FROM replp2p.stat_log WHERE origin = 'a'"), "$name: the log is trimmed")
		or diag($g->sql($name, 'TABLE replp2p.stat_log'));
}
is($g->sql('a', "SELECT count(*) FROM replp2p.health() WHERE status <> 'OK' AND detail ~ '\\mc\\M'"), 0, 'health() has nothing against one who left');

$g->sql('c', 'DROP TABLE t, bulk, later, missing');
$g->join('c', 'b');
isnt($g->sql('c', 'SELECT node_id FROM replp2p.stat_members WHERE self'), $old_id, 'c again, but another node');
$g->sql($_, "INSERT INTO t VALUES (6000 + ascii('$_'), 'with c')") foreach $g->names;
$g->sync;
$g->same($_, "$_: c has come back") foreach 't', 'bulk', 'later';
is($g->sql('a', "SELECT string_agg(state, ' ' ORDER BY state) FROM replp2p.stat_members WHERE node_name = 'c'"), 'active left', 'a knows both');

# leaving does not wait for ever for a peer that is down; by force, for nobody
$node{a}->stop;
$g->sql('c', "INSERT INTO t VALUES (7000, 'before a forced leave')");
follow($node{c}, 'postgres', $node{b}, 'postgres');
$g->sql('c', 'SELECT replp2p.leave_group()');
is($g->sql('c', 'SELECT status FROM replp2p.local_node'), 'leaving', 'to leave takes as long as a peer is down');
$g->sql('c', 'SELECT replp2p.leave_group(true)');
nothing_left('c', $postgres, 'leave_group(force)');
$node{a}->start;
@{ $g->{names} } = ('a', 'b');
$g->sync;
$g->same('t', 'what b had of c comes to a');
is($g->sql('a', 'SELECT v FROM t WHERE id = 7000'), 'before a forced leave', 'also after c has gone');
ok($g->eventually('a', "SELECT count(*) = 0 FROM replp2p.stat_members WHERE node_name = 'c' AND state <> 'left'"), 'and that it has gone');

#
# DROP EXTENSION, with all workers at work: warned of, while the others count this node.
#

$g->sql('c', 'DROP TABLE t, bulk, later, missing');
$g->join('c', 'a');
$g->sql('c', "INSERT INTO t VALUES (8000, 'c')");
$g->sync;
{
	my $message = '';
	$node{c}->psql('postgres', 'BEGIN; DROP EXTENSION replp2p; ROLLBACK', stderr => \$message);
	like($message, qr/WARNING:  this database is dropped out .*DETAIL:  2 other members go on.*HINT:  Roll back, SELECT replp2p.leave_group\(\)/s,
		'DROP EXTENSION of a member: a warning, with the polite way');
}
$g->sql('c', "INSERT INTO t VALUES (8001, 'c goes on')");
$g->sync;
$g->same('t', 'a node that was not dropped after all goes on');
$g->sql('c', 'DROP EXTENSION replp2p');
nothing_left('c', $postgres, 'DROP EXTENSION');
is($g->sql('c', "SELECT v FROM t WHERE id = 8000"), 'c', 'the data stays');
is($g->sql('c', "SELECT count(*) FROM pg_event_trigger"), 0, 'no event trigger stays');
ok($g->eventually('a', "SELECT count(*) = 1 FROM replp2p.stat_members WHERE node_name = 'c' AND state = 'unreachable'"), 'it has not said good-bye');
@{ $g->{names} } = ('a', 'b');
$g->sql($_, "INSERT INTO t VALUES (9000 + ascii('$_'), 'go on')") foreach 'a', 'b';
$g->sync;
$g->same('t', 'the others go on');

foreach my $name ('a', 'b', 'c')
{
	unlike(slurp_file($node{$name}->logfile), qr/\b(?:PANIC|TRAP):|terminated by signal/, "$name: no accident");
}

done_testing();
