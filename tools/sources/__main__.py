"""Write into docs/ what the rules' sources say: `python -m tools.sources`. A test compares."""

from pathlib import Path

from tools.sources.report import texts

if __name__ == "__main__":
    for path, text in texts(Path()).items():
        path.write_text(text)
