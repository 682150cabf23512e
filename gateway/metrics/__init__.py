"""Every Prometheus series in one place.

`SERIES` is the documented table: name, kind, labels, meaning. Whatever is exported stands there, and tests compare the
two. The `penstock_*` series are our own words; the `litellm_*` ones carry the names and the labels that existing
dashboards query, fed from the same rows, so both always agree.

**Cheap.** Requests of one kind (`gateway.state.records`) feed the same series, so a finished request costs one look-up of
its kind's cell and a few additions there, of integers. What has gathered in the cells is spread over the tables of series
when somebody asks for the numbers (`render`) or when there are many cells. Money is summed as nano-dollars, time as
microseconds; they become dollars and seconds in the exposition.

**Bounded.** Clients choose some of the words that could become labels, so each is tamed. A model's name is shown if a
route has it or a provider has answered to it, else it is `unknown`. All tables together hold at most `max_series` series;
beyond that, new combinations are counted under `other`. Addresses, user agents and end users are never labels.
"""

from gateway.metrics.exposition import BudgetState, DeploymentState
from gateway.metrics.metrics import CONTENT_TYPE, Metrics
from gateway.metrics.series import SERIES, Series

__all__ = ["CONTENT_TYPE", "SERIES", "BudgetState", "DeploymentState", "Metrics", "Series"]
