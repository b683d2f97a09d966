/*
 * test_body.c
 *	  Bodies: a body of every kind of item comes back item by item; deps follow
 *	  from transaction to transaction; what breaks the promises of a body
 *	  (order, density, limits) is refused; cut and flipped bodies do no harm.
 */
#include "hostile.h"

#include "p2p_body.h"

#define BODY_SIZE 8192

typedef struct Fixture
{
	void	   *memory;			/* of a reader */
	P2pVector	deps;			/* of the header: two origins, at 10 and 20 */
	uint8_t		body[BODY_SIZE];
	P2pWriter	w;
	P2pBodyReader reader;
} Fixture;

static const P2pOrigin origin_a = {{{0xaa}}, 1};
static const P2pOrigin origin_b = {{{0xbb}}, 2};

/* Start an empty body. */
static void
fixture_start(Fixture *f)
{
	p2p_writer_init(&f->w, f->body, sizeof(f->body));
}

/* Make memory, deps, and an empty body. */
static int
fixture_setup(void **state)
{
	Fixture    *f = malloc(sizeof(*f));

	assert_non_null(f);
	f->memory = malloc(p2p_body_reader_memory());
	assert_non_null(f->memory);
	p2p_vector_clear(&f->deps);
	assert_true(p2p_vector_set(&f->deps, &origin_a, 10));
	assert_true(p2p_vector_set(&f->deps, &origin_b, 20));
	fixture_start(f);
	*state = f;
	return 0;
}

static int
fixture_teardown(void **state)
{
	Fixture    *f = *state;

	free(f->memory);
	free(f);
	return 0;
}

/* Start reading what was written. */
static void
fixture_read(Fixture *f)
{
	assert_false(f->w.overflow);
	p2p_body_reader_init(&f->reader, f->memory, f->body, f->w.length, &f->deps);
}

/* Write a value of a text. */
static void
put_text_value(P2pWriter *w, P2pValueKind kind, const char *text)
{
	P2pValue	value = {kind, (const uint8_t *) text, text != NULL ? strlen(text) : 0};

	p2p_body_put_value(w, &value);
}

/* Write a relation with this number and ncolumns columns named c. */
static void
put_relation(P2pWriter *w, uint32_t relno, uint32_t ncolumns)
{
	P2pColumn  *columns = calloc(ncolumns + 1, sizeof(P2pColumn));
	P2pRelation relation = {relno, "public", "t", ncolumns, columns};

	assert_non_null(columns);
	for (uint32_t i = 0; i < ncolumns; i++)
	{
		strcpy(columns[i].name, "c");
		strcpy(columns[i].type, "pg_catalog.int4");
		columns[i].flags = (i == 0) ? P2P_COLUMN_KEY : 0;
	}
	p2p_body_put_relation(w, &relation);
	free(columns);
}

/* Write a BEGIN with this seq and the header's deps. */
static void
put_begin(Fixture *f, uint64_t seq)
{
	P2pBegin	begin = {seq, (P2pStamp) seq * 1000, -5, (uint64_t) 7 << 32};

	p2p_body_put_begin(&f->w, &begin, &f->deps, &f->deps);
}

/* Write one transaction with every kind of change in relations 0 (2 columns) and 1 (none). */
static void
put_everything(Fixture *f)
{
	static const uint32_t relnos[] = {1, 0};

	put_relation(&f->w, 0, 2);
	put_relation(&f->w, 1, 0);
	put_begin(f, 42);
	p2p_body_put_insert(&f->w, 0);
	put_text_value(&f->w, P2P_VALUE_BINARY, "four");
	put_text_value(&f->w, P2P_VALUE_NULL, NULL);
	p2p_body_put_update(&f->w, 0, true);
	put_text_value(&f->w, P2P_VALUE_BINARY, "key");
	put_text_value(&f->w, P2P_VALUE_ABSENT, NULL);
	put_text_value(&f->w, P2P_VALUE_TEXT, "new");
	put_text_value(&f->w, P2P_VALUE_UNCHANGED, NULL);
	p2p_body_put_update(&f->w, 0, false);
	put_text_value(&f->w, P2P_VALUE_TEXT, "");
	put_text_value(&f->w, P2P_VALUE_TEXT, "x");
	p2p_body_put_delete(&f->w, 0);
	put_text_value(&f->w, P2P_VALUE_BINARY, "gone");
	put_text_value(&f->w, P2P_VALUE_ABSENT, NULL);
	p2p_body_put_insert(&f->w, 1);
	p2p_body_put_truncate(&f->w, P2P_TRUNCATE_CASCADE, relnos, 2);
	p2p_body_put_commit(&f->w);
}

