"""The commands of environments that run now are among all that this process runs (see ``builder.live``)."""

from __future__ import annotations

from builder.live import registered as registered
from builder.live import stop_all as stop_all
