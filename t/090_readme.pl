# README.md tells the truth: each of its ```sql examples runs, in order, on two
# clusters set up with its own lines of postgresql.conf, pg_hba.conf and rights;
# and its reference names every function, view, column and setting there is,
# and none that there isn't.
#
# Only what belongs to a reader's own place is put in: hosts, tokens, invites.
use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Replp2p;

my $readme = slurp_file('README.md');
my ($guide, $reference) = split /^## Reference$/m, $readme;
ok(defined $reference, 'there is a reference');

#
# The guide.
#

my %cluster;
my $conf = join '', map { "$_\n" } $guide =~ /^    (\w+ = [^\n]*)$/mg;
my ($hba) = $guide =~ /^    (host(?:ssl|nossl|) [^\n]*)$/m;
like($conf, qr/shared_preload_libraries = 'replp2p'/, 'README has lines for postgresql.conf');
ok($hba, 'README has a line for pg_hba.conf');

foreach my $name ('berlin', 'lisbon')
{
	my $node = $cluster{$name} = Replp2p->cluster($name, no_extension => 1, conf => $conf);
	$node->append_conf('pg_hba.conf', "$hba\n");
	$node->reload;
	$node->safe_psql('postgres', 'CREATE DATABASE app');
	my $faults = $node->safe_psql('postgres',
		"SELECT error FROM pg_hba_file_rules WHERE error IS NOT NULL AND error !~ 'SSL is disabled'");
	is($faults, '', "$name takes the line for pg_hba.conf");
}
$cluster{berlin}->safe_psql('app', 'CREATE TABLE guest (id int PRIMARY KEY, name text)');

# Where a statement belongs; the first that fits. What fits none is run on both nodes.
my @places = (
	[ qr/create_group|create_invite|current_token/ => 'berlin' ],
	[ qr/join_group|wait_for_token|leave_group/ => 'lisbon' ],
	[ qr/'lisbon'/ => 'berlin' ]);
my %remembered;    # what a function gave that a later statement needs

foreach my $example (examples($guide))
{
	my $at;
	my @part;

	# neighbours of one place go into one session, as a reader would paste them
	foreach my $sql (@$example)
	{
		my ($place) = map { $_->[1] } grep { $sql =~ $_->[0] } @places;
		$place = $at // 'both' if !defined $place || $sql =~ /wait_for_ready/;
		if (@part && $place ne $at)
		{
			run_statements($at, @part);
			@part = ();
		}
		$at = $place;
		push @part, $sql;
	}
	run_statements($at, @part);
}
is($cluster{lisbon}->safe_psql('app', 'SELECT name FROM guest'), 'Ana', 'a token brings the row');
$cluster{berlin}->poll_query_until('app',
	"SELECT state = 'left' FROM replp2p.stat_members WHERE node_name = 'lisbon'")
	or die 'lisbon does not leave';

