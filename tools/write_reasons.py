"""Write the table of reasons in docs/artifacts.md from `medical_fenlei.reasons`.

    python tools/write_reasons.py
"""
from pathlib import Path

from medical_fenlei.reasons import markdown_rows

DOCS = Path(__file__).resolve().parents[1] / "docs" / "artifacts.md"
SECTION = "## Reasons for rejects"


def main() -> None:
    """Replace the table below the section's heading; its text stays."""
    before, heading, section = DOCS.read_text(encoding="utf-8").partition(SECTION)
    lines = section.splitlines()
    rows = [number for number, line in enumerate(lines) if line.startswith("|")]
    lines[rows[0]:rows[-1] + 1] = markdown_rows()
    DOCS.write_text(before + heading + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
