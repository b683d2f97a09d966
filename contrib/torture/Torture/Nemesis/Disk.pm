# disk: the file system that holds the change logs of a node is full, for some seconds.
#
# It is a tmpfs of each node's own, which "run" mounts; here a file takes all that is left of it.
package Torture::Nemesis::Disk;

use strict;
use warnings;

use parent 'Torture::Nemesis';

sub name { 'disk' }
sub rest { 5 }

sub lacking
{
	my ($self, $group) = @_;
	return $group->{disks} ? undef : 'no small file system: needs root, or user namespaces';
}

sub fault
{
	my ($self, $group) = @_;
	my $path = filler($group, Torture::Nemesis::one_of($group->names));
	my $zeros = "\0" x (1 << 20);

	open my $file, '>', $path or die "$path: $!\n";
	# down to the last byte, as far as it is still free
	for (my $size = length $zeros; $size >= 1; $size = int($size / 16))
	{
		1 while (syswrite($file, $zeros, $size) // 0) > 0;
	}
	$self->wait_for(0.3 + rand(4));
	unlink $path;
	return 'full';
}

sub filler { return "$_[0]{disks}/$_[1]/filler" }

sub heal
{
	my ($self, $group) = @_;
	unlink filler($group, $_) foreach $group->names;
}

1;
