# Bad input, and calls where they can't work: each gets a clear error with a
# code and a hint, and nothing has changed.
#
# "Nothing has changed" is looked up each time: rows of the extension's tables,
# slots, origins, workers, key files.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $dsn = \&Replp2p::dsn;

# All that a call could leave behind, as text.
sub traces
{
	my ($node, $db) = @_;
	my $tables = $node->safe_psql($db, <<'SQL');
SELECT to_regclass('replp2p.local_node') IS NOT NULL AS installed \gset
\if :installed
SELECT (SELECT count(*) FROM replp2p.local_node), (SELECT md5(string_agg(m::text, '' ORDER BY m::text)) FROM replp2p.membership m),
	(SELECT count(*) FROM replp2p.members), (SELECT count(*) FROM replp2p.invites),
	(SELECT count(*) FROM replp2p.invites WHERE used_by IS NOT NULL), (SELECT count(*) FROM replp2p.excluded_tables),
	(SELECT count(*) FROM replp2p.members WHERE paused OR accepted_stamp <> 0);
\endif
SELECT (SELECT count(*) FROM pg_replication_slots), (SELECT count(*) FROM pg_replication_origin),
	(SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'replp2p' AND datname IS NOT NULL),
	(SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace), (SELECT count(*) FROM pg_extension);
SQL
	my @files = map { s{.*/replp2p/}{}r } grep { !m{/log/} } split /\n/,
		`find @{[ $node->data_dir ]}/replp2p -type f 2>/dev/null`;
	return join "\n", $tables, sort @files;
}

