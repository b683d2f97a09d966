# Versions of frozen rows. A row that VACUUM has frozen keeps its raw xmin:
#   - while its transaction is not stable, it is that transaction's version;
#   - once xids have come round, another transaction may have the same 32 bits;
#     then the row must not take that one's version for its own (it would win
#     against changes that have overwritten it, and the nodes would differ).
# The xid counter is turned on by pg_resetwal.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $g = Replp2p->group([ 'a', 'b' ], schema => <<'SQL');
CREATE TABLE t (id int PRIMARY KEY, v text);
SQL

# not stable: b is paused, so that its ack does not move while a goes on
$g->sql('b', 'INSERT INTO t VALUES (3, \'fresh\')');
$g->sync;
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('a', "UPDATE t SET v = 'early' WHERE id = 3");
$g->sql('b', "UPDATE t SET v = 'late' WHERE id = 3");
$g->sql_all('VACUUM (FREEZE) t');
$g->sql_all('SELECT replp2p.resume_apply()');
$g->sync;
$g->same('t', 'a frozen row has the version of its transaction');
is($g->sql('a', 'SELECT v FROM t WHERE id = 3'), 'late', 'the later update stands over a frozen row');

$g->stop;

# Rows of xids X.. are frozen; the xid counter is turned on to shortly before X of
# the next epoch; then the cluster founds a group. Both nodes are paused: the
# other one overwrites the rows, then a transaction here gets the xid of one of them again and a
# greater stamp. Taken for the row's version it would win against the update. (One row
# would not do: the workers have transactions, too, and its xid might be one of theirs.)
my $h = bless { names => [], nodes => {} }, 'Replp2p';
my $old = $h->add_cluster('old', no_extension => 1);
$h->sql('old', "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE filler (id int PRIMARY KEY)");
$h->sql('old', join(';', map { "INSERT INTO t VALUES ($_, 'old')" } 1 .. 100));
my $x = $h->sql('old', 'SELECT xmin FROM t WHERE id = 1');
foreach my $db (split /\n/, $h->sql('old', 'SELECT datname FROM pg_database WHERE datallowconn'))
{
	$old->safe_psql($db, 'VACUUM (FREEZE)');
}
my $xmins = $h->sql('old', 'SELECT string_agg(xmin::text, \' \' ORDER BY id) FROM t');
$old->stop('fast');
command_ok([ 'pg_resetwal', '-e', '1', '-x', $x - 60, $old->data_dir ], 'the xid counter is turned on');
$old->start;
$h->sql('old', 'CREATE EXTENSION replp2p');
$h->sql('old', sprintf("SELECT replp2p.create_group('old', '%s')", Replp2p::dsn($old)));
$h->ready('old');
push @{ $h->{names} }, 'old';
$h->add_cluster('new');
$h->join('new', 'old');
is($h->sql('old', 'SELECT string_agg(xmin::text, \' \' ORDER BY id) FROM t'), $xmins, 'the old rows have their raw xmin yet');

$h->sync;
$h->sql_all('SELECT replp2p.pause_apply()');
$h->sql('new', "UPDATE t SET v = 'newer'");
my $n = 0;
my $namesakes = 'SELECT count(*) > 0 FROM t, filler WHERE filler.xmin = t.xmin';
$h->sql('old', 'INSERT INTO filler VALUES (' . $n . ')')
  while $n++ < 200 && $h->sql('old', $namesakes) eq 'f';
is($h->sql('old', $namesakes), 't', 'and so has a new transaction');
$h->sql('old', 'SELECT replp2p.resume_apply()');
ok($h->eventually('old', "SELECT bool_and(v = 'newer') FROM t"),
	'a frozen row is older than everything, not the version of its namesake');
is($h->sql('old', 'SELECT count(*) FROM replp2p.conflicts'), 0, 'and was no conflict');
$h->sql('new', 'SELECT replp2p.resume_apply()');
$h->sync;
$h->same('t');
$h->same('filler');

$h->stop;
done_testing();
