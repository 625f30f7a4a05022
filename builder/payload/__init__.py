"""What runs inside environments: POSIX sh and Python 3.7 or later, without packages, importing nothing else here."""
