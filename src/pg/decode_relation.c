/*
 * decode_relation.c
 *	  Which tables are replicated, and how their rows are sent: a cache of
 *	  tables as the historic snapshot shows them.
 *
 * Replicated is every permanent table that is not the server's, not our own
 * (but replp2p.membership and handler_changes are), and not in replp2p.excluded_tables.
 * That and replp2p.table_handlers, which names the columns that are counters, are
 * user catalog tables, so they are read as they were when the change was made, by the
 * same snapshot as the columns.
 *
 * An entry holds until the server invalidates the table, a schema or a type
 * changes, or a change of excluded_tables or table_handlers is decoded; decoding carries out the
 * invalidations of each transaction at their place in the WAL. Whoever writes those two
 * sends a relcache invalidation of the table in question, so that the
 * switch also comes at its place within transactions that were running meanwhile.
 *
 * The key of a table is its replica identity index, or its primary key under
 * REPLICA IDENTITY FULL. A key that contains a generated column is none: the
 * column is not sent. Without a key, inserts and truncates are replicated only.
 *
 * A column is sent in binary if its type, after domains and arrays, is a base
 * type that every server has under the same oid and whose bytes mean the same
 * everywhere: no oids, no transaction ids, no trees. All others go as text.
 *
 * Called by decode.c only, inside decoding callbacks; the invalidation callbacks
 * may run at any time and only mark.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/transam.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "nodes/bitmapset.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "decode.h"
#include "hashtable.h"
#include "settings.h"

/* Beyond so many tables the cache is emptied and begins anew. */
#define MAX_CACHED_RELATIONS 16384

#define EXCLUSION_LIST "excluded_tables"
#define MEMBERSHIP_LOG "membership"
#define HANDLER_LOG "handler_changes"
#define HANDLER_LIST "table_handlers"

static HTAB *relations = NULL;
static RpDecodeRelation *last_relation = NULL;
static bool building = false;

/* Columns of table_handlers. */
#define ANUM_HANDLER_SETTING 7
#define ANUM_HANDLER_RELATION 9
#define ANUM_HANDLER_COLUMN 10

/* What excluded_tables and table_handlers said the last time that an entry was built. */
typedef struct Rule
{
	Oid			relid;
	AttrNumber	counter;		/* a column that counts; 0: the table is excluded */
} Rule;

static bool rules_valid = false;
static Rule *rules = NULL;
static int	nrules = 0;
static int	max_rules = 0;

static void relation_forget(Datum arg, Oid relid);
static void relations_forget(Datum arg, int cache, uint32 hash);
static void relations_empty(void);
static void relation_build(RpDecodeRelation *entry, Relation relation);
static bool relation_is_replicated(RpDecodeRelation *entry, Relation relation);
static bool rule_holds(Oid relid, AttrNumber counter);
static bool exclusion_rule(HeapTuple tuple, TupleDesc desc, Rule *rule);
static bool counter_rule(HeapTuple tuple, TupleDesc desc, Rule *rule);
static void rules_load(const char *list_name,
					   bool (*rule_of) (HeapTuple tuple, TupleDesc desc, Rule *rule));
static void columns_build(RpDecodeRelation *entry, Relation relation, Bitmapset *key);
static void column_build(RpDecodeColumn *column, Form_pg_attribute att, MemoryContext memory);
static RpColumnForm form_of_send(Oid send, Form_pg_attribute att);

/* Make the cache and have the server tell us of changes. */
void
rp_decode_relations_init(void)
{
	relations = rp_hash_make("replp2p decoded relations", TopMemoryContext, 256, sizeof(Oid),
							 sizeof(RpDecodeRelation));
	CacheRegisterRelcacheCallback(relation_forget, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, relations_forget, (Datum) 0);
	CacheRegisterSyscacheCallback(TYPEOID, relations_forget, (Datum) 0);
}

/* Return the entry of relation, built anew if it is not valid. */
RpDecodeRelation *
rp_decode_relation(Relation relation)
{
	Oid			relid = RelationGetRelid(relation);
	RpDecodeRelation *entry = last_relation;
	bool		found;

	if (entry != NULL && entry->relid == relid && entry->valid)
		return entry;

	if (hash_get_num_entries(relations) >= MAX_CACHED_RELATIONS)
		relations_empty();
	entry = hash_search(relations, &relid, HASH_ENTER, &found);
	if (!found)
	{
		entry->valid = false;
		entry->memory = AllocSetContextCreate(TopMemoryContext, "replp2p decoded relation",
											  ALLOCSET_SMALL_SIZES);
	}
	if (!entry->valid)
	{
		building = true;
		relation_build(entry, relation);
		building = false;
	}
	last_relation = entry;
	return entry;
}

