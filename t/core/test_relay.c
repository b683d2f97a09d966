/*
 * test_relay.c
 *	  Fan-out over relays: a tree for each origin, the same for all who know
 *	  the same members; and a relay that lags is avoided.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "p2p_crypto.h"
#include "p2p_relay.h"

#define SECOND ((int64_t) 1000000)
#define PATIENCE SECOND

/* Fill members with n nodes; ids are hashes, as those of real nodes are. */
static void
make_members(P2pOrigin *members, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
	{
		uint8_t		hash[P2P_HASH_SIZE];

		p2p_hash(&i, sizeof(i), NULL, 0, hash);
		memcpy(members[i].id.bytes, hash, P2P_ID_SIZE);
		members[i].epoch = 1;
	}
}

/* Whom does member ask for the batches of origin? All by index. */
static uint32_t
source_of(const P2pOrigin *members, uint32_t n, uint32_t member, uint32_t origin)
{
	uint32_t	relay;

	return p2p_relay_find(members, n, &members[member], &members[origin], P2P_FANOUT, &relay) ?
		relay : origin;
}

static void
test_relay_small_groups_have_none(void **state)
{
	P2pOrigin	members[P2P_FANOUT + 1];

	(void) state;
	make_members(members, P2P_FANOUT + 1);
	for (uint32_t origin = 0; origin <= P2P_FANOUT; origin++)
	{
		for (uint32_t i = 0; i <= P2P_FANOUT; i++)
			assert_int_equal(source_of(members, P2P_FANOUT + 1, i, origin), origin);
	}
}

/* For every size and origin: nobody is asked by more than the fan-out, and all ways lead to the origin, soon. */
static void
test_relay_makes_a_tree_of_small_depth(void **state)
{
	P2pOrigin	members[P2P_MAX_MEMBERS];

	(void) state;
	make_members(members, P2P_MAX_MEMBERS);
	for (uint32_t n = 1; n <= P2P_MAX_MEMBERS; n += n < 12 ? 1 : 29)
	{
		for (uint32_t origin = 0; origin < n; origin += n < 12 ? 1 : 7)
		{
			uint32_t	source[P2P_MAX_MEMBERS];
			uint32_t	askers[P2P_MAX_MEMBERS] = {0};

			for (uint32_t i = 0; i < n; i++)
				source[i] = source_of(members, n, i, origin);
			for (uint32_t i = 0; i < n; i++)
			{
				uint32_t	depth = 0;

				for (uint32_t at = i; at != origin; at = source[at])
					assert_true(++depth <= 5);	/* 3 + 9 + 27 + 81 + ... */
				if (i != origin)
					assert_true(++askers[source[i]] <= P2P_FANOUT);
			}
		}
	}
}

static void
test_relay_does_not_hang_on_the_order_of_the_list(void **state)
{
	P2pOrigin	members[20];
	P2pOrigin	reversed[20];

	(void) state;
	make_members(members, 20);
	for (uint32_t i = 0; i < 20; i++)
		reversed[i] = members[19 - i];
	for (uint32_t i = 0; i < 20; i++)
		assert_int_equal(source_of(members, 20, i, 7), 19 - source_of(reversed, 20, 19 - i, 12));
}

/* Each origin has a tree of its own: nobody relays for everybody. */
static void
test_relay_work_is_shared(void **state)
{
	P2pOrigin	members[16];
	uint32_t	askers[16] = {0};

	(void) state;
	make_members(members, 16);
	for (uint32_t origin = 0; origin < 16; origin++)
	{
		for (uint32_t i = 0; i < 16; i++)
		{
			uint32_t	source = source_of(members, 16, i, origin);

			if (i != origin && source != origin)
				askers[source]++;
		}
	}
	/* 16 origins, 12 of 15 receivers each over a relay: 12 for each node on the average */
	for (uint32_t i = 0; i < 16; i++)
		assert_in_range(askers[i], 3, 27);
}

static void
test_relay_strangers_have_none(void **state)
{
	P2pOrigin	members[21];
	uint32_t	relay;

	(void) state;
	make_members(members, 21);
	/* an origin that has left; a node that is not admitted yet; no fan-out */
	assert_false(p2p_relay_find(members, 20, &members[3], &members[20], P2P_FANOUT, &relay));
	assert_false(p2p_relay_find(members, 20, &members[20], &members[3], P2P_FANOUT, &relay));
	for (uint32_t i = 0; i < 20; i++)
		assert_false(p2p_relay_find(members, 20, &members[i], &members[3], 0, &relay));
	assert_false(p2p_relay_find(members, 0, &members[1], &members[3], P2P_FANOUT, &relay));
}

