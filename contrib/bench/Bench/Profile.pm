# Bench::Profile: perf over all processes that replicate while clients write as fast as they can; a
# flame graph for each role, and the share of cryptography.
#
# perf runs through perf-text: by the one who called the bench if that is root (run opens a door for
# that, the pipe perf.ask), so that the kernel's part is seen; else here, without it where
# /proc/sys/kernel/perf_event_paranoid forbids that.
package Bench::Profile;

use strict;
use warnings;

use File::Basename qw(dirname);
use Time::HiRes qw(sleep);

use Bench::Load;
use Bench::Watch;

*now = \&Bench::Cluster::now;

my $TOOLS = dirname(__FILE__) . '/..';

# What is shown of which node: the origin writes, the receiver takes.
my %GRAPHS = (
	a => { capture => 'capture', session => 'exchange session' },
	b => { gossip => 'gossip', apply => 'apply' });

# Sample processes for a time; returns the file with the text.
sub perf
{
	my ($work, $seconds, @pids) = @_;
	my $file = "$work/perf.text";
	my $end = now() + 10 * $seconds + 120;

	unlink $file;
	if (!-p "$work/perf.ask")
	{
		system("$TOOLS/perf-text $seconds " . join(',', @pids) . " >$file") == 0 or die "perf failed\n";
		return $file;
	}
	open my $ask, '>', "$work/perf.ask" or die "perf.ask: $!\n";
	print $ask "$seconds ", join(',', @pids), "\n";
	close $ask;
	until (-e $file)
	{
		die "perf takes too long\n" if now() > $end;
		sleep 0.1;
	}
	return $file;
}

# Pids by node and role of a group, the clients' backends among them.
sub pids
{
	my ($group) = @_;
	my %pids;
	foreach my $cluster (@{ $group->{clusters} })
	{
		my $role = Bench::Watch->roles($group->{system}, $cluster);
		push @{ $pids{ $cluster->{name} }{ $role->{$_} } }, $_ foreach keys %$role;
	}
	$pids{a}{client} = [ map { $_->[0] } $group->{origin}{session}->query(
		"SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'") ];
	return \%pids;
}

# One-row transactions by clients that wait for nothing else, for longer than perf looks.
sub run
{
	my ($work, $seconds, $make, $systems) = @_;
	my $system = $systems->[0];
	my $group = $make->($system, 1);
	my $load = Bench::Load::pgbench_start($group, $group->{origin}, '-f', Bench::Load::script($group), '-c',
		$Bench::Load::CLIENTS, '-T', $seconds + 4);

	sleep 2;
	my $pids = pids($group);
	my @all = map { map { @$_ } values %$_ } values %$pids;
	my $text = perf($work, $seconds, @all);
	Bench::Load::pgbench_end($load);
	Bench::Load::caught_up($group);
	report($group, $pids, $text);
}

sub report
{
	my ($group, $pids, $text) = @_;
	my (%in, %all);

	mkdir "$group->{work}/profile" or die "profile: $!\n";
	printf "%-10s %-10s %9s %9s %8s\n", 'node', 'role', 'samples', 'libsodium', 'share';
	foreach my $node (sort keys %$pids)
	{
		foreach my $role (sort keys %{ $pids->{$node} })
		{
			my $title = $GRAPHS{$node}{$role};
			my ($crypto, $samples) = flame($text, $pids->{$node}{$role},
				$title && "$group->{work}/profile/$role.svg", $title // $role) or next;
			printf "%-10s %-10s %9d %9d %7.1f%%\n", $node, $role, $samples, $crypto, 100 * $crypto / $samples;
			foreach ('with clients', $role eq 'client' ? () : 'replication')
			{
				$in{$_} += $crypto;
				$all{$_} += $samples;
			}
		}
	}
	printf "%-21s %9d %9d %7.1f%%\n", "all, $_", $all{$_}, $in{$_}, 100 * $in{$_} / $all{$_} foreach sort keys %all;
}

# (samples in libsodium, samples) of some processes; empty if there are none.
sub flame
{
	my ($text, $pids, $svg, $title) = @_;
	my @command = ("$TOOLS/flame", '--title', $title, '--pids', join(',', @$pids), '--share', 'libsodium');

	push @command, '--svg', $svg if $svg;
	open my $out, '-|', join(' ', map { "'$_'" } @command) . " <'$text' 2>/dev/null" or die "flame: $!\n";
	my @counts = split ' ', <$out> // '';
	close $out;
	return @counts;
}

1;