/* Forget everything if an entry was left half built: it calls itself valid already. */
void
rp_decode_relation_check(void)
{
	if (building)
		relations_forget((Datum) 0, 0, 0);
	building = false;
}

/* Judge every table again. */
void
rp_decode_rules_changed(void)
{
	relations_forget((Datum) 0, 0, 0);
}

/* The server says that a table (InvalidOid: any) has changed. */
static void
relation_forget(Datum arg, Oid relid)
{
	RpDecodeRelation *entry;

	if (!OidIsValid(relid))
	{
		relations_forget(arg, 0, 0);
		return;
	}
	entry = hash_search(relations, &relid, HASH_FIND, NULL);
	if (entry != NULL)
		entry->valid = false;
	/* The table may have been excluded or included: read the list again, too. */
	rules_valid = false;
}

/* The server says that something changed on which any entry may hang. */
static void
relations_forget(Datum arg, int cache, uint32 hash)
{
	HASH_SEQ_STATUS status;
	RpDecodeRelation *entry;

	(void) arg;
	(void) cache;
	(void) hash;
	hash_seq_init(&status, relations);
	while ((entry = hash_seq_search(&status)) != NULL)
		entry->valid = false;
	rules_valid = false;
}

/* Give the memory of all entries back. */
static void
relations_empty(void)
{
	HASH_SEQ_STATUS status;
	RpDecodeRelation *entry;

	last_relation = NULL;
	hash_seq_init(&status, relations);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		MemoryContextDelete(entry->memory);
		hash_search(relations, &entry->relid, HASH_REMOVE, NULL);
	}
}

/* Fill an entry from the catalogs; invalidated meanwhile, it is built again at its next use. */
static void
relation_build(RpDecodeRelation *entry, Relation relation)
{
	Oid			relid = entry->relid;
	MemoryContext memory = entry->memory;
	MemoryContext old;
	Bitmapset  *key;

	MemoryContextReset(memory);
	memset(entry, 0, sizeof(*entry));
	entry->relid = relid;
	entry->memory = memory;
	entry->valid = true;
	entry->replicated = relation_is_replicated(entry, relation);
	if (!entry->replicated)
		return;

	old = MemoryContextSwitchTo(memory);
	key = rp_decode_key(relation);
	entry->has_key = !bms_is_empty(key);
	entry->full = relation->rd_rel->relreplident == REPLICA_IDENTITY_FULL;
	columns_build(entry, relation, key);
	MemoryContextSwitchTo(old);
}

/* Are changes of this table for others? Sets is_rule. */
static bool
relation_is_replicated(RpDecodeRelation *entry, Relation relation)
{
	Oid			schema = RelationGetNamespace(relation);
	char	   *schema_name;

	if (relation->rd_rel->relkind != RELKIND_RELATION ||
		relation->rd_rel->relpersistence != RELPERSISTENCE_PERMANENT)
		return false;
	if (IsCatalogNamespace(schema) || IsToastNamespace(schema))
		return false;
	schema_name = get_namespace_name(schema);
	if (schema_name == NULL || strcmp(schema_name, "information_schema") == 0)
		return false;
	if (strcmp(schema_name, RP_SCHEMA) == 0)
	{
		const char *name = RelationGetRelationName(relation);

		entry->is_rule = strcmp(name, EXCLUSION_LIST) == 0 || strcmp(name, HANDLER_LIST) == 0;
		return strcmp(name, MEMBERSHIP_LOG) == 0 || strcmp(name, HANDLER_LOG) == 0;
	}
	return !rule_holds(entry->relid, 0);
}

/* Is there such a rule, in the current historic snapshot? */
static bool
rule_holds(Oid relid, AttrNumber counter)
{
	if (!rules_valid)
	{
		nrules = 0;
		rules_valid = true;
		rules_load(EXCLUSION_LIST, exclusion_rule);
		rules_load(HANDLER_LIST, counter_rule);
	}
	for (int i = 0; i < nrules; i++)
	{
		if (rules[i].relid == relid && rules[i].counter == counter)
			return true;
	}
	return false;
}