/* Is it this value? */
static void
assert_value(const P2pValue *value, P2pValueKind kind, const char *text)
{
	assert_int_equal(value->kind, kind);
	if (text == NULL)
	{
		assert_null(value->data);
		assert_int_equal(value->length, 0);
		return;
	}
	assert_int_equal(value->length, strlen(text));
	assert_memory_equal(value->data, text, value->length);
}

/* Read the next item, which must have this tag. */
static void
expect(Fixture *f, P2pItem *item, P2pTag tag)
{
	assert_int_equal(p2p_body_next(&f->reader, item), P2P_OK);
	assert_int_equal(item->tag, tag);
}

static void
test_body_every_item_round_trips(void **state)
{
	Fixture    *f = *state;
	P2pItem		item;

	put_everything(f);
	fixture_read(f);

	expect(f, &item, P2P_TAG_RELATION);
	assert_int_equal(item.relation.relno, 0);
	assert_int_equal(item.relation.ncolumns, 2);
	assert_string_equal(item.relation.schema, "public");
	assert_string_equal(item.relation.name, "t");
	assert_string_equal(item.relation.columns[1].name, "c");
	assert_string_equal(item.relation.columns[1].type, "pg_catalog.int4");
	assert_int_equal(item.relation.columns[0].flags, P2P_COLUMN_KEY);
	assert_int_equal(item.relation.columns[1].flags, 0);
	expect(f, &item, P2P_TAG_RELATION);
	assert_int_equal(item.relation.relno, 1);
	assert_int_equal(item.relation.ncolumns, 0);

	expect(f, &item, P2P_TAG_BEGIN);
	assert_true(item.begin.seq == 42);
	assert_true(item.begin.stamp == 42000);
	assert_true(item.begin.commit_time == -5);
	assert_true(item.begin.xid == (uint64_t) 7 << 32);
	assert_true(p2p_vector_equal(&f->reader.deps, &f->deps));
	assert_true(f->reader.in_transaction);

	expect(f, &item, P2P_TAG_INSERT);
	assert_int_equal(item.ncolumns, 2);
	assert_false(item.has_old);
	assert_value(&f->reader.new_values[0], P2P_VALUE_BINARY, "four");
	assert_value(&f->reader.new_values[1], P2P_VALUE_NULL, NULL);
	expect(f, &item, P2P_TAG_UPDATE);
	assert_true(item.has_old);
	assert_value(&f->reader.old_values[0], P2P_VALUE_BINARY, "key");
	assert_value(&f->reader.old_values[1], P2P_VALUE_ABSENT, NULL);
	assert_value(&f->reader.new_values[0], P2P_VALUE_TEXT, "new");
	assert_value(&f->reader.new_values[1], P2P_VALUE_UNCHANGED, NULL);
	expect(f, &item, P2P_TAG_UPDATE);
	assert_false(item.has_old);
	assert_value(&f->reader.new_values[0], P2P_VALUE_TEXT, "");
	assert_value(&f->reader.new_values[1], P2P_VALUE_TEXT, "x");
	expect(f, &item, P2P_TAG_DELETE);
	assert_true(item.has_old);
	assert_value(&f->reader.old_values[0], P2P_VALUE_BINARY, "gone");
	expect(f, &item, P2P_TAG_INSERT);
	assert_int_equal(item.relno, 1);
	assert_int_equal(item.ncolumns, 0);
	expect(f, &item, P2P_TAG_TRUNCATE);
	assert_int_equal(item.truncate_flags, P2P_TRUNCATE_CASCADE);
	assert_int_equal(item.nrelnos, 2);
	assert_int_equal(f->reader.relnos[0], 1);
	assert_int_equal(f->reader.relnos[1], 0);
	expect(f, &item, P2P_TAG_COMMIT);
	assert_false(f->reader.in_transaction);
	assert_int_equal(p2p_body_next(&f->reader, &item), P2P_END);
	assert_int_equal(p2p_body_next(&f->reader, &item), P2P_END);
}

