# Replp2p: groups of clusters for the TAP tests.
#
#   my $g = Replp2p->group(['a', 'b', 'c']);   three clusters, one group, ready
#   $g->node('a')->safe_psql('postgres', ...)  a PostgreSQL::Test::Cluster
#   $g->sync;                                  all have applied what all have written
#   $g->same('pgbench_accounts');              is() on the digest of a table
package Replp2p;

use strict;
use warnings;

use IPC::Run;
use File::Basename qw(basename dirname);
use File::Spec::Functions qw(rel2abs);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our $DB = 'postgres';

# Make and start a cluster that is ready for replp2p, extension created.
# Options: durable (fsync on), conf (extra lines), env (hash: environment of the
# server), no_extension.
sub cluster
{
	my ($class, $name, %opt) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	# peers talk over TCP on loopback, as they would between machines
	$node->init(extra => ['--locale=C', '--encoding=UTF8', '--auth=trust']);
	$node->append_conf('postgresql.conf', <<"CONF");
shared_preload_libraries = 'replp2p'
wal_level = logical
listen_addresses = '127.0.0.1'
max_connections = 60
max_worker_processes = 24
max_replication_slots = 20
max_wal_senders = 2
log_line_prefix = '%m [%p] %b '
log_statement = none
autovacuum_naptime = 10s
replp2p.gossip_interval = 200ms
CONF
	$node->append_conf('postgresql.conf', "fsync = " . ($opt{durable} ? 'on' : 'off') . "\n");
	$node->append_conf('postgresql.conf', $opt{conf}) if $opt{conf};
	{
		local %ENV = (%ENV, %{ $opt{env} || {} });
		$node->start;
	}
	$node->safe_psql($DB, 'CREATE EXTENSION replp2p') unless $opt{no_extension};
	return $node;
}

# The dsn by which peers reach a cluster.
sub dsn
{
	my ($node, $db, $role) = @_;
	$db //= $DB;
	$role //= getpwuid($<);
	return sprintf("host=127.0.0.1 port=%d dbname=%s user=%s", $node->port, $db, $role);
}

# Clusters of these names in one group, ready. Options as for cluster(), and
# schema (SQL run on the first before the others join), options => { name => {...} },
# peer_role (a role that may do nothing but call exchange(): peers connect as it).
sub group
{
	my ($class, $names, %opt) = @_;
	my $self = bless { names => [], nodes => {}, peer_role => delete $opt{peer_role} }, $class;
	my $per_node = delete $opt{options} || {};
	my $schema = delete $opt{schema};

	foreach my $name (@$names)
	{
		my $node = $class->cluster($name, %opt, %{ $per_node->{$name} || {} });
		$self->{nodes}{$name} = $node;
		$self->make_peer_role($node);
		if (!@{ $self->{names} })
		{
			$node->safe_psql($DB, $schema) if $schema;
			$node->safe_psql($DB,
				sprintf("SELECT replp2p.create_group('%s', '%s')", $name, $self->dsn_of($name)));
			$self->ready($name);
			push @{ $self->{names} }, $name;
		}
		else
		{
			$self->join($name, $self->{names}[0]);
		}
	}
	return $self;
}

# Have a cluster (already in nodes) join by an invite of sponsor, and wait until it is ready.
sub join
{
	my ($self, $name, $sponsor) = @_;
	my $node = $self->{nodes}{$name};
	my $invite = $self->{nodes}{$sponsor}->safe_psql($DB, 'SELECT replp2p.create_invite()');
	$node->safe_psql($DB,
		sprintf("SELECT replp2p.join_group('%s', '%s', '%s')", $name, $self->dsn_of($name), $invite));
	$self->ready($name);
	push @{ $self->{names} }, $name;
}

sub make_peer_role
{
	my ($self, $node) = @_;
	my $role = $self->{peer_role} or return;
	$node->safe_psql($DB,
		"CREATE ROLE $role LOGIN; GRANT EXECUTE ON PROCEDURE replp2p.exchange(bytea) TO $role");
}

# The dsn by which the others reach a node.
sub dsn_of
{
	my ($self, $name) = @_;
	return dsn($self->{nodes}{$name}, $DB, $self->{peer_role});
}

