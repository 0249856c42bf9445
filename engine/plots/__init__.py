"""Pictures: functions from columns to HoloViews objects. No widgets, no data access.

Every function takes a `Style` and returns elements whose Bokeh data sources keep the names of the given columns, so
that a view can put newly aggregated columns underneath while a person zooms (`engine.plots.render`).
"""
