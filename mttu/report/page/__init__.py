"""One self-contained HTML page about runs: checked inputs, what is shown of them, and the page itself."""

from mttu.report.page.inputs import PagePlan, plan_page
from mttu.report.page.rendering import write_page

__all__ = ["PagePlan", "plan_page", "write_page"]
