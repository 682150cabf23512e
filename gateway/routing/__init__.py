"""Which deployment is asked, and what follows from how it did.

`Router.choose` (`router.py`) is the one question that a request asks here. Those of a route's deployments that can take the
request are found by filters (`filters.py`), a strategy gives each a share (`strategies.py`), and the shares are drawn from.
How deployments have been doing is `health.py`; what an error leads to, `retries.py`. Nothing here awaits anything: what
workers must tell each other goes its way in the background.
"""