static void
test_body_values_of_every_length_round_trip(void **state)
{
	Fixture    *f = *state;
	char		text[301];
	P2pItem		item;

	for (size_t length = 0; length <= 300; length++)
	{
		memset(text, 'v', length);
		text[length] = '\0';
		fixture_start(f);
		put_relation(&f->w, 0, 1);
		put_begin(f, 1);
		p2p_body_put_insert(&f->w, 0);
		put_text_value(&f->w, P2P_VALUE_BINARY, text);
		fixture_read(f);
		expect(f, &item, P2P_TAG_RELATION);
		expect(f, &item, P2P_TAG_BEGIN);
		expect(f, &item, P2P_TAG_INSERT);
		assert_value(&f->reader.new_values[0], P2P_VALUE_BINARY, text);
		assert_int_equal(p2p_body_next(&f->reader, &item), P2P_END);
		assert_true(f->reader.in_transaction);
	}
}

static void
test_body_deps_follow_the_previous_transaction(void **state)
{
	Fixture    *f = *state;
	P2pVector	previous = f->deps;
	P2pItem		item;
	uint64_t	a[] = {10, 11, 11, 12};
	uint64_t	b[] = {20, 20, 25, 26};

	for (uint32_t i = 0; i < 4; i++)
	{
		P2pBegin	begin = {i + 1, 0, 0, 0};
		P2pVector	deps = previous;

		assert_true(p2p_vector_set(&deps, &origin_a, a[i]));
		assert_true(p2p_vector_set(&deps, &origin_b, b[i]));
		p2p_body_put_begin(&f->w, &begin, &previous, &deps);
		p2p_body_put_commit(&f->w);
		previous = deps;
	}
	fixture_read(f);
	for (uint32_t i = 0; i < 4; i++)
	{
		expect(f, &item, P2P_TAG_BEGIN);
		assert_true(p2p_vector_get(&f->reader.deps, &origin_a) == a[i]);
		assert_true(p2p_vector_get(&f->reader.deps, &origin_b) == b[i]);
		expect(f, &item, P2P_TAG_COMMIT);
	}
}

static void
test_body_writer_refuses_what_a_reader_would(void **state)
{
	Fixture    *f = *state;
	static uint32_t relnos[P2P_MAX_TRUNCATED + 1];
	static P2pRelation relation;
	P2pVector	other = f->deps;
	P2pBegin	begin = {1, 0, 0, 0};
	P2pValue	huge = {P2P_VALUE_BINARY, NULL, P2P_MAX_VALUE + 1};

	assert_true(p2p_vector_set(&other, &(P2pOrigin) {{{0xcc}}, 1}, 1));
	p2p_body_put_begin(&f->w, &begin, &f->deps, &other);
	assert_true(f->w.overflow);

	fixture_start(f);
	memset(relation.name, 'x', sizeof(relation.name));
	p2p_body_put_relation(&f->w, &relation);
	assert_true(f->w.overflow);

	fixture_start(f);
	strcpy(relation.name, "t");
	relation.ncolumns = P2P_MAX_COLUMNS + 1;
	p2p_body_put_relation(&f->w, &relation);
	assert_true(f->w.overflow);

	fixture_start(f);
	p2p_body_put_truncate(&f->w, 0, relnos, P2P_MAX_TRUNCATED + 1);
	assert_true(f->w.overflow);

	fixture_start(f);
	p2p_body_put_value(&f->w, &huge);
	assert_true(f->w.overflow);
	assert_true(f->w.length <= f->w.capacity);
}

/* Read what was written to its first error, which must be status and stay an error. */
static void
expect_refusal(Fixture *f, P2pStatus expected)
{
	P2pItem		item;
	P2pStatus	status;

	fixture_read(f);
	while ((status = p2p_body_next(&f->reader, &item)) == P2P_OK)
		;
	assert_int_equal(status, expected);
	assert_int_equal(p2p_body_next(&f->reader, &item), P2P_CORRUPT);
	fixture_start(f);
}

