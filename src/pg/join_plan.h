/*
 * join_plan.h
 *	  Of a join that is given up: what others than the join worker do about it.
 */
#ifndef RP_JOIN_PLAN_H
#define RP_JOIN_PLAN_H

/*
 * Drop what a join has made so far, and its plan; false: there is none. In a
 * transaction, as superuser; waits for whoever writes for the join.
 */
bool		rp_join_plan_drop(void);

/* Shut the tables that are being copied, and only those (join_guard.c). */
void		rp_join_guard_install(void);

#endif							/* RP_JOIN_PLAN_H */
