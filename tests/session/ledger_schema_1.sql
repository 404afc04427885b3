-- A ledger as version 0.1.0 wrote it: `sqlite3 ledger.db .dump`.
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE sessions (
        session_id TEXT PRIMARY KEY,
        owner TEXT NOT NULL,
        model_fingerprint TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        length INTEGER NOT NULL,
        turn_count INTEGER NOT NULL,
        created_us INTEGER NOT NULL,
        updated_us INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID
    ;
INSERT INTO sessions VALUES('00000000000000000000000000000001','ada','model',2,7,2,1700000000000000,1700000006000000);
INSERT INTO sessions VALUES('00000000000000000000000000000002','eve','other model',0,0,0,1700000007000000,1700000007000000);
CREATE TABLE turns (
        session_id TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
        turn_index INTEGER NOT NULL,
        request_id TEXT NOT NULL,
        start_position INTEGER NOT NULL,
        prompt_tokens INTEGER NOT NULL,
        parameters TEXT NOT NULL,
        finish_reason TEXT,
        PRIMARY KEY (session_id, turn_index),
        UNIQUE (session_id, request_id)
    ) STRICT, WITHOUT ROWID
    ;
INSERT INTO turns VALUES('00000000000000000000000000000001',0,'first',0,3,'{"seed": 7}','length');
INSERT INTO turns VALUES('00000000000000000000000000000001',1,'second',6,1,'{}',NULL);
CREATE TABLE chunks (
        session_id TEXT NOT NULL REFERENCES sessions ON DELETE CASCADE,
        start_position INTEGER NOT NULL,
        tokens BLOB NOT NULL,
        sources BLOB,
        logprobs TEXT,
        PRIMARY KEY (session_id, start_position)
    ) STRICT, WITHOUT ROWID
    ;
INSERT INTO chunks VALUES('00000000000000000000000000000001',0,X'010000000200000003000000',NULL,NULL);
INSERT INTO chunks VALUES('00000000000000000000000000000001',3,X'0400000005000000',X'0103','[null, [-0.5, [[5, -0.5], [9, -1.25]]]]');
INSERT INTO chunks VALUES('00000000000000000000000000000001',5,X'ffffffff',X'02',NULL);
INSERT INTO chunks VALUES('00000000000000000000000000000001',6,X'07000000',NULL,NULL);
CREATE INDEX sessions_of_owner ON sessions (owner, created_us, session_id);
COMMIT;
PRAGMA user_version = 1;