/* A row of excluded_tables. */
static bool
exclusion_rule(HeapTuple tuple, TupleDesc desc, Rule *rule)
{
	bool		isnull;

	rule->relid = DatumGetObjectId(heap_getattr(tuple, 1, desc, &isnull));
	rule->counter = 0;
	return !isnull;
}

/*
 * A row of table_handlers; false: not that of a counter. An older one that another supersedes does
 * no harm.
 */
static bool
counter_rule(HeapTuple tuple, TupleDesc desc, Rule *rule)
{
	bool		isnull;
	Datum		setting = heap_getattr(tuple, ANUM_HANDLER_SETTING, desc, &isnull);

	if (isnull || strcmp(TextDatumGetCString(setting), "counter") != 0)
		return false;
	rule->relid = DatumGetObjectId(heap_getattr(tuple, ANUM_HANDLER_RELATION, desc, &isnull));
	rule->counter = DatumGetInt16(heap_getattr(tuple, ANUM_HANDLER_COLUMN, desc, &isnull));
	return rule->counter > 0;
}

/* Read one of our lists. Without a lock on it, as decoding opens all tables. */
static void
rules_load(const char *list_name, bool (*rule_of) (HeapTuple tuple, TupleDesc desc, Rule *rule))
{
	Oid			schema = get_namespace_oid(RP_SCHEMA, true);
	Oid			relid = OidIsValid(schema) ? get_relname_relid(list_name, schema) : InvalidOid;
	Relation	list = OidIsValid(relid) ? RelationIdGetRelation(relid) : NULL;
	SysScanDesc scan;
	HeapTuple	tuple;

	if (!RelationIsValid(list))
		return;
	scan = systable_beginscan(list, InvalidOid, false, NULL, 0, NULL);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		if (nrules == max_rules)
		{
			max_rules = Max(64, max_rules * 2);
			if (rules == NULL)
				rules = MemoryContextAlloc(TopMemoryContext, max_rules * sizeof(Rule));
			else
				rules = repalloc_huge(rules, max_rules * sizeof(Rule));
		}
		if (rule_of(tuple, RelationGetDescr(list), &rules[nrules]))
			nrules++;
	}
	systable_endscan(scan);
	RelationClose(list);
}

/* Return the attribute numbers of the table's key; empty if it has none that is of use. */
Bitmapset *
rp_decode_key(Relation relation)
{
	TupleDesc	desc = RelationGetDescr(relation);
	Bitmapset  *key = NULL;
	Oid			index_oid;
	Relation	index;

	list_free(RelationGetIndexList(relation));	/* sets the two fields */
	if (relation->rd_rel->relreplident == REPLICA_IDENTITY_FULL)
		index_oid = relation->rd_pkindex;
	else
		index_oid = relation->rd_replidindex;
	index = OidIsValid(index_oid) ? RelationIdGetRelation(index_oid) : NULL;
	if (!RelationIsValid(index))
		return NULL;

	for (int i = 0; i < index->rd_index->indnkeyatts; i++)
	{
		AttrNumber	attnum = index->rd_index->indkey.values[i];

		if (attnum <= 0 || TupleDescAttr(desc, attnum - 1)->attgenerated != '\0')
		{
			RelationClose(index);
			return NULL;
		}
		key = bms_add_member(key, attnum);
	}
	RelationClose(index);
	return key;
}