static void
test_relay_that_keeps_up_is_trusted(void **state)
{
	P2pRelayTrust trust = {0};

	(void) state;
	assert_true(p2p_relay_is_trusted(&trust, 1));
	for (int64_t now = SECOND; now < 100 * SECOND; now += SECOND)
	{
		uint64_t	head = (uint64_t) (now / 1000);

		/* always behind what was said last, never behind what was said a second ago */
		p2p_relay_expect(&trust, head, head - 500, now);
		assert_false(p2p_relay_is_late(&trust, head + 500, now + SECOND, PATIENCE));
		assert_true(p2p_relay_is_trusted(&trust, now + SECOND));
	}
}

static void
test_relay_that_lags_is_avoided(void **state)
{
	P2pRelayTrust trust = {0};

	(void) state;
	p2p_relay_expect(&trust, 100, 90, SECOND);
	/* what the origin says later does not give the relay more time */
	p2p_relay_expect(&trust, 200, 95, SECOND + SECOND / 2);
	assert_false(p2p_relay_is_late(&trust, 99, 2 * SECOND - 1, PATIENCE));
	assert_true(p2p_relay_is_late(&trust, 99, 2 * SECOND, PATIENCE));
	assert_false(p2p_relay_is_trusted(&trust, 2 * SECOND));
	assert_false(p2p_relay_is_trusted(&trust, 32 * SECOND - 1));
	assert_true(p2p_relay_is_trusted(&trust, 32 * SECOND));
	/* said once */
	assert_false(p2p_relay_is_late(&trust, 99, 3 * SECOND, PATIENCE));
}

static void
test_relay_is_avoided_longer_each_time(void **state)
{
	P2pRelayTrust trust = {0};
	int64_t		now = SECOND;
	int64_t		avoided = 0;

	(void) state;
	for (int i = 0; i < 10; i++)
	{
		int64_t		before = avoided;

		p2p_relay_expect(&trust, 100, 90, now);
		now += PATIENCE;
		assert_true(p2p_relay_is_late(&trust, 90, now, PATIENCE));
		avoided = trust.avoid_until_us - now;
		assert_true(avoided == 600 * SECOND || avoided >= 2 * before);
		now = trust.avoid_until_us;
	}
	assert_true(avoided == 600 * SECOND);

	/* once it has brought what was awaited, all is forgiven */
	p2p_relay_expect(&trust, 100, 90, now);
	p2p_relay_expect(&trust, 200, 150, now + 1);
	assert_true(p2p_relay_is_late(&trust, 150, now + 1 + PATIENCE, PATIENCE));
	assert_int_equal(trust.avoid_until_us, now + 1 + PATIENCE + 30 * SECOND);
}

static void
test_relay_nothing_is_awaited_of_others(void **state)
{
	P2pRelayTrust trust = {0};

	(void) state;
	p2p_relay_expect(&trust, 100, 90, SECOND);
	p2p_relay_forget(&trust);
	assert_false(p2p_relay_is_late(&trust, 90, 100 * SECOND, PATIENCE));
	/* an origin that has no more than we do */
	p2p_relay_expect(&trust, 90, 90, SECOND);
	assert_false(p2p_relay_is_late(&trust, 90, 100 * SECOND, PATIENCE));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_relay_small_groups_have_none),
		cmocka_unit_test(test_relay_makes_a_tree_of_small_depth),
		cmocka_unit_test(test_relay_does_not_hang_on_the_order_of_the_list),
		cmocka_unit_test(test_relay_work_is_shared),
		cmocka_unit_test(test_relay_strangers_have_none),
		cmocka_unit_test(test_relay_that_keeps_up_is_trusted),
		cmocka_unit_test(test_relay_that_lags_is_avoided),
		cmocka_unit_test(test_relay_is_avoided_longer_each_time),
		cmocka_unit_test(test_relay_nothing_is_awaited_of_others),
	};

	if (!p2p_crypto_init())
		return 1;
	return cmocka_run_group_tests(tests, NULL, NULL);
}
