# README's way to let two nodes change different columns of one row, and lose neither: its
# own example is taken, three nodes write without seeing one another, and each column
# has to be what was written to it last, on every node, whatever order the rows came in.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $ROUNDS = 12;
my $seed = $ENV{SEED} // int(rand(1_000_000));
note("seed $seed");
srand($seed);

my ($example) = slurp_file('README.md') =~ /^```sql\n(CREATE TABLE contact .*?)^```$/ms
	or die 'README has no example of different columns';
my ($schema, $setting) = $example =~ /^(.*)^(SELECT replp2p\.set_conflict_handler[^\n]*)$/ms;

my @nodes = ('a', 'b', 'c');
my $g = Replp2p->group(\@nodes, schema => $schema);
$g->sql('a', $setting);
$g->sql('a', "INSERT INTO contact SELECT x, 'p', 'e' FROM generate_series(1, 4) x");
$g->sync;

my %last = map { $_ => { phone => 'p', email => 'e' } } 1 .. 4;
foreach my $round (1 .. $ROUNDS)
{
	$g->sql_all('SELECT replp2p.pause_apply()');
	foreach my $write (1 .. 6)
	{
		my ($name, $id, $column) = ($nodes[ rand @nodes ], 1 + int(rand(4)), ('phone', 'email')[ rand 2 ]);
		# one after the other, and all clocks are this machine's: the last is the greatest
		$g->sql($name, "UPDATE contact SET $column = '$name $round.$write' WHERE id = $id");
		$last{$id}{$column} = "$name $round.$write";
	}
	# whose rows come first is another's turn each time
	$g->sql($nodes[ ($_ + $round) % 3 ], 'SELECT replp2p.resume_apply()') foreach 0 .. 2;
	$g->sync;
	my $expected = join "\n", map { "$_|$last{$_}{phone}|$last{$_}{email}" } 1 .. 4;
	is($g->sql($_, 'SELECT id, phone, email FROM contact ORDER BY id'), $expected, "round $round: each column's last write stands on $_")
		foreach @nodes;
	$g->same('contact', "round $round");
}

# who deletes has not seen the other's change: it stays
$g->sql_all('SELECT replp2p.pause_apply()');
$g->sql('b', "UPDATE contact SET phone = 'kept' WHERE id = 1");
$g->sql('a', 'DELETE FROM contact WHERE id IN (1, 2)');
$g->sql_all('SELECT replp2p.resume_apply()');
$g->sync;
is($g->sql($_, "SELECT string_agg(id || ' ' || phone, ',') FROM contact WHERE id <= 2"), '1 kept', "a deleted row that was changed stays on $_") foreach @nodes;

$g->stop;
done_testing();
