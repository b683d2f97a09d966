/*
 * settings.c
 *	  The settings replp2p.*: what they are called, their units, limits and
 *	  defaults. Defaults suit a laptop and a small production server.
 *
 * replp2p.max_databases sizes shared memory, so it exists only in a server that
 * preloads the library; elsewhere the name stays an unknown placeholder. All others are
 * reloaded by SIGHUP. Called by _PG_init, once per process.
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "settings.h"

int			rp_max_databases = 4;
int			rp_max_clock_skew_s = 600;
int			rp_gossip_interval_ms = 1000;
int			rp_poll_timeout_ms = 2000;
int			rp_batch_max_kb = 1024;
int			rp_batch_delay_ms = 10;
int			rp_max_log_size_mb = 4096;
int			rp_conflict_history_days = 30;
int			rp_conflict_history_rows = 100000;
int			rp_connect_timeout_s = 5;
int			rp_dead_after_s = 10;
int			rp_handler_timeout_ms = 1000;
int			rp_sibling_warning = 100;
int			rp_join_workers = 2;
int			rp_join_work_mem_kb = 256 * 1024;
int			rp_join_donors = 2;
char	   *rp_unreachable_peers = NULL;
char	   *rp_crash_point = NULL;
bool		rp_raw_stamps = false;

#define RP_MAX_DATABASES_LIMIT 256

typedef struct IntSetting
{
	const char *name;
	const char *description;
	int		   *variable;
	int			minimum;
	int			maximum;
	int			unit;			/* GUC_UNIT_* or 0 */
} IntSetting;

/* Reloadable whole numbers; the default is what the variable is initialised with. */
static const IntSetting int_settings[] = {
	{"replp2p.max_clock_skew",
		"Holds transactions whose stamps are further than this ahead of group time.",
	&rp_max_clock_skew_s, 1, INT_MAX / 1000, GUC_UNIT_S},
	{"replp2p.gossip_interval",
		"Time between two exchanges of state with peers.",
	&rp_gossip_interval_ms, 10, 600000, GUC_UNIT_MS},
	{"replp2p.poll_timeout",
		"How long a peer may keep a pull waiting for new batches.",
	&rp_poll_timeout_ms, 10, 600000, GUC_UNIT_MS},
	{"replp2p.batch_max_size",
		"Seals a batch when it has grown to this size.",
	&rp_batch_max_kb, 1, 262144, GUC_UNIT_KB},
	{"replp2p.batch_delay",
		"Longest wait for more transactions to share a batch, when they come fast.",
	&rp_batch_delay_ms, 0, 10000, GUC_UNIT_MS},
	{"replp2p.max_log_size",
		"Warns when the change logs of a database are larger than this.",
	&rp_max_log_size_mb, 16, INT_MAX, GUC_UNIT_MB},
	{"replp2p.conflict_history_days",
		"Removes conflicts from the history when they are older than this many days.",
	&rp_conflict_history_days, 0, 36500, 0},
	{"replp2p.conflict_history_rows",
		"Keeps at most this many of the newest conflicts in the history.",
	&rp_conflict_history_rows, 0, INT_MAX, 0},
	{"replp2p.connect_timeout",
		"Gives up a connection attempt to a peer after this time.",
	&rp_connect_timeout_s, 1, 3600, GUC_UNIT_S},
	{"replp2p.dead_after",
		"Calls a member unreachable when nothing was heard of it for this time.",
	&rp_dead_after_s, 1, 86400, GUC_UNIT_S},
	{"replp2p.handler_timeout",
		"Cancels a call of a custom conflict handler that takes longer than this.",
	&rp_handler_timeout_ms, 10, 3600000, GUC_UNIT_MS},
	{"replp2p.sibling_warning",
		"Warns in the server's log when a row has more siblings than this; 0 never does.",
	&rp_sibling_warning, 0, INT_MAX, 0},
	{"replp2p.join_workers",
		"How many processes copy tables at the same time while this node joins.",
	&rp_join_workers, 1, RP_JOIN_WORKERS_LIMIT, 0},
	{"replp2p.join_work_mem",
		"Memory for making an index while this node joins.",
	&rp_join_work_mem_kb, 1024, MAX_KILOBYTES, GUC_UNIT_KB},
	{"replp2p.join_donors",
		"From how many members tables are copied at the same time while this node joins.",
	&rp_join_donors, 1, RP_JOIN_DONORS_LIMIT, 0},
};

/* Define one reloadable whole number. */
static void
settings_define_int(const IntSetting *setting)
{
	DefineCustomIntVariable(setting->name, setting->description, NULL, setting->variable,
							*setting->variable, setting->minimum, setting->maximum,
							PGC_SIGHUP, setting->unit, NULL, NULL, NULL);
}

/* Define all settings, with those that need preloading only under it. */
void
rp_settings_define(void)
{
	for (size_t i = 0; i < lengthof(int_settings); i++)
		settings_define_int(&int_settings[i]);

	DefineCustomStringVariable("replp2p.unreachable_peers",
							   "Names of members to which this node cuts its links, for drills.",
							   "A comma-separated list. Nothing is sent to them, and their requests"
							   " are refused.",
							   &rp_unreachable_peers, "", PGC_SIGHUP, GUC_LIST_INPUT,
							   NULL, NULL, NULL);
#ifdef RP_CRASH_POINTS
	DefineCustomStringVariable("replp2p.crash_point",
							   "Place in the code where the next process dies, for tests.",
							   NULL, &rp_crash_point, "", PGC_SIGHUP, GUC_NOT_IN_SAMPLE,
							   NULL, NULL, NULL);
	DefineCustomBoolVariable("replp2p.raw_stamps",
							 "Takes raw commit times as stamps, for a test that must see writes lost.",
							 NULL, &rp_raw_stamps, false, PGC_SIGHUP, GUC_NOT_IN_SAMPLE,
							 NULL, NULL, NULL);
#endif
	if (!process_shared_preload_libraries_in_progress)
		return;
	DefineCustomIntVariable("replp2p.max_databases",
							"How many databases of this cluster can be nodes at the same time.",
							NULL, &rp_max_databases, rp_max_databases,
							1, RP_MAX_DATABASES_LIMIT, PGC_POSTMASTER, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved(RP_SCHEMA);
}

/* Return whether the list of unreachable peers has name in it, blanks around commas ignored. */
bool
rp_peer_is_cut(const char *name)
{
	const char *at = rp_unreachable_peers;
	size_t		length = strlen(name);

	while (at != NULL && *at != '\0')
	{
		size_t		item;

		at += strspn(at, " \t\r\n");
		item = strcspn(at, ",");
		while (item > 0 && strchr(" \t\r\n", at[item - 1]) != NULL)
			item--;
		if (item == length && memcmp(at, name, length) == 0)
			return true;
		at = strchr(at, ',');
		if (at != NULL)
			at++;
	}
	return false;
}
