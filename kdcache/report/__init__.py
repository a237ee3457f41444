"""What came out: runs compared, statistics, pictures, and the page."""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.report.cache_summary import (
        summarize_cache,
    )
    from kdcache.report.comparison import (
        Comparison,
        compare_runs,
        split_by_test_images,
    )
    from kdcache.report.page import (
        load_test_images,
        render_page,
    )
    from kdcache.report.plot_style import (
        BLUE,
        DPI,
        GREY,
        INK,
        ORANGE,
    )
    from kdcache.report.plots import (
        comparison_chart,
        soft_target_sheet,
    )
    from kdcache.report.run_pictures import (
        draw_pictures,
        draw_teacher_predictions,
        show_batch,
    )
    from kdcache.report.tables import (
        as_csv,
        format_table,
    )
    from kdcache.report.teacher_check import (
        rerun_teacher,
    )

__getattr__ = lazy_exports(__name__)
