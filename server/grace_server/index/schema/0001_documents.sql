-- The truth of one collection. Everything else (FAISS files) is derived from it and may be thrown away.

CREATE TABLE setting (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Other names of this collection. Where two collections claim one alias, after a crash in a switch, the higher stamp wins.
CREATE TABLE alias (
    name  TEXT PRIMARY KEY,
    stamp INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE sequence (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    seq      INTEGER NOT NULL
) STRICT;
INSERT INTO sequence (only_row, seq) VALUES (1, 0);

-- One row per living document. A label names one version of it: a new text or vector means a new label, and
-- AUTOINCREMENT means that no label ever comes back, so a vector index can never mistake one row for another.
CREATE TABLE document (
    label            INTEGER PRIMARY KEY AUTOINCREMENT,
    id               TEXT    NOT NULL UNIQUE,
    state            TEXT    NOT NULL CHECK (state IN ('pending', 'ready', 'failed', 'cancelled')),
    seq              INTEGER NOT NULL,
    job              TEXT,
    content          BLOB    NOT NULL, -- SHA-256 over text, given rationale and given vector
    given            TEXT    NOT NULL CHECK (given IN ('text', 'rationale', 'vector')),
    fingerprint      TEXT,             -- of the checkpoint that made the vector
    truncated        INTEGER NOT NULL DEFAULT 0,
    finish_reason    TEXT,
    rationale_tokens INTEGER NOT NULL DEFAULT 0,
    thinking_open    INTEGER NOT NULL DEFAULT 0,
    metadata         TEXT    NOT NULL, -- canonical JSON; before the texts, so that a filter reads few pages
    text             TEXT    NOT NULL,
    rationale        TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX document_state ON document (state, label);
CREATE INDEX document_job ON document (job, state) WHERE job IS NOT NULL;
CREATE INDEX document_seq ON document (seq);

CREATE TABLE vector (
    label  INTEGER PRIMARY KEY REFERENCES document (label) ON DELETE CASCADE,
    vector BLOB NOT NULL -- float32, little-endian
) STRICT;

-- What explanations are computed from: sums of states per segment, and which characters each stands for.
CREATE TABLE segment (
    label     INTEGER PRIMARY KEY REFERENCES document (label) ON DELETE CASCADE,
    spans     TEXT NOT NULL, -- [[source, start, end, tokens], ...]
    precision TEXT NOT NULL CHECK (precision IN ('float32', 'float16')),
    sums      BLOB NOT NULL
) STRICT;

-- Labels that were searchable and are no more. The document itself is gone: deleted means deleted.
CREATE TABLE tombstone (
    label INTEGER PRIMARY KEY,
    seq   INTEGER NOT NULL
) STRICT;

CREATE TABLE job (
    id           TEXT PRIMARY KEY,
    created_at   REAL    NOT NULL, -- seconds since 1970
    finished_at  REAL,
    cancelled_at REAL,
    total        INTEGER NOT NULL,
    done         INTEGER NOT NULL DEFAULT 0,
    failed       INTEGER NOT NULL DEFAULT 0,
    superseded   INTEGER NOT NULL DEFAULT 0 -- deleted, replaced or sent again before they were embedded
) STRICT, WITHOUT ROWID;

CREATE TABLE job_failure (
    job      TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    document TEXT NOT NULL,
    reason   TEXT NOT NULL,
    PRIMARY KEY (job, document)
) STRICT, WITHOUT ROWID;

CREATE VIRTUAL TABLE lexical USING fts5 (
    text, rationale,
    content = 'document', content_rowid = 'label',
    tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER document_inserted AFTER INSERT ON document BEGIN
    INSERT INTO lexical (rowid, text, rationale) VALUES (new.label, new.text, new.rationale);
END;
CREATE TRIGGER document_deleted AFTER DELETE ON document BEGIN
    INSERT INTO lexical (lexical, rowid, text, rationale) VALUES ('delete', old.label, old.text, old.rationale);
END;
CREATE TRIGGER document_rewritten AFTER UPDATE OF text, rationale ON document BEGIN
    INSERT INTO lexical (lexical, rowid, text, rationale) VALUES ('delete', old.label, old.text, old.rationale);
    INSERT INTO lexical (rowid, text, rationale) VALUES (new.label, new.text, new.rationale);
END;
