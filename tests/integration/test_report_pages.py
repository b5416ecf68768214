"""The pages of reports in a real browser: axe-core finds nothing, in light and dark, and they fit a telephone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.browser import PHONE, check_accessible, fits, open_page
from tests.unit.audit.test_audit_page import QUICK, faulty_leaves
from tests.unit.benchmark_report.synthetic_benchmarks import RESAMPLES, whole_benchmark
from tests.unit.synthetic_searches import synthetic_search
from tests.unit.test_page import evaluation_page
from ufgvc.evaluation import benchmark_summary, search_summary
from ufgvc.evaluation.audit.record import audit_leaves
from ufgvc.reports.audit_page import compose_audit
from ufgvc.reports.benchmark_page import compose_benchmark
from ufgvc.reports.search_page import compose_search


def benchmark_page() -> str:
    record = whole_benchmark()
    return compose_benchmark([(record, benchmark_summary.summarize(record, RESAMPLES))]).to_html()


def audit_page() -> str:
    return compose_audit(audit_leaves("grapes", faulty_leaves(), QUICK)).to_html()


def search_page() -> str:
    record = synthetic_search()
    return compose_search(record, "footer", search_summary.summarize(record, 200)).to_html()


PAGES = (evaluation_page, benchmark_page, search_page, pytest.param(audit_page, marks=pytest.mark.slow))


@pytest.mark.parametrize("make", PAGES, ids=lambda make: make.__name__)
def test_a_report_is_accessible_and_fits_a_telephone(make: Callable[[], str], tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(make(), encoding="utf-8")
    with open_page(file.as_uri(), PHONE) as page:
        check_accessible(page)
        assert fits(page)
        page.emulate_media(color_scheme="dark")
        check_accessible(page)
        page.locator("summary").evaluate_all("all => all.forEach(each => each.click())")
        check_accessible(page)