# One test: this is refused with code, message and hint, and leaves no trace.
sub refused
{
	my ($what, $node, $db, $sql, $code, $message, $hint) = @_;
	my $before = traces($node, $db);
	my ($out, $err) = ('', '');
	my $status = $node->psql($db, "\\set VERBOSITY verbose\n$sql;\n", stdout => \$out, stderr => \$err);
	my ($found) = $err =~ /(?:ERROR|FATAL):  (\w{5}): /;

	isnt($status, 0, "$what: refused");
	is($found // 'no error', $code, "$what: code") or diag($err);
	like($err, $message, "$what: message");
	like($err, qr/^HINT:  .*$hint/m, "$what: hint");
	is(traces($node, $db), $before, "$what: nothing has changed");
}

sub create { return "SELECT replp2p.create_group('$_[0]', '$_[1]')" }
sub join_by { return "SELECT replp2p.join_group('$_[0]', '$_[1]', '$_[2]')" }
sub invite { my ($node, $db, $time) = @_; return $node->safe_psql($db, "SELECT replp2p.create_invite('" . ($time // '1 hour') . "')") }

#
# A group; its only node is database postgres of a. b is nothing yet.
#

my $g = Replp2p->group(['a'], schema => 'CREATE TABLE shop (id int PRIMARY KEY, v text)', conf => "replp2p.max_databases = 3\n");
my $a_node = $g->node('a');
my $b = Replp2p->cluster('b', conf => "replp2p.max_databases = 3\n");
my $b_dsn = $dsn->($b);

refused('a second create_group', $a_node, 'postgres', create('again', $dsn->($a_node)),
	'42710', qr/already/, 'leave_group');
refused('to join as a node already', $a_node, 'postgres', join_by('again', $dsn->($a_node), invite($a_node, 'postgres')),
	'22023', qr/leads to this very database/, 'another node');

#
# Invites.
#

$b->safe_psql('postgres', 'CREATE DATABASE first');
$b->safe_psql('first', 'CREATE EXTENSION replp2p');
my $used = invite($a_node, 'postgres');
$b->safe_psql('first', join_by('b1', $dsn->($b, 'first'), $used));
$b->safe_psql('first', "SELECT replp2p.wait_for_ready('1 minute')");
refused('a used invite', $b, 'postgres', join_by('b', $b_dsn, $used), '22023', qr/has been used/, 'make a new one');

my $expired = invite($a_node, 'postgres', '1 ms');
$a_node->poll_query_until('postgres', 'SELECT min(expires_at) < clock_timestamp() FROM replp2p.invites');
refused('an expired invite', $b, 'postgres', join_by('b', $b_dsn, $expired), '22023', qr/has expired/, 'create_invite');

my $invite = invite($a_node, 'postgres');
foreach my $at (20, 60, 120, length($invite) - 1)
{
	my $mangled = $invite;
	substr($mangled, $at, 1) = substr($mangled, $at, 1) eq 'A' ? 'B' : 'A';
	refused("an invite with character $at changed", $b, 'postgres', join_by('b', $b_dsn, $mangled),
		'22023', qr/not a valid invite/, 'unchanged');
}
refused('half an invite', $b, 'postgres', join_by('b', $b_dsn, substr $invite, 0, 80), '22023', qr/not a valid invite/, 'unchanged');
refused('an invite of a later version', $b, 'postgres', join_by('b', $b_dsn, $invite =~ s/^replp2p1/replp2p2/r),
	'22023', qr/not a valid invite/, 'unchanged');

# of a node that was, at the place of one that is
$a_node->safe_psql('postgres', 'CREATE DATABASE other');
$a_node->safe_psql('other', "CREATE EXTENSION replp2p");
$a_node->safe_psql('other', create('former', $dsn->($a_node, 'other')));
$a_node->safe_psql('other', "SELECT replp2p.wait_for_ready('1 minute')");
my $foreign = invite($a_node, 'other');
$a_node->safe_psql('other', 'SELECT replp2p.leave_group()');
$a_node->poll_query_until('other', 'SELECT count(*) = 0 FROM replp2p.local_node') or die 'the node does not leave';
refused('an invite of a node that left', $b, 'postgres', join_by('b', $b_dsn, $foreign),
	'08006', qr/no conversation with the sponsor/, 'of a node that runs');
$a_node->safe_psql('other', create('other', $dsn->($a_node, 'other')));
$a_node->safe_psql('other', "SELECT replp2p.wait_for_ready('1 minute')");
refused('an invite of another group', $b, 'postgres', join_by('b', $b_dsn, $foreign),
	'08006', qr/no conversation with the sponsor/, 'of a node that runs');
refused('an invite of oneself', $a_node, 'other', join_by('b', $dsn->($a_node, 'other'), invite($a_node, 'other')),
	'22023', qr/leads to this very database/, 'another node');

#
# Names, tables, dsns.
#

refused('the name of a member', $b, 'postgres', join_by('a', $b_dsn, $invite), '42710', qr/member of this name/, 'another node_name');
refused('an empty name', $b, 'postgres', join_by('', $b_dsn, $invite), '42602', qr/invalid name/, 'short name');
refused('a name with a comma', $b, 'postgres', create('a,b', $b_dsn), '42602', qr/invalid name/, 'short name');
refused('no name', $b, 'postgres', "SELECT replp2p.create_group(NULL, '$b_dsn')", '22004', qr/node_name/, 'Give a value');

$b->safe_psql('postgres', 'CREATE TABLE shop (id int PRIMARY KEY); INSERT INTO shop VALUES (1)');
refused('a table with rows', $b, 'postgres', join_by('b', $b_dsn, $invite), '42P07', qr/"public.shop".*holds rows/s, 'drop the table');
is($b->safe_psql('postgres', 'SELECT * FROM shop'), '1', 'the rows are still there');
$b->safe_psql('postgres', 'TRUNCATE shop');
refused('an empty table of the same name', $b, 'postgres', join_by('b', $b_dsn, $invite), '42P07', qr/"public.shop".*empty/s, 'drop the table');
$b->safe_psql('postgres', 'DROP TABLE shop');

my $free_port = PostgreSQL::Test::Cluster::get_free_port();
foreach my $case (
	[ 'a dsn that does not connect', "host=127.0.0.1 port=$free_port dbname=postgres", '08001', qr/does not connect/, 'Check host' ],
	[ 'a dsn without such a database', $dsn->($b, 'nonexistent'), '08001', qr/does not connect/, 'Check host' ],
	[ 'a dsn that is none', 'nonsense', '42601', qr/not a valid connection string/, 'as for psql' ],
	[ 'a dsn with a password', "$b_dsn password=secret", '22023', qr/holds a password/, 'pgpass' ],
	[ 'a dsn of a database without the extension', $dsn->($b, 'template1'), '55000', qr/without the extension/, 'CREATE EXTENSION' ],
	[ 'a dsn of another database', $dsn->($b, 'first'), '22023', qr/another database/, 'this very database' ],
	[ 'a dsn of another cluster', $dsn->($a_node), '22023', qr/another database/, 'this very database' ])
{
	my ($what, $bad, @error) = @$case;
	refused("create_group: $what", $b, 'postgres', create('b', $bad), @error);
	refused("join_group: $what", $b, 'postgres', join_by('b', $bad, $invite), @error);
	refused("set_node_dsn: $what", $a_node, 'postgres', "SELECT replp2p.set_node_dsn('a', '" .
		($what =~ /of another cluster/ ? $b_dsn : $bad) . "')", @error) if $what !~ /of another database|without the/;
}
refused('the dsn of nobody', $a_node, 'postgres', "SELECT replp2p.set_node_dsn('nobody', '" . $dsn->($a_node) . "')",
	'42704', qr/there is no member/, 'stat_members');
refused('a bad dsn of a peer', $a_node, 'postgres', "SELECT replp2p.set_node_dsn('b1', 'host=x password=y')",
	'22023', qr/password/, 'pgpass');

$b->safe_psql('postgres', 'CREATE ROLE poor LOGIN');
refused('a role that may not call exchange', $b, 'postgres', create('b', $dsn->($b, 'postgres', 'poor')),
	'42501', qr/may not call/, 'GRANT EXECUTE');

#
# Names of members and relations that nobody has; no node at all.
#

refused("$_ of nobody", $a_node, 'postgres', "SELECT replp2p.$_('nobody')", '42704', qr/no member "nobody"/, 'stat_members')
	foreach 'pause_apply', 'resume_apply', 'accept_stamps';
refused("$_ of itself", $a_node, 'postgres', "SELECT replp2p.$_('a')", '42704', qr/this node itself/, 'stat_members')
	foreach 'pause_apply', 'accept_stamps';
{
	# regclass itself refuses it, before we are asked
	my $err = '';
	$a_node->psql('postgres', "SELECT replp2p.exclude_table('nonexistent')", stderr => \$err);
	like($err, qr/relation "nonexistent" does not exist/, 'an unknown relation');
}
refused('a relation of the system', $a_node, 'postgres', "SELECT replp2p.exclude_table('pg_class')", '42809', qr/never replicated/, 'replp2p.tables');
refused('a relation of ours', $a_node, 'postgres', "SELECT replp2p.exclude_table('replp2p.members')", '42809', qr/never replicated/, 'replp2p.tables');
refused('a token of another group', $a_node, 'other',
	"SELECT replp2p.wait_for_token('" . $a_node->safe_psql('postgres', 'SELECT replp2p.current_token()') . "')", '22023', qr/group/, '.');
refused('half a token', $a_node, 'postgres', "SELECT replp2p.wait_for_token('t1:AAAA')", '22023', qr/token/, '.');
refused("$_ where there is no node", $b, 'postgres', "SELECT replp2p.$_()", '55000', qr/not a node/, 'create_group')
	foreach 'create_invite', 'leave_group', 'wait_for_ready', 'pause_apply', 'current_token', 'wait_for_replication';

#
# Transactions that don't fit.
#

my @writers = (create('x', $b_dsn), join_by('x', $b_dsn, $invite), 'SELECT replp2p.create_invite()', 'SELECT replp2p.leave_group()',
	"SELECT replp2p.set_node_dsn('a', '" . $dsn->($a_node) . "')", "SELECT replp2p.exclude_table('shop')", "SELECT replp2p.include_table('shop')",
	'SELECT replp2p.pause_apply()', 'SELECT replp2p.resume_apply()', "SELECT replp2p.accept_stamps('b1')");
foreach my $sql (@writers)
{
	my ($name) = $sql =~ /replp2p\.(\w+)/;
	refused("$name in a read-only transaction", $a_node, 'postgres', "BEGIN READ ONLY; $sql", '25006', qr/read-only transaction/, 'READ WRITE');
}
refused('wait_for_ready after a write', $a_node, 'postgres',
	"BEGIN; INSERT INTO shop VALUES (-1); SELECT replp2p.wait_for_ready()", '25001', qr/transaction that has written/, 'COMMIT first');

foreach my $way ('ROLLBACK', 'DO $$ BEGIN RAISE division_by_zero; END $$', "SELECT pg_terminate_backend(pg_backend_pid())")
{
	my $before = traces($b, 'postgres');
	my ($out, $err) = ('', '');
	$b->psql('postgres', 'BEGIN; ' . create('b', $b_dsn) . "; SELECT 'made: ' || count(*) FROM replp2p.local_node; $way;",
		stdout => \$out, stderr => \$err);
	like($out, qr/^made: 1$/m, 'create_group in a transaction') or diag($err);
	ok($g->wait_until(sub { traces($b, 'postgres') eq $before }), "undone by $way: nothing is left");
}

#
# Tables.
#

$g->sql('a', 'CREATE TABLE no_key (id int, v text); INSERT INTO shop VALUES (1, \'one\')');
$b->safe_psql('first', 'CREATE TABLE no_key (id int, v text)');
like($g->sql('a', "SELECT warning FROM replp2p.tables WHERE relation = 'no_key'::regclass"), qr/updates and deletes are not replicated/,
	'a table without a replica identity: a warning');
$g->sql('a', "INSERT INTO no_key VALUES (1, 'x'), (2, 'y'); UPDATE no_key SET v = 'z' WHERE id = 1; DELETE FROM no_key WHERE id = 2");
my $token = $g->sql('a', 'SELECT replp2p.current_token()');
$b->safe_psql('first', "SELECT replp2p.wait_for_token('$token', '1 minute')");
is($b->safe_psql('first', 'SELECT id, v FROM no_key ORDER BY 1'), "1|x\n2|y", 'its inserts are replicated, nothing else');
cmp_ok($g->sql('a', 'SELECT skipped_changes FROM replp2p.stat_capture'), '>=', 2, 'which is counted');
$g->sql('a', 'TRUNCATE no_key');
$token = $g->sql('a', 'SELECT replp2p.current_token()');
$b->safe_psql('first', "SELECT replp2p.wait_for_token('$token', '1 minute')");
is($b->safe_psql('first', 'SELECT count(*) FROM no_key'), '0', 'but TRUNCATE');
refused('ALTER TABLE that rewrites', $a_node, 'postgres', 'ALTER TABLE shop ALTER id TYPE bigint', '0A000', qr/rewrite/, 'exclude');
is($g->sql('a', "SELECT atttypid::regtype FROM pg_attribute WHERE attrelid = 'shop'::regclass AND attname = 'id'"), 'integer', 'the table is as it was');

#
# A standby of a.
#

$a_node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($a_node, 'copy', has_streaming => 1);
$standby->start;
foreach my $sql (@writers)
{
	my ($name) = $sql =~ /replp2p\.(\w+)/;
	refused("$name on a standby", $standby, 'postgres', $sql, '25006', qr/on a standby/, 'primary');
}
refused('a dsn of a standby', $b, 'postgres', create('b', $dsn->($standby)), '55000', qr/leads to a standby/, 'primary');
is($standby->safe_psql('postgres', "SELECT status FROM replp2p.preflight() WHERE detail ~ 'standby'"), 'CRITICAL', 'preflight sees it, too');
is($standby->safe_psql('postgres', "SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ 'replp2p'"), '0', 'no worker runs there');
$standby->safe_psql('postgres', "TABLE replp2p.$_")
	foreach split /\n/, $standby->safe_psql('postgres', "SELECT viewname FROM pg_views WHERE schemaname = 'replp2p'");
pass('the views can be read');
$standby->stop;

#
# Servers that are not set up for it.
#

my $x = Replp2p->cluster('x', no_extension => 1, conf => "replp2p.max_databases = 4\n");
$x->safe_psql('postgres', 'CREATE DATABASE later');
$x->safe_psql('later', 'CREATE EXTENSION replp2p');

sub restart_with
{
	my (@settings) = @_;
	$x->adjust_conf('postgresql.conf', @$_) foreach @settings;
	$x->restart;
}

foreach my $case (
	[ 'not preloaded', 'shared_preload_libraries', "''", "'replp2p'", qr/not loaded by the server/, 'shared_preload_libraries' ],
	[ 'wal_level = replica', 'wal_level', 'replica', 'logical', qr/wal_level/, 'Set wal_level' ],
	[ 'too few worker processes', 'max_worker_processes', 4, 24, qr/max_worker_processes is too small/, 'max_worker_processes to \d+ or more' ],
	[ 'no slots', 'max_replication_slots', 0, 20, qr/max_replication_slots is too small/, 'max_replication_slots to \d+ or more' ])
{
	my ($what, $setting, $bad, $good, @error) = @$case;
	restart_with([ $setting, $bad ]);
	refused("$what: CREATE EXTENSION", $x, 'postgres', 'CREATE EXTENSION replp2p', '55000', @error);
	refused("$what: create_group", $x, 'later', create('x', $dsn->($x, 'later')), '55000', @error);
	refused("$what: join_group", $x, 'later', join_by('x', $dsn->($x, 'later'), $invite), '55000', @error);
	is($x->safe_psql('later', "SELECT count(*) > 0 FROM replp2p.preflight() WHERE status = 'CRITICAL'"), 't', "$what: preflight says so");
	restart_with([ $setting, $good ]);
}

restart_with([ 'replp2p.max_databases', 1 ]);
$x->safe_psql('postgres', 'CREATE EXTENSION replp2p');
$x->safe_psql('later', create('x', $dsn->($x, 'later')));
$x->safe_psql('later', "SELECT replp2p.wait_for_ready('1 minute')");
refused('one database more than max_databases: create_group', $x, 'postgres', create('y', $dsn->($x)), '55000', qr/in use/, 'replp2p.max_databases');
refused('one database more than max_databases: join_group', $x, 'postgres', join_by('y', $dsn->($x), $invite), '55000', qr/in use/, 'replp2p.max_databases');
is($x->safe_psql('postgres', "SELECT count(*) > 0 FROM replp2p.preflight() WHERE status = 'CRITICAL' AND detail ~ 'database|node'"), 't', 'preflight says so');
$x->safe_psql('postgres', 'CREATE DATABASE third');
refused('one database more than max_databases: CREATE EXTENSION', $x, 'third', 'CREATE EXTENSION replp2p', '55000', qr/in use/, 'replp2p.max_databases');

# a node whose server is no longer set up for it says so, and comes back
restart_with([ 'shared_preload_libraries', "''" ]);
refused('a node without its library', $x, 'later', 'SELECT replp2p.create_invite()', '55000', qr/not loaded/, 'shared_preload_libraries');
restart_with([ 'shared_preload_libraries', "'replp2p'" ]);
ok($x->poll_query_until('later', 'SELECT ready FROM replp2p.stat_capture'), 'and with it goes on');

# after all that was refused, what is right works
is($b->psql('postgres', join_by('b', $b_dsn, $invite)), 0, 'the invite that was shown so often is still good');
$b->safe_psql('postgres', "SELECT replp2p.wait_for_ready('1 minute')");
is($b->safe_psql('postgres', 'SELECT v FROM shop'), 'one', 'and the database joins');

done_testing();
