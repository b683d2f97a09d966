# Built-in logical replication with streaming of large transactions, which is not its default on 15.
package System::native_streaming;

use strict;
use warnings;

Bench::System->load('native');
our @ISA = ('System::native');

sub options { return 'streaming = on' }

1;
