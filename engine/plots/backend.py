"""HoloViews with its Bokeh backend, registered without the output that `hv.extension` writes.

Every module that makes elements imports `hv` from here; `engine.plots.style` does not, so that colours and fonts are
known without loading HoloViews.
"""

import holoviews as hv
import holoviews.plotting.bokeh  # noqa: F401  registers the backend
from holoviews import Store

__all__ = ["hv"]

if "bokeh" in Store.renderers:
    Store.set_current_backend("bokeh")