static void
test_body_reader_refuses_items_out_of_order(void **state)
{
	Fixture    *f = *state;
	static const uint32_t relnos[] = {1};

	/* rows and ends outside of a transaction, a transaction inside another */
	put_relation(&f->w, 0, 0);
	p2p_body_put_insert(&f->w, 0);
	expect_refusal(f, P2P_CORRUPT);
	p2p_body_put_commit(&f->w);
	expect_refusal(f, P2P_CORRUPT);
	p2p_body_put_truncate(&f->w, 0, relnos, 0);
	expect_refusal(f, P2P_CORRUPT);
	put_begin(f, 1);
	put_begin(f, 2);
	expect_refusal(f, P2P_CORRUPT);

	/* seqs: none, a gap, a repetition */
	put_begin(f, 0);
	expect_refusal(f, P2P_CORRUPT);
	put_begin(f, 1);
	p2p_body_put_commit(&f->w);
	put_begin(f, 3);
	expect_refusal(f, P2P_CORRUPT);
	put_begin(f, 1);
	p2p_body_put_commit(&f->w);
	put_begin(f, 1);
	expect_refusal(f, P2P_CORRUPT);

	/* relations that were not described, or not densely */
	put_begin(f, 1);
	p2p_body_put_delete(&f->w, 0);
	expect_refusal(f, P2P_CORRUPT);
	put_relation(&f->w, 0, 0);
	put_begin(f, 1);
	p2p_body_put_truncate(&f->w, 0, relnos, 1);
	expect_refusal(f, P2P_CORRUPT);
	put_relation(&f->w, 1, 0);
	expect_refusal(f, P2P_CORRUPT);
	put_relation(&f->w, 0, 0);
	put_relation(&f->w, 0, 0);
	expect_refusal(f, P2P_CORRUPT);
}

/* Write a BEGIN with these two pairs of dependency changes, as they stand. */
static void
put_raw_begin(P2pWriter *w, uint64_t n, uint64_t first, uint64_t second)
{
	p2p_put_u8(w, P2P_TAG_BEGIN);
	p2p_put_varint(w, 1);
	p2p_put_i64(w, 0);
	p2p_put_i64(w, 0);
	p2p_put_u64(w, 0);
	p2p_put_varint(w, n);
	p2p_put_varint(w, first);
	p2p_put_varint(w, 1);
	p2p_put_varint(w, second);
	p2p_put_varint(w, 1);
}

static void
test_body_reader_refuses_bad_dependency_indexes(void **state)
{
	Fixture    *f = *state;
	P2pItem		item;

	put_raw_begin(&f->w, 2, 0, 1);
	fixture_read(f);
	expect(f, &item, P2P_TAG_BEGIN);
	fixture_start(f);
	put_raw_begin(&f->w, 2, 1, 0);
	expect_refusal(f, P2P_CORRUPT);
	put_raw_begin(&f->w, 2, 1, 1);
	expect_refusal(f, P2P_CORRUPT);
	put_raw_begin(&f->w, 2, 0, 2);
	expect_refusal(f, P2P_CORRUPT);
	put_raw_begin(&f->w, 3, 0, 1);
	expect_refusal(f, P2P_CORRUPT);
	put_raw_begin(&f->w, 2, 0, UINT64_MAX);
	expect_refusal(f, P2P_CORRUPT);
	put_raw_begin(&f->w, UINT64_MAX, 0, 1);
	expect_refusal(f, P2P_CORRUPT);
}

static void
test_body_reader_holds_its_limits(void **state)
{
	Fixture    *f = *state;
	static uint8_t large[64 * 1024];
	P2pItem		item;
	P2pStatus	status;
	uint32_t	n = 0;

	p2p_put_u8(&f->w, P2P_TAG_RELATION);
	p2p_put_varint(&f->w, 0);
	p2p_put_text(&f->w, "s");
	p2p_put_text(&f->w, "t");
	p2p_put_varint(&f->w, P2P_MAX_COLUMNS + 1);
	expect_refusal(f, P2P_TOO_LARGE);

	put_begin(f, 1);
	p2p_put_u8(&f->w, P2P_TAG_TRUNCATE);
	p2p_put_u8(&f->w, 0);
	p2p_put_varint(&f->w, P2P_MAX_TRUNCATED + 1);
	expect_refusal(f, P2P_TOO_LARGE);

	/* one relation too many */
	p2p_writer_init(&f->w, large, sizeof(large));
	for (uint32_t i = 0; i <= P2P_MAX_BODY_RELATIONS; i++)
	{
		P2pRelation relation = {i, "s", "t", 0, NULL};

		p2p_body_put_relation(&f->w, &relation);
	}
	assert_false(f->w.overflow);
	p2p_body_reader_init(&f->reader, f->memory, large, f->w.length, &f->deps);
	while ((status = p2p_body_next(&f->reader, &item)) == P2P_OK)
		n++;
	assert_int_equal(status, P2P_TOO_LARGE);
	assert_int_equal(n, P2P_MAX_BODY_RELATIONS);
}

