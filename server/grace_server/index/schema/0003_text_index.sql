-- The text index is kept up to date by `lexical.py`, a batch at a time. Each firing of a trigger made SQLite open a
-- statement journal and FTS5 write what it had gathered: for every single document.
DROP TRIGGER document_inserted;
DROP TRIGGER document_deleted;
DROP TRIGGER document_rewritten;
