"""``python -m autostop_lab.cli`` is ``autostop-lab``."""

from __future__ import annotations

import sys

from autostop_lab.cli import main

sys.exit(main())
