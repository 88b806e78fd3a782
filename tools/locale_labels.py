"""Writes schemas/locale_labels.py: `python -m tools.locale_labels`, after an upgrade of Babel.

Babel reads a file for each of 300 languages and keeps all of it: two seconds and 120 MB in each process that lists the
locales.
"""

import json
import subprocess
import sys
from pathlib import Path

from babel import Locale

from schemas import locales

_FILE = Path(__file__).parents[1] / "schemas" / "locale_labels.py"
_HEADER = """\
\"\"\"The names of languages in themselves, from the Unicode CLDR of Babel. `python -m tools.locale_labels` writes this
file. A key has the script if the language is usually written in another one.\"\"\"

"""


def labels() -> dict[str, str]:
    """The labels of all locales, by `locales.label_key`."""
    return {key: _name_of(key).capitalize() for key in sorted(map(locales.label_key, locales.CODES))}


def _name_of(key: str) -> str:
    language = key.partition("_")[0]
    code = next(code for code in locales.CODES if locales.label_key(code) == key)
    return Locale.parse(key).get_language_name() or Locale.parse(language).get_language_name() or code


def main() -> None:
    _FILE.write_text(f"{_HEADER}LABELS = {json.dumps(labels(), ensure_ascii=False)}\n")
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", str(_FILE)], check=True)


if __name__ == "__main__":
    main()
