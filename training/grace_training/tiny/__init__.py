"""How the bundled model grace-tiny was made: one command per stage, from the raw text to the exported folder."""