sub add_cluster
{
	my ($self, $name, %opt) = @_;
	return $self->{nodes}{$name} = ref($self)->cluster($name, %opt);
}

sub ready
{
	my ($self, $name) = @_;
	$self->{nodes}{$name}->safe_psql($DB, "SELECT replp2p.wait_for_ready('3 minutes')");
}

sub node { return $_[0]{nodes}{ $_[1] } }
sub names { return @{ $_[0]{names} } }
sub nodes { my $self = shift; return map { $self->{nodes}{$_} } $self->names }

# SQL on one node, on all nodes.
sub sql
{
	my ($self, $name, $sql) = @_;
	return $self->node($name)->safe_psql($DB, $sql);
}

sub sql_all
{
	my ($self, $sql) = @_;
	return map { $self->sql($_, $sql) } $self->names;
}

# Wait until every node has applied everything that any of the named (all) nodes had committed.
sub sync
{
	my ($self, @from) = @_;
	@from = $self->names unless @from;
	my @tokens = map { $self->sql($_, 'SELECT replp2p.current_token()') } @from;
	foreach my $name ($self->names)
	{
		foreach my $token (@tokens)
		{
			$self->sql($name, "SELECT replp2p.wait_for_token('$token', '3 minutes')");
		}
	}
}

# Digest of a table's content, independent of order.
sub digest
{
	my ($self, $name, $table) = @_;
	return $self->sql($name,
		"SELECT count(*) || ' ' || coalesce(md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))), '') FROM $table t");
}

# One test: the table is the same on all nodes.
sub same
{
	my ($self, $table, $what) = @_;
	my ($first, @rest) = $self->names;
	my $expected = $self->digest($first, $table);
	my @different = grep { $self->digest($_, $table) ne $expected } @rest;
	$what //= "$table is the same on all nodes";
	ok(!@different, $what) or diag("different from $first: @different");
	return !@different;
}

# Start pgbench on a node, in the background: for succeeded() or halt().
sub pgbench
{
	my ($self, $name, @options) = @_;
	return $self->client($name, '', 'pgbench', '-n', '--max-tries=100', @options);
}

# Start psql on a node with a script, in the background: for succeeded() or halt().
sub psql
{
	my ($self, $name, $script) = @_;
	return $self->client($name, $script, 'psql', '-XAtq', '-v', 'ON_ERROR_STOP=1');
}

sub client
{
	my ($self, $name, $input, @command) = @_;
	my %run = (name => $name, command => $command[0], output => '');
	$run{handle} = IPC::Run::start([ @command, $self->node($name)->connstr($DB) ],
		'<', \$input, '>', \$run{output}, '2>&1');
	return \%run;
}

# Wait for the end of clients; the number of those that succeeded.
sub succeeded
{
	my ($self, @runs) = @_;
	my $good = 0;
	foreach my $run (@runs)
	{
		if ($run->{handle}->finish) { $good++ }
		else { diag("$run->{command} on $run->{name}: $run->{output}") }
	}
	return $good;
}

# End clients that would go on for longer; true if all were still at it.
sub halt
{
	my ($self, @runs) = @_;
	my $running = !grep { !$_->{handle}->pumpable } @runs;
	foreach my $run (@runs)
	{
		diag("$run->{command} on $run->{name}: $run->{output}") unless $run->{handle}->pumpable;
		$run->{handle}->kill_kill;
	}
	return $running;
}

