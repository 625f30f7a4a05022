"""What runs inside environments: POSIX sh and Python 3.7 or later, without packages, importing nothing else here."""

from pathlib import Path

#: This folder, for the builder, which mounts its parts or sends them as text.
FOLDER = Path(__file__).resolve().parent
