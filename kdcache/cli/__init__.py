"""The command lines: options, printing, and one module a command."""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.cli.console import (
        Progress,
        exit_code,
        say,
    )
    from kdcache.cli.main import (
        main,
    )
    from kdcache.cli.parser import (
        OneLineParser,
        parse_options,
    )

__getattr__ = lazy_exports(__name__)