# SQL that makes a table of 100 hot keys, and hot_step() for storm_script(): one random step on
# the keys k and l. What clashes with another local client is undone.
sub storm_schema
{
	return <<'SQL';
CREATE TABLE hot (id int PRIMARY KEY, n int, v text, big text, big2 text);
ALTER TABLE hot ALTER big SET STORAGE EXTERNAL, ALTER big2 SET STORAGE EXTERNAL;
INSERT INTO hot SELECT i, 0, 'start', repeat('s', 3000), repeat('t', 3000) FROM generate_series(1, 100) i;
CREATE FUNCTION hot_step(op int, k int, l int, r int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE
		WHEN op <= 20 THEN UPDATE hot SET n = n + 1, v = 'u' || r WHERE id = k;
		WHEN op <= 30 THEN UPDATE hot SET big = repeat(md5(r::text), 100) WHERE id = k;
		WHEN op <= 35 THEN UPDATE hot SET big2 = NULL, big = repeat(md5(r::text), 150) WHERE id = k;
		WHEN op <= 50 THEN DELETE FROM hot WHERE id = k;
		WHEN op <= 65 THEN INSERT INTO hot VALUES (k, 1, 'i' || r, repeat(md5(r::text), 90), repeat(md5(r::text), 80))
			ON CONFLICT DO NOTHING;
		WHEN op <= 75 THEN INSERT INTO hot VALUES (k, 1, 'i' || r, 'short')
			ON CONFLICT (id) DO UPDATE SET v = 'c' || r, n = hot.n + 1;
		WHEN op <= 83 THEN
			DELETE FROM hot WHERE id = k;
			INSERT INTO hot VALUES (k, 0, 'r' || r, repeat(md5(r::text), 70));
			UPDATE hot SET v = v || '!' WHERE id = k;
		WHEN op <= 90 THEN UPDATE hot SET id = l, v = 'k' || r WHERE id = k;
		WHEN op <= 96 THEN
			UPDATE hot SET v = 'w' || r WHERE id = l;
			UPDATE hot SET n = n + 1 WHERE id BETWEEN k AND k + 5;
		ELSE
			DELETE FROM hot WHERE id BETWEEN k AND k + 3;
	END CASE;
EXCEPTION WHEN unique_violation OR deadlock_detected THEN
	NULL;
END $$;
SQL
}

# A script for pgbench -f that storms over the hot keys.
sub storm_script
{
	my $script = "$PostgreSQL::Test::Utils::tmp_check/storm.sql";
	PostgreSQL::Test::Utils::append_to_file($script, <<'SQL') unless -e $script;
\set op random(1, 100)
\set k random(1, 100)
\set l random(1, 100)
\set r random(1, 1000000000)
SELECT hot_step(:op, :k, :l, :r);
SQL
	return $script;
}

# SQL that makes a table with three unique indexes beside its key, each of another sort.
sub unique_table
{
	my ($self, $table) = @_;
	return <<"SQL";
CREATE TABLE $table (id int PRIMARY KEY, u int UNIQUE, w int, x text, n int NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX ON $table (w) WHERE n >= 0;
CREATE UNIQUE INDEX ON $table (lower(x)) NULLS NOT DISTINCT;
SQL
}

# Storms over the nodes: on all at once; in so many rounds without one seeing another, whereupon all cross; and with
# the last one stopped hard and started again. Options: steps (SQL that each client runs again and again,
# with random :op to 100, :k and :l to 60, and :r), times, seed, rounds, settled (called with a name after each).
sub unique_storms
{
	my ($self, %opt) = @_;
	my @nodes = $self->names;
	my $last = $nodes[-1];
	my $script = "$PostgreSQL::Test::Utils::tmp_check/" . basename($0, '.pl') . '.sql';
	my $n = 0;
	my $storm = sub {
		return map {
			$self->pgbench($_, '-f', $script, '-c', 2, '-t', $opt{times}, '--random-seed', $opt{seed} + $n++)
		} @_;
	};

	unlink $script;
	PostgreSQL::Test::Utils::append_to_file($script, <<'SQL' . $opt{steps});
\set op random(1, 100)
\set k random(1, 60)
\set l random(1, 60)
\set r random(1, 1000000)
SQL
	is($self->succeeded($storm->(@nodes)), @nodes, 'all nodes at once');
	$opt{settled}->('at once');
	foreach my $round (1 .. $opt{rounds})
	{
		$self->sql_all('SELECT replp2p.pause_apply()');
		is($self->succeeded($storm->(@nodes)), @nodes, 'none seeing another');
		$self->sql_all('SELECT replp2p.resume_apply()');
		$opt{settled}->("apart, round $round");
	}
	my @others = $storm->(@nodes[0 .. $#nodes - 1]);
	$self->node($last)->stop('immediate');
	$self->node($last)->start;
	$self->up($last);
	is($self->succeeded(@others, $storm->($last)), @nodes, 'one is stopped hard and started again');
	$opt{settled}->('after a crash');
}

# One test for each node: every row of a table of unique_table() that is displaced has one in its way, or comes
# back within a while, and is not in the table itself.
sub displaced_right
{
	my ($self, $table, $what) = @_;
	foreach my $name ($self->names)
	{
		ok($self->eventually($name, <<"SQL", ''), "$what: every displaced row of $table has one in its way on $name");
SELECT string_agg(d.key ->> 'id', ',') FROM replp2p.displaced d, jsonb_populate_record(NULL::$table, d.row) r
WHERE d.relation = '$table'::regclass AND (EXISTS (SELECT FROM $table s WHERE s.id = r.id) OR
	NOT EXISTS (SELECT FROM $table s WHERE s.u = r.u OR (s.w = r.w AND s.n >= 0 AND r.n >= 0)
		OR lower(s.x) IS NOT DISTINCT FROM lower(r.x)))
SQL
	}
}

# Wait until what a node has committed is in its change log.
sub captured
{
	my ($self, $name) = @_;
	return $self->sql($name, 'SELECT replp2p.wait_for_token(replp2p.current_token())');
}

# What stands in a table of id, u and n, and what is displaced.
sub rows_and_displaced
{
	my ($self, $name, $t) = @_;
	return $self->sql($name, <<"SQL");
SELECT coalesce(string_agg(concat_ws(' ', id, u, n), ', ' ORDER BY id), 'none') || ' | ' ||
	(SELECT coalesce(string_agg(concat_ws(' ', row ->> 'id', row ->> 'u', row ->> 'n'), ', ' ORDER BY key), 'none')
	 FROM replp2p.displaced WHERE relation = '$t'::regclass) FROM $t
SQL
}

# Wait until a node has this in it.
sub has
{
	my ($self, $name, $t, $expected) = @_;
	return $self->wait_until(sub { $self->rows_and_displaced($name, $t) eq $expected }) ||
		diag("$name: " . $self->rows_and_displaced($name, $t)) && 0;
}

# One test for each node: it ends with this in it.
sub ends
{
	my ($self, $t, $what, $expected) = @_;

	$self->sync;
	ok($self->has($_, $t, $expected), "$what: $_") foreach $self->names;
	return;
}

# One test for each node: it can apply what each origin has for it.
sub none_stands_still
{
	my ($self, $what) = @_;
	is($self->sql($_, "SELECT string_agg(origin || ': ' || last_error, ' ') FROM replp2p.stat_lag WHERE state = 'error'"),
		'', "$what: no origin stands still on $_") foreach $self->names;
}

# Have pgbench make its tables on a node; its history has no key of its own.
sub pgbench_tables
{
	my ($self, $name) = @_;
	$self->node($name)->command_ok(
		[ 'pgbench', '-i', '-I', 'dtGp', '-q', $self->node($name)->connstr($DB) ],
		'pgbench makes its tables');
	$self->sql($name, <<'SQL');
DROP TABLE pgbench_history;
CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22),
	id uuid PRIMARY KEY DEFAULT gen_random_uuid());
SQL
}

# A line of its own in the test's output, also inside a subtest.
sub figure { _say("figure @_") }
sub seed { _say("seed @_") }

sub _say
{
	my ($line) = @_;
	print { Test::More->builder->output } "# $line\n";
}

# Wait for a query to give true (or the expected text) on a node, which may be starting.
sub eventually
{
	my ($self, $name, $query, $expected) = @_;

	for (;;)
	{
		my $result = eval { $self->node($name)->poll_query_until($DB, $query, $expected // 't') };
		return $result unless $@;
		# a psql that finds no server may leave before it has read its query
		die $@ unless $@ =~ /Broken pipe/;
	}
}

# Wait until a Perl condition holds, as poll_query_until does for a query; returns whether it came to hold.
sub wait_until
{
	my ($self, $condition) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	until ($condition->())
	{
		return 0 if time > $deadline;
		usleep(50_000);
	}
	return 1;
}

# Wait until a node that has just (re)started answers and captures.
sub up
{
	my ($self, $name) = @_;
	return $self->eventually($name, 'SELECT ready FROM replp2p.stat_capture');
}

# Is no process of this id alive? One that only waits to be reaped is not.
sub is_gone
{
	my ($self, $pid) = @_;
	open(my $stat, '<', "/proc/$pid/stat") or return 1;
	my $line = <$stat> // return 1;
	return $line =~ /\) [ZX] [^)]*$/ ? 1 : 0;
}

# Kill the postmaster of a node, and wait until it and all its processes have gone.
sub kill_postmaster
{
	my ($self, $name) = @_;
	my $node = $self->node($name);
	my $postmaster = $node->{_pid};
	my @pids = split /\n/, $self->sql($name, 'SELECT pid FROM pg_stat_activity');

	$node->kill9;
	return $self->wait_until(sub { !kill(0, $postmaster) && !grep { !$self->is_gone($_) } @pids });
}

# Process id of a worker: launcher, capture, gossip, apply; or exchange, a backend that serves a peer.
sub pid
{
	my ($self, $name, $kind) = @_;
	my $query = "SELECT min(pid) FROM pg_stat_activity WHERE " .
		($kind eq 'exchange' ? "backend_type = 'client backend' AND query ~* '^call replp2p.exchange'"
		: "backend_type = 'replp2p $kind'");

	$self->eventually($name, "SELECT ($query) IS NOT NULL");
	return $self->sql($name, $query);
}

# Set (undef: reset) a reloadable setting on a node.
sub set
{
	my ($self, $name, $setting, $value) = @_;
	my $sql = defined $value ? "SET $setting = '$value'" : "RESET $setting";

	$self->node($name)->safe_psql($DB, "ALTER SYSTEM $sql");
	$self->node($name)->safe_psql($DB, 'SELECT pg_reload_conf()');
}

# Options of a cluster whose clock is what set_clock() says of the same name: libfaketime in
# its server, and no checkpoint that a step of the clock would bring.
sub faked_clock
{
	my ($class, $name) = @_;
	my ($library) = glob '/usr/lib/*/faketime/libfaketime.so.1';
	my $waits = rel2abs("$PostgreSQL::Test::Utils::tmp_check/unfaked_waits.so");

	BAIL_OUT('libfaketime is missing: Debian package faketime') unless $library;
	system_or_bail('gcc', '-shared', '-fPIC', '-o', $waits, dirname(__FILE__) . '/unfaked_waits.c')
		unless -e $waits;
	$class->set_clock($name, 0);
	return (
		conf => "checkpoint_timeout = '1d'\n",
		env => {
			LD_PRELOAD => "$waits:$library",
			FAKETIME_TIMESTAMP_FILE => clock_file($name),
			FAKETIME_NO_CACHE => 1,
			FAKETIME_DONT_FAKE_MONOTONIC => 1,
			NO_FAKE_STAT => 1,
		});
}

sub clock_file { return rel2abs("$PostgreSQL::Test::Utils::tmp_check/clock_$_[0]") }

# Set a faked clock this many seconds off the real one, between two looks at it.
sub set_clock
{
	my ($class, $name, $seconds) = @_;
	my $file = clock_file($name);

	PostgreSQL::Test::Utils::append_to_file("$file.new", sprintf("%+f\n", $seconds));
	rename("$file.new", $file) or die "could not rename $file.new: $!";
}

# Folder of the change log that a node keeps of an origin.
sub log_folder
{
	my ($self, $name, $origin) = @_;
	my ($id, $epoch) = split /\|/, $self->sql($name,
		"SELECT node_id, epoch FROM replp2p.stat_members WHERE node_name = '$origin'");
	my $db = $self->sql($name, "SELECT oid FROM pg_database WHERE datname = '$DB'");
	return $self->node($name)->data_dir . "/replp2p/$db/log/$id.$epoch";
}

# The file of that folder which is written to.
sub last_segment
{
	my ($class, $folder) = @_;
	my @segments = sort grep { m{/[0-9a-f]{16}\.[0-9a-f]{8}$} } glob("$folder/*");
	return $segments[-1];
}

# The records in the bytes of a log file, without the space that its writer has prepared behind them: see p2p_logrec.h.
sub log_records
{
	my ($class, $bytes) = @_;
	my $end = 0;

	while ($end + 12 <= length $bytes)
	{
		my ($length) = unpack('V', substr($bytes, $end, 4));
		last if $length == 0;
		$end += 12 + $length;
	}
	return substr($bytes, 0, $end);
}

sub stop
{
	my ($self) = @_;
	$_->stop('fast') foreach values %{ $self->{nodes} };
}

1;
