"""Finished runs as one page of HTML that opens offline.

Only who writes a page needs torch and the datasets, for its predictions and its images.
"""

from typing import TYPE_CHECKING

from kdcache._lazy import lazy_exports

if TYPE_CHECKING:
    from kdcache.report.page.dataset_images import load_test_images
    from kdcache.report.page.page import render_page

__getattr__ = lazy_exports(__name__)
