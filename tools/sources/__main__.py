"""Write the pages about the rules' sources into docs/: `python -m tools.sources`. A test compares them."""

from pathlib import Path

from tools.sources.report import texts

if __name__ == "__main__":
    for path, text in texts(Path()).items():
        path.write_text(text)
