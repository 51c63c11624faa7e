"""Sources of the rules about Azure and Databricks, read from the code and tables with these rules.

`form.py` reads one statement, `unique_keys.py` a YAML file, `yaml_files.py` and `python_files.py` find the rules and
the statements that cover them, `python -m tools.sources` writes the table in docs/checked.md. Does not open a source:
its author checked it when writing the statement.

Python: a comment or docstring line that begins with `Source: ` or `No source: `.
YAML: the key `sources:`, a mapping from the rule's key to such a text, or to a list of them.
"""
