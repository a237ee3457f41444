"""The command lines: options from the command line, printing, and one module a command.

Nothing here imports torch before the options are known to be good.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.cli.callbacks import (
        ShowSweep,
        ShowTraining,
    )
    from kdcache.cli.console import (
        Progress,
        exit_code,
        say,
    )
    from kdcache.cli.main import (
        entry_point,
        run_command,
    )
    from kdcache.cli.parser import (
        OneLineParser,
        parse_options,
    )

__getattr__ = lazy_exports(__name__)
