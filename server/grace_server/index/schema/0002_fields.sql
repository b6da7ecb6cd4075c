-- Metadata taken apart (metadata.py), so that a filter is a look-up. Derived: filled when the collection is opened.
CREATE TABLE field (
    path  TEXT    NOT NULL, -- like $."author"."country"
    kind  INTEGER NOT NULL, -- number, text, truth, date, ...; plus 8 for what stands in a list
    value         NOT NULL, -- dates as microseconds since 1970
    label INTEGER NOT NULL,
    PRIMARY KEY (path, kind, value, label)
) WITHOUT ROWID;
