# work-folder.sh: sourced by scripts that run servers of their own (demo, bench).
#
# They work in a folder that belongs to an unprivileged user, since initdb
# refuses root: to "postgres" if root calls, else to the caller. The sources
# are copied there and built there, so that nothing in the repository changes.

run_user=postgres

# work_folder_make NAME: make /tmp/replp2p-NAME.XXXXXX with a copy of the
# sources in src; prints its path. Called in the top folder of the repository.
work_folder_make()
{
	local work
	work=$(mktemp -d "${TMPDIR:-/tmp}/replp2p-$1.XXXXXX") || return 1
	mkdir "$work/src"
	if ! sources_list >"$work/sources"; then
		echo "replp2p: cannot list the sources" >&2
		rm -rf "$work"
		return 1
	fi
	tar --null --ignore-failed-read -T "$work/sources" -cf - 2>/dev/null |
		tar --no-same-owner -xf - -C "$work/src"
	rm "$work/sources"
	[ "$(id -u)" != 0 ] || chown -R "$run_user:" "$work"
	echo "$work"
}

# The files of the repository, each ended by a zero byte; also outside of git.
sources_list()
{
	git ls-files -z --cached --others --exclude-standard 2>/dev/null ||
		find . -name .git -prune -o -name tmp_check -prune -o -path ./t/core/build -prune -o \
			-path ./contrib/demo/state -prune -o \
			-type f ! -name '*.o' ! -name '*.d' ! -name '*.so' ! -name '*.bc' -print0
}

# as_run_user WORK command...: run it there as the unprivileged user, with no
# settings of the caller's that reach into servers or builds.
as_run_user()
{
	local work=$1 name
	local -a clean=(env)
	shift
	for name in $(compgen -e); do
		case $name in
			PG_MAJOR | PG_CONFIG) ;;
			PG* | MAKEFLAGS | MFLAGS | MAKELEVEL | MAKEOVERRIDES) clean+=(-u "$name") ;;
		esac
	done
	clean+=(HOME="$work" TMPDIR="$work" LC_ALL=C)
	if [ "$(id -u)" = 0 ]; then
		(cd "$work" && exec runuser -u "$run_user" -- "${clean[@]}" "$@")
	else
		(cd "$work" && exec "${clean[@]}" "$@")
	fi
}

# postmaster_stop DATADIR: stop the server that runs there, if one does.
postmaster_stop()
{
	local data=$1 pid signal
	pid=$(head -n 1 "$data/postmaster.pid" 2>/dev/null) || return 0
	for signal in INT QUIT KILL; do
		postmaster_runs "$pid" "$data" || return 0
		kill -$signal "$pid" 2>/dev/null
		postmaster_wait "$pid" "$data"
	done
}

# A pid file may outlive its server, and its number may be somebody else's by now.
postmaster_runs()
{
	[ -n "$1" ] && [ "$(readlink "/proc/$1/cwd" 2>/dev/null)" = "$2" ]
}

# Wait for its end, 15 seconds at most.
postmaster_wait()
{
	local i
	for ((i = 0; i < 150; i++)); do
		postmaster_runs "$1" "$2" || return 0
		sleep 0.1
	done
}

# free_ports COUNT: ports on loopback that nobody listens on now.
free_ports()
{
	perl -MIO::Socket::INET -e '
		my @held = map { IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => 0, Listen => 1)
			or die "no free port: $!\n" } 1 .. $ARGV[0];
		print join(" ", map { $_->sockport } @held), "\n";' "$1"
}
