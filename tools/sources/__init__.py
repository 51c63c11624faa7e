"""Where each rule about Azure and Databricks comes from, read from the places that state it.

`form.py` reads one statement, `unique_keys.py` a YAML file, `yaml_files.py` and `python_files.py` find the rules and
the statements that cover them, `python -m tools.sources` writes the table in docs/checked.md. Does not open a source:
that the value is there was looked up when the statement was written.

Python: a comment or docstring line that begins with `Source: ` or `No source: `.
YAML: the key `sources:`, a mapping from the rule's key to such a text, or to a list of them.
"""