/* Describe the columns that are sent. In the entry's memory. */
static void
columns_build(RpDecodeRelation *entry, Relation relation, Bitmapset *key)
{
	TupleDesc	desc = RelationGetDescr(relation);
	P2pRelation *description = &entry->description;
	P2pWriter	counter;
	int			n = 0;

	entry->natts = desc->natts;
	entry->columns = palloc0(desc->natts * sizeof(RpDecodeColumn));
	entry->new_values = palloc0(desc->natts * sizeof(Datum));
	entry->old_values = palloc0(desc->natts * sizeof(Datum));
	entry->new_nulls = palloc0(desc->natts * sizeof(bool));
	entry->old_nulls = palloc0(desc->natts * sizeof(bool));
	entry->new_missing = palloc0(desc->natts * sizeof(bool));
	description->columns = palloc0(desc->natts * sizeof(P2pColumn));
	strlcpy(description->schema, get_namespace_name(RelationGetNamespace(relation)), P2P_NAME_SIZE);
	strlcpy(description->name, RelationGetRelationName(relation), P2P_NAME_SIZE);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		P2pColumn  *column = &description->columns[n];
		char	   *type;

		if (att->attisdropped || att->attgenerated != '\0')
			continue;
		type = format_type_be_qualified(att->atttypid);
		strlcpy(column->name, NameStr(att->attname), P2P_NAME_SIZE);
		memcpy(column->type, type, pg_mbcliplen(type, strlen(type), P2P_TYPE_NAME_SIZE - 1));
		entry->columns[n].attno = i;
		entry->columns[n].key = bms_is_member(i + 1, key);
		entry->columns[n].counter = entry->full && rule_holds(entry->relid, i + 1);
		entry->has_counters |= entry->columns[n].counter;
		column->flags = entry->columns[n].key ? P2P_COLUMN_KEY : 0;
		column_build(&entry->columns[n], att, entry->memory);
		n++;
	}
	description->ncolumns = n;
	p2p_writer_init(&counter, NULL, 0);
	p2p_body_put_relation(&counter, description);
	entry->description_size = counter.length;
}

/* Choose how a column's values are sent. */
static void
column_build(RpDecodeColumn *column, Form_pg_attribute att, MemoryContext memory)
{
	Oid			base = getBaseType(att->atttypid);
	Oid			function;
	bool		varlena;

	column->byval = att->attbyval;
	column->length = att->attlen;
	if (rp_type_is_portable(base))
	{
		getTypeBinaryOutputInfo(base, &function, &varlena);
		column->form = form_of_send(function, att);
	}
	else
	{
		getTypeOutputInfo(att->atttypid, &function, &varlena);
		column->form = RP_FORM_TEXT;
	}
	fmgr_info_cxt(function, &column->function, memory);
}

/* Do the bytes of the type's send function mean the same on every server? */
bool
rp_type_is_portable(Oid type)
{
	Oid			element = get_element_type(type);
	HeapTuple	tuple;
	bool		portable;

	if (OidIsValid(element))
		type = element;
	if (type >= FirstGenbkiObjectId)
		return false;
	switch (type)
	{
		case OIDOID:
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
		case REGCOLLATIONOID:
		case OIDVECTOROID:
		case XIDOID:
		case CIDOID:
		case TIDOID:
		case XMLOID:			/* its binary form states an encoding */
		case PG_NODE_TREEOID:
		case PG_NDISTINCTOID:
		case PG_DEPENDENCIESOID:
		case PG_MCV_LISTOID:
			return false;
		default:
			break;
	}

	tuple = SearchSysCache1(TYPEOID, ObjectIdGetDatum(type));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for type %u", type);
	portable = ((Form_pg_type) GETSTRUCT(tuple))->typtype == TYPTYPE_BASE &&
		OidIsValid(((Form_pg_type) GETSTRUCT(tuple))->typsend) &&
		OidIsValid(((Form_pg_type) GETSTRUCT(tuple))->typreceive);
	ReleaseSysCache(tuple);
	return portable;
}

/* Know the send functions that need no call. */
static RpColumnForm
form_of_send(Oid send, Form_pg_attribute att)
{
	switch (send)
	{
		case F_BOOLSEND:
		case F_CHARSEND:
		case F_INT2SEND:
		case F_INT4SEND:
		case F_INT8SEND:
		case F_FLOAT4SEND:
		case F_FLOAT8SEND:
		case F_CASH_SEND:
		case F_DATE_SEND:
		case F_TIME_SEND:
		case F_TIMESTAMP_SEND:
		case F_TIMESTAMPTZ_SEND:
			return att->attbyval ? RP_FORM_FIXED : RP_FORM_SEND;
		case F_UUID_SEND:
			return RP_FORM_RAW;
		case F_TEXTSEND:
		case F_VARCHARSEND:
		case F_BPCHARSEND:
		case F_BYTEASEND:
		case F_JSON_SEND:
			return RP_FORM_BYTES;
		default:
			return RP_FORM_SEND;
	}
}