static void
test_body_widest_table_fits_the_memory(void **state)
{
	Fixture    *f = *state;
	size_t		size = (size_t) P2P_MAX_COLUMNS * 64;
	uint8_t    *large = malloc(size);
	P2pItem		item;

	assert_non_null(large);
	p2p_writer_init(&f->w, large, size);
	put_relation(&f->w, 0, P2P_MAX_COLUMNS);
	put_begin(f, 1);
	p2p_body_put_update(&f->w, 0, true);
	for (int i = 0; i < 2 * P2P_MAX_COLUMNS; i++)
		put_text_value(&f->w, P2P_VALUE_TEXT, "v");
	assert_false(f->w.overflow);
	p2p_body_reader_init(&f->reader, f->memory, large, f->w.length, &f->deps);
	expect(f, &item, P2P_TAG_RELATION);
	assert_string_equal(item.relation.columns[P2P_MAX_COLUMNS - 1].name, "c");
	expect(f, &item, P2P_TAG_BEGIN);
	expect(f, &item, P2P_TAG_UPDATE);
	assert_value(&f->reader.old_values[P2P_MAX_COLUMNS - 1], P2P_VALUE_TEXT, "v");
	assert_value(&f->reader.new_values[P2P_MAX_COLUMNS - 1], P2P_VALUE_TEXT, "v");
	free(large);
}

/* Read hostile bytes to their end, looking at every value. */
static void
read_body(const uint8_t *bytes, size_t length, void *context)
{
	Fixture    *f = context;
	P2pItem		item;
	P2pStatus	status;
	size_t		items = 0;
	uint64_t	seen = 0;

	p2p_body_reader_init(&f->reader, f->memory, bytes, length, &f->deps);
	while ((status = p2p_body_next(&f->reader, &item)) == P2P_OK)
	{
		assert_true(++items <= length);
		if (item.tag != P2P_TAG_INSERT && item.tag != P2P_TAG_UPDATE && item.tag != P2P_TAG_DELETE)
			continue;
		for (uint32_t i = 0; i < item.ncolumns; i++)
		{
			const P2pValue *old_value = &f->reader.old_values[i];
			const P2pValue *new_value = &f->reader.new_values[i];

			if (item.has_old && old_value->length > 0)
				seen += old_value->data[old_value->length - 1];
			if (item.tag != P2P_TAG_DELETE && new_value->length > 0)
				seen += new_value->data[new_value->length - 1];
		}
	}
	assert_true(seen <= (uint64_t) 255 * 2 * P2P_MAX_COLUMNS * length);
	assert_true(status == P2P_END || status == P2P_CORRUPT || status == P2P_TOO_LARGE);
}

static void
test_body_hostile_bytes_do_no_harm(void **state)
{
	Fixture    *f = *state;
	Fixture    *source = malloc(sizeof(*source));

	assert_non_null(source);
	put_everything(f);
	*source = *f;
	hostile_truncate(source->body, source->w.length, read_body, f);
	hostile_flip(source->body, source->w.length, 20000, read_body, f);
	free(source);
}

#define BODY_TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		BODY_TEST(test_body_every_item_round_trips),
		BODY_TEST(test_body_values_of_every_length_round_trip),
		BODY_TEST(test_body_deps_follow_the_previous_transaction),
		BODY_TEST(test_body_writer_refuses_what_a_reader_would),
		BODY_TEST(test_body_reader_refuses_items_out_of_order),
		BODY_TEST(test_body_reader_refuses_bad_dependency_indexes),
		BODY_TEST(test_body_reader_holds_its_limits),
		BODY_TEST(test_body_widest_table_fits_the_memory),
		BODY_TEST(test_body_hostile_bytes_do_no_harm),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
