# No replication: what the foreground does alone, on a server with the same settings.
package System::none;

use strict;
use warnings;

use parent -norequire, 'Bench::System';

sub set_up { }

1;
