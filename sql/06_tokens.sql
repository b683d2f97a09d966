--
-- Consistency tokens on one node: what they stand for, and bad ones.
--
SELECT replp2p.current_token() AS before \gset
INSERT INTO first VALUES (2, 'token');
SELECT replp2p.current_token() AS after \gset
SELECT :'before' ~ '^t1:[A-Za-z0-9_-]+$' AS is_token, :'before' <> :'after' AS moved;

-- both are fulfilled here
SELECT replp2p.wait_for_token(:'before');
SELECT replp2p.wait_for_token(:'after', '10 s');
SELECT replp2p.wait_for_token(token => :'after', timeout => '0 s');

-- in a read-only transaction, too
BEGIN READ ONLY;
SELECT replp2p.wait_for_token(replp2p.current_token());
COMMIT;

-- a transaction that has written is not in any token
BEGIN;
INSERT INTO first VALUES (3, 'not committed');
SELECT replp2p.current_token();
ROLLBACK;
BEGIN;
INSERT INTO first VALUES (3, 'not committed');
SELECT replp2p.wait_for_replication();
ROLLBACK;
-- but may wait for one
BEGIN;
INSERT INTO first VALUES (3, 'not committed');
SELECT replp2p.wait_for_token(:'after');
ROLLBACK;

-- tokens that are none, or of another group
SELECT replp2p.wait_for_token(NULL);
SELECT replp2p.wait_for_token('');
SELECT replp2p.wait_for_token('t1:');
SELECT replp2p.wait_for_token('t2:AQEBAQEBAQEBAQEBAQEBAQDHpLp9');
SELECT replp2p.wait_for_token('t1:AQEBAQEBAQEBAQEBAQEBAQDHpLp8');
SELECT replp2p.wait_for_token('t1:AQEBAQEBAQEBAQEBAQEBAQDHpLp9');
SELECT replp2p.wait_for_token(repeat('x', 100000));
SELECT replp2p.wait_for_token(:'after', NULL);
SELECT replp2p.wait_for_token(:'after', '-1 s');

-- there is nobody else to wait for
SELECT replp2p.wait_for_replication();
SELECT replp2p.wait_for_replication(:'after');
SELECT replp2p.wait_for_replication(:'after', 0, '1 s');
SELECT replp2p.wait_for_replication(nodes => 1);
SELECT replp2p.wait_for_replication(nodes => -1);
SELECT replp2p.wait_for_replication('nonsense');
SELECT replp2p.wait_for_replication(timeout => NULL);
SELECT replp2p.wait_for_replication(timeout => '-1 s');

-- a token stands for what was committed in whatever way
SET synchronous_commit = off;
INSERT INTO first SELECT i, 'asynchronous' FROM generate_series(10, 19) i;
SELECT replp2p.current_token() <> :'after' AS moved;
RESET synchronous_commit;
DELETE FROM first WHERE id >= 2;
