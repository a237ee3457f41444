"""Finished runs as one page of HTML: it opens offline and loads nothing.

What it shows is gathered here; templates, style sheet and script are files beside this module.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from kdcache.data import Images
from kdcache.report import tables
from kdcache.report.comparison import (
    Comparison,
    Group,
    best_of,
    option_name,
    option_text,
    varied_options,
)
from kdcache.report.comparison.rows import short_name
from kdcache.report.page import prediction_charts, score_charts
from kdcache.report.page.charts import Chart
from kdcache.report.page.dataset_images import disagreements
from kdcache.runs import Run

_PACKAGE = "kdcache.report.page"


@dataclass(frozen=True)
class Section:
    """A section of the page: title and remark, charts, and what the template of its name shows."""

    title: str
    remark: str
    charts: Sequence[Chart] = ()
    template: str | None = None
    content: Any = None

    @property
    def anchor(self) -> str:
        return self.title.lower().replace(" ", "-")


def render_page(comparison: Comparison, pixels: Images | str) -> str:
    """The whole page.

    Args:
        pixels: the test images, uint8 `(M, 3, H, W)`, or why there are none.
    """
    groups = comparison.groups
    sections = _sections(comparison, pixels)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(_PACKAGE, ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_function"] = lambda value, **_: to_json_plotly(value)
    environment.filters |= {name: getattr(tables, name) for name in ("percent", "points", "p_text")}
    scripts = [get_plotlyjs(), _file("page.js")]
    # the browser's word that nothing is loaded and that no other script runs; Plotly sets styles
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_hash, scripts))};"
        " style-src 'unsafe-inline'; img-src data: blob:"
    )
    charts = [chart.figure for section in sections for chart in section.charts]
    text = environment.get_template("page.html").render(
        policy=policy,
        style=Markup(_file("style.css")),
        scripts=map(Markup, scripts),
        title=_title(groups),
        comparison=comparison,
        runs=[run for group in groups for run in group.runs],
        sections=sections,
        data={"charts": charts, "groups": [_filtered_by(group, groups) for group in groups]},
    )
    return text.encode("utf-8", "replace").decode()  # a path may hold what UTF-8 does not


def _file(name: str) -> str:
    return resources.files(_PACKAGE).joinpath(name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _title(groups: Sequence[Group]) -> str:
    students = list(dict.fromkeys(group.student for group in groups))
    dataset = groups[0].runs[0].summary.dataset or "one dataset"
    who = short_name(students[0]) if len(students) == 1 else f"{len(students)} students"
    kinds = {"with": best_of(groups, True), "without": best_of(groups, False)}
    how = " and ".join(name for name, group in kinds.items() if group is not None)
    return f"{who} on {dataset}, {how} a teacher"


def _sections(comparison: Comparison, pixels: Images | str) -> list[Section]:
    groups = comparison.groups
    accuracies = score_charts.accuracies(groups, comparison.teachers)
    sections = [Section("Results", _remark_on_results(comparison), accuracies, "results.html")]
    by_class = prediction_charts.classes(groups) + prediction_charts.confusions(groups)
    for title, remark, charts in (
        (
            "Learning",
            "Measured after each epoch. Click a name in a legend to hide or show it, drag to zoom,"
            " double-click to zoom out.",
            score_charts.learning(groups),
        ),
        ("Options", "What the distilled groups vary in.", score_charts.options(groups)),
        (
            "Cost",
            "Seconds are those of the machine that trained, with whatever else it did.",
            score_charts.cost(groups),
        ),
        ("Classes", "From the predictions for the test images, over all runs.", by_class),
        (
            "Confidence",
            "Whether a network knows how sure it may be.",
            prediction_charts.calibration(groups),
        ),
        (
            "Agreement",
            "Whose predictions are right, and where both are wrong, whether they are wrong alike:"
            " mistakes can be distilled too.",
            prediction_charts.agreement(groups),
        ),
    ):
        if charts:
            sections.append(Section(title, remark, charts))
    if shown := disagreements(groups, pixels):
        sections.append(Section("Where they disagree", shown[0], (), "tiles.html", shown[1]))
    remark = "The options that shape a result, with all defaults filled in."
    options = _hyper_parameters(groups)
    sections.append(Section("Hyper-parameters", remark, (), "options.html", options))
    remark = "What was run, so that it can be run again."
    return [*sections, Section("Runs", remark, (), "runs.html", _prints(comparison))]


def _remark_on_results(comparison: Comparison) -> str:
    groups, remark = comparison.groups, "Click a heading to sort."
    if not comparison.single:
        remark += (
            " Runs that differ in nothing but their seed are one row: mean ± standard deviation"
            " over the seeds."
        )
    if best_of(groups, False) and best_of(groups, True):
        remark += " Differences from labels only are in percentage points."
        if not comparison.single:
            remark += " p is that of a paired t-test over the seeds that both rows share."
    if any(group.best for group in groups):
        remark += " In bold, the best row by validation accuracy: the test images chose nothing."
    return remark


def _filtered_by(group: Group, groups: Sequence[Group]) -> dict[str, str | None]:
    """What the page's filters know of a group: the options in which groups differ.

    None is shown beside any value: labels only is every distilled group's baseline.
    """
    distilled = [one for one in groups if one.distilled]
    shown: dict[str, str | None] = {"kind": "distilled" if group.distilled else "labels only"}
    for key in varied_options(distilled or groups):
        stays = bool(distilled) and not group.distilled
        shown[option_name(key)] = None if stays else option_text(key, group.setting.get(key))
    return shown


def _hyper_parameters(groups: Sequence[Group]) -> dict[str, Any]:
    """Every option that shapes a result: by group where groups differ, and once where not."""
    varied = varied_options(groups)
    same = sorted({key for group in groups for key in group.setting} - {*varied})
    values = [[option_text(key, group.setting.get(key)) for key in varied] for group in groups]
    return {
        "varied": [option_name(key) for key in varied],
        "groups": list(zip([group.label for group in groups], values, strict=True)),
        "same": [(option_name(key), option_text(key, groups[0].setting.get(key))) for key in same],
    }


def _prints(comparison: Comparison) -> dict[str, Any]:
    """What runs were made from and with: what is the same for all of several, and each one's."""

    def prints(run: Run) -> dict[str, str]:
        software = run.config and run.config.software
        found = {"cache": run.summary.fingerprint, "test images": run.summary.test_digest}
        found |= {"software": software, "command": None if run.command[1] else "not recorded"}
        return {name: value for name, value in found.items() if value}

    of_runs = [prints(run).items() for group in comparison.groups for run in group.runs]
    shared = set.intersection(*map(set, of_runs)) if len(of_runs) > 1 else set()
    own = {
        str(run.folder): sorted(prints(run).items() - shared)
        for group in comparison.groups
        for run in group.runs
    }
    return {"shared": sorted(shared), "own": own}
