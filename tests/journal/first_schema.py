"""A journal of the first schema, as files of it have it."""

SCHEMA_1 = """
CREATE TABLE job (n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, state TEXT NOT NULL, fence INTEGER NOT NULL, worker TEXT NOT NULL,
    origin TEXT NOT NULL, alias TEXT NOT NULL, model TEXT NOT NULL, pinned TEXT NOT NULL, submitted_at REAL NOT NULL, tail BLOB NOT NULL);
CREATE TABLE spec (n INTEGER PRIMARY KEY, head BLOB NOT NULL, body BLOB NOT NULL);
CREATE INDEX job_state ON job (state) WHERE state <> 'succeeded';
CREATE INDEX job_alias ON job (origin, alias) WHERE alias <> '';
CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta (key, value) VALUES ('epoch', 4);
PRAGMA application_id = 1517249908;
PRAGMA user_version = 1;
"""