# The examples of the guide: its ```sql blocks, and each statement in running
# text. An example is an array of statements.
sub examples
{
	my ($text) = @_;
	my @found;
	while ($text =~ /^```sql\n(.*?)^```$|`(SELECT [^`]*)`/msg)
	{
		(my $block = $1 // $2) =~ s/--[^\n]*//g;
		push @found, [ map { s/^\s+|\s+$//gr } grep { /\S/ } split /;/, $block ];
	}
	return @found;
}

# Run statements in one session of a node (or of each), with what a reader would put in.
sub run_statements
{
	my ($at, @statements) = @_;
	my $reach = sub { 'host=127.0.0.1 port=' . $cluster{ $_[0] }->port };
	my $text = join ";\n", @statements;

	$cluster{berlin}->safe_psql('app', "INSERT INTO guest VALUES (1, 'Ana')") if $text =~ /current_token/;
	(my $own = $text) =~ s/host=(\w+)\.example/$reach->($1)/ge;
	$own =~ s/'replp2p1:\.\.\.'/'$remembered{create_invite}'/;
	$own =~ s/'t1:\.\.\.'/'$remembered{current_token}'/;
	foreach my $name ($at eq 'both' ? sort keys %cluster : $at)
	{
		my ($out, $err) = ('', '');
		my $status = $cluster{$name}->psql('app', $own, stdout => \$out, stderr => \$err, on_error_stop => 1);
		# the next ones need what this one does
		is($status, 0, "on $name: " . $text =~ s/\n/ /gr) or die $err;
		$remembered{$1} = (split /\n/, $out)[-1] if $statements[-1] =~ /replp2p\.(\w+)\(/;
	}
}

#
# The reference.
#

my $node = $cluster{berlin};

# Is every one of the first list in the second, and the other way round?
sub same_lists
{
	my ($there, $written, $what) = @_;
	my %there = map { $_ => 1 } @$there;
	my %written = map { $_ => 1 } @$written;
	is_deeply([ sort grep { !$written{$_} } keys %there ], [], "the reference has all $what");
	is_deeply([ sort grep { !$there{$_} } keys %written ], [], "the reference has no other $what");
}

my ($functions, $views, $settings) = $reference =~ /^### Functions$(.*)^### Views$(.*)^### Settings$(.*)/ms;

# name(arguments), defaults left out
my @functions = map { s/ DEFAULT [^,)]*//gr } $functions =~ /`(\w+\([^`]*?\))(?: → [^`]*)?`/g;
my @there = split /\n/, $node->safe_psql('app', <<'SQL');
SELECT proname || '(' || coalesce((
	SELECT string_agg(CASE m WHEN 'b' THEN 'INOUT ' ELSE '' END || n || ' ' || format_type(t, NULL), ', ' ORDER BY i)
	FROM unnest(proargnames, proargmodes, coalesce(proallargtypes, proargtypes::oid[])) WITH ORDINALITY u (n, m, t, i)
	WHERE m IS DISTINCT FROM 'o'), '') || ')'
FROM pg_proc WHERE pronamespace = 'replp2p'::regnamespace
SQL
# not for users
my $internal = qr/^(?:get_stat_|get_table_handlers|export_snapshot|get_changed_keys|node_fingerprint|check_prerequisites|refuse_rewrite)/;
my %result = $functions =~ /`(\w+)\([^`]*?\) → ([^`]*)`/g;
same_lists(\@there, \@functions, 'functions');

# results
my %returns = map { split /\|/ } split /\n/, $node->safe_psql('app', <<'SQL');
SELECT proname, CASE WHEN prorettype <> 'record'::regtype THEN pg_get_function_result(p.oid)
	ELSE '(' || (SELECT string_agg(n || ' ' || format_type(proallargtypes[i], NULL), ', ' ORDER BY i)
		FROM unnest(proargnames) WITH ORDINALITY u (n, i) WHERE proargmodes[i] = 'o') || ')' END
FROM pg_proc p WHERE pronamespace = 'replp2p'::regnamespace AND prokind = 'f'
SQL
delete $returns{$_} foreach grep { /$internal/ } keys %returns;
is_deeply(\%result, \%returns, 'the reference has the types of results');

my %columns = $views =~ /^\| `(\w+)` \|.*\| ([^|]*) \|$/mg;
my %real_columns = map { split /\|/ } split /\n/, $node->safe_psql('app', <<'SQL');
SELECT relname, (SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute
	WHERE attrelid = c.oid AND attnum > 0)
FROM pg_class c WHERE relnamespace = 'replp2p'::regnamespace AND relkind = 'v'
SQL
is_deeply(\%columns, \%real_columns, 'the reference has all views and their columns');

# A default as it stands in the reference, in the unit that the server counts in.
sub in_unit
{
	my ($value, $unit) = @_;
	my %ms = (ms => 1, s => 1000, min => 60000, h => 3600000);
	my %kb = (kB => 1, MB => 1024, GB => 1048576);
	return '' if $value eq '(empty)';
	my ($number, $of) = $value =~ /^`(\d+)(\w*)`$/ or return "not understood: $value";
	return $number if $unit eq '';
	return $number * $ms{$of} / $ms{$unit} if $ms{$of} && $ms{$unit};
	return $number * $kb{$of} / $kb{$unit} if $kb{$of} && $kb{$unit};
	return "not in $unit: $value";
}

my %defaults = $settings =~ /^\| `(replp2p\.\w+)` \| ([^|]+) \|/mg;
my @restart = $settings =~ /^\| `(replp2p\.\w+)` .*\(restart\) \|$/mg;
# without those that are built for tests only
my @rows = map { [ split /\|/, $_, -1 ] } split /\n/, $node->safe_psql('app', <<'SQL');
SELECT name, boot_val, unit, context FROM pg_settings
WHERE name LIKE 'replp2p.%' AND name NOT IN ('replp2p.crash_point', 'replp2p.raw_stamps')
SQL
same_lists([ map { $_->[0] } @rows ], [ keys %defaults ], 'settings');
foreach my $row (@rows)
{
	my ($name, $default, $unit, $context) = @$row;
	is(in_unit($defaults{$name} // '', $unit), $default, "$name: the default");
	is($context, (grep { $_ eq $name } @restart) ? 'postmaster' : 'sighup', "$name: when it takes effect");
}

done_testing();
